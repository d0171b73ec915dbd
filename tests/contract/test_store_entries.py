"""Places in a queue: pages, positions, moves."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taskyard.wire import MoveTo
from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import QueueRecord, Store

from tests.support.records import any_fits, draft, fill, new_id, order, prepare, queue, queued

PLACES = st.one_of(st.sampled_from(MoveTo), st.integers(min_value=0, max_value=12))
MOVES = st.lists(st.tuples(st.integers(min_value=0, max_value=7), PLACES), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(min_value=1, max_value=8), moves=MOVES)
async def test_moves_do_to_a_queue_what_they_do_to_a_list(
    store: Store, length: int, moves: list[tuple[int, MoveTo | int]]
) -> None:
    record = queue(new_id())
    await store.add_queue(record)
    model = await fill(store, [queued(record.id) for _ in range(length)])

    for index, to in moves:
        task = model.pop(index % length)
        place = min(_target(to, index % length, length), length - 1)
        model.insert(place, task)

        assert await store.move_entry(task, to) == place
        assert await order(store, record.id) == model


async def test_positions_count_from_the_next_to_be_claimed(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id, gpus=index % 2) for index in range(5)])

    assert [await store.position(task) for task in tasks] == [0, 1, 2, 3, 4]


async def test_what_is_not_queued_has_no_position(store: Store) -> None:
    (task,) = await fill(store, [draft()])

    assert await store.position(task) is None
    assert await store.position(new_id()) is None


async def test_entries_are_read_in_pages(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id, gpus=index % 3) for index in range(10)])

    pages = [await store.entries(queue.id, offset=offset, limit=4) for offset in (0, 4, 8, 12)]

    assert [[record.id for record in page] for page in pages] == [tasks[:4], tasks[4:8], tasks[8:], []]


async def test_entries_of_one_queue_do_not_show_in_another(store: Store, queue: QueueRecord) -> None:
    other = QueueRecord(id=queue.id[:-1], name="like a prefix", description="", paused=False, created_at=1.0)
    await store.add_queue(other)
    await fill(store, [queued(queue.id)])

    assert await order(store, other.id) == []


async def test_what_is_not_queued_cannot_be_moved(store: Store) -> None:
    (task,) = await fill(store, [draft()])

    for to in (MoveTo.UP, 3):
        with pytest.raises(Conflict, match="no place in a queue"):
            await store.move_entry(task, to)
        with pytest.raises(NotFound):
            await store.move_entry(new_id(), to)


async def test_a_moved_entry_is_claimed_at_its_new_place(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id) for _ in range(3)])
    await store.move_entry(tasks[2], MoveTo.FIRST)

    claim = await store.claim([queue.id], any_fits, prepare())

    assert claim is not None
    assert claim.id == tasks[2]


async def test_an_entry_moves_to_the_end_behind_one_that_may_come_back(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id) for _ in range(3)])
    await store.move_entry(tasks[2], MoveTo.FIRST)
    await store.move_entry(tasks[2], MoveTo.LAST)

    assert await order(store, queue.id) == tasks


async def test_concurrent_moves_lose_no_entry(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id) for _ in range(12)])
    places: list[MoveTo | int] = [*MoveTo, 0, 5, 99]

    await asyncio.gather(*(store.move_entry(task, to) for task, to in zip(tasks, places * 2, strict=False)))

    assert sorted(await order(store, queue.id)) == sorted(tasks)


def _target(to: MoveTo | int, index: int, length: int) -> int:
    if isinstance(to, int):
        return to
    return {
        MoveTo.FIRST: 0,
        MoveTo.UP: max(index - 1, 0),
        MoveTo.DOWN: min(index + 1, length - 1),
        MoveTo.LAST: length - 1,
    }[to]
