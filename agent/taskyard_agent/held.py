"""The daemon's view of a keeper: start one, find one again, end what it holds, read how it ended."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskyard_agent.processes import ProcessIdentity


class Cause(str, enum.Enum):
    """Why a keeper's child ended."""

    EXIT = "exit"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    EXCLUSIVE = "exclusive"
    AGENT_STOPPED = "agent_stopped"
    NOT_STARTED = "not_started"
    """The command could not be started; `message` says why."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a keeper starts. It may hold secrets: it goes through a pipe, never to the disk or into argv."""

    run: str
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    grace_seconds: float = 10.0
    timeout_seconds: float | None = None
    masks: tuple[str, ...] = ()
    """Secret values; those of variables whose names match `mask_names` are added to them."""
    mask_names: tuple[str, ...] = ("*_TOKEN", "*_SECRET", "*_PASSWORD", "*_KEY")
    exclusive: bool = False
    lease_seconds: float = 60.0
    lease_at: float | None = None
    """When the last acknowledged beat was sent, on `held.boot_clock()`; None for now."""


@dataclass(frozen=True, kw_only=True)
class ExitRecord:
    """How a keeper's child ended."""

    cause: Cause
    ended_at: float
    """On this machine's clock."""
    log_bytes: int
    """Length of the spool; nothing is appended after this record."""
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""


@dataclass
class HeldRun:
    """A run's process, held by a keeper. Every method may be called from any thread."""

    run_dir: Path
    keeper: ProcessIdentity
    child_pid: int
    started_at: float
    cgroup: str = field(default="")

    @classmethod
    def start(cls, run_dir: Path, launch: Launch, lock_fds: Sequence[int] = ()) -> HeldRun:
        """Starts a keeper and, through it, the command; returns once the command runs.

        The keeper inherits `lock_fds` (the caller closes its own copies afterwards, and never unlocks them).
        A command that cannot be started is an exit record with the cause NOT_STARTED. Raises KeeperRefused
        when the run has, or had, a keeper.
        """
        raise NotImplementedError

    @classmethod
    def adopt(cls, run_dir: Path) -> HeldRun | None:
        """Finds the keeper of a run again, from its folder alone.

        None: the command was never started and never will be (a keeper that comes late refuses).
        """
        raise NotImplementedError

    def alive(self) -> bool:
        """Whether the keeper runs."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the keeper's end; whether it came in time."""
        raise NotImplementedError

    def exit_record(self) -> ExitRecord | None:
        """How the child ended, None while it has not (or when the keeper was killed: see `lost`)."""
        raise NotImplementedError

    @property
    def lost(self) -> bool:
        """The keeper is gone without a record: call `sweep`, then report the run lost."""
        raise NotImplementedError

    def sweep(self) -> tuple[int, ...]:
        """Ends whatever a killed keeper left behind; returns the pids that survived it."""
        raise NotImplementedError

    def stop(self, cause: Cause = Cause.CANCELLED, grace_seconds: float | None = None) -> None:
        """SIGTERM to the child's group, the grace period (None: the launch's), SIGKILL. Does not wait."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL to everything of the run at once; the keeper still writes its record. Does not wait."""
        raise NotImplementedError

    def renew_lease(self, sent_at: float) -> None:
        """Tells the keeper of an exclusive run when (`boot_clock()`) the acknowledged beat was sent."""
        raise NotImplementedError

    def add_masks(self, values: Sequence[str]) -> None:
        """Masks further secrets from here on."""
        raise NotImplementedError

    def note(self) -> str:
        """One line on what holds the run up (`the disk is full: output is held back`), else empty."""
        raise NotImplementedError


class KeeperRefused(Exception):
    """The keeper did not start the command: the run has, or had, another keeper."""


def boot_clock() -> float:
    """Seconds on a clock that also runs while the machine sleeps and that nobody sets."""
    raise NotImplementedError
