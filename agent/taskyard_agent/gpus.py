"""The GPUs of this machine, by NVML: which there are, which an agent takes, and the lock on each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from taskyard.wire import Gpu

LOCK_FOLDER = Path("/tmp/taskyard-gpus")  # noqa: S108 - one for all users of the machine, whatever their TMPDIR


class GpuLock:
    """The locks on an agent's GPUs. A keeper inherits `fds`, so a GPU stays locked while a run uses it."""

    def __init__(self, gpus: Sequence[Gpu], *, folder: Path = LOCK_FOLDER) -> None:
        self.gpus = tuple(gpus)
        self.folder = folder

    @property
    def fds(self) -> tuple[int, ...]:
        """For the keeper. Never unlock one: close it."""
        raise NotImplementedError

    def acquire(self, own_runs: Collection[str] = ()) -> tuple[str, ...]:
        """Locks what is not locked yet; a repeat is harmless. A GPU that one of `own_runs` still holds is skipped.

        Returns the runs that held one before: sweep them before the GPU is used.
        Raises SettingsError when another agent holds one.
        """
        raise NotImplementedError

    def note_run(self, run_id: str) -> None:
        """Writes down which run uses the GPUs from now on; an empty id: none."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes this process's copies: the GPUs are free when the keeper is gone too."""
        raise NotImplementedError


def devices() -> list[Gpu]:
    """The machine's GPUs in PCI order; none where there is no NVIDIA driver."""
    raise NotImplementedError


def parse_selection(selection: str, available: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Picks GPUs by `0,1`, by `GPU-uuid,…` or `all`. Raises SettingsError for one that is not there."""
    raise NotImplementedError


def variables(gpus: Sequence[Gpu]) -> dict[str, str]:
    """The variables that show a command these GPUs and no other; for none, they show no GPU at all."""
    raise NotImplementedError


def measure(gpu: Gpu) -> dict[str, float]:
    """`gpu_percent`, `gpu_memory_bytes` and `gpu_celsius`, those that the device reports."""
    raise NotImplementedError
