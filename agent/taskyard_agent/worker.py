"""Workers, and the one claim that is in flight for all of them: claim → run → repeat."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from taskyard.client import Client
from taskyard.errors import TaskyardError, Unavailable
from taskyard.wire import Capacity, Claim, ClaimRequest, Gpu, WorkerReport, WorkerState

from .journal import ClaimTokens, Journal, JournalledRun
from .run import RunJob, RunServices

logger = logging.getLogger(__name__)

WAIT_SECONDS = 25.0
LISTEN_SECONDS = 5.0
"""With nothing free: the end of a run ends the wait too, unless another server process heard of it."""
ENDING_SECONDS = 0.5
BACKOFF_SECONDS = (0.1, 15.0)
DISK_RETRY_SECONDS = 5.0
LISTEN_AGAIN_SECONDS = 1.0
SERVER = "server"
"""Who holds a worker that was paused by the server; every other source of a hold is this agent's own."""


class Worker:
    """A named place that runs one task at a time on its devices."""

    def __init__(self, name: str, devices: tuple[Gpu, ...], queues: tuple[str, ...]) -> None:
        self.name = name
        self.devices = devices
        self.queues = queues
        self.draining = False
        self.stopped = False
        self._holds: dict[str, str] = {}
        self.job: RunJob | None = None

    def hold(self, source: str, reason: str | None) -> None:
        """Sets one source's reason why nothing is taken, or lifts it with None. May be called from any thread."""
        holds = {**self._holds, source: reason or ""}
        self._holds = {name: why for name, why in holds.items() if why}

    @property
    def paused(self) -> bool:
        """Whether somebody lets it take nothing."""
        return bool(self._holds)

    @property
    def free(self) -> bool:
        """Whether it may take a task now."""
        return self.job is None and not (self.draining or self.paused or self.stopped)

    @property
    def state(self) -> WorkerState:
        """What it does just now."""
        if self.stopped:
            return WorkerState.STOPPED
        if self.draining:
            return WorkerState.DRAINING
        if self.paused:
            return WorkerState.PAUSED
        return WorkerState.BUSY if self.job else WorkerState.IDLE

    @property
    def capacity(self) -> Capacity:
        """What it has in all."""
        return Capacity(gpus=len(self.devices))

    def report(self) -> WorkerReport:
        """What the next beat says of it."""
        job = self.job
        return WorkerReport(
            name=self.name,
            state=self.state,
            queues=self.queues,
            gpus=self.devices,
            runs=(job.id,) if job else (),
            total=self.capacity,
            free=self.capacity if job is None else Capacity(slots=0),
            paused_reason="; ".join(why for source, why in self._holds.items() if source != SERVER),
        )

    def take(
        self,
        run: JournalledRun,
        services: RunServices,
        *,
        secrets: Callable[[], Mapping[str, str]],
        done: Callable[[], None],
    ) -> None:
        """Begins the run in a thread of its own; `done` is called when it has ended."""
        wanted = run.task.spec.resources.gpus
        devices = self.devices if wanted is None else self.devices[:wanted]
        self.job = RunJob(run, services, devices, secrets)
        threading.Thread(target=self._carry, args=(self.job, done), name=f"run-{self.job.id}", daemon=True).start()

    def settle(self, run: JournalledRun, services: RunServices) -> threading.Thread:
        """Reports the end of an earlier run, beside whatever the worker does now."""
        job = RunJob(run, services, (), dict)
        reporter = threading.Thread(target=job.execute, name=f"run-{job.id}", daemon=True)
        reporter.start()
        return reporter

    def _carry(self, job: RunJob, done: Callable[[], None]) -> None:
        try:
            job.execute()
        except Exception:
            # The run stays in the journal: the next daemon carries it on. The worker must not hang on it.
            logger.exception("run %s stopped being carried", job.id, extra={"action": "run_failed_inside"})
        finally:
            self.job = None
            job.ended.set()
            done()


def jobs_of(workers: Sequence[Worker]) -> list[RunJob]:
    """The runs that are carried just now. Each worker is read once: its run may end meanwhile."""
    return [job for worker in workers if (job := worker.job) is not None]


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
        """Notes that a task came from `queue`."""
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


class Claimer:
    """Keeps one claim in flight for all workers of the agent.

    With nothing free the claim names no worker: then only a directive can end it.
    """

    def __init__(
        self,
        identity: AgentIdentity,
        workers: Sequence[Worker],
        order: QueueOrder,
        *,
        client: Client,
        journal: Journal,
        services: RunServices,
    ) -> None:
        self._identity = identity
        self._workers = workers
        self._order = order
        self._client = client
        self._journal = journal
        self._services = services
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="claims", daemon=True)

    def start(self) -> None:
        """Settles the claims that an earlier daemon left open, then begins to claim."""
        self._thread.start()

    def stop(self) -> None:
        """Takes nothing more. A claim in flight is answered empty once the server heard of the drain."""
        self._stopping.set()

    def join(self, timeout_seconds: float) -> bool:
        """Waits until no claim is in flight; False when one still is."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        for tokens in self._journal.open_claims():
            self._repeat_until_answered(tokens, self._free_worker(), wait=0.0)
        while not self._stopping.is_set():
            try:
                self._claim_once()
            except OSError as error:
                logger.error(
                    "cannot journal a claim, so nothing is taken: %s",
                    error,
                    extra={"action": "claim_not_journalled"},
                )
                self._stopping.wait(DISK_RETRY_SECONDS)

    def _claim_once(self) -> None:
        worker = self._free_worker() or self._soon_free_worker()
        tokens = self._journal.draw_claim()
        self._repeat_until_answered(tokens, worker, wait=WAIT_SECONDS if worker else LISTEN_SECONDS)

    def _free_worker(self) -> Worker | None:
        return next((worker for worker in self._workers if worker.free), None)

    def _soon_free_worker(self) -> Worker | None:
        """A run that is just being reported frees its worker before a listening claim is worth its while."""
        for job in jobs_of(self._workers):
            if job.reporting:
                job.ended.wait(ENDING_SECONDS)
        return self._free_worker()

    def _repeat_until_answered(self, tokens: ClaimTokens, worker: Worker | None, *, wait: float) -> None:
        """Sends one claim until it is answered: a lost answer may have taken a task, and repeating finds it."""
        pause = BACKOFF_SECONDS[0]
        while not self._stopping.is_set():
            try:
                claim = self._client.claim(self._request(tokens, worker, wait), patience_seconds=0.0)
                self._settle(claim, tokens, worker)
                return
            except Unavailable as error:
                logger.warning("cannot claim: %s", error, extra={"action": "claim_unavailable"})
            except TaskyardError as error:
                logger.error("the server refuses the claim: %s", error, extra={"action": "claim_refused"})
            if worker is None:  # it could take nothing; by now a worker may be free for one that can
                self._journal.forget_claim(tokens.request_id)
                self._stopping.wait(LISTEN_AGAIN_SECONDS)
                return
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, BACKOFF_SECONDS[1])

    def _request(self, tokens: ClaimTokens, worker: Worker | None, wait: float) -> ClaimRequest:
        capacity = worker.capacity if worker else Capacity(slots=0)
        return ClaimRequest(
            agent=self._identity.name,
            worker=worker.name if worker else None,
            boot_id=self._identity.boot_id,
            request_id=tokens.request_id,
            control_hash=tokens.control_hash,
            report_hash=tokens.report_hash,
            queues=self._order.queues,
            free=capacity,
            total=capacity,
            runs=tuple(job.id for job in jobs_of(self._workers)),
            wait_seconds=wait,
        )

    def _settle(self, claim: Claim, tokens: ClaimTokens, worker: Worker | None) -> None:
        for directive in claim.directives:
            for job in jobs_of(self._workers):
                if job.id == directive.run:
                    job.obey(directive)
        if claim.run is None or claim.task is None or worker is None:
            self._journal.forget_claim(tokens.request_id)
            return
        logger.info(
            "claimed %s as run %d", claim.run.task, claim.run.number,
            extra={"action": "task_claimed", "task": claim.run.task, "run": claim.run.id},
        )  # fmt: skip
        self._order.served(claim.task.queue)
        run = self._journal.save_run(claim, tokens)
        worker.take(run, self._services, secrets=lambda: claim.secrets, done=self._run_ended)
        self._services.send_beat()

    def _run_ended(self) -> None:
        self._services.send_beat()
        self._services.keepers.prepare()
