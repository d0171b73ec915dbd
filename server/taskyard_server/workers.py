"""Workers: what agents say of them, and what the server concludes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from taskyard.wire import Beat, Outcome, OutcomeKind, Worker, WorkerReport, WorkerState

from taskyard_server.auth import Actor
from taskyard_server.errors import Conflict, Invalid
from taskyard_server.names import checked_name, normalised
from taskyard_server.store.base import LIVE_WORKER_STATES, Store, WorkerRecord

logger = logging.getLogger(__name__)

FAILURES_UNTIL_PAUSE = 3
"""Infrastructure failures in a row after which a worker takes nothing until somebody resumes it."""


class Workers:
    """Lists, resumes and forgets workers; `runs` and `sweeper` write what they hear."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def list(self) -> list[Worker]:
        """All workers by name."""
        return [record.worker for record in await self._store.workers()]

    async def get(self, name: str) -> Worker:
        """Raises NotFound."""
        return (await self._store.worker(name)).worker

    async def delete(self, name: str, actor: Actor) -> None:
        """Forgets a worker that is gone. Raises NotFound, Conflict while its agent is alive."""
        worker = (await self._store.worker(name)).worker
        if worker.state in LIVE_WORKER_STATES:
            raise Conflict(f"worker {name!r} is {worker.state}: stop its agent first, it would come back")
        await self._store.delete_worker(name)
        logger.info(
            "worker %s was deleted by %s", name, actor.name, extra={"action": "worker_deleted", "worker": name}
        )

    async def resume(self, name: str, actor: Actor) -> Worker:
        """Lets a paused worker claim again; its agent learns it with its next beat. Raises NotFound."""
        await self._store.worker(name)
        record = await self._store.save_worker(name, resumed)
        logger.info(
            "worker %s was resumed by %s", name, actor.name, extra={"action": "worker_resumed", "worker": name}
        )
        return record.worker


def check_name(name: str) -> None:
    """A worker is addressed by its name, so that holds no slash. Raises Invalid."""
    if checked_name(name, "a worker", required=True) != name or "/" in name:
        raise Invalid(f"a worker cannot be named {name!r}: leave out slashes and space at the ends")


def reported(
    known: WorkerRecord | None, report: WorkerReport, beat: Beat, *, token: str, now: float
) -> WorkerRecord:
    """The record after a beat; counters and a pause stay. Raises Conflict when another machine has that name."""
    before = known.worker if known is not None else None
    if before is not None and before.state in LIVE_WORKER_STATES and before.host != beat.host:
        raise Conflict(
            f"a worker {report.name!r} already reports from the machine {before.host}: "
            "start this agent with another --name"
        )
    base = before or Worker(
        name=report.name, agent=beat.agent, host=beat.host, state=report.state, registered_at=now
    )
    paused = bool(base.paused_reason) and report.state is WorkerState.IDLE
    worker = replace(
        base,
        agent=beat.agent,
        host=beat.host,
        state=WorkerState.PAUSED if paused else report.state,
        queues=tuple(normalised(queue) for queue in report.queues),
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
    )
    return WorkerRecord(worker=worker, token=token)


def counted(record: WorkerRecord, outcome: Outcome) -> WorkerRecord:
    """The record after a run ended there; the third infrastructure failure in a row pauses the worker."""
    worker = record.worker
    if outcome.kind is OutcomeKind.COMPLETED:
        return replace(record, worker=replace(worker, completed=worker.completed + 1, infrastructure_failures=0))
    if outcome.kind is not OutcomeKind.FAILED:
        return record
    failures = worker.infrastructure_failures + 1 if outcome.infrastructure else 0
    worker = replace(worker, failed=worker.failed + 1, infrastructure_failures=failures)
    if failures >= FAILURES_UNTIL_PAUSE and not worker.paused_reason:
        worker = replace(worker, paused_reason=_pause_reason(failures, outcome), state=WorkerState.PAUSED)
    return replace(record, worker=worker)


def _pause_reason(failures: int, outcome: Outcome) -> str:
    last = f"{outcome.reason}: {outcome.message}" if outcome.message else str(outcome.reason)
    return f"{failures} failures of this machine in a row, the last one {last}; mend it, then resume the worker"


def resumed(record: WorkerRecord | None) -> WorkerRecord:
    """The record without its pause."""
    if record is None:
        raise Conflict("the worker was deleted: start its agent")
    state = WorkerState.IDLE if record.worker.state is WorkerState.PAUSED else record.worker.state
    return replace(record, worker=replace(record.worker, state=state, paused_reason="", infrastructure_failures=0))


def lost(record: WorkerRecord | None, *, last_seen_at: float) -> WorkerRecord:
    """The record of a worker that fell silent, unless it was heard since."""
    if record is None:
        raise Conflict("the worker was deleted")
    if record.worker.last_seen_at > last_seen_at or record.worker.state not in LIVE_WORKER_STATES:
        return record
    return replace(record, worker=replace(record.worker, state=WorkerState.LOST))
