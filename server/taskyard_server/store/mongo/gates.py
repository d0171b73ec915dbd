"""Gates: what makes it impossible to enter a queue while it is being deleted.

MongoDB's transactions see no conflict between one that reads a queue and writes an entry, and one that reads the
entries and deletes the queue. So whatever enters a queue writes one of its gates, drawn at random so that
entering tasks rarely meet, and whatever deletes the queue deletes them all.
"""

from __future__ import annotations

import itertools
import random

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection

from taskyard_server.errors import NotFound
from taskyard_server.mongodb import Database, Document

_GATES = 128


class Gates:
    """The gates of all queues."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # One after the other, so that those who enter through one server never meet.
        self._next = itertools.count(random.randrange(_GATES))

    async def build(self, queue_id: str, session: AsyncClientSession) -> None:
        """Gives a new queue its gates."""
        gates = [{"_id": _name(queue_id, number), "queue": queue_id, "passed": 0} for number in range(_GATES)]
        await self._collection.insert_many(gates, session=session)

    async def tear_down(self, queue_id: str, session: AsyncClientSession) -> None:
        """Whoever is passing through at this moment, or comes later, does not get in."""
        await self._collection.delete_many({"queue": queue_id}, session=session)

    async def pass_through(self, queue_id: str | None, session: AsyncClientSession) -> None:
        """Raises NotFound when the queue is gone."""
        name = _name(queue_id, next(self._next) % _GATES)
        passed = await self._collection.update_one({"_id": name}, {"$inc": {"passed": 1}}, session=session)
        if not passed.matched_count:
            raise NotFound(f"nothing can be queued in queue {queue_id}: it is gone")

    @property
    def _collection(self) -> AsyncCollection[Document]:
        return self._database.collection("gates")


def _name(queue_id: str | None, number: int) -> str:
    return f"{queue_id}:{number}"
