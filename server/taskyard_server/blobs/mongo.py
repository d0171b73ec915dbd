"""Blobs in MongoDB: files of GridFS named by their digest, visible once their last byte was verified."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection
from datetime import datetime, timedelta, timezone

from gridfs import AsyncGridIn, NoFile
from pymongo.asynchronous.collection import AsyncCollection

from taskyard_server.errors import Invalid, NotFound, TooLarge
from taskyard_server.mongodb import Database, Document, translated, translating

_USE_NOTED_SECONDS = 600.0
"""A use is noted again after so long: many tasks of one blob are not to write to one document."""
_UPLOAD_MILLISECONDS = 24 * 3600 * 1000
_ABANDONED: list[Document] = [
    {"$sort": {"files_id": 1, "n": 1}},
    {"$group": {"_id": "$files_id"}},
    # An ObjectId holds the time at which it was made.
    {"$match": {"$expr": {"$lt": [{"$toDate": "$_id"}, {"$subtract": ["$$NOW", _UPLOAD_MILLISECONDS]}]}}},
    {"$lookup": {"from": "blobs.files", "localField": "_id", "foreignField": "_id", "as": "file"}},
    {"$match": {"file": []}},
]


class MongoBlobs:
    """See `base.BlobStore`. The time of an upload, as GridFS calls it, is that of the last use."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @translating
    async def open(self) -> None:
        """Drops what uploads left behind that ended with their server, a day ago or earlier."""
        async for abandoned in await self._database.collection("blobs.chunks").aggregate(_ABANDONED):
            await self._database.collection("blobs.chunks").delete_many({"files_id": abandoned["_id"]})

    async def close(self) -> None:
        """Nothing is held."""

    @translating
    async def put(self, digest: str, chunks: AsyncIterator[bytes], *, limit: int) -> int:
        if (held := await self._size(digest)) is not None:
            return held
        upload = self._database.files.open_upload_stream(digest)
        try:
            size = await _copy(chunks, upload, digest, limit)
            await upload.close()
        except BaseException:
            # Shielded, so that an upload that is cancelled leaves nothing behind either.
            await asyncio.shield(upload.abort())
            raise
        return size

    @translating
    async def size(self, digest: str) -> int | None:
        return await self._size(digest)

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        with translated():
            try:
                blob = await self._database.files.open_download_stream_by_name(digest)
            except NoFile as error:
                raise NotFound(f"there is no blob {digest}: upload it first") from error
            async with blob:
                while chunk := await blob.readchunk():
                    yield chunk

    @translating
    async def forget_unused(self, used: Collection[str], before: float) -> int:
        number, old = 0, {"uploadDate": {"$lt": datetime.fromtimestamp(before, timezone.utc)}}
        async for held in self._files.find(old, {"filename": 1}):
            if held["filename"] not in used and await self._files.find_one_and_delete({"_id": held["_id"], **old}):
                await self._database.collection("blobs.chunks").delete_many({"files_id": held["_id"]})
                number += 1
        return number

    async def _size(self, digest: str) -> int | None:
        """Notes the use, unless one is known that is recent enough."""
        recent = {"$gte": datetime.now(timezone.utc) - timedelta(seconds=_USE_NOTED_SECONDS)}
        held = await self._files.find_one({"filename": digest, "uploadDate": recent}, {"length": 1})
        if held is None:
            held = await self._files.find_one_and_update(
                {"filename": digest}, [{"$set": {"uploadDate": "$$NOW"}}], {"length": 1}
            )
        return None if held is None else int(held["length"])

    @property
    def _files(self) -> AsyncCollection[Document]:
        return self._database.collection("blobs.files")


async def _copy(chunks: AsyncIterator[bytes], upload: AsyncGridIn, digest: str, limit: int) -> int:
    """Raises Invalid when the bytes do not have the digest, TooLarge beyond the limit."""
    seen, size = hashlib.sha256(), 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"blob {digest} is larger than {limit} bytes: leave files out, or raise the limit")
        seen.update(chunk)
        await upload.write(chunk)
    if seen.hexdigest() != digest:
        raise Invalid(f"the bytes have the digest {seen.hexdigest()}, not {digest}: send them again")
    return size
