"""What an agent must still know after a crash: open claims, and its runs with their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Claim, Outcome


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


class JournalledRun:
    """A claimed run with its folder; the keeper is given `folder`."""

    def __init__(self, folder: Path, claim: Claim, tokens: ClaimTokens, boot_id: str) -> None:
        self.folder = folder
        self.claim = claim
        self.tokens = tokens
        self.boot_id = boot_id
        """The machine's when the run was claimed; another one now means that the machine restarted."""

    @property
    def control_token(self) -> str:
        """For start, logs and finish; user code never sees it."""
        return self.tokens.control_token

    @property
    def report_token(self) -> str:
        """For user code."""
        return self.tokens.report_token

    @property
    def spool(self) -> Path:
        """The run's log."""
        return self.folder / "output.log"

    @property
    def launched(self) -> bool:
        """Whether a keeper was perhaps started."""
        raise NotImplementedError

    def mark_launched(self) -> None:
        """Journals that a keeper is about to be started."""
        raise NotImplementedError

    @property
    def outcome(self) -> Outcome | None:
        """The outcome that is decided and perhaps not yet reported."""
        raise NotImplementedError

    def save_outcome(self, outcome: Outcome) -> None:
        """Journals the outcome before it is reported; the first one stands."""
        raise NotImplementedError

    def close(self) -> None:
        """Removes the folder: the end is acknowledged and the log is complete, or the run is stale."""
        raise NotImplementedError


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

    def draw_listening(self) -> ClaimTokens:
        """Draws the tokens of a claim that can take nothing, so nothing is journalled."""
        raise NotImplementedError

    def open_claims(self) -> list[ClaimTokens]:
        """Claims that were perhaps sent and whose answer was never journalled, oldest first."""
        raise NotImplementedError

    def forget_claim(self, tokens: ClaimTokens) -> None:
        """The claim took nothing, or its run is saved."""
        raise NotImplementedError

    def save_run(self, claim: Claim, tokens: ClaimTokens) -> JournalledRun:
        """Journals what a claim brought and forgets the open claim."""
        raise NotImplementedError

    def runs(self) -> list[JournalledRun]:
        """Every run that was not closed, oldest first."""
        raise NotImplementedError
