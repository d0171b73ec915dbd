"""The daemon: starts an agent's side loops, waits for the operator's word, and ends them in order."""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from taskyard import log_lines
from taskyard.client import Client

from . import executes
from .assembly import AgentParts, open_agent
from .config import AgentSettings
from .held import Cause
from .introduction import Introduction
from .job_end import SIGNALS, JobEnd, NoJob
from .journal import Journal
from .life.duties import Life
from .life.running import Announcement
from .part_settings import agents_folder, executes_folder
from .worker import Claimer, Worker

logger = logging.getLogger(__name__)

LOGS_AFTER_DRAIN_SECONDS = 10.0
QUIET_SECONDS = 10.0
"""Outputs are waited for as long as something of them arrives; a further signal ends that."""
FAREWELL_SECONDS = 2.0
UNATTENDED_SECONDS = 5.0
"""How long runs that an earlier daemon left may wait for GPUs that others left: far less than a lease."""
LOOK_SECONDS = 0.05
_FURTHER_SIGNALS = "once more to stop it and put it back into its queue, a third time to kill it"
KILLED_SECONDS = 10.0
"""Killed runs are reported in this time, or, when the server cannot be reached, by the next daemon."""


class End(enum.IntEnum):
    """What the operator wants of a daemon; each SIGTERM or Ctrl-C goes one further."""

    RUN = 0
    DRAIN = 1
    CANCEL = 2
    KILL = 3
    HAND_OVER = 4


class Daemon:
    """Claims and carries runs until it is told to end."""

    def __init__(self, settings: AgentSettings, client: Client, *, clearing: threading.Thread) -> None:
        """`clearing` ends what others left on this machine, before anything is taken."""
        self._settings = settings
        self._client = client
        self._clearing = clearing
        self._end = End.RUN
        self._told = threading.Event()
        self._job_end: JobEnd | NoJob = NoJob()
        self.begins_anew = False
        """Whether it ended in order to be started again."""

    def run(self) -> int:
        """Runs until a signal ends it; returns the exit code. Raises SettingsError for what cannot be followed."""
        in_job = self._settings.job is not None  # what others left there has ended with them; its report may last
        self._clearing.join(UNATTENDED_SECONDS if in_job or self._left_runs() else None)
        with open_agent(self._settings, self._client, self._journal_of) as parts, self._signals():
            claimer = Claimer(
                parts.identity, parts.worker, parts.order,
                client=self._client, journal=parts.journal, services=parts.services,
            )  # fmt: skip
            life = self._life_of(parts, claimer)
            with parts.hooks_at_both_ends(lambda: self._end is End.HAND_OVER), self._served(parts, claimer):
                self._say_hello(parts)
                parts.services.keepers.prepare()
                with life, contextlib.closing(self._ends_with_job(parts)):
                    parts.services.troubles.listen(life.note)
                    introduction = Introduction(parts.lease, parts.leftovers.reports(), parts.services.troubles)
                    if introduction.made(self._told):
                        self._work(parts, claimer, life)
            self.begins_anew = life.begins_anew and self._end is End.DRAIN
        return 0

    def _journal_of(self, name: str) -> contextlib.AbstractContextManager[Journal]:
        """In a batch job it is one of its own: what is left in it is given back, never carried on."""
        if self._settings.job is not None:
            return executes.opened(executes_folder(self._settings))
        return Journal(agents_folder(self._settings), name)

    def _left_runs(self) -> bool:
        if self._settings.name is None or self._settings.job is not None:
            return False
        return bool(Journal(agents_folder(self._settings), self._settings.name).runs())

    def _ends_with_job(self, parts: AgentParts) -> JobEnd | NoJob:
        if self._settings.job is not None:
            jobs = functools.partial(getattr, parts.worker, "jobs")
            self._job_end = JobEnd(self._settings.job, jobs, on_begin=self._job_ends)
        return self._job_end

    def _job_ends(self) -> None:
        """Nothing is taken any more; the runs are ended by `JobEnd`."""
        self._end = max(self._end, End.DRAIN)
        self._told.set()

    def _work(self, parts: AgentParts, claimer: Claimer, life: Life) -> None:
        parts.leftovers.hand_to(parts.worker)
        parts.lease.start(on_drain=self.drain)
        if self._cleared():
            claimer.start()
        life.ready()
        self._wait_for_word(parts)
        claimer.stop()
        if self._end is not End.HAND_OVER:
            self._leave(parts, claimer)

    def _cleared(self) -> bool:
        """Waits until nothing of others is left; False when it was told to end before."""
        while self._clearing.is_alive() and self._settings.job is None:
            if self._told.wait(LOOK_SECONDS):
                return False
        return True

    def drain(self, reason: str) -> bool:
        """Ends the daemon after what it runs, as one SIGTERM does; whether nobody had done so before.

        May be called from any thread, repeatedly.
        """
        if self._end is not End.RUN:
            return False
        logger.info("going to end: %s", reason, extra={"action": "agent_told_to_drain"})
        self._end = End.DRAIN
        self._told.set()
        return True

    def _served(self, parts: AgentParts, claimer: Claimer) -> contextlib.AbstractContextManager[None]:
        """Answers monitoring, where that is asked for; the library is imported only then."""
        if self._settings.http is None:
            return contextlib.nullcontext()
        from .life.endpoint import Vitals, served

        lives = functools.partial(_lives, parts, claimer)
        vitals = Vitals(parts.worker, parts.services.tally, parts.lease, lives=lives)
        return served(self._settings.http, vitals)

    def _life_of(self, parts: AgentParts, claimer: Claimer) -> Life:
        return Life(
            self._settings,
            parts.services.tally,
            hold=parts.worker.hold,
            drain=self.drain,
            tell_server=parts.lease.poke,
            lives=functools.partial(_lives, parts, claimer),
            announcement=Announcement(parts.journal.folder, parts.identity.name, self._settings.connection.server),
        )

    def _say_hello(self, parts: AgentParts) -> None:
        log_lines.name(f"agent {parts.worker.name}")
        order = " in turn" if self._settings.order_fairness else " in this order"
        queues = ", ".join(repr(queue.name) for queue in parts.served)
        logger.info(
            "worker %s, server %s",
            parts.worker.name,
            self._settings.connection.server,
            extra={"action": "agent_started"},
        )
        logger.info(
            "serving %s%s; Ctrl-C drains",
            queues,
            order if len(parts.served) > 1 else "",
            extra={"action": "agent_queues"},
        )

    # --- the end

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        handled = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
        if self._settings.job is not None:
            handled |= set(SIGNALS)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """In a batch job SIGTERM is the job's end, and SIGUSR1 drains: there is no next daemon to hand over to."""
        if number in self._job_end.signals:
            self._job_end.begin()
            return
        if number == signal.SIGUSR1 and self._settings.job is None:
            self._end = End.HAND_OVER
        elif number == signal.SIGUSR1:
            self._end = max(self._end, End.DRAIN)
        elif self._end < End.KILL:
            self._end = End(self._end + 1)
        self._told.set()

    def _wait_for_word(self, parts: AgentParts) -> None:
        self._told.wait()
        if self._job_end.begun:
            return
        if self._end is End.HAND_OVER:
            logger.info("handing over: runs go on without me", extra={"action": "agent_hands_over"})
            return
        running = [job.id for job in parts.worker.jobs]
        logger.info(
            "draining: nothing more is taken%s",
            f"; {', '.join(running)} goes on ({_FURTHER_SIGNALS})" if running else "",
            extra={"action": "agent_drains"},
        )

    def _leave(self, parts: AgentParts, claimer: Claimer) -> None:
        """Waits for the runs, as far as the operator lets them go on, and tells the server the truth."""
        parts.worker.draining = True
        parts.lease.tell(patience_seconds=FAREWELL_SECONDS)
        claimer.join(FAREWELL_SECONDS)
        done, leave_at = End.DRAIN, float("inf")
        while parts.busy and self._end is not End.HAND_OVER and time.monotonic() < leave_at:
            if self._end > done:
                done = self._end
                _end_runs(parts.worker, kill=done is End.KILL)
                leave_at = time.monotonic() + KILLED_SECONDS if done is End.KILL else leave_at
            self._told.clear()
            self._told.wait(0.05)
        if self._end is not End.HAND_OVER:
            self._ship_rest(parts)
            parts.worker.stopped = True
            parts.lease.tell(patience_seconds=FAREWELL_SECONDS)

    def _ship_rest(self, parts: AgentParts) -> None:
        parts.services.uploads.wait(QUIET_SECONDS, given_up=lambda: self._end > End.DRAIN)
        deadline = time.monotonic() + LOGS_AFTER_DRAIN_SECONDS
        while parts.journal.runs() and time.monotonic() < deadline and self._end < End.KILL:
            time.sleep(0.02)
        if parts.journal.runs():
            logger.warning(
                "some logs or outputs wait on this machine; the next daemon sends them",
                extra={"action": "logs_wait"},
            )


def _lives(parts: AgentParts, claimer: Claimer) -> bool:
    return parts.lease.turns and claimer.turns


def _end_runs(worker: Worker, *, kill: bool) -> None:
    runs = ", ".join(job.id for job in worker.jobs)
    if kill:
        logger.warning("killing %s", runs, extra={"action": "agent_kills"})
    else:
        words = "stopping %s, which goes back into its queue; once more to kill"
        logger.info(words, runs, extra={"action": "agent_cancels"})
    for job in worker.jobs:
        if kill:
            job.kill()
        else:
            job.stop(Cause.AGENT_STOPPED)
