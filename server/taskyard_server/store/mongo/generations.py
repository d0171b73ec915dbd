"""Which restored copy of itself the store is."""

from __future__ import annotations

from pymongo import DESCENDING

from taskyard_server.mongodb import Database
from taskyard_server.store.base import Generation, next_generation


class Generations:
    """One document for each time that the store was restored."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self) -> Generation:
        """The current one."""
        found = await self._database.collection("generations").find_one({}, sort=[("_id", DESCENDING)])
        if found is None:
            return Generation()
        return Generation(
            number=found["_id"],
            copied_at=found["copied_at"],
            restored_at=found["restored_at"],
            resumed_at=found.get("resumed_at"),
        )

    async def begin(self, copied_at: float, now: float) -> Generation:
        """Adds the next one."""
        begun = next_generation(await self.latest(), copied_at=copied_at, now=now)
        await self._database.collection("generations").insert_one(
            {"_id": begun.number, "copied_at": float(copied_at), "restored_at": float(now)}
        )
        return begun

    async def resume(self, now: float) -> Generation:
        """Ends the recovery; a repeat changes nothing."""
        await self._database.collection("generations").update_many(
            {"resumed_at": {"$exists": False}}, {"$set": {"resumed_at": float(now)}}
        )
        return await self.latest()
