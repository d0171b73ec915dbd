"""`agent execute --id`: runs one task here and now, whatever queue it is in."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from taskyard.client import Client
from taskyard.wire import ClaimRequest, Run

from . import abandoned, executes
from .assembly import AgentParts, open_agent
from .config import AgentSettings
from .daemon import FAREWELL_SECONDS, QUIET_SECONDS
from .errors import SettingsError
from .held import Cause
from .introduction import Introduction
from .journal import Journal, JournalledRun
from .log_shipper import LogShipper
from .part_settings import executes_folder
from .run import RunJob

ENDED_BY = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SPOOL_POLL_SECONDS = 0.05
READ_BYTES = 1 << 20


def execute(task_id: str, settings: AgentSettings, client: Client, log: BinaryIO) -> Run:
    """Claims this task alone, carries it to its end and copies its log; returns the run with its outcome."""
    abandoned.give_back(settings, client)
    named = dataclasses.replace(settings, name=settings.name or f"{settings.host}:execute:{os.getpid()}")
    with open_agent(named, client, _journal_in(executes_folder(settings))) as parts, _registered(parts):
        run, secrets = _claim(task_id, parts)
        job = parts.worker.admit(run, parts.services, lambda: secrets)
        parts.lease.start()
        with _stopped_by_signals(job), _copied(run, log, parts.shipper):
            outcome = job.execute()
        parts.services.uploads.wait(QUIET_SECONDS)
        parts.shipper.flush(run.run.id, timeout=30.0)
    return dataclasses.replace(run.run, outcome=outcome)


def _journal_in(folder: Path) -> Callable[[str], contextlib.AbstractContextManager[Journal]]:
    """Whatever the worker is called, no daemon of that name opens it."""
    return lambda _name: executes.opened(folder)


@contextlib.contextmanager
def _registered(parts: AgentParts) -> Iterator[None]:
    """The server knows the worker as long as this lasts: it watches no queue, and is there for one run."""
    parts.worker.queues = ()
    Introduction(parts.lease, ()).made(threading.Event())
    try:
        yield
    finally:
        parts.worker.stopped = True
        parts.lease.tell(patience_seconds=FAREWELL_SECONDS)


def _claim(task_id: str, parts: AgentParts) -> tuple[JournalledRun, dict[str, str]]:
    worker = parts.worker
    if reason := worker.report().paused_reason:
        raise SettingsError(f"task {task_id} is not taken: {reason}")
    tokens = parts.journal.draw_claim()
    request = ClaimRequest(
        agent=parts.identity.name,
        worker=worker.name,
        boot_id=parts.identity.boot_id,
        instance=parts.identity.instance,
        request_id=tokens.request_id,
        control_hash=tokens.control_hash,
        report_hash=tokens.report_hash,
        free=worker.offer,
        total=worker.means.capacity,
        labels=worker.labels,
        task=task_id,
        wait_seconds=0.0,
    )
    claim = parts.client.claim(request)
    if claim.run is None or claim.task is None:
        parts.journal.forget_claim(tokens.request_id)
        raise SettingsError(f"task {task_id} cannot be taken now; `taskyard explain {task_id}` says why")
    share = worker.allotment.take(claim.run.id, claim.task.spec.resources)
    return parts.journal.save_run(claim, tokens, share), claim.secrets


@contextlib.contextmanager
def _stopped_by_signals(job: RunJob) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or end of the terminal ends the run with grace, the second at once."""

    seen = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if seen.is_set():
            job.kill()
        seen.set()
        job.stop(Cause.CANCELLED)

    obeyed = [number for number in ENDED_BY if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores one
    before = {number: signal.signal(number, on_signal) for number in obeyed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _copied(run: JournalledRun, log: BinaryIO, shipper: LogShipper) -> Iterator[None]:
    """Copies the run's log as it grows."""
    spool = run.directory.spool
    spool.parent.mkdir(parents=True, exist_ok=True)
    spool.touch(mode=0o600)
    with spool.open("rb") as file:
        copy = _Copy(file, log)
        shipper.keep_for(run.run.id, lambda: copy.taken)
        printer = threading.Thread(target=copy.run, name="printer")
        printer.start()
        try:
            yield
        finally:
            copy.ended.set()
            printer.join()


class _Copy:
    """A log as it is printed; `taken` bytes of it are, None once no one reads it any more."""

    def __init__(self, file: BinaryIO, log: BinaryIO) -> None:
        self._file = file
        self._log = log
        self.ended = threading.Event()
        """Set when the log grows no more."""
        self.taken: int | None = 0

    def run(self) -> None:
        """Copy all of it."""
        with contextlib.suppress(OSError):  # its reader has gone: the run goes on
            self._copy()
        self.taken = None

    def _copy(self) -> None:
        last, taken = False, 0
        while True:
            while data := self._file.read(READ_BYTES):
                self._log.write(data)
                self._log.flush()
                taken += len(data)
                self.taken = taken
            if last:
                return
            last = self.ended.wait(SPOOL_POLL_SECONDS)
