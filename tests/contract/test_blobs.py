"""Immutable bytes under their digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone

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


async def test_blobs_that_nobody_used_since_then_are_forgotten_but_for_those_in_use(blobs: BlobStore) -> None:
    contents = (b"of a task", b"of none", b"of none either")
    used, *unused = [hashlib.sha256(content).hexdigest() for content in contents]
    for content in contents:
        await blobs.put(hashlib.sha256(content).hexdigest(), chunked(content), limit=LIMIT)

    early = await blobs.forget_unused({used}, time.time() - 3600)
    late = await blobs.forget_unused({used}, time.time() + 3600)

    assert (early, late) == (0, 2)
    assert [await blobs.size(digest) for digest in (used, *unused)] == [len(contents[0]), None, None]
    assert await everything(blobs, used) == contents[0]


@pytest.mark.parametrize("use", ["ask", "send"])
async def test_a_use_keeps_a_blob_from_being_forgotten(backend: Backend, stores: Stores, use: str) -> None:
    await stores.blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT)
    age(backend, DIGEST)

    if use == "ask":
        await stores.blobs.size(DIGEST)
    else:
        await stores.blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT)

    assert await stores.blobs.forget_unused((), time.time() - 3600) == 0
    assert await everything(stores.blobs, DIGEST) == CONTENT


async def test_a_use_while_blobs_are_forgotten_finds_the_blob_for_good_or_not_at_all(
    backend: Backend, stores: Stores
) -> None:
    digest = hashlib.sha256(b"code").hexdigest()
    for _ in range(10):
        await stores.blobs.put(digest, chunked(b"code"), limit=LIMIT)
        age(backend, digest)

        size, number = await asyncio.gather(
            stores.blobs.size(digest), stores.blobs.forget_unused((), time.time() - 3600)
        )

        assert (size, number, await stores.blobs.size(digest)) in ((4, 0, 4), (None, 1, None))


async def test_a_blob_outlives_a_restart(backend: Backend, stores: Stores) -> None:
    await stores.blobs.put(DIGEST, chunked(CONTENT), limit=LIMIT)
    await stores.close()

    again = backend.stores()
    await again.open()
    content = await everything(again.blobs, DIGEST)
    await again.close()

    assert content == CONTENT


def age(backend: Backend, digest: str) -> None:
    """Lets the last use of a blob be two days ago."""
    then = datetime.now(timezone.utc) - timedelta(days=2)
    if backend.url.startswith("sqlite"):
        os.utime(backend.data / "blobs" / digest[:2] / digest, times=(then.timestamp(), then.timestamp()))
        return
    from pymongo import MongoClient

    with MongoClient[dict[str, object]](backend.url) as client:
        client.get_default_database()["blobs.files"].update_one(
            {"filename": digest}, {"$set": {"uploadDate": then}}
        )


async def chunked(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_537):
        yield content[start : start + 65_537]


async def everything(blobs: BlobStore, digest: str) -> bytes:
    return b"".join([chunk async for chunk in blobs.get(digest)])
