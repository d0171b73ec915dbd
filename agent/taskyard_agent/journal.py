"""What an agent must still know after a crash: open claims, and its runs with their folders."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from taskyard.wire import Claim, KeptRun, Outcome, PhaseTime, Run, Task, from_json, to_json

from taskyard_agent.allotment import Share
from taskyard_agent.errors import SettingsError
from taskyard_agent.keeper.durable import sync_folder, write_whole
from taskyard_agent.keeper.processes import boot_id

logger = logging.getLogger(__name__)

T = TypeVar("T")
MOST_ENDED = 500
"""Ended runs that are remembered for a server that is restored from a copy."""


@dataclass(frozen=True, kw_only=True)
class ClaimTokens:
    """The secrets of a run that a claim may bring, drawn and journalled before the claim is sent."""

    request_id: str
    control_token: str
    report_token: str

    @classmethod
    def draw(cls) -> ClaimTokens:
        """New ones, that nobody can guess."""
        return cls(
            request_id=secrets.token_hex(16),
            control_token=secrets.token_urlsafe(32),
            report_token=secrets.token_urlsafe(32),
        )

    @property
    def control_hash(self) -> str:
        """SHA-256 of the control token, hexadecimal."""
        return hashlib.sha256(self.control_token.encode()).hexdigest()

    @property
    def report_hash(self) -> str:
        """SHA-256 of the report token, hexadecimal."""
        return hashlib.sha256(self.report_token.encode()).hexdigest()


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
    share: Share = field(default_factory=Share)
    """What it occupies, so that a new daemon does not give it out again."""
    progress: RunProgress = field(default_factory=RunProgress)


@dataclass(frozen=True, kw_only=True)
class _RunEntry:
    """What `run.json` holds."""

    tokens: ClaimTokens
    run: Run
    task: Task
    boot_id: str
    lease_seconds: float
    share: Share = field(default_factory=Share)


class Journal:
    """The folder `agents/<name>` of one agent. Every write is atomic and on the disk when the call returns."""

    def __init__(self, agents: Path, name: str) -> None:
        self.folder = agents / folder_name(name)
        self._name = name
        self._lock: int | None = None
        self.instance = ""
        """Whose folder this is, once it is open: drawn when it is made, the same for every later daemon."""

    @property
    def _claims(self) -> Path:
        return self.folder / "claims"

    @property
    def _runs(self) -> Path:
        return self.folder / "runs"

    # --- The agent

    def open(self) -> None:
        """Makes the folder and locks it. Raises SettingsError when another daemon of that name runs."""
        for folder in (self.folder, self._claims, self._runs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SettingsError(
                f"an agent named {self._name!r} runs on this machine already: "
                "stop it, or give this one another --name"
            ) from None
        self._lock = lock
        self.instance = self._drawn_instance()
        self._remove_half_folders()

    def __enter__(self) -> Journal:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _drawn_instance(self) -> str:
        """A copy of the folder is another agent: what was drawn is told with the folder for which it was."""
        path, own = self.folder / "instance", str(self.folder.stat().st_ino)
        with contextlib.suppress(FileNotFoundError):
            drawn, _, folder = path.read_text(encoding="ascii").partition(" ")
            if folder == own:
                return drawn
        drawn = secrets.token_hex(16)
        write_whole(str(path), f"{drawn} {own}".encode())
        return drawn

    def close(self) -> None:
        """Lets another daemon of that name run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- Claims

    def draw_claim(self) -> ClaimTokens:
        """Draws and journals the tokens of a claim that is about to be sent."""
        tokens = ClaimTokens.draw()
        _write(self._claim_path(tokens.request_id), tokens)
        return tokens

    def draw_listening(self) -> ClaimTokens:
        """Draws the tokens of a claim that names no worker: it can take nothing, so nothing is journalled."""
        return ClaimTokens.draw()

    def open_claims(self) -> list[ClaimTokens]:
        """Claims that were perhaps sent and whose answer was never journalled."""
        read = [_read(path, ClaimTokens) for path in self._claims.glob("*.json")]
        return [tokens for tokens in read if tokens is not None]

    def forget_claim(self, request_id: str) -> None:
        """The claim took nothing, or its run is saved."""
        self._claim_path(request_id).unlink(missing_ok=True)

    def _claim_path(self, request_id: str) -> Path:
        return self._claims / f"{folder_name(request_id)}.json"

    # --- Runs

    def save_run(self, claim: Claim, tokens: ClaimTokens, share: Share | None = None) -> JournalledRun:
        """Journals what a claim brought, and what the run is to occupy, without the task's secrets.

        Forgets the open claim.
        """
        if claim.run is None or claim.task is None:
            raise ValueError("the claim took nothing: there is no run to save")
        entry = _RunEntry(
            tokens=tokens,
            run=claim.run,
            task=claim.task,
            boot_id=boot_id(),
            lease_seconds=claim.lease_seconds,
            share=share or Share(),
        )
        directory = self._directory(claim.run.id)
        directory.path.mkdir(mode=0o700, exist_ok=True)
        directory.spool.touch(mode=0o600)
        _write(directory.path / "run.json", entry)
        sync_folder(str(self._runs))
        self.forget_claim(tokens.request_id)
        return _journalled(directory, entry, RunProgress())

    def save_share(self, run: JournalledRun, share: Share) -> JournalledRun:
        """Journals that a run occupies something else than it did."""
        changed = dataclasses.replace(run, share=share)
        parts = {part.name: getattr(changed, part.name) for part in dataclasses.fields(_RunEntry)}
        _write(run.directory.path / "run.json", _RunEntry(**parts))
        return changed

    def save_progress(self, run_id: str, progress: RunProgress) -> None:
        """Journals how far a run came."""
        _write(self._directory(run_id).path / "progress.json", progress)

    def runs(self) -> list[JournalledRun]:
        """Every run that was not closed, the one claimed first before the others."""
        read = [self._run(RunDirectory(path.parent)) for path in self._runs.glob("*/run.json")]
        return sorted(filter(None, read), key=lambda saved: (saved.run.claimed_at, saved.run.id))

    def close_run(self, run_id: str) -> None:
        """Removes a run's folder: its end is acknowledged and its log is complete, or it is stale."""
        directory = self._directory(run_id)
        (directory.path / "run.json").unlink(missing_ok=True)  # first: half a folder is no run
        shutil.rmtree(directory.path, ignore_errors=True)

    # --- What a restored server may have to be told

    def remember_end(self, run_id: str, ended_at: float | None) -> None:
        """Keeps what is known of a run whose end the server acknowledged: it may be restored from an older copy.

        The newest MOST_ENDED are kept. Raises OSError.
        """
        run = self._run(self._directory(run_id))
        if run is not None:
            self._ended.mkdir(mode=0o700, exist_ok=True)
            path = self._ended / f"{folder_name(run_id)}.json"
            _write(path, _kept(run, ended_at=ended_at if ended_at is not None else run.run.claimed_at))
            self._forget_oldest_ends()

    def kept_runs(self, since: float) -> list[KeptRun]:
        """Runs that are not closed, and those whose end was acknowledged at `since` or later."""
        living = [_kept(run, ended_at=None) for run in self.runs()]
        there = {run.run.id for run in living}
        ended = (_read(path, KeptRun) for path in sorted(self._ended.glob("*.json")))
        return living + [
            run for run in ended if run and run.run.id not in there and (run.ended_at or 0.0) >= since
        ]

    @property
    def _ended(self) -> Path:
        return self.folder / "ended"

    def _forget_oldest_ends(self) -> None:
        there = sorted(self._ended.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in there[:-MOST_ENDED]:
            path.unlink(missing_ok=True)

    def _remove_half_folders(self) -> None:
        """Those of runs that a killed daemon had begun to close, or had not yet saved: their claims are open."""
        for folder in self._runs.iterdir():
            if not (folder / "run.json").exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _run(self, directory: RunDirectory) -> JournalledRun | None:
        entry = _read(directory.path / "run.json", _RunEntry)
        if entry is None:
            return None
        return _journalled(directory, entry, _read(directory.path / "progress.json", RunProgress) or RunProgress())

    def _directory(self, run_id: str) -> RunDirectory:
        return RunDirectory(self._runs / folder_name(run_id))


def _kept(run: JournalledRun, *, ended_at: float | None) -> KeptRun:
    return KeptRun(
        run=run.run,
        task=run.task,
        control_token=run.tokens.control_token,
        report_hash=run.tokens.report_hash,
        boot_id=run.boot_id,
        started=run.progress.started,
        gpus=run.progress.gpus,
        phases=run.progress.phases,
        outcome=run.progress.outcome,
        ended_at=ended_at,
    )


def folder_name(name: str) -> str:
    """A file name for any name: readable, and never the same for two names."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}", name):
        return name
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", name)[:50]
    return f"{readable}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _journalled(directory: RunDirectory, entry: _RunEntry, progress: RunProgress) -> JournalledRun:
    parts = {part.name: getattr(entry, part.name) for part in dataclasses.fields(entry)}
    return JournalledRun(directory=directory, progress=progress, **parts)


def _write(path: Path, record: object) -> None:
    write_whole(str(path), json.dumps(to_json(record)).encode())


def _read(path: Path, kind: type[T]) -> T | None:
    """Reads a record; one that is missing, torn or of another version is told and left where it is."""
    try:
        data: Any = json.loads(path.read_bytes())
        return from_json(kind, data)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        logger.error(
            "%s cannot be read and is left as it is: %s", path, error, extra={"action": "journal_entry_unreadable"}
        )
        return None
