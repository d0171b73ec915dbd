"""The waiting room: the parked claims of this process, and who is woken when an entry or a directive appears.

A claim enters the room before it looks at the store, so an entry that appears in between rings its bell. Each new
entry rings one bell, that of the longest idle worker that fits; a claim that leaves without having used its ring
passes it on.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import anyio
from taskyard.log_lines import Outage
from taskyard.wire import Capacity, RunDirective, TaskState

from taskyard_server import matching
from taskyard_server.errors import Unavailable
from taskyard_server.matching import Offer
from taskyard_server.store.base import Candidate, Store, TaskFilter, TaskRecord, WorkerRecord

logger = logging.getLogger(__name__)

LISTEN_AGAIN_SECONDS = 1.0
"""After a failure of the store, and between two looks for directives of other servers."""
CLOCK_SKEW_SECONDS = 5.0
"""How far the clocks of servers on one store may be apart."""
MAX_REMEMBERED = 10_000


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Word of an entry."""

    queue: str
    candidate: Candidate
    more: bool = False
    """There may be others of its shape: they came through another server, which told of the queue alone."""
    held_back: frozenset[str] = frozenset()
    """Workers that cannot take it now because they are kept for another task."""


@dataclass(eq=False, kw_only=True)
class Waiter:
    """One parked claim."""

    offer: Offer
    queues: tuple[str, ...]
    """Ids, in the order in which they are tried."""
    runs: frozenset[str]
    request_id: str
    order: tuple[float, int]
    """Since when its worker is idle; the smallest is woken first."""
    rings: list[Ring] = field(default_factory=list)
    """Not answered by a look at the store yet."""
    ended: bool = False
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def answers(self, ring: Ring) -> bool:
        """Whether it may be rung: it is free, and the entry fits."""
        if self.ended or self.rings or self.offer.worker in ring.held_back:
            return False
        return matching.fits(ring.candidate, self.offer, ring.queue)

    def ring(self, ring: Ring) -> None:
        """Calls it to look at the store."""
        self.rings.append(ring)
        self.bell.set()

    def end(self) -> None:
        """Sends it away with what it has."""
        self.ended = True
        self.bell.set()

    async def rung(self, seconds: float) -> bool:
        """Waits; returns whether to look again."""
        with anyio.move_on_after(max(0.0, seconds)):
            await self.bell.wait()
        self.bell.clear()
        return bool(self.rings) and not self.ended


@dataclass(kw_only=True)
class Look:
    """One look of a waiter at the store."""

    rings: tuple[Ring, ...]
    found: TaskRecord | None = None
    held_back: bool = False
    """There was something, but the worker is kept for another task."""


class Claims:
    """Parks claims and wakes them."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._closed = False
        self._count = itertools.count()
        self._all: set[Waiter] = set()
        self._by_request: dict[str, Waiter] = {}
        self._by_queue: dict[str, list[Waiter]] = {}
        self._idle_since: dict[str, float] = {}
        self._directives: dict[str, RunDirective] = {}
        self._told: set[str] = set()
        self._summoned: set[str] = set()
        self._orders: dict[str, tuple[str, bool]] = {}
        """Worker → why it is held, and whether it is to end, at the last look."""

    @property
    def parked(self) -> int:
        """How many claims wait."""
        return len(self._all)

    @contextlib.contextmanager
    def park(
        self, offer: Offer, queues: Iterable[str], *, request_id: str, runs: Iterable[str] = ()
    ) -> Iterator[Waiter]:
        """Holds a place while the claim is looked after. A repeat of a claim sends the first one away."""
        waiter = Waiter(
            offer=offer,
            queues=matching.in_order(queues),
            runs=frozenset(runs),
            request_id=request_id,
            order=(self._idle_since.setdefault(offer.worker, self._clock()), next(self._count)),
            ended=self._closed,
        )
        self._enter(waiter)
        try:
            yield waiter
        finally:
            self._leave(waiter)

    @contextlib.asynccontextmanager
    async def look(self, waiter: Waiter) -> AsyncIterator[Look]:
        """Around one look at the store: the rings heard before it are answered by it, unless it fails."""
        look = Look(rings=tuple(waiter.rings))
        yield look
        del waiter.rings[: len(look.rings)]
        self._settle(waiter, look)

    def announce(self, record: TaskRecord) -> bool:
        """Wakes one claim for a task that may have become queued, and returns whether one was woken."""
        if record.state is not TaskState.QUEUED or record.queue is None:
            return False
        return self._pass_on(Ring(queue=record.queue, candidate=record.candidate))

    def notify_directive(self, directive: RunDirective) -> None:
        """Answers the agent of that run at once, or as soon as it claims again."""
        if self._directives.get(directive.run) == directive:
            return
        self._told.discard(directive.run)
        while len(self._directives) >= MAX_REMEMBERED:
            self.forget_directive(next(iter(self._directives)))
        self._directives[directive.run] = directive
        for waiter in self._all:
            if directive.run in waiter.runs:
                waiter.end()

    def untold(self, runs: Iterable[str]) -> list[str]:
        """Which of these runs have a directive that no claim was answered with."""
        return [run for run in runs if run in self._directives and run not in self._told]

    def take_directives(self, runs: Iterable[str]) -> tuple[RunDirective, ...]:
        """Directives for these runs that no claim was answered with yet; beats repeat them."""
        fresh = self.untold(runs)
        self._told.update(fresh)
        return tuple(self._directives[run] for run in fresh)

    def forget_directive(self, run_id: str) -> None:
        """Tells it no more."""
        self._directives.pop(run_id, None)
        self._told.discard(run_id)

    def run_ended(self, run_id: str) -> None:
        """There is nothing more to tell about it, and the agent that waited for its directives is free again."""
        self.forget_directive(run_id)
        for waiter in self._all:
            if run_id in waiter.runs:
                waiter.end()

    def summon(self, worker: str) -> None:
        """Answers the claim of that worker's agent at once, or its next one: a beat brings word for the worker."""
        self._summoned.add(worker)
        for waiter in self._all:
            if waiter.offer.worker == worker:
                waiter.end()

    def summoned(self, worker: str) -> bool:
        """Whether word waits that no claim was answered with."""
        return worker in self._summoned

    def take_summons(self, worker: str) -> bool:
        """The same, and it was answered now."""
        summoned = worker in self._summoned
        self._summoned.discard(worker)
        return summoned

    def worker_takes_nothing(self, worker: str) -> None:
        """Answers its parked claim empty: what came now would have to wait for it."""
        for waiter in self._all:
            if waiter.offer.worker == worker:
                waiter.end()

    def worker_offers(self, worker: str, free: Capacity) -> None:
        """Answers its parked claim empty if it offers something else: a run of that worker began or ended."""
        for waiter in self._all:
            if waiter.offer.worker == worker and waiter.offer.free != free:
                waiter.end()

    def look_again(self) -> None:
        """Answers every parked claim empty, so that its agent claims again."""
        for waiter in self._all:
            waiter.end()

    def close(self) -> None:
        """Answers every parked claim empty, and those that still come: the server is stopping."""
        self._closed = True
        for waiter in self._all:
            waiter.end()

    async def listen(self) -> None:
        """Wakes claims for what other servers of the store enqueue and cancel; never ends by itself."""
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._supervised, self._hear_entries)
            if self._store.kind != "sqlite":
                loops.start_soon(self._supervised, self.hear_directives)

    async def _supervised(self, loop: Callable[[], Awaitable[None]]) -> None:
        outage = Outage(logger, "not hearing other servers", "changes_unavailable")
        while True:
            try:
                await loop()
            except Unavailable as error:
                outage.failed(error)
            else:
                outage.over()
            await anyio.sleep(LISTEN_AGAIN_SECONDS)

    async def _hear_entries(self) -> None:
        async for queue_id in self._store.changes():
            await self.hear_entries([queue_id] if queue_id else list(self._by_queue))

    async def hear_entries(self, queues: Iterable[str]) -> None:
        """Looks once at what other servers may have put into these queues, and wakes a claim for each shape."""
        watched = [queue for queue in queues if queue in self._by_queue]
        for front in await self._store.fronts(watched) if watched else ():
            self._pass_on(Ring(queue=front.queue, candidate=front.candidate, more=True))

    async def hear_all(self) -> None:
        """The same for all queues: what was kept back may be claimed now."""
        await self.hear_entries(list(self._by_queue))

    async def hear_directives(self) -> None:
        """Looks once for cancels through other servers: a parked claim must end within a second of one."""
        if not any(waiter.runs for waiter in self._all):
            return
        since = self._clock() - LISTEN_AGAIN_SECONDS - CLOCK_SKEW_SECONDS
        active = TaskFilter(states=(TaskState.PREPARING, TaskState.RUNNING), updated_since=since)
        for record in await self._store.tasks(active, limit=MAX_REMEMBERED):
            if record.runs[-1].run.cancel_requested_at is not None:
                self.notify_directive(RunDirective(run=record.runs[-1].run.id, cancel=True))

    def hear_workers(self, known: Iterable[WorkerRecord]) -> None:
        """Calls the agents of the workers that were paused, resumed or drained since the last look, be it through
        another server."""
        orders = {record.worker.name: (record.held, record.worker.drain_requested) for record in known}
        for name, order in orders.items():
            if self._orders.get(name, order) != order:
                self.summon(name)
        self._orders = orders

    def _enter(self, waiter: Waiter) -> None:
        earlier = self._by_request.get(waiter.request_id)
        if earlier is not None:
            earlier.end()
        self._by_request[waiter.request_id] = waiter
        self._all.add(waiter)
        for queue in waiter.queues:
            bisect.insort(self._by_queue.setdefault(queue, []), waiter, key=_order)

    def _leave(self, waiter: Waiter) -> None:
        self._all.discard(waiter)
        if self._by_request.get(waiter.request_id) is waiter:
            del self._by_request[waiter.request_id]
        for queue in waiter.queues:
            room = self._by_queue[queue]
            room.remove(waiter)
            if not room:
                del self._by_queue[queue]
        for ring in waiter.rings:
            self._pass_on(ring)

    def _settle(self, waiter: Waiter, look: Look) -> None:
        if look.found is not None:
            self._idle_since.pop(waiter.offer.worker, None)
        for ring in look.rings:
            if look.held_back:
                self._pass_on(replace(ring, held_back=ring.held_back | {waiter.offer.worker}))
            elif look.found is not None and (ring.more or not _is_of(look.found, ring)):
                self._pass_on(ring)

    def _pass_on(self, ring: Ring) -> bool:
        rung = next((waiter for waiter in self._by_queue.get(ring.queue, ()) if waiter.answers(ring)), None)
        if rung is not None:
            rung.ring(ring)
        return rung is not None


def _order(waiter: Waiter) -> tuple[float, int]:
    return waiter.order


def _is_of(record: TaskRecord, ring: Ring) -> bool:
    return record.queue == ring.queue and record.candidate == ring.candidate
