"""Queues, and the gates that stand before them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from taskyard_server.errors import Conflict
from taskyard_server.mongodb import Database, Document
from taskyard_server.store.base import Change, QueueRecord
from taskyard_server.store.codec import QUEUES
from taskyard_server.store.mongo.entries import Entries
from taskyard_server.store.mongo.gates import Gates
from taskyard_server.store.mongo.records import Records
from taskyard_server.store.mongo.tasks import Tasks


class Queues:
    """Reads and writes queue records."""

    def __init__(self, database: Database, gates: Gates, tasks: Tasks, entries: Entries) -> None:
        self._database = database
        self._gates = gates
        self._tasks = tasks
        self._entries = entries
        self.records = Records(database, "queues", QUEUES, _copies)

    async def taking(self, queue_ids: Collection[str]) -> set[str]:
        """Those that exist and are not paused."""
        query = {"_id": {"$in": list(queue_ids)}, "paused": False}
        return {document["_id"] async for document in self.records.collection.find(query, {"_id": 1})}

    async def add(self, queue: QueueRecord) -> None:
        """Raises Conflict when the id or the name exists."""

        async def work(session: AsyncClientSession) -> None:
            await self.records.add(queue, session)
            await self._gates.build(queue.id, session)

        try:
            await self._database.transaction(work)
        except DuplicateKeyError as error:
            raise _taken(queue.name) from error

    async def update(self, queue_id: str, change: Callable[[QueueRecord], QueueRecord]) -> QueueRecord:
        """Raises NotFound, and Conflict when the new name exists."""
        try:
            return await self.records.update(queue_id, change)
        except DuplicateKeyError as error:
            raise _taken("like that") from error

    async def delete_empty(self, queue_id: str) -> None:
        """Raises NotFound, Conflict while it holds entries."""

        async def work(session: AsyncClientSession) -> None:
            await self._take_away(queue_id, session)
            if await self._entries.heads(queue_id, 1, session):
                raise Conflict(f"queue {queue_id} holds tasks: move or remove them first, or force it")

        await self._database.transaction(work)

    async def delete_some(self, queue_id: str, force: Change, *, limit: int) -> bool:
        """Takes up to `limit` entries out, and the queue away once it is empty. Returns whether it is gone."""

        async def work(session: AsyncClientSession) -> bool:
            entries = await self._entries.heads(queue_id, limit, session)
            await self._tasks.replace_all([(entry, force(entry.record)) for entry in entries], session)
            if len(entries) == limit:
                return False
            await self._take_away(queue_id, session)
            return True

        return await self._database.transaction(work)

    async def _take_away(self, queue_id: str, session: AsyncClientSession) -> None:
        await self.records.delete(queue_id, session)
        await self._gates.tear_down(queue_id, session)


def _copies(queue: QueueRecord) -> Document:
    return {"_id": queue.id, "name": queue.name, "paused": queue.paused}


def _taken(name: str) -> Conflict:
    return Conflict(f"a queue named {name} exists already: choose another name, or use that one")
