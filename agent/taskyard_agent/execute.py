"""`agent execute --id`: runs one task here and now, whatever queue it is in."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from taskyard.client import Client
from taskyard.wire import Claim, ClaimRequest, Obstacle, Run

from . import abandoned, executes, means
from .assembly import AgentParts, open_agent
from .config import AgentSettings
from .daemon import FAREWELL_SECONDS, QUIET_SECONDS, UNATTENDED_SECONDS
from .errors import SettingsError
from .held import Cause
from .introduction import Introduction
from .job_end import JobEnd, NoJob
from .journal import ClaimTokens, Journal, JournalledRun
from .log_shipper import LogShipper
from .part_settings import executes_folder
from .run import RunJob

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 90.0
"""How long a job that was started again waits to learn that its earlier run is silent: a lease and a little."""
ASK_AGAIN_SECONDS = 2.0
ENDED_BY = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SPOOL_POLL_SECONDS = 0.05
READ_BYTES = 1 << 20


def execute(task_id: str, settings: AgentSettings, client: Client, log: BinaryIO) -> Run | Obstacle:
    """Claims this task alone, carries it to its end and copies its log; returns the run with its outcome.

    Returns an obstacle where the task has ended, or runs elsewhere: then there is nothing to do.
    """
    if settings.job is not None:  # what others left there has ended with them; its report may last
        abandoned.giving_back(settings, client).join(UNATTENDED_SECONDS)
    else:
        abandoned.give_back(settings, client)
    with open_agent(_named(settings), client, _journal_in(executes_folder(settings))) as parts, _registered(parts):
        with contextlib.closing(_ends_with_job(parts)) as job_end:
            claim, tokens = _claim(task_id, parts, job_end)
            if claim.obstacle is not None:
                return claim.obstacle
            run = _taken(claim, tokens, parts)
            job = parts.worker.admit(run, parts.services, lambda: claim.secrets)
            parts.lease.start()
            with _stopped_by_signals(job, job_end), _copied(run, log, parts.shipper):
                outcome = job.execute()
            parts.services.uploads.wait(QUIET_SECONDS)
            parts.shipper.flush(run.run.id, timeout=30.0)
    return dataclasses.replace(run.run, outcome=outcome)


def _named(settings: AgentSettings) -> AgentSettings:
    own = means.name_in_job(settings, settings.job) if settings.job else f"{settings.host}:execute:{os.getpid()}"
    return dataclasses.replace(settings, name=settings.name or own)


def _ends_with_job(parts: AgentParts) -> JobEnd | NoJob:
    return JobEnd(parts.settings.job, lambda: parts.worker.jobs) if parts.settings.job else NoJob()


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


def _claim(task_id: str, parts: AgentParts, job_end: JobEnd | NoJob) -> tuple[Claim, ClaimTokens]:
    """Asks for the task. An earlier run of the same batch job that fell silent with its node is waited for."""
    if reason := parts.worker.report().paused_reason:
        raise SettingsError(f"task {task_id} is not taken: {reason}")
    job = parts.settings.job
    patience = time.monotonic() + SILENCE_SECONDS if job and job.restarts else 0.0
    while True:
        tokens = parts.journal.draw_claim()
        claim = parts.client.claim(_request(task_id, tokens, parts))
        if claim.run is not None and claim.task is not None:
            return claim, tokens
        parts.journal.forget_claim(tokens.request_id)
        obstacle = claim.obstacle
        if obstacle is None:
            raise SettingsError(f"task {task_id} cannot be taken now; `taskyard explain {task_id}` says why")
        waits = obstacle.unresponsive and patience > 0
        if job_end.begun or obstacle.state.terminal or not (waits or time.monotonic() < patience):
            return claim, tokens
        logger.info("waiting: %s", obstacle.detail, extra={"action": "execute_waits"})
        time.sleep(ASK_AGAIN_SECONDS)


def _request(task_id: str, tokens: ClaimTokens, parts: AgentParts) -> ClaimRequest:
    worker = parts.worker
    return ClaimRequest(
        agent=parts.identity.name,
        worker=worker.name,
        boot_id=parts.identity.boot_id,
        instance=parts.identity.instance,
        request_id=tokens.request_id,
        control_hash=tokens.control_hash,
        report_hash=tokens.report_hash,
        queues=tuple(queue.id for queue in parts.served) if parts.settings.queues else (),
        free=worker.offer,
        total=worker.means.capacity,
        labels=worker.labels,
        task=task_id,
        wait_seconds=0.0,
        ends_at=worker.horizon().ends_at,
        names_obstacle=True,
    )


def _taken(claim: Claim, tokens: ClaimTokens, parts: AgentParts) -> JournalledRun:
    if claim.run is None or claim.task is None:
        raise ValueError("the claim took nothing")
    share = parts.worker.allotment.take(claim.run.id, claim.task.spec.resources)
    return parts.journal.save_run(claim, tokens, share)


@contextlib.contextmanager
def _stopped_by_signals(job: RunJob, job_end: JobEnd | NoJob) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or end of the terminal ends the run with grace, the second at once.

    In a batch job its signals are the job's end, however often they come.
    """

    seen = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if number in job_end.signals:
            job_end.begin()
            return
        if number == signal.SIGUSR1:  # drains a pilot; here there is one run, which goes on
            return
        if seen.is_set():
            job.kill()
        seen.set()
        job.stop(Cause.CANCELLED)

    heard = {*ENDED_BY, *job_end.signals, *job_end.warnings}
    obeyed = [number for number in heard if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores one
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
