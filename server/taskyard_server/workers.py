"""Workers: what agents say of them, and what the server concludes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from taskyard.wire import (
    Beat,
    Capacity,
    ClaimRequest,
    Outcome,
    OutcomeKind,
    Reason,
    TaskState,
    Worker,
    WorkerCounters,
    WorkerReport,
    WorkerState,
)

from taskyard_server import matching
from taskyard_server.auth import Actor
from taskyard_server.claims import Claims
from taskyard_server.errors import Conflict, Invalid
from taskyard_server.matching import Offer
from taskyard_server.names import checked_name
from taskyard_server.queue_names import known_queues, queue_names, worker_by_names
from taskyard_server.store.base import LIVE_WORKER_STATES, Front, QueueRecord, Store, WorkerRecord

logger = logging.getLogger(__name__)

FAILURES_UNTIL_PAUSE = 3
"""Failures of one machine in a row, each confirmed by a probe, after which its worker takes nothing until a probe
finds nothing wrong, or it is resumed."""
_OF_TARGETS = (Reason.GIT_HOST, Reason.PACKAGE_INDEX)
"""Failures that an older agent reports as the machine's, and that a task's own address can cause."""
MAX_REASON = 500
SERVING_STATES = (WorkerState.STARTING, WorkerState.IDLE, WorkerState.BUSY)
"""Workers in these states take tasks, now or when their run has ended."""


class Workers:
    """Lists, pauses, resumes, drains and forgets workers; `runs` and `sweeper` write what they hear."""

    def __init__(self, store: Store, claims: Claims, clock: Callable[[], float]) -> None:
        self._store = store
        self._claims = claims
        self._clock = clock

    async def list(self) -> list[Worker]:
        """All workers by name."""
        names = await queue_names(self._store)
        return [worker_by_names(record.worker, names) for record in await self._store.workers()]

    async def get(self, name: str) -> Worker:
        """The worker with its counters. Raises NotFound."""
        record = await self._store.worker(name)
        return replace(await self._shown(record), counters=await self._counters(record))

    async def _shown(self, record: WorkerRecord) -> Worker:
        return worker_by_names(record.worker, await queue_names(self._store))

    async def _counters(self, record: WorkerRecord) -> WorkerCounters:
        """What is counted per queue and shape: the cost of deciding does not grow with the entries."""
        worker = record.worker
        queues = list((await known_queues(self._store, worker.queues)).values())
        ids = [queue.id for queue in queues]
        counts = await self._store.counts()
        active = await self._store.active()
        return WorkerCounters(
            executing=sum(entry.runs[-1].run.worker == worker.name for entry in active),
            executed=record.executed,
            waiting=sum(counts.get(queue_id, {}).get(TaskState.WAITING, 0) for queue_id in ids),
            **load(
                record,
                queues,
                await self._store.fronts(ids),
                await self._store.shape_counts(ids),
                now=self._clock(),
            ),
        )

    async def delete(self, name: str, actor: Actor) -> None:
        """Forgets a worker that is gone. Raises NotFound, Conflict while its agent is alive."""
        worker = (await self._store.worker(name)).worker
        if worker.state in LIVE_WORKER_STATES:
            raise Conflict(f"worker {name!r} is {worker.state}: stop its agent first, it would come back")
        await self._store.delete_worker(name)
        logger.info(
            "worker %s was deleted by %s", name, actor.name, extra={"action": "worker_deleted", "worker": name}
        )

    async def drain(self, name: str, actor: Actor) -> Worker:
        """Lets its agent end after what it runs, until it is started again. Raises NotFound, Conflict."""
        return await self._told(name, drained, actor, "drained")

    async def pause(self, name: str, reason: str, actor: Actor) -> Worker:
        """Lets the worker take nothing until it is resumed; what it runs goes on. Raises NotFound, Conflict,
        Invalid for a reason that is none."""
        reason = checked_name(reason, "the reason", longest=MAX_REASON)
        words = f"paused by {actor.name}{f': {reason}' if reason else ''}"
        return await self._told(name, partial(paused, reason=words), actor, "paused")

    async def resume(self, name: str, actor: Actor) -> Worker:
        """Lets a paused worker claim again. Raises NotFound, Conflict where its agent alone can."""
        return await self._told(name, resumed, actor, "resumed")

    async def _told(
        self, name: str, change: Callable[[WorkerRecord], WorkerRecord], actor: Actor, word: str
    ) -> Worker:
        """Keeps the change, and calls the agent to hear of it."""

        def changed(known: WorkerRecord | None) -> WorkerRecord:
            if known is None:
                raise Conflict("the worker was deleted: start its agent")
            if known.worker.parent is not None:
                raise Conflict(
                    f"{name!r} is the place of one task: stop that task, or name {known.worker.parent!r}"
                )
            return change(known)

        await self._store.worker(name)
        record = await self._store.save_worker(name, changed)
        self._claims.summon(name)
        logger.info(
            "worker %s was %s by %s", name, word, actor.name, extra={"action": f"worker_{word}", "worker": name}
        )
        return await self._shown(record)


def check_name(name: str) -> None:
    """A worker is addressed by its name, so that holds no slash. Raises Invalid."""
    if checked_name(name, "a worker", required=True) != name or "/" in name:
        raise Invalid(f"a worker cannot be named {name!r}: leave out slashes and space at the ends")


def is_same_agent(known: WorkerRecord, beat: Beat) -> bool:
    """Whether the agent that speaks is the known one, perhaps after a restart of its machine.

    Where one of them draws no instance, the name of its machine must do.
    """
    if known.instance and beat.instance:
        return known.instance == beat.instance
    return known.worker.host == beat.host


def speaks_again(known: WorkerRecord, beat: Beat) -> bool:
    """Whether the beat is the known agent's, on the machine as it was."""
    return is_same_agent(known, beat) and known.worker.boot_id in ("", beat.boot_id)


def has_rebooted(known: WorkerRecord, beat: Beat) -> bool:
    """Whether the known agent's machine was started anew, unless a copy of that agent speaks."""
    return is_same_agent(known, beat) and known.worker.host == beat.host and not speaks_again(known, beat)


def may_claim_as(known: WorkerRecord, request: ClaimRequest) -> bool:
    """Whether a claim is that of the agent that reports the worker; older agents do not say."""
    if not (known.instance and request.instance):
        return True
    return (known.instance, known.worker.boot_id) == (request.instance, request.boot_id)


def taken_message(worker: Worker, now: float) -> str:
    """Why an agent is refused the name of a worker."""
    heard = f"heard {max(0.0, now - worker.last_seen_at):.0f} s ago from the machine {worker.host}"
    return f"worker {worker.name!r} is another agent's, {heard}: give this agent another --name, or stop the other"


def reported(
    known: WorkerRecord | None, report: WorkerReport, beat: Beat, *, token: str, now: float
) -> WorkerRecord:
    """The record after a beat, whose report names queues by their ids; counters and a pause stay."""
    base = known.worker if known is not None else _registered(report, beat, now)
    held, probe = (known.held, known.probe) if known is not None else ("", "")
    if probe and report.healthy:
        held, probe, base = "", "", replace(base, infrastructure_failures=0)
    drain = base.drain_requested and not _begins_anew(base, report)
    worker = replace(
        base,
        agent=beat.agent,
        host=beat.host,
        state=state_of(report, held=held, drain=drain),
        drain_requested=drain,
        paused_reason=held or report.paused_reason,
        queues=report.queues,
        gpus=report.gpus,
        version=beat.version,
        boot_id=beat.boot_id,
        last_seen_at=now,
        runs=report.runs,
        total=report.total,
        free=report.free,
        labels=report.labels,
        queue_gpus=report.queue_gpus,
        parent=report.parent,
        ends_at=report.ends_at,
        takes_endless=report.takes_endless,
        shell=report.shell,
    )
    executed = known.executed if known is not None else 0
    return WorkerRecord(
        worker=worker, token=token, instance=beat.instance, held=held, probe=probe, executed=executed
    )


def _registered(report: WorkerReport, beat: Beat, now: float) -> Worker:
    return Worker(name=report.name, agent=beat.agent, host=beat.host, state=report.state, registered_at=now)


def state_of(report: WorkerReport, *, held: str, drain: bool) -> WorkerState:
    """What the worker does, in one word: its agent's last word is true at once, and a drain comes before a pause.

    A pause shows while a run goes on, too.
    """
    if report.state in (WorkerState.STOPPED, WorkerState.DRAINING):
        return report.state
    if drain:
        return WorkerState.DRAINING
    if held or report.paused_reason:
        return WorkerState.PAUSED
    return report.state if report.state.known else _at_work(report.runs)  # a newer agent's word


def _at_work(runs: Sequence[str]) -> WorkerState:
    return WorkerState.BUSY if runs else WorkerState.IDLE


def _begins_anew(before: Worker, report: WorkerReport) -> bool:
    """Whether another process reports than the one that was told to end."""
    return report.state is WorkerState.STARTING or (
        before.state is WorkerState.STOPPED and report.state is not WorkerState.STOPPED
    )


def may_take(record: WorkerRecord) -> bool:
    """Whether a claim of it is served; its agent's own pauses are its agent's to keep."""
    return not record.held and not record.worker.drain_requested


def load(
    record: WorkerRecord,
    queues: Sequence[QueueRecord],
    fronts: Iterable[Front],
    counts: Mapping[tuple[str, str], int],
    *,
    now: float,
) -> dict[str, int]:
    """`ready` and `constrained`: what the worker could take now, and what it could with nothing else to do.

    A paused queue hands nothing out, so it has no fronts and its entries count for nothing.
    """
    offer = _offer(record, queues, now)
    number = {"ready": 0, "constrained": 0}
    for front in fronts:
        if matching.fits(front.candidate, offer, front.queue):
            number["ready"] += counts.get((front.queue, front.shape), 0)
        elif matching.fits_whole(front.candidate, offer, front.queue):
            number["constrained"] += counts.get((front.queue, front.shape), 0)
    return number


def _offer(record: WorkerRecord, queues: Iterable[QueueRecord], now: float) -> Offer:
    worker = record.worker
    serving = worker.state in SERVING_STATES
    return Offer(
        worker=worker.name,
        free=worker.free if serving else Capacity(slots=0),
        total=worker.total,
        labels=worker.labels,
        given_gpus=matching.given_gpus(queues, worker.queue_gpus),
        runs=worker.runs,
        left_seconds=None if worker.ends_at is None else worker.ends_at - now,
        takes_endless=worker.takes_endless,
    )


def counted(record: WorkerRecord, outcome: Outcome) -> WorkerRecord:
    """The record after a run ended there; the third failure of the machine in a row pauses the worker."""
    record = replace(record, executed=record.executed + 1)
    worker = record.worker
    if outcome.kind is OutcomeKind.COMPLETED:
        return replace(record, worker=replace(worker, completed=worker.completed + 1, infrastructure_failures=0))
    if outcome.kind is not OutcomeKind.FAILED:
        return record
    failures = worker.infrastructure_failures + is_of_machine(outcome) if outcome.infrastructure else 0
    record = replace(record, worker=replace(worker, failed=worker.failed + 1, infrastructure_failures=failures))
    if failures >= FAILURES_UNTIL_PAUSE and not record.held:
        return paused(record, reason=_pause_reason(failures, outcome), probe=outcome.reason.value)
    return record


def is_of_machine(outcome: Outcome) -> bool:
    """Whether it counts against the worker: a probe of what its operator configured says so, never a host that a
    task named."""
    if not outcome.infrastructure or outcome.target:
        return False
    return outcome.reason not in _OF_TARGETS if outcome.confirmed is None else outcome.confirmed


def _pause_reason(failures: int, outcome: Outcome) -> str:
    last = f"{outcome.reason}: {outcome.message}" if outcome.message else str(outcome.reason)
    return (
        f"{failures} failures of this machine in a row, the last one {last}; it goes on once its agent finds that "
        "in order, or when it is resumed"
    )


def paused(record: WorkerRecord, *, reason: str, probe: str = "") -> WorkerRecord:
    """The record with a pause over ends and starts of its agent: until it is resumed, or, where the server names a
    part of the machine to `probe`, until that is in order."""
    worker = replace(record.worker, paused_reason=reason)
    if worker.state in SERVING_STATES:
        worker = replace(worker, state=WorkerState.PAUSED)
    return replace(record, worker=worker, held=reason, probe=probe)


def resumed(record: WorkerRecord) -> WorkerRecord:
    """The record without the pause of an operator or of the server. Raises Conflict where neither paused it."""
    worker = record.worker
    if not record.held and worker.drain_requested:
        raise Conflict(f"worker {worker.name!r} was told to end: start its agent again, then it takes tasks")
    if not record.held and worker.paused_reason:
        raise Conflict(
            f"its agent paused worker {worker.name!r} itself and goes on when that is over: {worker.paused_reason}"
        )
    state = _at_work(worker.runs) if worker.state is WorkerState.PAUSED else worker.state
    worker = replace(worker, state=state, paused_reason="", infrastructure_failures=0)
    return replace(record, worker=worker, held="", probe="")


def drained(record: WorkerRecord) -> WorkerRecord:
    """The record of a worker whose agent is to end. Raises Conflict when it has ended."""
    worker = record.worker
    if worker.state not in LIVE_WORKER_STATES:
        raise Conflict(f"worker {worker.name!r} is {worker.state} already: there is nothing to drain")
    return replace(record, worker=replace(worker, state=WorkerState.DRAINING, drain_requested=True))


def outlived(worker: Worker) -> bool:
    """Whether it was there for one run alone, watching no queue, and nothing is heard of it any more."""
    return not worker.queues and worker.state not in LIVE_WORKER_STATES


def lost(record: WorkerRecord | None, *, last_seen_at: float) -> WorkerRecord:
    """The record of a worker that fell silent, unless it was heard since."""
    if record is None:
        raise Conflict("the worker was deleted")
    if record.worker.last_seen_at > last_seen_at or record.worker.state not in LIVE_WORKER_STATES:
        return record
    return replace(record, worker=replace(record.worker, state=WorkerState.LOST))
