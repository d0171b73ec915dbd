"""How a claim takes its entry without starving the large ones: workers are kept for tasks that waited too long.

A reservation is a field of the task's record and part of its shape, so a claim learns of it from the fronts that
it looks at anyway. It is made by the very look that would have given away something behind the large task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from taskyard.wire import Capacity, Worker

from taskyard_server import explanations, lifecycle, matching
from taskyard_server.errors import NotFound
from taskyard_server.matching import Holding, Offer, Turn
from taskyard_server.queue_names import queue_names
from taskyard_server.queues import update_task
from taskyard_server.store.base import Change, Front, Store, TaskRecord

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 2.0
"""For a claim whose worker is kept: nobody has to remember to wake it when that ends."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of one look at the queues."""

    record: TaskRecord | None = None
    held_back: bool = False
    """Nothing was taken because the worker is kept for a task."""


class Reservations:
    """Takes entries for workers, and keeps workers for entries."""

    def __init__(self, store: Store, clock: Callable[[], float], after_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._after_seconds = after_seconds

    async def take(self, queues: Sequence[str], offer: Offer, change: Change) -> Taken:
        """Takes the first entry that the worker may be given; raises what `change` raises.

        One operation of the store, but for a partly busy worker with a large task before it.
        """
        record, turn = await self._claim(queues, partial(matching.turn, offer=offer), change)
        if record is not None:
            return Taken(record=record)
        kept_for = turn.kept_for or (await self._reserve(queues, offer) if turn.large else None)
        if kept_for is not None:
            release_in = await self._release_in(kept_for, offer)
            brief = partial(matching.turn, offer=offer, release_in=release_in)
            record, _ = await self._claim(queues, brief, change)
        elif turn.large:
            record, _ = await self._claim(queues, partial(matching.turn, offer=offer, passing=True), change)
        return Taken(record=record, held_back=record is None and kept_for is not None)

    async def _claim(
        self, queues: Sequence[str], decide: Callable[[Sequence[Front]], Turn], change: Change
    ) -> tuple[TaskRecord | None, Turn]:
        turn = Turn()

        def choose(fronts: Sequence[Front]) -> Sequence[Front]:
            nonlocal turn
            turn = decide(fronts)
            return turn.chosen

        return await self._store.claim(queues, choose, change), turn

    async def _reserve(self, queues: Sequence[str], offer: Offer) -> Front | None:
        """Keeps the worker for the first large task before all that fit, if that has waited long enough."""

        def kept(record: TaskRecord) -> TaskRecord:
            return lifecycle.reserve(record, offer.worker, after_seconds=self._after_seconds, now=self._clock())

        record = await self._store.claim(queues, lambda fronts: matching.turn(fronts, offer).large, kept)
        if record is None or record.reserved_for != offer.worker or record.queue is None or record.rank is None:
            return None
        logger.info(
            "worker %s is kept for task %s",
            offer.worker,
            record.id,
            extra={"action": "worker_reserved", "task": record.id, "worker": offer.worker},
        )
        return Front(queue=record.queue, shape=record.shape, rank=record.rank, candidate=record.candidate)

    async def _release_in(self, kept_for: Front, offer: Offer) -> float | None:
        holdings = [await self._holding(run_id, offer) for run_id in offer.runs]
        return matching.release_seconds(kept_for.candidate, offer, kept_for.queue, holdings)

    async def _holding(self, run_id: str, offer: Offer) -> Holding:
        """What a run takes up and for how long: its time limit counts from the start of its command."""
        ended = Holding(amounts=Capacity(slots=0), ends_in_seconds=0.0)
        try:
            record = await self._store.task(lifecycle.task_of(run_id))
            run = lifecycle.require_run(record, run_id).run
        except NotFound:
            return ended
        if run.outcome is not None:
            return ended
        amounts = matching.occupied(record.spec.resources, offer.total, offer.given_gpus.get(record.queue or ""))
        if record.spec.resources.gpu_memory_bytes is None and run.gpus:
            amounts = replace(amounts, gpus=len(run.gpus))
        policy, now = record.spec.policy, self._clock()
        if policy.timeout_seconds is None:
            return Holding(amounts=amounts, ends_in_seconds=None)
        ends_at = (run.started_at or now) + policy.timeout_seconds + policy.grace_seconds
        return Holding(amounts=amounts, ends_in_seconds=max(0.0, ends_at - now))

    async def check(self, record: TaskRecord, workers: Mapping[str, Worker], now: float) -> TaskRecord:
        """Keeps the worker on for a queued task, or no longer when it does not take such tasks any more."""
        name = record.reserved_for
        if name is None or record.queue is None:
            return record
        reason = await self._why_not(record, record.queue, workers.get(name), now)
        if reason is None:
            return await update_task(self._store, record.id, partial(lifecycle.keep, worker=name, now=now))
        release = partial(lifecycle.release, worker=name, reason=reason, now=now)
        return await update_task(self._store, record.id, release)

    async def _why_not(self, record: TaskRecord, queue_id: str, worker: Worker | None, now: float) -> str | None:
        if worker is None:
            return "it is gone"
        try:
            queue = await self._store.queue(queue_id)
        except NotFound:
            return "the queue is gone"
        if queue.paused:
            return "the queue is paused"
        return explanations.obstacle(record, queue, worker, await queue_names(self._store), now=now)
