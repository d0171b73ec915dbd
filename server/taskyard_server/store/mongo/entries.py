"""The entries of a queue: the queued tasks in their order. What stands first, pages, positions, moves."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from pymongo import ASCENDING, DESCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from taskyard.wire import MoveTo, TaskState

from taskyard_server.errors import Conflict
from taskyard_server.mongodb import Document
from taskyard_server.store.base import Front, TaskRecord
from taskyard_server.store.mongo.documents import ENTRIES_BY_SHAPE, NEEDED, PLACES, Found, candidate, from_document
from taskyard_server.store.mongo.tasks import Tasks
from taskyard_server.store.ranks import key_after, key_between

_QUEUED = TaskState.QUEUED.value
_COUNTED = [state.value for state in (TaskState.WAITING, TaskState.QUEUED, TaskState.PREPARING, TaskState.RUNNING)]
_COUNTS: list[Document] = [
    {"$match": {"state": {"$in": _COUNTED}, "queue": {"$gte": ""}}},
    {"$group": {"_id": {"queue": "$queue", "state": "$state"}, "number": {"$sum": 1}}},
]
# MongoDB merges ordered searches for at most 200 values of an $in; beyond, it would sort the whole queue.
_SHAPES_AT_ONCE = 150

Gap = tuple[bytes | None, bytes | None]
"""The ranks on both sides of a place; None stands for the end of the queue on that side."""


class Entries:
    """Reads and moves entries."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def fronts(self, queues: Collection[str]) -> dict[str, list[Front]]:
        """The first entry of each shape by queue, in the order of their ranks."""
        found = await asyncio.gather(*(self._fronts(queue_id) for queue_id in queues))
        return dict(zip(queues, found, strict=True))

    async def _fronts(self, queue_id: str) -> list[Front]:
        """Jumps along the index from shape to shape."""
        cursor = await self._tasks.collection.aggregate(shapes_pipeline(queue_id), hint=ENTRIES_BY_SHAPE)
        return sorted([_front(queue_id, found) async for found in cursor], key=lambda front: front.rank)

    async def firsts(self, queue_id: str, shapes: Sequence[str], limit: int) -> list[Found]:
        """The first entries that have one of the shapes, in order."""
        found: list[Found] = []
        for start in range(0, len(shapes), _SHAPES_AT_ONCE):
            query = {**_entries_of(queue_id), "shape": {"$in": list(shapes[start : start + _SHAPES_AT_ONCE])}}
            cursor = self._tasks.collection.find(query, NEEDED, hint=ENTRIES_BY_SHAPE).sort("rank").limit(limit)
            found += [from_document(document) async for document in cursor]
        return sorted(found, key=lambda entry: entry.record.rank or b"")[:limit]

    async def page(self, queue_id: str, *, offset: int, limit: int) -> list[TaskRecord]:
        """A stretch of the queue."""
        if limit <= 0:
            return []
        cursor = self._tasks.collection.find(_entries_of(queue_id), NEEDED, hint=PLACES)
        cursor = cursor.sort("rank").skip(offset).limit(limit)
        return [from_document(document).record async for document in cursor]

    async def heads(self, queue_id: str, limit: int, session: AsyncClientSession) -> list[Found]:
        """The first entries, as seen in a transaction."""
        cursor = self._tasks.collection.find(_entries_of(queue_id), NEEDED, session=session, hint=PLACES)
        return [from_document(document) async for document in cursor.sort("rank").limit(limit)]

    async def position(self, task_id: str) -> int | None:
        """How many entries stand before a task; None when it is not queued."""
        entry = await self._tasks.collection.find_one({"_id": task_id, "state": _QUEUED}, {"queue": 1, "rank": 1})
        return None if entry is None else await self._count_before(entry["queue"], entry["rank"])

    async def move(self, task_id: str, to: MoveTo | int) -> int:
        """Gives an entry another place. Raises NotFound, Conflict when it is not queued."""
        while True:
            found = await self._tasks.find(task_id)
            queue_id, rank = _place(found.record)
            low, high = await self._gap(queue_id, rank, to)
            stays = (low is None or low < rank) and (high is None or rank < high)
            moved = rank if stays else await self._rank_within(queue_id, low, high)
            if stays or await self._give_rank(found, moved):
                return await self._count_before(queue_id, moved.hex())

    async def _gap(self, queue_id: str, rank: bytes, to: MoveTo | int) -> Gap:
        if isinstance(to, int):
            return await self._gap_at(queue_id, rank, to)
        if to is MoveTo.FIRST:
            return None, _nth(await self._ranks(queue_id, "$ne", rank, ASCENDING, limit=1), 0)
        if to is MoveTo.LAST:
            return _nth(await self._ranks(queue_id, "$ne", rank, DESCENDING, limit=1), 0), None
        if to is MoveTo.UP:
            before = await self._ranks(queue_id, "$lt", rank, DESCENDING, limit=2)
            return (_nth(before, 1), before[0]) if before else (None, None)
        after = await self._ranks(queue_id, "$gt", rank, ASCENDING, limit=2)
        return (after[0], _nth(after, 1)) if after else (None, None)

    async def _gap_at(self, queue_id: str, rank: bytes, index: int) -> Gap:
        """The gap that is number `index` once the entry is taken out."""
        if index <= 0:
            return None, _nth(await self._ranks(queue_id, "$ne", rank, ASCENDING, limit=1), 0)
        around = await self._ranks(queue_id, "$ne", rank, ASCENDING, limit=2, skip=index - 1)
        if not around:
            return await self._gap(queue_id, rank, MoveTo.LAST)
        return around[0], _nth(around, 1)

    async def _ranks(
        self, queue_id: str, comparison: str, rank: bytes, direction: int, *, limit: int, skip: int = 0
    ) -> list[bytes]:
        query = {**_entries_of(queue_id), "rank": {comparison: rank.hex()}}
        cursor = self._tasks.collection.find(query, {"rank": 1, "_id": 0}, hint=PLACES)
        cursor = cursor.sort("rank", direction).skip(skip).limit(limit)
        return [bytes.fromhex(document["rank"]) async for document in cursor]

    async def _rank_within(self, queue_id: str, low: bytes | None, high: bytes | None) -> bytes:
        if high is None:
            # Behind the held places too: what comes back to one of those was there before.
            return key_after(await self._tasks.last_rank(queue_id))
        return key_between(low, high)

    async def _give_rank(self, found: Found, rank: bytes) -> bool:
        result = await self._tasks.collection.update_one(
            {"_id": found.record.id, "version": found.version},
            {"$set": {"rank": rank.hex()}, "$inc": {"version": 1}},
        )
        return result.matched_count == 1

    async def counts(self) -> dict[str, dict[TaskState, int]]:
        """Queue id → state → number of its tasks, for the states waiting, queued, preparing and running."""
        cursor = await self._tasks.collection.aggregate(_COUNTS, hint=PLACES)
        found: dict[str, dict[TaskState, int]] = {}
        async for each in cursor:
            found.setdefault(each["_id"]["queue"], {})[TaskState(each["_id"]["state"])] = each["number"]
        return found

    async def shape_counts(self, queues: Sequence[str]) -> dict[tuple[str, str], int]:
        """(Queue id, shape) → number of entries."""
        entries = {"state": _QUEUED, "queue": {"$in": list(queues)}}
        counting = {"$group": {"_id": {"queue": "$queue", "shape": "$shape"}, "number": {"$sum": 1}}}
        cursor = await self._tasks.collection.aggregate([{"$match": entries}, counting], hint=ENTRIES_BY_SHAPE)
        return {(each["_id"]["queue"], each["_id"]["shape"]): each["number"] async for each in cursor}

    async def _count_before(self, queue_id: str, rank: str) -> int:
        query = {**_entries_of(queue_id), "rank": {"$lt": rank}}
        return await self._tasks.collection.count_documents(query, hint=PLACES)


def shapes_pipeline(queue_id: str) -> list[Document]:
    """One document per shape. In this form MongoDB reads one index key and one entry of each (DISTINCT_SCAN)."""
    return [
        {"$match": _entries_of(queue_id)},
        {"$sort": {"shape": ASCENDING, "rank": ASCENDING}},
        {"$group": {"_id": "$shape", "rank": {"$first": "$rank"}, "requires": {"$first": "$requires"}}},
    ]


def _front(queue_id: str, found: Document) -> Front:
    rank = bytes.fromhex(found["rank"])
    return Front(queue=queue_id, shape=found["_id"], rank=rank, candidate=candidate(bytes(found["requires"])))


def _entries_of(queue_id: str) -> Document:
    return {"state": _QUEUED, "queue": queue_id}


def _place(entry: TaskRecord) -> tuple[str, bytes]:
    if entry.state is not TaskState.QUEUED or entry.queue is None or entry.rank is None:
        raise Conflict(f"task {entry.id} has no place in a queue: it is {entry.state}")
    return entry.queue, entry.rank


def _nth(ranks: Sequence[bytes], index: int) -> bytes | None:
    return ranks[index] if len(ranks) > index else None
