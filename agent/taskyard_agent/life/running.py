"""The agents that run on this machine: each leaves a record of its process in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard_agent.keeper.durable import write_whole
from taskyard_agent.keeper.processes import ProcessIdentity, identify

RECORD = "agent.json"
LOG = "agent.log"
LOOK_SECONDS = 0.05
"""Between two looks at another process, while somebody waits for it."""


@dataclass(frozen=True, kw_only=True)
class RunningAgent:
    """One agent, or the pool that keeps several."""

    name: str
    server: str
    pid: int
    start_ticks: int
    boot_id: str
    parent_pid: int
    started_at: float
    """On this machine's clock."""
    known: bool
    """Whether the server has heard of it; of a pool: of all its agents."""
    trouble: str = ""
    """What keeps it from the server just now."""

    @property
    def alive(self) -> bool:
        """Whether that very process runs; a pid alone is used again."""
        return ProcessIdentity(pid=self.pid, start_ticks=self.start_ticks, boot_id=self.boot_id).alive()

    def signal(self, number: int) -> None:
        """Sends it a signal, and none to a process that took its pid."""
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "pidfd_open"):
                _signal_by_handle(self, number)
            elif self.alive:
                os.kill(self.pid, number)


def _signal_by_handle(agent: RunningAgent, number: int) -> None:
    import signal

    handle = os.pidfd_open(agent.pid)
    try:
        if agent.alive:
            signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


class Announcement:
    """This process's record, in the folder that it has locked."""

    def __init__(self, folder: Path, name: str, server: str) -> None:
        self._path = folder / RECORD
        self._writing = threading.Lock()
        self._withdrawn = False
        itself = identify(os.getpid())
        self._record = RunningAgent(
            name=name,
            server=server,
            pid=os.getpid(),
            start_ticks=itself.start_ticks if itself else 0,
            boot_id=itself.boot_id if itself else "",
            parent_pid=os.getppid(),
            started_at=time.time(),
            known=False,
        )

    def make(self, *, known: bool = False) -> None:
        """Writes it."""
        self._write(known=known)

    def note(self, trouble: str) -> None:
        """Writes what keeps the agent from the server; empty: nothing does any more."""
        self._write(trouble=trouble)

    def _write(self, **changes: Any) -> None:
        with self._writing:
            if not self._withdrawn:
                self._record = dataclasses.replace(self._record, **changes)
                self._write_record()

    def _write_record(self) -> None:
        record = dataclasses.asdict(self._record)
        if not record["trouble"]:
            del record["trouble"]  # programs of before read no record with a field that they do not know
        write_whole(str(self._path), json.dumps(record).encode())

    def withdraw(self) -> None:
        """Removes it."""
        with self._writing:
            self._withdrawn = True
            self._path.unlink(missing_ok=True)


def read(folder: Path) -> RunningAgent | None:
    """The agent that runs on this folder, None when there is none."""
    try:
        found = RunningAgent(**json.loads((folder / RECORD).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # none was ever there, or it is half gone
    return found if found.alive else None


def on_this_machine(local_dir: Path) -> dict[Path, RunningAgent]:
    """Every agent of this folder that runs, by its own folder, in the order of their names."""
    records = [*local_dir.glob(f"agents/*/*/{RECORD}"), *local_dir.glob(f"executes/*/*/*/{RECORD}")]
    found = {path.parent: read(path.parent) for path in sorted(records)}  # in batch jobs they are as executes
    return {folder: agent for folder, agent in found.items() if agent is not None}


def is_in_job(folder: Path) -> bool:
    """Whether the agent of this folder is in a batch job: its SIGTERM is the job's end, SIGUSR1 drains it."""
    return folder.parents[2].name == "executes" and folder.parents[1].name != "agents"


def is_kept(agent: RunningAgent, others: Sequence[RunningAgent]) -> bool:
    """Whether a pool keeps it: that would start it again."""
    return any(agent.parent_pid == other.pid for other in others)


def runs_in(folder: Path) -> Iterator[str]:
    """Ids of the runs that an agent carries."""
    return (path.parent.name for path in sorted((folder / "runs").glob("*/run.json")))
