"""Logs in MongoDB: chunks that begin where the one before ends.

A chunk's `_id` names the run and the offset at which it begins. An append writes at the end that it just read;
had somebody else written there meanwhile, that `_id` would be taken. So appends neither interleave nor overlap.
"""

from __future__ import annotations

from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from taskyard_server.mongodb import Database, Document, translating

_CHUNK_BYTES = 256 * 1024


class MongoLogs:
    """See `base.LogStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @translating
    async def append(self, run_id: str, offset: int, data: bytes, *, cap: int) -> int:
        while True:
            held = await self._length(run_id)
            new = data[held - offset : max(cap - offset, 0)] if offset <= held else b""
            if not new:
                return held
            try:
                return await self._write(run_id, held, new)
            except DuplicateKeyError:
                continue  # somebody else appended: see what they left to be written

    @translating
    async def read(self, run_id: str, offset: int, limit: int) -> bytes:
        if limit <= 0:
            return b""
        first = _name(run_id, await self._chunk_of(run_id, offset))
        chunks = self._chunks.find({"_id": {"$gte": first, "$lt": _name(run_id, offset + limit)}}).sort("_id")
        found = bytearray()
        async for chunk in chunks:
            begin = _begin(chunk)
            found += chunk["data"][max(offset - begin, 0) : offset + limit - begin]
        return bytes(found)

    @translating
    async def length(self, run_id: str) -> int:
        return await self._length(run_id)

    @translating
    async def delete(self, run_id: str) -> None:
        await self._chunks.delete_many(_all_of(run_id))

    @property
    def _chunks(self) -> AsyncCollection[Document]:
        return self._database.collection("logs")

    async def _length(self, run_id: str) -> int:
        last = await self._chunks.find_one(_all_of(run_id), {"end": 1}, sort=[("_id", DESCENDING)])
        return 0 if last is None else int(last["end"])

    async def _chunk_of(self, run_id: str, offset: int) -> int:
        """Where the chunk begins that holds the byte at `offset`."""
        upto = {"_id": {"$gte": _name(run_id, 0), "$lte": _name(run_id, max(offset, 0))}}
        chunk = await self._chunks.find_one(upto, {"_id": 1}, sort=[("_id", DESCENDING)])
        return 0 if chunk is None else _begin(chunk)

    async def _write(self, run_id: str, held: int, data: bytes) -> int:
        """One chunk after the other, so that what is held never has a gap. Raises DuplicateKeyError."""
        for start in range(0, len(data), _CHUNK_BYTES):
            part = data[start : start + _CHUNK_BYTES]
            begin = held + start
            await self._chunks.insert_one({"_id": _name(run_id, begin), "end": begin + len(part), "data": part})
        return held + len(data)


def _name(run_id: str, begin: int) -> str:
    # Twenty digits: names order as their offsets do.
    return f"{run_id}:{begin:020}"


def _begin(chunk: Document) -> int:
    return int(chunk["_id"].rpartition(":")[2])


def _all_of(run_id: str) -> Document:
    """The chunks of a run; `;` is the character after the colon."""
    return {"_id": {"$gte": f"{run_id}:", "$lt": f"{run_id};"}}
