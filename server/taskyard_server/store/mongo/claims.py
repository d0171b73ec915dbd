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
from taskyard_server.store.base import Change, Fits, TaskRecord
from taskyard_server.store.mongo.documents import Found
from taskyard_server.store.mongo.entries import Entries
from taskyard_server.store.mongo.queues import Queues
from taskyard_server.store.mongo.tasks import Tasks, Write

_SEATS = 64


@dataclass(kw_only=True, eq=False)
class _Seat:
    """One claim in its round, with the queues that it has still to try."""

    queues: list[str]
    fits: Fits
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

    async def claim(self, queues: Sequence[str], fits: Fits, change: Change) -> TaskRecord | None:
        """As `Store.claim`."""
        answer: asyncio.Future[TaskRecord | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Seat(queues=list(queues), fits=fits, change=change, answer=answer))
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
            by_queue: dict[str, list[_Seat]] = defaultdict(list)
            for seat in open_seats:
                if seat.queues:
                    by_queue[seat.queues[0]].append(seat)
                else:
                    seat.settle(None)
            for queue_id, group in by_queue.items():
                await self._serve_queue(queue_id, group)

    async def _serve_queue(self, queue_id: str, seats: Sequence[_Seat]) -> None:
        """Gives each seat an entry, or sends it on to its next queue."""
        shapes = await self._entries.shapes(queue_id)
        by_fitting: dict[tuple[str, ...], list[_Seat]] = defaultdict(list)
        for seat in seats:
            by_fitting[tuple(shape for shape, required in shapes.items() if seat.fits(required))].append(seat)
        for fitting, group in by_fitting.items():
            found = await self._entries.firsts(queue_id, fitting, len(group)) if fitting else []
            for seat in group[len(found) :]:
                del seat.queues[0]
            await self._take([(seat, entry) for seat, entry in zip(group, found, strict=False)])

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
            return self._tasks.prepare(entry, seat.change(entry.record))
        except Exception as error:  # noqa: BLE001 -- one claim's failure is not that of the others in the round
            seat.fail(error)
            return None
