"""Queue records: names, changes, deletion with and without force."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from taskyard.wire import TaskState
from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import QueueRecord, Store

from tests.support.records import (
    any_fits,
    become,
    draft,
    enter,
    fill,
    new_id,
    order,
    prepare,
    queue,
    queued,
    take_out,
)

STRANGE = ["two words", "größe ☃", "../../etc", "a/b", "$ne", "a.b", "", "'; --", "gp", "gpu"]


async def test_a_queue_is_found_by_id_and_by_name(store: Store) -> None:
    record = replace(queue("default"), description="for all")

    await store.add_queue(record)

    assert await store.queue(record.id) == record
    assert await store.queue_named("default") == record
    assert await store.queue_named("defaul") is None


async def test_any_name_is_a_name(store: Store) -> None:
    for name in STRANGE:
        await store.add_queue(queue(name))

    assert [record.name for record in await store.queues()] == sorted(STRANGE)
    for name in STRANGE:
        found = await store.queue_named(name)
        assert found is not None
        assert found.name == name


async def test_a_name_or_an_id_is_given_once(store: Store) -> None:
    record = queue("default")
    await store.add_queue(record)

    with pytest.raises(Conflict, match="default"):
        await store.add_queue(queue("default"))
    with pytest.raises(Conflict):
        await store.add_queue(replace(record, name="another"))


async def test_of_queues_added_at_once_under_one_name_one_is_made(store: Store) -> None:
    made = await asyncio.gather(*(store.add_queue(queue("same")) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(error, Conflict) for error in made) == 9
    assert len(await store.queues()) == 1


async def test_a_queue_is_renamed_and_keeps_its_entries(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id)])

    await store.update_queue(queue.id, lambda record: replace(record, name="renamed"))

    assert await store.queue_named(queue.name) is None
    assert await store.queue_named("renamed") == replace(queue, name="renamed")
    assert await order(store, queue.id) == tasks


async def test_a_queue_cannot_take_the_name_of_another(store: Store, queue: QueueRecord) -> None:
    other = replace(queue, id=new_id(), name="other")
    await store.add_queue(other)

    with pytest.raises(Conflict):
        await store.update_queue(other.id, lambda record: replace(record, name=queue.name))
    assert await store.queue(other.id) == other


async def test_a_queue_that_does_not_exist_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.queue(new_id())
    with pytest.raises(NotFound):
        await store.update_queue(new_id(), lambda record: record)
    with pytest.raises(NotFound):
        await store.delete_queue(new_id())
    with pytest.raises(NotFound):
        await store.delete_queue(new_id(), force=take_out)


async def test_an_empty_queue_is_deleted(store: Store, queue: QueueRecord) -> None:
    await store.delete_queue(queue.id)

    assert await store.queues() == []
    with pytest.raises(NotFound):
        await store.queue(queue.id)


async def test_a_queue_that_holds_entries_is_not_deleted(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id)])

    with pytest.raises(Conflict, match="force"):
        await store.delete_queue(queue.id)
    assert await order(store, queue.id) == tasks


async def test_force_takes_every_entry_out_before_the_queue_goes(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id) for _ in range(30)])

    await store.delete_queue(queue.id, force=take_out)

    assert await store.queues() == []
    assert {(await store.task(task)).state for task in tasks} == {TaskState.DRAFT}


async def test_a_queue_whose_tasks_only_run_is_empty(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare())

    await store.delete_queue(queue.id)

    assert (await store.task(task)).state is TaskState.PREPARING


async def test_no_entry_is_left_in_a_queue_deleted_while_it_fills(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [draft() for _ in range(30)])

    entering = [store.update(task, enter(queue.id)) for task in tasks]
    deleting = store.delete_queue(queue.id, force=take_out)
    await asyncio.gather(*entering[:15], deleting, *entering[15:], return_exceptions=True)

    gone = await store.queue_named(queue.name) is None
    assert await order(store, queue.id) == [] or not gone


async def test_counts_tell_waiting_queued_preparing_and_running_apart(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id) for _ in range(7)])
    states = [TaskState.PREPARING, TaskState.RUNNING, TaskState.RUNNING, TaskState.COMPLETED, TaskState.WAITING]
    for task, state in zip(tasks, states, strict=False):
        await store.update(task, become(state))

    counts = await store.counts()

    expected = {TaskState.WAITING: 1, TaskState.QUEUED: 2, TaskState.PREPARING: 1, TaskState.RUNNING: 2}
    assert counts == {queue.id: expected}


async def test_entries_are_counted_by_queue_and_shape(store: Store, queue: QueueRecord) -> None:
    other = replace(queue, id=new_id(), name="other")
    await store.add_queue(other)
    tasks = await fill(store, [queued(queue.id, gpus=gpus) for gpus in (0, 1, 1, 2)])
    await fill(store, [queued(other.id)])
    await store.update(tasks[3], prepare())

    counts = await store.shape_counts([queue.id])

    assert sorted(counts.values()) == [1, 2]
    assert {queue_id for queue_id, _ in counts} == {queue.id}
    assert await store.shape_counts([]) == {}


async def test_a_paused_queue_still_takes_entries(store: Store) -> None:
    paused = queue("paused", paused=True)
    await store.add_queue(paused)

    tasks = await fill(store, [queued(paused.id)])

    assert await order(store, paused.id) == tasks
