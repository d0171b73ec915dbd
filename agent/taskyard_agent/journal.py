"""What an agent must still know after a crash: open claims, and its runs with their folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from taskyard.wire import Claim, Outcome, PhaseTime, Run, Task


@dataclass(frozen=True, kw_only=True)
class ClaimTokens:
    """The secrets of a run that a claim may bring, drawn and journalled before the claim is sent."""

    request_id: str
    control_token: str
    report_token: str

    @property
    def control_hash(self) -> str:
        """SHA-256 of the control token, hexadecimal."""
        raise NotImplementedError

    @property
    def report_hash(self) -> str:
        """SHA-256 of the report token, hexadecimal."""
        raise NotImplementedError


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run; the keeper is given `path`."""

    path: Path

    @property
    def spool(self) -> Path:
        """The run's log."""
        return self.path / "output.log"


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """How far a run came, as far as a new daemon must know."""

    phases: tuple[PhaseTime, ...] = ()
    gpus: tuple[str, ...] = ()
    output_offset: int | None = None
    started: bool = False
    """The server acknowledged the start: the command may have been started."""
    outcome: Outcome | None = None
    """Decided, and to be reported until the server acknowledges it."""
    log_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class JournalledRun:
    """A run as the journal holds it. The task's secrets are not kept: repeating the claim answers them again."""

    directory: RunDirectory
    tokens: ClaimTokens
    run: Run
    task: Task
    boot_id: str
    """The machine's when the run was claimed; another one now means that the machine restarted."""
    lease_seconds: float
    progress: RunProgress = field(default_factory=RunProgress)


class Journal:
    """The folder `agents/<name>` of one agent. Every write is atomic and on the disk when the call returns."""

    def __init__(self, agents: Path, name: str) -> None:
        self.folder = agents / name

    def open(self) -> None:
        """Makes the folder and locks it. Raises SettingsError when another daemon of that name runs."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets another daemon of that name run."""
        raise NotImplementedError

    def draw_claim(self) -> ClaimTokens:
        """Draws and journals the tokens of a claim that is about to be sent."""
        raise NotImplementedError

    def open_claims(self) -> list[ClaimTokens]:
        """Claims that were perhaps sent and whose answer was never journalled, oldest first."""
        raise NotImplementedError

    def forget_claim(self, request_id: str) -> None:
        """The claim took nothing, or its run is saved."""
        raise NotImplementedError

    def save_run(self, claim: Claim, tokens: ClaimTokens) -> JournalledRun:
        """Journals what a claim brought, without the task's secrets, and forgets the open claim."""
        raise NotImplementedError

    def save_progress(self, run_id: str, progress: RunProgress) -> None:
        """Journals how far a run came."""
        raise NotImplementedError

    def runs(self) -> list[JournalledRun]:
        """Every run that was not closed, oldest first."""
        raise NotImplementedError

    def close_run(self, run_id: str) -> None:
        """Removes a run's folder: its end is acknowledged and its log is complete, or it is stale."""
        raise NotImplementedError
