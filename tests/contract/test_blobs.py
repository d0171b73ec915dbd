"""Immutable bytes under their digest."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest
from taskyard_server.errors import Invalid, NotFound, TooLarge
from taskyard_server.store import Stores
from taskyard_server.store.base import BlobStore

from tests.contract.conftest import Backend

LIMIT = 10_000_000
CONTENT = random.Random(7).randbytes(3_000_001)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


async def test_a_blob_is_read_as_it_was_sent(blobs: BlobStore) -> None:
    size = await blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT)

    assert size == await blobs.size(DIGEST) == len(CONTENT)
    assert await everything(blobs, DIGEST) == CONTENT


async def test_an_empty_blob_is_a_blob(blobs: BlobStore) -> None:
    digest = hashlib.sha256(b"").hexdigest()

    assert await blobs.put(digest, chunked(b""), limit=LIMIT) == 0
    assert await everything(blobs, digest) == b""


async def test_a_blob_that_is_not_held_has_no_size_and_is_not_found(blobs: BlobStore) -> None:
    await blobs.delete(DIGEST)

    assert await blobs.size(DIGEST) is None
    with pytest.raises(NotFound, match=DIGEST):
        await everything(blobs, DIGEST)


async def test_bytes_of_another_digest_are_refused(blobs: BlobStore) -> None:
    with pytest.raises(Invalid):
        await blobs.put(DIGEST, chunked(CONTENT[:-1]), limit=LIMIT)

    assert await blobs.size(DIGEST) is None


async def test_a_blob_over_the_limit_is_refused(blobs: BlobStore) -> None:
    with pytest.raises(TooLarge):
        await blobs.put(DIGEST, chunked(CONTENT), limit=len(CONTENT) - 1)

    assert await blobs.size(DIGEST) is None


async def test_a_blob_is_whole_or_absent_when_its_sender_breaks_off(blobs: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield CONTENT[:1000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await blobs.put(DIGEST, broken(), limit=LIMIT)
    assert await blobs.size(DIGEST) is None

    await blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT)
    assert await everything(blobs, DIGEST) == CONTENT


async def test_sending_a_blob_again_is_harmless_also_at_once(blobs: BlobStore) -> None:
    sizes = await asyncio.gather(*(blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT) for _ in range(3)))

    assert sizes == [len(CONTENT)] * 3
    assert await everything(blobs, DIGEST) == CONTENT


async def test_a_deleted_blob_is_gone(blobs: BlobStore) -> None:
    await blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT)

    await blobs.delete(DIGEST)

    assert await blobs.size(DIGEST) is None


async def test_a_blob_outlives_a_restart(backend: Backend, stores: Stores) -> None:
    await stores.blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT)
    await stores.close()

    again = backend.stores()
    await again.open()
    content = await everything(again.blobs, DIGEST)
    await again.close()

    assert content == CONTENT


async def chunked(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_537):
        yield content[start : start + 65_537]


async def everything(blobs: BlobStore, digest: str) -> bytes:
    return b"".join([chunk async for chunk in blobs.get(digest)])
