"""A collection of small records of one kind: queues, workers, tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from taskyard_server.errors import NotFound
from taskyard_server.mongodb import Database, Document
from taskyard_server.store.codec import Codec, R

_UNREAD = 0


class Records(Generic[R]):
    """`copies` gives what stands beside the body of a record: its `_id`, and what is searched and sorted by."""

    def __init__(self, database: Database, name: str, codec: Codec[R], copies: Callable[[R], Document]) -> None:
        self._database = database
        self._name = name
        self._codec: Codec[R] = codec
        self._copies: Callable[[R], Document] = copies

    @property
    def collection(self) -> AsyncCollection[Document]:
        """The documents themselves."""
        return self._database.collection(self._name)

    async def add(self, record: R, session: AsyncClientSession | None = None) -> None:
        """Raises DuplicateKeyError."""
        await self.collection.insert_one(self._document(record, _UNREAD + 1), session=session)

    async def get(self, key: str) -> R:
        """Raises NotFound."""
        record, _ = await self._find(key)
        return self._existing(key, record)

    async def first(self, query: Document) -> R | None:
        """Returns a record that the query finds."""
        document = await self.collection.find_one(query)
        return None if document is None else self._codec.decode(document["body"])

    async def all(self, order: list[tuple[str, int]], session: AsyncClientSession | None = None) -> list[R]:
        """Every record."""
        found = self.collection.find(session=session).sort(order)
        return [self._codec.decode(document["body"]) async for document in found]

    async def update_among(self, key: str, change: Callable[[R, list[R]], R], order: list[tuple[str, int]]) -> R:
        """As `update`; `change` also sees every record, and such updates happen one after the other.

        Each writes one and the same document, because two transactions that write different records of what both
        read do not meet.
        """
        guard = self._database.collection("guards")

        async def work(session: AsyncClientSession) -> R:
            await guard.update_one({"_id": self._name}, {"$inc": {"passed": 1}}, upsert=True, session=session)
            every = await self.all(order, session)
            record, version = await self._find(key, session)
            changed = change(self._existing(key, record), every)
            written = self._document(changed, version + 1)
            await self.collection.replace_one({"_id": key}, written, session=session)
            return changed

        return await self._database.transaction(work)

    async def update(self, key: str, change: Callable[[R], R]) -> R:
        """Atomically replaces a record. Raises NotFound, DuplicateKeyError, and what `change` raises."""
        return await self.save(key, lambda record: change(self._existing(key, record)))

    async def save(self, key: str, change: Callable[[R | None], R]) -> R:
        """As `update`; `change` is given None where there is no record yet."""
        while True:
            record, version = await self._find(key)
            changed = change(record)
            if changed is record or await self._write(key, changed, version):
                return changed

    async def delete(self, key: str, session: AsyncClientSession | None = None) -> None:
        """Raises NotFound."""
        if not (await self.collection.delete_one({"_id": key}, session=session)).deleted_count:
            raise self._missing(key)

    async def _find(self, key: str, session: AsyncClientSession | None = None) -> tuple[R | None, int]:
        document = await self.collection.find_one({"_id": key}, session=session)
        return (None, _UNREAD) if document is None else (self._codec.decode(document["body"]), document["version"])

    async def _write(self, key: str, record: R, version: int) -> bool:
        """Writes unless somebody else wrote since `version` was read."""
        document = self._document(record, version + 1)
        if version != _UNREAD:
            return (
                await self.collection.replace_one({"_id": key, "version": version}, document)
            ).matched_count == 1
        try:
            await self.collection.insert_one(document)
        except DuplicateKeyError as error:
            if "_id" not in (error.details or {}).get("keyPattern", {}):
                raise
            return False
        return True

    def _document(self, record: R, version: int) -> Document:
        return {**self._copies(record), "version": version, "body": self._codec.encode(record)}

    def _existing(self, key: str, record: R | None) -> R:
        if record is None:
            raise self._missing(key)
        return record

    def _missing(self, key: str) -> NotFound:
        return NotFound(f"there is no {self._name.removesuffix('s')} {key}")
