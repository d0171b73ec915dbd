"""Remembered answers, and the servers' signs of life."""

from __future__ import annotations

import zlib

from pymongo import DESCENDING
from pymongo.errors import DuplicateKeyError

from taskyard_server.mongodb import Database
from taskyard_server.store.base import Answer


class Answers:
    """Reads and writes both."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: str) -> Answer | None:
        """The answer of this key."""
        document = await self._database.collection("answers").find_one({"_id": key})
        if document is None:
            return None
        return Answer(
            key=key,
            request_hash=document["request_hash"],
            status=document["status"],
            body=zlib.decompress(document["body"]),
            at=document["at"],
        )

    async def remember(self, answer: Answer) -> None:
        """The first one of a key stays."""
        document = {
            "_id": answer.key,
            "request_hash": answer.request_hash,
            "status": answer.status,
            # The answer to a bulk of 10,000 is larger than a document may be, and repeats itself.
            "body": zlib.compress(answer.body, level=1),
            "at": float(answer.at),
        }
        try:
            await self._database.collection("answers").insert_one(document)
        except DuplicateKeyError:
            pass

    async def forget(self, before: float) -> None:
        """Drops those older than `before`."""
        await self._database.collection("answers").delete_many({"at": {"$lt": float(before)}})

    async def sign_of_life(self, server_id: str, now: float) -> float | None:
        """Returns the latest sign of any server before this one."""
        servers = self._database.collection("servers")
        latest = await servers.find_one({}, {"at": 1}, sort=[("at", DESCENDING)])
        await servers.update_one({"_id": server_id}, {"$set": {"at": float(now)}}, upsert=True)
        return None if latest is None else float(latest["at"])
