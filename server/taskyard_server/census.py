"""What monitoring asks of the store: tasks by queue, how long they wait, workers by state."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from taskyard.wire import TaskState, WorkerState

from taskyard_server.errors import Unavailable
from taskyard_server.store.base import QueueRecord, Store

KEPT_SECONDS = 10.0
"""A census is good for this long."""
KEPT_TIMES = 50
"""And for this many times what it took: counting takes two percent of the time, however long queues are."""
MOST_QUEUES = 100
"""Queues that are named, the fullest first; the others are counted together."""
OTHERS = ""
"""No queue has this name."""
LOOKED_AT = 5
"""Tasks in front of a queue whose waits are compared."""


@dataclass(frozen=True, kw_only=True)
class QueueCount:
    """One queue, or all that are not named."""

    name: str
    states: Mapping[TaskState, int]
    paused: bool = False
    wait_seconds: float = 0.0
    """The longest that one of the tasks in front has waited; 0 where there is none."""


@dataclass(frozen=True, kw_only=True)
class Census:
    """The store at one moment."""

    queues: tuple[QueueCount, ...] = ()
    number_of_queues: int = 0
    workers: Mapping[WorkerState, int] = field(default_factory=dict)

    @property
    def tasks(self) -> Mapping[TaskState, int]:
        """State → number of tasks, over all queues."""
        total: Counter[TaskState] = Counter()
        for queue in self.queues:
            total.update(queue.states)
        return total


class Counting:
    """Takes a census when it is asked for one and the last is too old."""

    def __init__(
        self, store: Store, clock: Callable[[], float], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._last: Census | None = None
        self._good_until = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def latest(self) -> Census | None:
        """A census of a short while ago; None while the store is unavailable."""
        async with self._one_at_a_time:
            if self._monotonic() < self._good_until:
                return self._last
            began = self._monotonic()
            try:
                self._last = await self._take()
            except Unavailable:
                self._last = None
            took = self._monotonic() - began
            self._good_until = self._monotonic() + max(KEPT_SECONDS if self._last else 1.0, KEPT_TIMES * took)
            return self._last

    async def _take(self) -> Census:
        counts = await self._store.counts()
        queues = sorted(
            await self._store.queues(),
            key=lambda queue: -counts.get(queue.id, {}).get(TaskState.QUEUED, 0),
        )
        named = [await self._of(queue, counts.get(queue.id, {})) for queue in queues[:MOST_QUEUES]]
        rest: Counter[TaskState] = Counter()
        for queue in queues[MOST_QUEUES:]:
            rest.update(counts.get(queue.id, {}))
        if len(queues) > MOST_QUEUES:
            named.append(QueueCount(name=OTHERS, states=rest))
        workers = [record.worker for record in await self._store.workers() if record.worker.parent is None]
        return Census(
            queues=tuple(named),
            number_of_queues=len(queues),
            workers=Counter(worker.state for worker in workers),
        )

    async def _of(self, queue: QueueRecord, states: Mapping[TaskState, int]) -> QueueCount:
        first = await self._store.entries(queue.id, limit=LOOKED_AT) if states.get(TaskState.QUEUED) else ()
        since = min((record.queued_at for record in first if record.queued_at is not None), default=None)
        return QueueCount(
            name=queue.name,
            states=states,
            paused=queue.paused,
            wait_seconds=0.0 if since is None else max(0.0, self._clock() - since),
        )
