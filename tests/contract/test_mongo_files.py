"""Logs and blobs that several servers write to one MongoDB."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from bson import ObjectId
from pymongo import MongoClient
from taskyard_server.store import Stores, open_store

from tests.support.mongod import fresh_database

pytestmark = pytest.mark.mongo

CAP = 1 << 30


@pytest.fixture
def database(mongo_uri: str) -> Iterator[str]:
    with fresh_database(mongo_uri) as url:
        yield url


@pytest.fixture
async def servers(database: str, tmp_path: Path) -> AsyncIterator[tuple[Stores, Stores]]:
    pair = open_store(database, tmp_path), open_store(database, tmp_path)
    async with AsyncExitStack() as stack:
        for stores in pair:
            await stores.open()
            stack.push_async_callback(stores.close)
        yield pair


async def test_appends_through_two_servers_neither_interleave_nor_repeat(servers: tuple[Stores, Stores]) -> None:
    log = secrets.token_bytes(700_000)
    sent = [(start, log[start : start + 90_000]) for start in range(0, len(log), 30_000)]

    async def send(stores: Stores) -> None:
        for offset, data in sent:
            while await stores.logs.append("run", offset, data, cap=CAP) < offset:
                pass

    await asyncio.gather(*(send(stores) for stores in servers for _ in range(3)))

    assert await servers[0].logs.length("run") == len(log)
    assert await servers[1].logs.read("run", 0, CAP) == log


async def test_one_blob_sent_through_two_servers_at_once_is_held_and_forgotten_as_one(
    servers: tuple[Stores, Stores],
) -> None:
    data = secrets.token_bytes(3_000_000)
    digest = hashlib.sha256(data).hexdigest()

    sizes = await asyncio.gather(*(stores.blobs.put(digest, _pieces(data), limit=CAP) for stores in servers))
    held = b"".join([piece async for piece in servers[0].blobs.get(digest)])
    await servers[1].blobs.forget_unused((), time.time() + 3600)

    assert sizes == [len(data)] * 2
    assert held == data
    assert await servers[0].blobs.size(digest) is None


async def test_what_an_upload_of_long_ago_left_behind_is_dropped_at_a_start(database: str, tmp_path: Path) -> None:
    long_ago = ObjectId.from_datetime(datetime.now(timezone.utc) - timedelta(days=2))
    abandoned = {"files_id": long_ago, "n": 0, "data": b"half"}
    arriving = {"files_id": ObjectId(), "n": 0, "data": b"half"}
    with MongoClient[dict[str, object]](database) as client:
        chunks = client.get_default_database()["blobs.chunks"]
        chunks.insert_many([abandoned, arriving])

        stores = open_store(database, tmp_path)
        await stores.open()
        await stores.close()

        assert list(chunks.find()) == [arriving]


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]
