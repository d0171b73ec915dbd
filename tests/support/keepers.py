"""Runs held by real keepers, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from taskyard_agent.held import ExitRecord, HeldRun, Launch
from taskyard_agent.keeper import processes

ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}


class Keepers:
    """Starts keepers below one folder, and leaves nothing of them when the test ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[HeldRun] = []

    def run_dir(self, name: str) -> Path:
        """The folder of a run, made."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def launch(self, *argv: str, name: str = "task.1", **changes: object) -> Launch:
        """A launch record; the run's id is unique to this test, because leftovers are found by it."""
        settings: dict[str, object] = {"env": dict(ENVIRONMENT), "cwd": str(self._folder), "grace_seconds": 10.0}
        return Launch(run=f"{self._folder}/{name}", argv=argv, **{**settings, **changes})  # type: ignore[arg-type]

    def start(
        self, *argv: str, name: str = "task.1", lock_fds: tuple[int, ...] = (), **changes: object
    ) -> HeldRun:
        """Starts a command under a keeper."""
        launch = self.launch(*argv, name=name, **changes)
        held = HeldRun.start(self.run_dir(name), launch, lock_fds)
        self._held.append(held)
        return held

    def python(self, script: str, **changes: object) -> HeldRun:
        """Starts a Python script under a keeper."""
        return self.start(sys.executable, "-c", script, **changes)  # type: ignore[arg-type]

    def close(self) -> None:
        """Ends what is left."""
        for held in self._held:
            with contextlib.suppress(ProcessLookupError):
                if held.alive():
                    os.kill(held.keeper.pid, signal.SIGKILL)
            held.wait(10)
            held.sweep()


def output(held: HeldRun) -> bytes:
    """The log as far as it is written."""
    return (held.run_dir / "output.log").read_bytes()


def ended(held: HeldRun, seconds: float = 30.0) -> ExitRecord:
    """Waits for the run's end and returns its record."""
    assert held.wait(seconds), "the keeper did not end in time"
    record = held.exit_record()
    assert record is not None, (held.run_dir / "keeper.log").read_text()
    return record


def left_of(held: HeldRun) -> set[int]:
    """Processes that carry the run's mark."""
    return processes.marked(held.run)
