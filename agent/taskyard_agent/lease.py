"""The beat: renews the leases of all runs, carries measurements up and directives down."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence

from taskyard.client import Client
from taskyard.errors import TaskyardError
from taskyard.wire import Beat, BeatAnswer, RunReport, Sample, WorkerDirective, WorkerReport, WorkerState

from . import texts
from .answers import Act, Conversation, Route, Troubles
from .clock import ServerClock
from .held import boot_clock
from .probes import Recovery
from .restored import Restored
from .run import RunJob
from .worker import SERVER, AgentIdentity, Worker

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
BEATS_PER_LEASE = 6
MEASURE_SECONDS = 2.0
"""Shortest time between two measurements: a beat that was poked for measures too, so short runs are seen."""
RETRY_SECONDS = 2.0
"""Longest pause before a beat that was not taken is sent again, where the agent is let in at all."""
STUCK_SECONDS = 120.0
"""No turn of the loop takes half as long, whatever the server does."""
SAMPLES_PER_BEAT = 5000
UNSENT_SAMPLES = 20_000
"""Measurements wait for a server that cannot be reached; the oldest are dropped beyond this number."""


def _go_on(_reason: str) -> None:
    """What `agent execute` does about a drain: it takes nothing more anyway."""


class Lease:
    """Sends one beat for the agent's worker and runs, six times a lease and whenever it is poked."""

    def __init__(
        self,
        identity: AgentIdentity,
        worker: Worker,
        *,
        client: Client,
        clock: ServerClock,
        samples: Callable[[], Sequence[Sample]],
        problem: Callable[[str], str | None] = lambda _: None,
        restored: Restored,
        troubles: Troubles | None = None,
    ) -> None:
        """`problem` probes the part of the machine for which the server has paused the worker."""
        self._identity = identity
        self._worker = worker
        self._client = client
        self._clock = clock
        self._samples = samples
        self._recovery = Recovery(problem, self.poke)
        self._restored = restored
        self._conversation = Conversation(Route.BEAT, troubles=troubles)
        self._most_samples = SAMPLES_PER_BEAT
        self._bare = False
        self._on_drain: Callable[[str], object] = _go_on
        self._turned_at = time.monotonic()
        self.acknowledged_at: float | None = None
        """When the server last answered, on the monotonic clock."""
        self._places: dict[str, WorkerReport] = {}
        self._unsent: list[Sample] = []
        self._measured_at = float("-inf")
        self.measured: tuple[Sample, ...] = ()
        """The latest measurements."""
        self._poked = threading.Event()
        self._stopping = threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="beats", daemon=True)

    def introduce(self, left: Sequence[RunReport]) -> WorkerDirective:
        """The first beat, before anything is claimed or reported: returns what the server says of the worker.

        `left` are the runs that an earlier daemon left: what became of them is still to be reported. Raises what
        the client raises.
        """
        sent_boottime = boot_clock()
        answer = self._exchange(self._beat(left), patience_seconds=0.0)
        told = [directive for directive in answer.workers if directive.worker == self._worker.name]
        directive = told[0] if told else WorkerDirective(worker=self._worker.name)
        if directive.taken_seconds is None:
            self._worker.known = True
            self._obey(answer, (), sent_boottime)
        return directive

    def start(self, *, on_drain: Callable[[str], object] = _go_on) -> None:
        """Begins to beat, once the server knows the agent; `on_drain` is told why, as often as the server asks for
        the agent's end."""
        self._on_drain = on_drain
        self._thread.start()

    def poke(self) -> None:
        """Sends a beat soon, from the beat's own thread."""
        self._poked.set()

    def stop(self) -> None:
        """Ends the beats."""
        self._stopping.set()
        self._poked.set()

    def send(self, *, patience_seconds: float = 0.0) -> BeatAnswer:
        """Sends one beat now and obeys its answer. Raises what the client raises."""
        with self._sending:
            jobs = self._worker.jobs
            sent_boottime = boot_clock()
            answer = self._exchange(self._beat([job.report() for job in jobs]), patience_seconds=patience_seconds)
        self._obey(answer, jobs, sent_boottime)
        return answer

    def tell(self, *, patience_seconds: float) -> None:
        """Sends one beat if the server can be reached so soon; else it finds out by itself."""
        try:
            self.send(patience_seconds=patience_seconds)
        except TaskyardError as error:
            logger.warning("the server was not told: %s", error, extra={"action": "farewell_failed"})

    def _exchange(self, beat: Beat, *, patience_seconds: float) -> BeatAnswer:
        sent_at = time.time()
        answer = self._client.beat(beat, patience_seconds=patience_seconds)
        self._clock.learn(answer.server_time, sent_at, time.time())
        if self._restored.learn(answer):
            self.poke()  # its operator waits for what this agent knows
        del self._unsent[: len(beat.samples)]
        self._places = {report.name: report for report in beat.workers if report.parent and report.runs}
        self.acknowledged_at = time.monotonic()
        self._most_samples, self._bare = min(2 * self._most_samples, SAMPLES_PER_BEAT), False
        self._conversation.answered()
        return answer

    def _loop(self) -> None:
        pause = RETRY_SECONDS
        while not self._stopping.is_set():
            self._turned_at = time.monotonic()
            try:
                self._measure()
                pause = min(self._rest(), self.send().lease_seconds / BEATS_PER_LEASE)
            except TaskyardError as error:
                pause = self._pause_after(error)
            except Exception:
                # The edge of the loop: without beats every run of this agent would be given up.
                logger.exception("a beat failed", extra={"action": "beat_failed_inside"})
            self._poked.wait(pause)
            self._poked.clear()

    def _pause_after(self, error: TaskyardError) -> float:
        act = self._conversation.heed(error)
        if act is Act.SHRINK and self._shrink():
            return 0.0
        pause = self._conversation.pause
        return pause if act is Act.ASK_EACH_MINUTE else min(pause, RETRY_SECONDS)

    def _shrink(self) -> bool:
        """Makes the next beat say less: leases matter more than measurements, and those more than notes.

        The one measurement that is refused alone is dropped. False when there is nothing left to leave out.
        """
        count = min(len(self._unsent), self._most_samples)
        if count == 1:
            del self._unsent[0]
        elif count > 1:
            self._most_samples = count // 2
        elif not self._bare:
            self._bare = True
        else:
            return False
        return True

    @property
    def turns(self) -> bool:
        """Whether its loop does what it should, be the server there or not."""
        return self._thread.is_alive() and time.monotonic() - self._turned_at < STUCK_SECONDS

    def _rest(self) -> float:
        """Shorter while a run was not measured yet: a run of some seconds has its measurements, too."""
        measured = {sample.subject for sample in self.measured}
        fresh = any(f"run:{job.id}" not in measured for job in self._worker.jobs)
        return MEASURE_SECONDS if fresh else BEAT_SECONDS

    def _measure(self) -> None:
        if time.monotonic() - self._measured_at >= MEASURE_SECONDS:
            self._measured_at = time.monotonic()
            samples = texts.finite(self._samples())
            self.measured = tuple(samples)
            self._unsent = [*self._unsent, *samples][-UNSENT_SAMPLES:]

    def _left_places(self, reports: Sequence[WorkerReport]) -> list[WorkerReport]:
        """The places of runs that ended since the last beat that the server took."""
        there = {report.name for report in reports}
        left = [report for report in self._places.values() if report.name not in there]
        return [dataclasses.replace(report, state=WorkerState.STOPPED, runs=()) for report in left]

    def _beat(self, runs: Sequence[RunReport]) -> Beat:
        self._worker.healthy = self._recovery.healthy
        reports = self._worker.reports()
        if self._bare:
            runs = [dataclasses.replace(run, notes=()) for run in runs]
            reports = [dataclasses.replace(report, paused_reason="", labels={}) for report in reports]
        return Beat(
            agent=self._identity.name,
            host=self._identity.host,
            boot_id=self._identity.boot_id,
            instance=self._identity.instance,
            version=self._identity.version,
            workers=texts.cleaned((*reports, *self._left_places(reports))),
            runs=texts.cleaned(tuple(runs)),
            samples=tuple(self._unsent[: self._most_samples]),
            kept=self._restored.portion(),
        )

    def _obey(self, answer: BeatAnswer, jobs: Sequence[RunJob], sent_boottime: float) -> None:
        for_runs = {directive.run: directive for directive in answer.runs}
        for job in jobs:
            for_run = for_runs.get(job.id)
            if for_run is None or not for_run.stale:
                job.lease_renewed(sent_boottime)
            if for_run is not None:
                job.obey(for_run)
        for directive in answer.workers:
            if directive.worker == self._worker.name:
                self._obey_for_worker(directive)

    def _obey_for_worker(self, directive: WorkerDirective) -> None:
        worker = self._worker
        if directive.paused and not worker.paused:
            logger.warning(
                "nothing is taken%s: %s",
                ""
                if directive.taken_seconds or directive.probe
                else f" until `taskyard worker resume {worker.name}`",
                directive.reason,
                extra={"action": "worker_paused"},
            )
        if directive.paused != worker.held_by(SERVER):
            self.poke()  # what it would take now is news
        worker.hold(SERVER, (directive.reason or "paused at the server") if directive.paused else None)
        self._recovery.watch(directive.probe if directive.paused else "")
        if directive.drain:
            self._on_drain("the server asks for it")
