"""MongoDB is killed, and comes back: everything acknowledged is there, and the servers go on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from taskyard.wire import TaskState
from taskyard_server.errors import Unavailable
from taskyard_server.store import Stores, open_store
from taskyard_server.store.base import QueueRecord

from tests.support.mongod import Mongod, collect_sockets, forgets_sockets
from tests.support.records import any_fits, eventually, fill, prepare, queue, queued

pytestmark = [pytest.mark.mongo, pytest.mark.usefixtures("collect_sockets"), forgets_sockets]
__all__ = ["collect_sockets"]


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    with Mongod() as server:
        yield server


@pytest.fixture
async def stores(server: Mongod, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    # A short patience, so that a test need not wait long for what is not there; the driver looks twice a second.
    address = f"{server.uri}/{request.node.name[:50]}?serverSelectionTimeoutMS=2000"
    stores = open_store(address, tmp_path)
    await stores.open()
    yield stores
    await stores.close()


@pytest.fixture
async def shared(stores: Stores) -> QueueRecord:
    record = queue("shared")
    await stores.store.add_queue(record)
    return record


async def test_everything_acknowledged_survives_a_kill(
    server: Mongod, stores: Stores, shared: QueueRecord
) -> None:
    tasks = await fill(stores.store, [queued(shared.id) for _ in range(50)])
    claimed = await stores.store.claim([shared.id], any_fits, prepare())
    await stores.logs.append("run", 0, b"line\n", cap=1000)
    blob = b"pack" * 1000
    await stores.blobs.put(hashlib.sha256(blob).hexdigest(), _chunks(blob), limit=10_000)

    server.kill()
    server.start()

    assert [record.id for record in await stores.store.entries(shared.id)] == tasks[1:]
    assert await stores.store.active() == [claimed]
    assert await stores.logs.read("run", 0, 100) == b"line\n"
    assert await stores.blobs.size(hashlib.sha256(blob).hexdigest()) == len(blob)


async def test_verbs_raise_unavailable_while_it_is_gone_and_succeed_when_it_is_back(
    server: Mongod, stores: Stores, shared: QueueRecord
) -> None:
    server.kill()
    refused = await asyncio.gather(
        stores.store.counts(),
        stores.store.claim([shared.id], any_fits, prepare()),
        stores.store.add_tasks([queued(shared.id)]),
        stores.logs.append("run", 0, b"line", cap=1000),
        return_exceptions=True,
    )
    server.start()
    await stores.store.add_tasks([queued(shared.id)])

    assert [type(error) for error in refused] == [Unavailable] * 4
    assert await stores.store.counts() == {shared.id: {TaskState.QUEUED: 1}}


async def test_claims_that_a_kill_interrupts_are_done_once_or_not_at_all(
    server: Mongod, stores: Stores, shared: QueueRecord
) -> None:
    acknowledged: set[str] = set()
    await fill(stores.store, [queued(shared.id) for _ in range(400)])
    claimers = [asyncio.create_task(_claim_until_gone(stores, shared.id, acknowledged)) for _ in range(8)]
    await eventually(lambda: len(acknowledged) >= 50)

    server.kill()
    await asyncio.gather(*claimers)
    server.start()

    active = {record.id: record for record in await stores.store.active()}
    assert acknowledged <= set(active)
    assert all(len(record.runs) == 1 for record in active.values())


async def test_changes_are_heard_again_after_a_restart(
    server: Mongod, stores: Stores, shared: QueueRecord, request: pytest.FixtureRequest
) -> None:
    other = open_store(f"{server.uri}/{request.node.name[:50]}", Path())
    await other.open()
    changes = other.store.changes()
    await _until(changes, "")

    server.kill()
    server.start()
    await _until(changes, "")
    await fill(stores.store, [queued(shared.id)])

    await _until(changes, shared.id)
    await other.close()


async def _claim_until_gone(stores: Stores, queue_id: str, acknowledged: set[str]) -> None:
    while True:
        try:
            record = await stores.store.claim([queue_id], any_fits, prepare())
        except Unavailable:
            return
        if record is None:
            return
        acknowledged.add(record.id)


async def _until(changes: AsyncIterator[str], wanted: str) -> None:
    while await asyncio.wait_for(anext(changes), timeout=60) != wanted:
        pass


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data
