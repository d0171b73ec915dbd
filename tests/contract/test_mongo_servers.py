"""Several servers on one MongoDB: each entry once, in order, and no server deaf to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial

import pytest
from taskyard.wire import TaskState
from taskyard_server import lifecycle, matching
from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import Change, QueueRecord, Store
from taskyard_server.store.mongo import MongoStore

from tests.support.mongod import fresh_database, opened
from tests.support.records import any_fits, enter, fill, order, prepare, queue, queued

pytestmark = pytest.mark.mongo

Servers = tuple[MongoStore, MongoStore]


@pytest.fixture
def database(mongo_uri: str) -> Iterator[str]:
    with fresh_database(mongo_uri) as url:
        yield url


@pytest.fixture
async def servers(database: str) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(opened(database)), await stack.enter_async_context(opened(database))


@pytest.fixture
async def shared(servers: Servers) -> QueueRecord:
    record = queue("shared")
    await servers[0].add_queue(record)
    return record


async def test_two_servers_share_a_thousand_entries_among_eight_claimers(
    servers: Servers, shared: QueueRecord
) -> None:
    tasks = await fill(servers[0], [queued(shared.id, gpus=index % 2) for index in range(1000)])

    taken = await asyncio.gather(*(_claim_all(servers[number % 2], shared.id) for number in range(8)))

    assert sorted(task for share in taken for task in share) == sorted(tasks)
    assert all(len(record.runs) == 1 for record in await servers[0].active())


async def test_entries_of_any_server_are_claimed_in_the_order_in_which_they_were_acknowledged(
    servers: Servers, shared: QueueRecord
) -> None:
    tasks = [(await fill(servers[index % 2], [queued(shared.id)]))[0] for index in range(20)]

    taken = [await servers[index // 3 % 2].claim([shared.id], any_fits, prepare()) for index in range(20)]

    assert [record.id for record in taken if record] == tasks


async def test_two_servers_keep_one_worker_for_a_large_task_and_a_third_may_take_it_at_once(
    servers: Servers, shared: QueueRecord
) -> None:
    (large,) = await fill(servers[0], [matching.shaped(queued(shared.id, gpus=4))])

    def keep(worker: str) -> Change:
        return partial(lifecycle.reserve, worker=worker, after_seconds=60.0, now=100.0)

    keeping = [servers[number % 2].claim([shared.id], any_fits, keep(f"w{number}")) for number in range(8)]
    await asyncio.gather(*keeping)

    seen = [await server.fronts([shared.id]) for server in servers]
    assert seen[0] == seen[1]
    assert [event.kind for event in (await servers[1].task(large)).events] == ["reserved"]
    assert await servers[1].claim([shared.id], any_fits, prepare()) is not None


async def test_an_entry_of_one_server_appears_in_the_changes_of_the_other(
    servers: Servers, shared: QueueRecord
) -> None:
    changes = servers[1].changes()
    await _until(changes, "")  # a word of the poll: the stream is open

    await fill(servers[0], [queued(shared.id)])

    await _until(changes, shared.id)


async def test_an_entry_that_was_a_draft_before_appears_in_the_changes_too(
    servers: Servers, shared: QueueRecord
) -> None:
    (task,) = await fill(servers[0], [replace(queued(shared.id), state=TaskState.DRAFT, queue=None)])
    changes = servers[1].changes()
    await _until(changes, "")

    await servers[0].update(task, enter(shared.id))

    await _until(changes, shared.id)


async def test_a_servers_own_entries_do_not_appear_in_its_changes(servers: Servers, shared: QueueRecord) -> None:
    other = queue("other")
    await servers[0].add_queue(other)
    changes = servers[1].changes()
    await _until(changes, "")

    await fill(servers[1], [queued(shared.id)])
    await fill(servers[0], [queued(other.id)])

    assert await _until(changes, other.id) <= {"", other.id}


async def test_a_queue_paused_on_one_server_is_passed_over_by_the_other(
    servers: Servers, shared: QueueRecord
) -> None:
    await fill(servers[0], [queued(shared.id)])

    await servers[0].update_queue(shared.id, lambda record: replace(record, paused=True))

    assert await servers[1].claim([shared.id], any_fits, prepare()) is None


async def test_no_entry_is_left_in_a_queue_that_another_server_deletes_meanwhile(servers: Servers) -> None:
    for _ in range(10):
        vanishing = queue("vanishing")
        await servers[0].add_queue(vanishing)

        entering = [_enter_one(servers[1], vanishing.id) for _ in range(4)]
        deleted, *entered = await asyncio.gather(_delete(servers[0], vanishing.id), *entering)

        # Either they came first, and the queue stays with them; or it went, and nobody got in.
        assert deleted is not any(entered)
        assert len(await order(servers[0], vanishing.id)) == sum(entered)
        if not deleted:
            await servers[0].delete_queue(
                vanishing.id, force=lambda record: replace(record, queue=None, rank=None, state=TaskState.DRAFT)
            )


async def test_concurrent_changes_of_one_record_by_both_servers_are_all_kept(
    servers: Servers, shared: QueueRecord
) -> None:
    (task,) = await fill(servers[0], [queued(shared.id)])

    await asyncio.gather(
        *(servers[n % 2].update(task, lambda record: replace(record, losses=record.losses + 1)) for n in range(40))
    )

    assert (await servers[0].task(task)).losses == 40


async def _claim_all(store: Store, queue_id: str) -> list[str]:
    taken = []
    while (record := await store.claim([queue_id], any_fits, prepare())) is not None:
        taken.append(record.id)
    return taken


async def _until(changes: AsyncIterator[str], wanted: str) -> set[str]:
    """Waits for a word of the changes and returns all that came up to it."""
    heard: set[str] = set()
    while wanted not in heard:
        heard.add(await asyncio.wait_for(anext(changes), timeout=30))
    return heard


async def _enter_one(store: Store, queue_id: str) -> bool:
    with suppress(NotFound):
        await fill(store, [queued(queue_id)])
        return True
    return False


async def _delete(store: Store, queue_id: str) -> bool:
    with suppress(Conflict):
        await store.delete_queue(queue_id)
        return True
    return False
