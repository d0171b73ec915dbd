"""A MongoDB that is dumped under load as of one moment, restored, and marked as restored.

`mongodump` itself is no test dependency. What it reads with `--oplog`, all collections of one moment as BSON,
is read here by the driver in a snapshot session.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from bson import decode_file_iter
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from taskyard_server.copies.restore import mark_restored
from taskyard_server.store import Stores, open_store
from taskyard_server.store.base import TaskFilter

from tests.support.mongod import fresh_database
from tests.support.records import draft, token
from tests.support.waiting import becomes_true_async

pytestmark = pytest.mark.mongo

Noted = list[tuple[float, str, str]]


async def content(data: bytes) -> AsyncIterator[bytes]:
    yield data


def dump(url: str, folder: Path) -> float:
    """Writes `<collection>.bson` for each collection, all as of one moment; returns a time before it."""
    name = urlsplit(url).path.strip("/")
    folder.mkdir()
    with MongoClient[RawBSONDocument](url, document_class=RawBSONDocument) as client:
        at = time.time()
        with client.start_session(snapshot=True) as session:
            for collection in sorted(client[name].list_collection_names()):
                with (folder / f"{collection}.bson").open("wb") as file:
                    for document in client[name][collection].find({}, session=session):
                        file.write(document.raw)
    return at


def bring_back(folder: Path, url: str) -> None:
    name = urlsplit(url).path.strip("/")
    with MongoClient[dict[str, Any]](url) as client:
        for path in sorted(folder.glob("*.bson")):
            with path.open("rb") as file:
                documents = list(decode_file_iter(file))
            if documents:
                client[name][path.stem].insert_many(documents)


async def write(stores: Stores, number: int, stop: asyncio.Event, noted: Noted) -> None:
    """A task, some bytes of a log and a blob, again and again; each is noted once it is acknowledged."""
    run = f"{number:032x}.1"
    while not stop.is_set():
        record = draft()
        await stores.store.add_tasks([record])
        noted.append((time.time(), "task", record.id))
        length = await stores.logs.append(run, await stores.logs.length(run), b"x" * 50, cap=1 << 30)
        noted.append((time.time(), "log", f"{run} {length}"))
        data = f"{number} {record.id}".encode()
        digest = hashlib.sha256(data).hexdigest()
        await stores.blobs.put(digest, content(data), limit=1 << 20)
        noted.append((time.time(), "blob", digest))


async def missing(stores: Stores, noted: Noted) -> list[str]:
    """What was acknowledged and is not there."""
    tasks = {record.id for record in await stores.store.tasks(TaskFilter(), limit=100_000)}
    lost = []
    for _, kind, name in noted:
        if kind == "task":
            there = name in tasks
        elif kind == "blob":
            there = await stores.blobs.size(name) is not None
        else:
            run, _, length = name.partition(" ")
            there = await stores.logs.length(run) >= int(length)
        if not there:
            lost.append(f"{kind} {name}")
    return lost


async def test_what_was_acknowledged_before_a_dump_is_in_the_restored_database(
    mongo_uri: str, tmp_path: Path
) -> None:
    with fresh_database(mongo_uri) as old, fresh_database(mongo_uri) as new:
        stores = open_store(old, tmp_path)
        await stores.open()
        known = token()
        await stores.store.add_token(known)
        noted: Noted = []
        stop = asyncio.Event()
        writers = [asyncio.ensure_future(write(stores, number, stop, noted)) for number in range(3)]
        assert await becomes_true_async(lambda: len(noted) > 40)

        at = await asyncio.to_thread(dump, old, tmp_path / "dump")
        stop.set()
        await asyncio.gather(*writers)
        await stores.close()
        await asyncio.to_thread(bring_back, tmp_path / "dump", new)

        begun = await mark_restored(new, tmp_path)
        back = open_store(new, tmp_path)
        await back.open()
        assert await missing(back, [one for one in noted if one[0] < at]) == []
        assert [one.id for one in await back.store.tokens()] == [known.id]
        assert await back.store.generation() == begun
        assert begun.recovering
        await back.close()
