"""The GPUs of this machine, by NVML: which there are, which an agent takes, and the lock on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Gpu

LOCK_FOLDER = Path("/tmp/taskyard-gpus")  # noqa: S108 - one for all users of the machine, whatever their TMPDIR


@dataclass(frozen=True, kw_only=True)
class GpuLock:
    """GPUs locked for one run; the keeper inherits `fds`."""

    gpus: tuple[Gpu, ...]
    fds: tuple[int, ...]
    left_by: tuple[str, ...]
    """Runs that held one of them and did not end cleanly: sweep them before the GPU is used."""

    def close(self) -> None:
        """Closes this process's copies: the GPUs are free when the keeper is gone too."""
        raise NotImplementedError


def devices() -> list[Gpu]:
    """The machine's GPUs in PCI order; none where there is no NVIDIA driver."""
    raise NotImplementedError


def parse_selection(selection: str, available: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Picks GPUs by `0,1`, by `GPU-uuid,…` or `all`. Raises SettingsError for one that is not there."""
    raise NotImplementedError


def held(gpus: Sequence[Gpu], *, folder: Path = LOCK_FOLDER) -> dict[str, str]:
    """UUID → run id of those that a run holds just now."""
    raise NotImplementedError


def lock(gpus: Sequence[Gpu], run_id: str, *, folder: Path = LOCK_FOLDER) -> GpuLock:
    """Locks GPUs for a run. Raises RunFailed (infrastructure, reason `gpu`) when one is held."""
    raise NotImplementedError


def variables(gpus: Sequence[Gpu]) -> dict[str, str]:
    """The variables that show a command these GPUs and no other; for none, they show no GPU at all."""
    raise NotImplementedError


def measure(gpu: Gpu) -> dict[str, float]:
    """`gpu_percent`, `gpu_memory_bytes` and `gpu_celsius`, those that the device reports."""
    raise NotImplementedError
