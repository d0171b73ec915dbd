"""What MongoDB makes of records: their order, their names, their size, and the plans of its searches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from bson import decode, encode
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient
from taskyard.wire import Code, TaskState
from taskyard_server.errors import NotFound, TooLarge
from taskyard_server.store.base import QueueRecord, TaskFilter
from taskyard_server.store.mongo import MongoStore
from taskyard_server.store.mongo.documents import from_document, to_document

from tests.support.mongod import fresh_database, opened
from tests.support.records import any_fits, at_most, draft, fill, new_id, order, prepare, queue, queued, take_out

pytestmark = pytest.mark.mongo

RANKS = [b"\x01", b"\x01\x00\x05", b"\x01\x80", b"\x02", b"\x7f\xff", b"\x80\x00", b"\xff" * 3, b"\xff" * 4]
"""In the order of bytes, which is neither that of their lengths nor that of text in UTF-8."""


@pytest.fixture
def database(mongo_uri: str) -> Iterator[str]:
    with fresh_database(mongo_uri) as url:
        yield url


@pytest.fixture
async def store(database: str) -> AsyncIterator[MongoStore]:
    async with opened(database) as store:
        yield store


@pytest.fixture
async def entered(store: MongoStore) -> QueueRecord:
    record = queue()
    await store.add_queue(record)
    return record


async def test_ranks_of_any_length_are_ordered_as_bytes(store: MongoStore, entered: QueueRecord) -> None:
    records = [replace(queued(entered.id), rank=rank) for rank in RANKS]
    await store.add_tasks(list(reversed(records)))

    listed = await order(store, entered.id)
    taken = [await store.claim([entered.id], any_fits, prepare()) for _ in records]

    assert listed == [record.id for record in records]
    assert [record.rank for record in taken if record] == RANKS


@given(rank=st.binary(min_size=1), due_at=st.none() | st.floats(min_value=0, max_value=1e10))
def test_a_record_comes_back_from_its_document_as_it_was(rank: bytes, due_at: float | None) -> None:
    record = replace(queued("queue", avoid=("host:gpu0",)), rank=rank, due_at=due_at)

    found = from_document(decode(encode(to_document(record, version=3, writer="server"))))

    assert (found.record, found.version) == (record, 3)


async def test_names_with_dollars_and_dots_come_back_as_they_were(store: MongoStore) -> None:
    record = draft(
        name="$where",
        project="a.b",
        tags=("$gt", "x.y", "{'$ne': 1}"),
        parameters={"$set": {"a.b": "$value", "$inc": ""}},
        env={"$HOME.x": "$PATH"},
    )

    await store.add_tasks([record])

    assert await store.task(record.id) == record


@pytest.mark.parametrize("value", ["$name", "$$ROOT", "", "a|b", ".*", "(", "nul\0", "{'$ne': None}"])
async def test_what_a_user_searches_for_is_never_an_expression(store: MongoStore, value: str) -> None:
    wanted, other = draft(name=f"<{value}>", tags=(value,)), draft(name="other", tags=("other",))
    await store.add_tasks([wanted, other])

    by_part = await store.tasks(TaskFilter(name_contains=f"<{value}>"))
    by_tag = await store.tasks(TaskFilter(tag=value))

    assert by_part == by_tag == [wanted]


async def test_a_record_too_large_for_a_document_is_refused_before_it_is_written(store: MongoStore) -> None:
    small = draft()
    large = draft(code=Code(diff="x" * (17 * 1024 * 1024)))
    await store.add_tasks([small])

    with pytest.raises(TooLarge, match="16 MB"):
        await store.add_tasks([large])
    with pytest.raises(TooLarge, match="16 MB"):
        await store.update(small.id, lambda record: replace(record, spec=large.spec))
    with pytest.raises(NotFound):
        await store.task(large.id)
    assert await store.task(small.id) == small


async def test_a_record_just_below_the_limit_is_kept(store: MongoStore) -> None:
    record = draft(code=Code(diff="x" * (15 * 1024 * 1024)))

    await store.add_tasks([record])
    changed = await store.update(record.id, lambda found: replace(found, losses=1))

    assert await store.task(record.id) == changed


@pytest.mark.thorough
async def test_ten_thousand_tasks_are_added_enqueued_and_taken_out_in_one_step_each(
    store: MongoStore, entered: QueueRecord
) -> None:
    tasks = await fill(store, [queued(entered.id) for _ in range(10_000)])

    taken_out = await store.update_all(tasks, take_out)
    entry = {"state": TaskState.QUEUED, "queue": entered.id}
    await store.update_all(list(reversed(tasks)), lambda record: replace(record, **entry))  # type: ignore[arg-type]
    listed = await order(store, entered.id)
    await store.delete_queue(entered.id, force=take_out)

    assert len(taken_out) == 10_000
    assert listed == list(reversed(tasks))
    assert await store.counts() == {}


async def test_a_claim_reads_only_what_it_needs(store: MongoStore, entered: QueueRecord, database: str) -> None:
    await store.add_tasks([queued(entered.id, gpus=8) for _ in range(500)])
    await store.add_tasks([queued(entered.id, gpus=index % 3) for index in range(500)])

    with profiled(database) as operations:
        claimed = await store.claim([entered.id], at_most(2), prepare())

    assert claimed is not None
    assert not [plan for plan in plans(operations) if "COLLSCAN" in plan]
    assert any("DISTINCT_SCAN" in plan for plan in plans(operations))
    assert sum(operation.get("docsExamined", 0) for operation in operations) <= 12
    assert sum(operation.get("keysExamined", 0) for operation in operations) <= 24


async def test_a_claim_among_hundreds_of_shapes_sorts_nothing(
    store: MongoStore, entered: QueueRecord, database: str
) -> None:
    tasks = await fill(store, [queued(entered.id, avoid=(new_id(),)) for _ in range(400)])

    with profiled(database) as operations:
        claimed = await store.claim([entered.id], any_fits, prepare())

    assert claimed is not None
    assert claimed.id == tasks[0]
    assert not [operation for operation in operations if operation.get("hasSortStage")]


async def test_no_verb_searches_without_an_index(store: MongoStore, entered: QueueRecord, database: str) -> None:
    first, second, _ = await fill(store, [queued(entered.id, tags=("tag",), project="p") for _ in range(3)])

    with profiled(database) as operations:
        await store.entries(entered.id)
        await store.position(second)
        await store.move_entry(second, 0)
        await store.counts()
        await store.active()
        await store.due(1.0)
        await store.run_of_request("request")
        await store.task_of_report_token("hash")
        await store.update(first, take_out)
        await store.token_by_hash("hash")
        await store.queue_named("name")
        for wanted in (TaskFilter(), TaskFilter(tag="tag"), TaskFilter(project="p"), TaskFilter(name="n")):
            await store.tasks(wanted)
        await store.tasks(TaskFilter(states=(TaskState.QUEUED, TaskState.DRAFT)), before=first)

    assert not [operation for operation in operations if "COLLSCAN" in operation.get("planSummary", "")]
    assert not [operation for operation in operations if operation.get("hasSortStage")]


class profiled:
    """Collects what MongoDB's profiler says of the operations inside the block."""

    def __init__(self, database: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(database)
        self._operations: list[dict[str, Any]] = []

    def __enter__(self) -> list[dict[str, Any]]:
        self._client.get_default_database().command("profile", 2)
        return self._operations

    def __exit__(self, *_: object) -> None:
        database = self._client.get_default_database()
        database.command("profile", 0)
        self._operations += database["system.profile"].find({"op": {"$in": ["query", "command", "update"]}})
        self._client.close()


def plans(operations: list[dict[str, Any]]) -> list[str]:
    return [operation["planSummary"] for operation in operations if "planSummary" in operation]
