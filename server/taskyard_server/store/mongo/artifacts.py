"""Artifacts as documents: the record in `body`, beside it what is searched by. See `artifacts.ArtifactStore`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.mongodb import Database, Document, translating
from taskyard_server.store.artifacts import LOOKED_AT, ArtifactRecord, Totals
from taskyard_server.store.codec import ARTIFACTS

_FOLDER = "artifacts_folder"
_INDEXES = {
    "artifacts": [
        IndexModel([("run", ASCENDING), ("name", ASCENDING)], name="by_run", unique=True),
        IndexModel([("task", ASCENDING)], name="by_task"),
        IndexModel([("parts", ASCENDING), ("account", ASCENDING)], name="by_part"),
    ],
    "sent_parts": [
        IndexModel([("account", ASCENDING), ("digest", ASCENDING)], name="by_account", unique=True),
        IndexModel([("digest", ASCENDING)], name="by_digest"),
        IndexModel([("at", ASCENDING)], name="by_age"),
    ],
}
_ORPHANS: list[Document] = [
    {"$group": {"_id": "$task"}},
    {"$lookup": {"from": "tasks", "localField": "_id", "foreignField": "_id", "as": "there"}},
    {"$match": {"there": []}},
    {"$limit": LOOKED_AT},
]


class MongoArtifacts:
    """Whether an account has sent a part, and that it names it, is checked and written in one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        for name, indexes in _INDEXES.items():
            database.declare(name, indexes)

    @translating
    async def note_sent(self, digest: str, account: str, now: float) -> None:
        key = {"account": account, "digest": digest}
        await self._sent.update_one(key, {"$set": {"at": float(now)}}, upsert=True)

    @translating
    async def sent_by(self, account: str, digests: Collection[str]) -> set[str]:
        return await self._sent_by(account, digests)

    async def _sent_by(
        self, account: str, digests: Collection[str], session: AsyncClientSession | None = None
    ) -> set[str]:
        query = {"account": account, "digest": {"$in": list(digests)}}
        return {found["digest"] async for found in self._sent.find(query, {"digest": 1}, session=session)}

    @translating
    async def attach(self, records: Sequence[ArtifactRecord]) -> None:
        async def work(session: AsyncClientSession) -> None:
            for record in records:
                await self._attach(record, session)

        await self._database.transaction(work)

    async def _attach(self, record: ArtifactRecord, session: AsyncClientSession) -> None:
        made = record.artifact
        lacking = record.parts - await self._sent_by(record.account, record.parts, session)
        if lacking:
            raise Conflict(f"{len(lacking)} parts of {made.name!r} were not sent: send them first")
        tasks = self._database.collection("tasks")
        if await tasks.find_one({"_id": record.task}, {"_id": 1}, session=session) is None:
            raise NotFound(f"there is no task {record.task}: keep nothing of it")
        document = {
            "run": made.run,
            "name": made.name,
            "task": record.task,
            "account": record.account,
            "parts": sorted(record.parts),
            "files": len(made.files),
            "bytes": made.size,
            "body": ARTIFACTS.encode(record),
        }
        key = {"run": made.run, "name": made.name}
        await self._artifacts.replace_one(key, document, upsert=True, session=session)

    @translating
    async def artifacts(self, run_id: str) -> list[ArtifactRecord]:
        found = self._artifacts.find({"run": run_id}, {"body": 1}).sort([("name", ASCENDING)])
        return [ARTIFACTS.decode(document["body"]) async for document in found]

    @translating
    async def artifact(self, run_id: str, name: str) -> ArtifactRecord:
        found = await self._artifacts.find_one({"run": run_id, "name": name}, {"body": 1})
        if found is None:
            raise NotFound(f"run {run_id} keeps no artifact {name!r}")
        return ARTIFACTS.decode(found["body"])

    @translating
    async def totals(self, run_id: str, *, besides: Collection[str]) -> Totals:
        files = size = 0
        query = {"run": run_id, "name": {"$nin": list(besides)}}
        async for found in self._artifacts.find(query, {"files": 1, "bytes": 1}):
            files, size = files + found["files"], size + found["bytes"]
        return Totals(files=files, bytes=size)

    @translating
    async def referenced(self, digests: Collection[str]) -> set[str]:
        wanted = {"$in": list(digests)}
        sent = {found["digest"] async for found in self._sent.find({"digest": wanted}, {"digest": 1})}
        async for found in self._artifacts.find({"parts": wanted}, {"parts": 1}):
            sent.update(found["parts"])
        return sent & set(digests)

    @translating
    async def forget_task(self, task_id: str) -> None:
        await self._artifacts.delete_many({"task": task_id})

    @translating
    async def forget_unused(self, before: float, now: float) -> int:
        async for orphan in await self._artifacts.aggregate(_ORPHANS):
            await self._artifacts.delete_many({"task": orphan["_id"]})
        forgotten, old = (
            0,
            self._sent.find({"at": {"$lt": float(before)}}).sort([("at", ASCENDING)]).limit(LOOKED_AT),
        )
        async for found in old:
            same = {"_id": found["_id"], "at": found["at"]}  # sent again meanwhile: left as it is
            named = {"parts": found["digest"], "account": found["account"]}
            if await self._artifacts.find_one(named, {"_id": 1}) is not None:
                await self._sent.update_one(same, {"$set": {"at": float(now)}})
            else:
                forgotten += (await self._sent.delete_one(same)).deleted_count
        return forgotten

    @translating
    async def folder_id(self, own: str | None) -> str | None:
        settings = self._database.collection("settings")
        if own is not None:
            await settings.update_one({"_id": _FOLDER}, {"$setOnInsert": {"value": own}}, upsert=True)
        found = await settings.find_one({"_id": _FOLDER})
        return None if found is None else str(found["value"])

    @property
    def _artifacts(self) -> AsyncCollection[Document]:
        return self._database.collection("artifacts")

    @property
    def _sent(self) -> AsyncCollection[Document]:
        return self._database.collection("sent_parts")
