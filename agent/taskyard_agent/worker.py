"""The agent's worker, and the one claim that is in flight for it: claim → run → repeat."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from taskyard.client import Client
from taskyard.errors import TaskyardError
from taskyard.wire import (
    Capacity,
    Claim,
    ClaimRequest,
    Gpu,
    Outcome,
    Run,
    Task,
    WorkerReport,
    WorkerState,
)

from . import endings, gpus
from .allotment import Allotment, DoesNotFit, Means
from .answers import Act, Conversation, Route
from .journal import ClaimTokens, Journal, JournalledRun, RunProgress
from .run import RunJob
from .run_services import RunServices
from .tally import Tally

logger = logging.getLogger(__name__)

WAIT_SECONDS = 25.0
LISTEN_SECONDS = 5.0
"""While something runs: its end ends the wait too, unless another server process heard of it."""
ENDING_SECONDS = 0.5
RETRY_SECONDS = 5.0
"""After a claim that cannot be journalled, or failed inside."""
REFUSED_SECONDS = 5.0
LISTEN_AGAIN_SECONDS = 1.0
STUCK_SECONDS = 120.0
"""No turn of the claiming loop takes half as long, whatever the server does."""
SERVER = "server"
"""Who holds a worker that was paused by the server; every other source of a hold is this agent's own."""


NOTHING = Capacity(slots=0)


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """Until when a worker runs tasks."""

    ends_at: float | None = None
    """By the server's clock; None: for ever."""
    takes_endless: bool = True
    """Whether it takes tasks without a time limit."""


class Worker:
    """A named place that runs as many tasks at once as its means allow, each on what is its own."""

    def __init__(
        self,
        name: str,
        means: Means,
        queues: tuple[str, ...],
        *,
        labels: Mapping[str, str] | None = None,
        shows_places: bool = False,
        allows_shell: bool = False,
    ) -> None:
        """`shows_places`: each of its runs is reported as a worker of its own, too.

        `allows_shell`: owners of tasks may open terminals in their runs.
        """
        self.name = name
        self.means = means
        self.queues = queues
        self.labels = dict(labels or {})
        self.allotment = Allotment(means)
        self.draining = False
        self.stopped = False
        self.healthy = False
        """Whether the probe that the server asked for finds nothing wrong."""
        self.known = False
        """Whether the server took a beat of this process."""
        self.horizon: Callable[[], Horizon] = Horizon
        """How long there is for what it takes now."""
        self._shows_places = shows_places
        self._allows_shell = allows_shell
        self._holds: dict[str, str] = {}
        self._jobs: dict[str, RunJob] = {}
        self._changing = threading.Lock()

    def hold(self, source: str, reason: str | None) -> None:
        """Sets one source's reason why nothing is taken, or lifts it with None. May be called from any thread."""
        holds = {**self._holds, source: reason or ""}
        self._holds = {name: why for name, why in holds.items() if why}

    def held_by(self, source: str) -> bool:
        """Whether that source lets it take nothing."""
        return source in self._holds

    @property
    def paused(self) -> bool:
        """Whether somebody lets it take nothing."""
        return bool(self._holds)

    @property
    def devices(self) -> tuple[Gpu, ...]:
        """All its GPUs."""
        return self.means.devices

    @property
    def idle_devices(self) -> tuple[Gpu, ...]:
        """Those of its GPUs that no run of its own holds."""
        busy = {gpu.uuid for job in self.jobs for gpu in job.devices}
        return tuple(gpu for gpu in self.devices if gpu.uuid not in busy)

    @property
    def jobs(self) -> tuple[RunJob, ...]:
        """The runs that it carries."""
        return tuple(self._jobs.values())

    @property
    def offer(self) -> Capacity:
        """What it would give a task now."""
        free = self.allotment.free
        return NOTHING if self.draining or self.paused or self.stopped or not free.slots else free

    @property
    def state(self) -> WorkerState:
        """What it does just now."""
        if self.stopped:
            return WorkerState.STOPPED
        if self.draining:
            return WorkerState.DRAINING
        if not self.known:
            return WorkerState.STARTING  # held or not: a drain was the process's before this one
        if self.paused:
            return WorkerState.PAUSED
        return WorkerState.BUSY if self._jobs else WorkerState.IDLE

    def reports(self) -> list[WorkerReport]:
        """What the next beat says of it, and of the places of its runs where those are shown."""
        places = map(self._place_of, self.jobs) if self._shows_places else ()
        return [self.report(), *places]

    def report(self) -> WorkerReport:
        """What it says of itself."""
        horizon = self.horizon()
        return WorkerReport(
            name=self.name,
            state=self.state,
            queues=self.queues,
            gpus=self.devices,
            runs=tuple(job.id for job in self.jobs),
            total=self.means.capacity,
            free=self.offer,
            labels=self.labels,
            queue_gpus=dict(self.means.queue_gpus),
            healthy=self.healthy,
            shell=self._allows_shell,
            paused_reason="; ".join(why for source, why in self._holds.items() if source != SERVER),
            ends_at=horizon.ends_at,
            takes_endless=horizon.takes_endless,
        )

    def _place_of(self, job: RunJob) -> WorkerReport:
        return WorkerReport(
            name=f"{self.name}:{job.task}",
            state=WorkerState.BUSY,
            runs=(job.id,),
            free=NOTHING,
            parent=self.name,
        )

    def take(
        self,
        run: JournalledRun,
        services: RunServices,
        *,
        secrets: Callable[[], Mapping[str, str]],
        done: Callable[[], None],
    ) -> None:
        """Begins the run in a thread of its own; `done` is called when it has ended, and its share is free."""
        job = self.admit(run, services, secrets)
        services.tally.took(job.id)
        carrier = functools.partial(self._carry, job, done, services.tally)
        threading.Thread(target=carrier, name=f"run-{job.id}", daemon=True).start()

    def admit(self, run: JournalledRun, services: RunServices, secrets: Callable[[], Mapping[str, str]]) -> RunJob:
        """Makes the run, which has its share in the allotment, one of those that it carries."""
        share = run.share
        job = RunJob(
            run,
            services,
            gpus.described(share.gpus, self.devices),
            secrets,
            shares_gpus=share.gpu_memory_bytes is not None,
            memory_limit_bytes=share.memory_limit_bytes,
            free=functools.partial(self.allotment.give_back, run.run.id),
        )
        with self._changing:
            self._jobs = {**self._jobs, job.id: job}
        return job

    def _leave(self, job: RunJob) -> None:
        self.allotment.give_back(job.id)
        with self._changing:
            self._jobs = {run_id: other for run_id, other in self._jobs.items() if run_id != job.id}

    def settle(self, run: JournalledRun, services: RunServices) -> threading.Thread:
        """Reports the end of an earlier run, beside whatever the worker does now."""
        job = RunJob(run, services, (), dict)
        reporter = threading.Thread(target=job.execute, name=f"run-{job.id}", daemon=True)
        reporter.start()
        return reporter

    def fail(self, run: JournalledRun, services: RunServices, outcome: Outcome) -> threading.Thread:
        """Reports a run as ended that never began."""
        return self.settle(dataclasses.replace(run, progress=RunProgress(outcome=outcome)), services)

    def _carry(self, job: RunJob, done: Callable[[], None], tally: Tally) -> None:
        outcome = None
        try:
            outcome = job.execute()
        except Exception:
            # The run stays in the journal: the next daemon carries it on. The worker must not hang on it.
            logger.exception("run %s stopped being carried", job.id, extra={"action": "run_failed_inside"})
        finally:
            self._leave(job)
            tally.ended(job.id, outcome)
            job.ended.set()
            done()


class QueueOrder:
    """The order in which queues are tried: strict priority, or rotated past the queue served last."""

    def __init__(self, queues: Sequence[str], *, fair: bool) -> None:
        self._queues = tuple(queues)
        self._fair = fair

    @property
    def queues(self) -> tuple[str, ...]:
        """The order for the next claim."""
        return self._queues

    def served(self, queue: str | None) -> None:
        """Notes that a task came from `queue` (id)."""
        if self._fair and queue in self._queues:
            place = self._queues.index(queue) + 1
            self._queues = self._queues[place:] + self._queues[:place]


@dataclass(frozen=True, kw_only=True)
class AgentIdentity:
    """Who the agent is, in every message."""

    name: str
    host: str
    boot_id: str
    version: str
    instance: str
    """Which agent it is, whatever its name."""


class Claimer:
    """Keeps one claim in flight for the agent's worker.

    It offers what is free; a beat that offers anything else ends it at the server, and it is sent anew. With
    nothing free the claim names no worker: then nothing but its end can come of it, for a directive or an offer.
    """

    def __init__(
        self,
        identity: AgentIdentity,
        worker: Worker,
        order: QueueOrder,
        *,
        client: Client,
        journal: Journal,
        services: RunServices,
    ) -> None:
        self._identity = identity
        self._worker = worker
        self._order = order
        self._client = client
        self._journal = journal
        self._services = services
        self._conversation = Conversation(Route.CLAIM, troubles=services.troubles)
        self._stopping = threading.Event()
        self._turned_at = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="claims", daemon=True)

    def start(self) -> None:
        """Once the server knows the worker: settles the claims that an earlier daemon left open, then claims."""
        self._thread.start()

    def stop(self) -> None:
        """Takes nothing more. A claim in flight is answered empty once the server heard of the drain."""
        self._stopping.set()

    @property
    def turns(self) -> bool:
        """Whether its loop does what it should, or was told to stop."""
        stuck = time.monotonic() - self._turned_at > STUCK_SECONDS
        return self._stopping.is_set() or (self._thread.is_alive() and not stuck)

    def join(self, timeout_seconds: float) -> bool:
        """Waits until no claim is in flight; False when one still is."""
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        for tokens in self._journal.open_claims():
            self._unless_it_fails(functools.partial(self._claim_again, tokens))
        while not self._stopping.is_set():
            self._unless_it_fails(self._claim_once)

    def _unless_it_fails(self, claim: Callable[[], None]) -> None:
        try:
            claim()
        except OSError as error:
            logger.error(
                "cannot journal a claim, so nothing is taken: %s",
                error,
                extra={"action": "claim_not_journalled"},
            )
            self._stopping.wait(RETRY_SECONDS)
        except Exception:
            # The edge of the loop: one claim's surprise must not end the agent's claiming.
            logger.exception("a claim failed", extra={"action": "claim_failed_inside"})
            self._stopping.wait(RETRY_SECONDS)

    def _claim_again(self, tokens: ClaimTokens) -> None:
        """What it may have taken is carried out, though the worker may take nothing more by now."""
        self._repeat_until_answered(tokens, self._worker, wait=0.0)

    def _claim_once(self) -> None:
        self._turned_at = time.monotonic()
        self._await_endings()
        worker = self._free_worker()
        tokens = self._journal.draw_claim() if worker else self._journal.draw_listening()
        idle = worker is not None and not worker.jobs
        self._repeat_until_answered(tokens, worker, wait=WAIT_SECONDS if idle else LISTEN_SECONDS)

    def _free_worker(self) -> Worker | None:
        return self._worker if self._worker.offer.slots else None

    def _await_endings(self) -> None:
        """A run whose end is just being reported is gone in a moment; one that waits for the server is not."""
        for job in self._worker.jobs:
            if job.reporting_since is not None:
                job.ended.wait(max(0.0, job.reporting_since + ENDING_SECONDS - time.monotonic()))

    def _repeat_until_answered(self, tokens: ClaimTokens, worker: Worker | None, *, wait: float) -> None:
        """Sends one claim until it is answered: a lost answer may have taken a task, and repeating finds it."""
        while not self._stopping.is_set():
            self._turned_at = time.monotonic()
            try:
                claim = self._client.claim(self._request(tokens, worker, wait), patience_seconds=0.0)
            except TaskyardError as error:
                act = self._conversation.heed(error)
            else:
                self._conversation.answered()
                self._settle(claim, tokens, worker)
                return
            if act is Act.DRAW_AGAIN or worker is None:
                # It took nothing, or could take nothing: by now a worker may be free for one that can.
                self._journal.forget_claim(tokens.request_id)
                shortest = REFUSED_SECONDS if act is Act.DRAW_AGAIN else LISTEN_AGAIN_SECONDS
                self._stopping.wait(max(shortest, self._conversation.pause))
                return
            self._stopping.wait(self._conversation.pause)

    def _request(self, tokens: ClaimTokens, worker: Worker | None, wait: float) -> ClaimRequest:
        horizon = worker.horizon() if worker else Horizon()
        return ClaimRequest(
            agent=self._identity.name,
            worker=worker.name if worker else None,
            boot_id=self._identity.boot_id,
            instance=self._identity.instance,
            request_id=tokens.request_id,
            control_hash=tokens.control_hash,
            report_hash=tokens.report_hash,
            queues=self._order.queues,
            free=worker.offer if worker else NOTHING,
            total=worker.means.capacity if worker else NOTHING,
            labels=worker.labels if worker else {},
            queue_gpus=dict(worker.means.queue_gpus) if worker else {},
            runs=tuple(job.id for job in self._worker.jobs),
            wait_seconds=wait,
            ends_at=horizon.ends_at,
            takes_endless=horizon.takes_endless,
        )

    def _settle(self, claim: Claim, tokens: ClaimTokens, worker: Worker | None) -> None:
        if claim.beat:
            self._services.send_beat()
        for directive in claim.directives:
            for job in self._worker.jobs:
                if job.id == directive.run:
                    job.obey(directive)
        if claim.run is None or claim.task is None or worker is None or self._carries(claim.run.id):
            self._journal.forget_claim(tokens.request_id)
            return
        logger.info(
            "claimed %s as run %d", claim.run.task, claim.run.number,
            extra={"action": "task_claimed", "task": claim.run.task, "run": claim.run.id},
        )  # fmt: skip
        self._order.served(claim.task.queue_id)
        self._begin(claim, claim.run, claim.task, tokens, worker)
        self._services.send_beat()

    def _carries(self, run_id: str) -> bool:
        return any(job.id == run_id for job in self._worker.jobs)

    def _begin(self, claim: Claim, run: Run, task: Task, tokens: ClaimTokens, worker: Worker) -> None:
        try:
            share = worker.allotment.take(run.id, task.spec.resources, task.queue_id)
        except DoesNotFit as error:
            worker.fail(self._journal.save_run(claim, tokens), self._services, endings.beyond_capacity(str(error)))
            return
        try:
            journalled = self._journal.save_run(claim, tokens, share)
        except OSError:
            worker.allotment.give_back(run.id)
            raise
        worker.take(journalled, self._services, secrets=lambda: claim.secrets, done=self._run_ended)

    def _run_ended(self) -> None:
        self._services.send_beat()
        self._services.keepers.prepare()
