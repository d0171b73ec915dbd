"""Claims: those that come at the same time read the front of the queues together and share it out.

Claims of one server never fight for an entry. Those of several servers may pick the same one: then the write
that comes second finds another version, and that claim looks again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from taskyard_server.errors import Conflict
from taskyard_server.store.base import Change, Choose, Front, TaskRecord
from taskyard_server.store.mongo.documents import Found
from taskyard_server.store.mongo.entries import Entries
from taskyard_server.store.mongo.queues import Queues
from taskyard_server.store.mongo.tasks import Tasks, Write

_SEATS = 64

_Choice = tuple[str, tuple[str, ...]]
"""A queue and the shapes of its entries that a claim may take."""


@dataclass(kw_only=True, eq=False)
class _Seat:
    """One claim in its round, with the queues that it is served from."""

    queues: Sequence[str]
    choose: Choose
    change: Change
    answer: asyncio.Future[TaskRecord | None]

    def settle(self, record: TaskRecord | None) -> None:
        """Answers, unless the claim was cancelled meanwhile."""
        if not self.answer.done():
            self.answer.set_result(record)

    def fail(self, error: Exception) -> None:
        """Raises `error` in the claim."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Claims:
    """Serves claims in rounds, one round at a time."""

    def __init__(self, tasks: Tasks, entries: Entries, queues: Queues) -> None:
        self._tasks = tasks
        self._entries = entries
        self._queues = queues
        self._waiting: list[_Seat] = []
        self._rounds: asyncio.Task[None] | None = None

    async def fronts(self, queues: Sequence[str]) -> list[Front]:
        """As `Store.fronts`."""
        taking = await self._queues.taking(set(queues))
        by_queue = await self._entries.fronts(taking)
        return [front for queue in queues if queue in taking for front in by_queue[queue]]

    async def claim(self, queues: Sequence[str], choose: Choose, change: Change) -> TaskRecord | None:
        """As `Store.claim`."""
        answer: asyncio.Future[TaskRecord | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Seat(queues=queues, choose=choose, change=change, answer=answer))
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._serve(), name="rounds of claims")
        return await answer

    async def close(self) -> None:
        """Finishes what was begun."""
        if self._rounds is not None:
            await self._rounds

    async def _serve(self) -> None:
        while self._waiting:
            seats, self._waiting = self._waiting[:_SEATS], self._waiting[_SEATS:]
            try:
                await self._round(seats)
            except Exception as error:  # noqa: BLE001 -- the edge of the loop: it belongs to the claims, who get it
                for seat in seats:
                    seat.fail(error)

    async def _round(self, seats: Sequence[_Seat]) -> None:
        taking = await self._queues.taking({queue for seat in seats for queue in seat.queues})
        for seat in seats:
            seat.queues = [queue for queue in seat.queues if queue in taking]
        while open_seats := [seat for seat in seats if not seat.answer.done()]:
            for (queue_id, shapes), group in (await self._by_choice(open_seats)).items():
                # Seats for which nothing is left here look again.
                found = await self._entries.firsts(queue_id, shapes, len(group))
                await self._take(list(zip(group, found, strict=False)))

    async def _by_choice(self, seats: Sequence[_Seat]) -> dict[_Choice, list[_Seat]]:
        """The seats that may take something, by the queue and the shapes that they may take from."""
        fronts = await self._entries.fronts({queue for seat in seats for queue in seat.queues})
        groups: dict[_Choice, list[_Seat]] = defaultdict(list)
        for seat in seats:
            chosen = seat.choose([front for queue in seat.queues for front in fronts[queue]])
            if chosen:
                shapes = tuple(front.shape for front in chosen if front.queue == chosen[0].queue)
                groups[chosen[0].queue, shapes].append(seat)
            else:
                seat.settle(None)
        return groups

    async def _take(self, pairs: Sequence[tuple[_Seat, Found]]) -> None:
        """Answers the seats; leaves those open whose entry somebody else was faster to change."""
        writes = {seat: write for seat, entry in pairs if (write := self._prepare(seat, entry)) is not None}
        written = await self._tasks.write_each(list(writes.values()))
        for (seat, write), done in zip(writes.items(), written, strict=True):
            if isinstance(done, Conflict):
                seat.fail(done)
            elif done:
                seat.settle(write.changed)

    def _prepare(self, seat: _Seat, entry: Found) -> Write | None:
        if seat.answer.done():
            return None
        try:
            changed = seat.change(entry.record)
            if changed is not entry.record:
                return self._tasks.prepare(entry, changed)
            seat.settle(changed)
        except Exception as error:  # noqa: BLE001 -- one claim's failure is not that of the others in the round
            seat.fail(error)
        return None
