"""Leases on a clock that the test moves, and the servers' signs of life."""

from __future__ import annotations

from dataclasses import replace

from taskyard.wire import TaskState
from taskyard_server.store.base import Change, QueueRecord, Store, TaskRecord

from tests.support.records import any_fits, become, draft, fill, new_id, prepare, queued


async def test_tasks_are_due_once_their_time_has_come_earliest_first(store: Store) -> None:
    late, early, never = await fill(store, [draft(), draft(), draft()])
    await store.update(late, _due(20.0))
    await store.update(early, _due(10.0))

    due = [await store.due(now) for now in (9.9, 10.0, 20.0, 1e12)]

    assert due == [[], [early], [early, late], [early, late]]
    assert (await store.task(never)).due_at is None


async def test_due_tasks_are_named_up_to_a_limit(store: Store) -> None:
    tasks = await fill(store, [replace(draft(), due_at=float(index)) for index in range(5)])

    assert await store.due(10.0, limit=3) == tasks[:3]


async def test_a_renewed_lease_is_not_due(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare(due_at=60.0))

    await store.update(task, _due(120.0))

    assert await store.due(100.0) == []
    assert (await store.task(task)).due_at == 120.0


async def test_an_expired_lease_returns_the_task_to_its_queue(store: Store, queue: QueueRecord) -> None:
    first, _ = await fill(store, [queued(queue.id), queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare(due_at=60.0))

    for task in await store.due(61.0):
        await store.update(task, lambda record: replace(record, state=TaskState.QUEUED, due_at=None))

    assert await store.position(first) == 0
    assert await store.due(1e12) == []


async def test_of_two_sweeps_at_once_the_second_finds_nothing_to_do(store: Store) -> None:
    (task,) = await fill(store, [replace(draft(), due_at=1.0, losses=0)])

    def expire(record: TaskRecord) -> TaskRecord:
        return record if record.due_at is None else replace(record, due_at=None, losses=record.losses + 1)

    for _ in range(2):
        await store.update(task, expire)

    assert (await store.task(task)).losses == 1


async def test_the_time_in_which_nothing_was_heard_is_given_back_to_active_runs_alone(store: Store) -> None:
    tasks = await fill(store, [replace(draft(), due_at=10.0) for _ in range(3)])
    for task, state in zip(tasks, (TaskState.PREPARING, TaskState.RUNNING, TaskState.WAITING), strict=True):
        await store.update(task, become(state))

    await store.shift_leases(30.0)

    assert [(await store.task(task)).due_at for task in tasks] == [40.0, 40.0, 10.0]
    assert await store.due(39.0) == [tasks[2]]


async def test_active_tasks_are_those_that_a_worker_holds(store: Store) -> None:
    tasks = await fill(store, [draft() for _ in range(len(TaskState))])
    for task, state in zip(tasks, [s for s in TaskState if s is not TaskState.QUEUED], strict=False):
        await store.update(task, become(state))

    assert {record.state for record in await store.active()} == {TaskState.PREPARING, TaskState.RUNNING}


async def test_a_sign_of_life_tells_the_latest_one_of_any_server(store: Store) -> None:
    one, other = new_id(), new_id()

    signs = [await store.sign_of_life(server, now) for server, now in ((one, 1.0), (other, 2.0), (one, 3.0))]

    assert signs == [None, 1.0, 2.0]


def _due(at: float) -> Change:
    return lambda record: replace(record, due_at=at)
