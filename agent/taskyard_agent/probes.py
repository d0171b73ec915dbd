"""Whether a part of this machine is out of order: asked after a failure, and until a pause for it can end."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskyard.wire import Gpu, Reason

logger = logging.getLogger(__name__)

Check = Callable[[Sequence[Gpu]], str | None]
"""Says in words what is out of order, given GPUs that no run holds; None where nothing is."""
PROBE_BYTES = 1 << 20
BACKOFF_SECONDS = (5.0, 300.0)
"""Between two probes of a paused worker: doubled from the first to the last."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The parts that an operator has configured. What a task brings along is none of them."""

    checks: Mapping[str, Check] = field(default_factory=dict)
    """By the `Reason` of the failures that they explain."""

    def problem(self, reason: str, gpus: Sequence[Gpu] = ()) -> str | None:
        """Says what is out of order of the part that failures of this reason are about; None where nothing is."""
        check = self.checks.get(str(reason))
        try:
            return check(gpus) if check is not None else None
        except Exception as error:  # a probe that breaks has found something
            logger.exception(
                "the probe of %s failed", reason, extra={"action": "probe_failed", "part": str(reason)}
            )
            return f"the probe failed: {error}"


def disk_problem(folder: Path) -> str | None:
    """Writes a megabyte where runs do, and takes it away again."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{folder} cannot be written: {error}"
    return None


def of_this_machine(
    folder: Path, *, index: Callable[[], str | None], engine: Callable[[], str | None], gpus: Check
) -> Probes:
    """The probes of an agent whose files are in `folder`."""
    return Probes(
        checks={
            Reason.DISK.value: lambda _: disk_problem(folder),
            Reason.PACKAGE_INDEX.value: lambda _: index(),
            Reason.CONTAINER.value: lambda _: engine(),
            Reason.GPU.value: gpus,
        }
    )


class Recovery:
    """Probes the part for which the server has paused the worker, until it is in order."""

    def __init__(self, problem: Callable[[str], str | None], on_healthy: Callable[[], None]) -> None:
        self._problem = problem
        self._on_healthy = on_healthy
        self._watched = ""
        self._ended = threading.Event()
        self.healthy = False
        """Whether the last probe found nothing; the server then ends its pause."""

    def watch(self, part: str) -> None:
        """Begins to probe a part; goes on with the same one, and ends with none."""
        if part == self._watched:
            return
        self._ended.set()
        self._watched, self._ended, self.healthy = part, threading.Event(), False
        if part:
            threading.Thread(
                target=self._probe, args=(part, self._ended), name=f"probe-{part}", daemon=True
            ).start()

    def _probe(self, part: str, ended: threading.Event) -> None:
        pause, longest = BACKOFF_SECONDS
        while not ended.wait(pause):
            problem = self._problem(part)
            if problem is None:
                self.healthy = True
                logger.info("%s is in order again", part, extra={"action": "probe_passed", "part": part})
                self._on_healthy()
                return
            logger.warning("still paused: %s", problem, extra={"action": "probe_found", "part": part})
            pause = min(pause * 2, longest)
