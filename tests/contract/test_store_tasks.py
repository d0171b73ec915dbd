"""Task records: added, changed, found, listed, deleted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from taskyard.wire import Event, TaskState
from taskyard_server.errors import Conflict, Invalid, NotFound, Stale
from taskyard_server.store.base import Change, QueueRecord, Store, TaskFilter, TaskRecord

from tests.support.records import (
    any_fits,
    become,
    draft,
    enter,
    fill,
    new_id,
    order,
    prepare,
    put_back,
    queued,
    take_out,
    worker,
)

STRANGE = [
    "größe ☃ 🚀",
    "../../etc/passwd",
    "'; DROP TABLE tasks; --",
    "$where",
    "a.b",
    "%",
    "_",
    "\x00",
    "x\ny",
    " ",
]


async def test_a_record_is_read_as_it_was_added(store: Store) -> None:
    record = replace(
        draft(name="train", tags=("a", "b"), parameters={"Args": {"lr": "0.1"}}),
        due_at=7.25,
        events=(Event(at=1.5, kind="created", by="ada"),),
        secret_values={"KEY": "value"},
    )

    await store.add_tasks([record])

    assert await store.task(record.id) == record


async def test_a_task_that_does_not_exist_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="there is no task"):
        await store.task(new_id())
    with pytest.raises(NotFound):
        await store.update(new_id(), put_back)
    with pytest.raises(NotFound):
        await store.delete_task(new_id(), lambda record: None)


@pytest.mark.parametrize("text", STRANGE)
async def test_any_name_tag_or_project_is_kept_and_found(store: Store, text: str) -> None:
    (task,) = await fill(store, [draft(name=text, project=text, tags=(text,), env={"k": text})])
    await fill(store, [draft(name="other", project="other", tags=("other",))])

    found = await store.tasks(TaskFilter(name=text, project=text, tag=text, name_contains=text))

    assert [record.id for record in found] == [task]
    assert found[0].spec.env == {"k": text}


async def test_text_that_is_not_unicode_is_refused_wherever_it_comes(store: Store) -> None:
    half = "\ud800"

    for verb in (
        store.add_tasks([draft(name=half)]),
        store.task(half),
        store.tasks(TaskFilter(name=half)),
        store.claim([half], any_fits, prepare()),
        store.queue_named(half),
        store.save_worker(half, lambda record: worker(half)),
    ):
        with pytest.raises(Invalid):
            await verb
    assert await store.tasks(TaskFilter()) == []


async def test_adding_an_id_twice_is_a_conflict_that_names_it_and_adds_nothing(store: Store) -> None:
    existing, new = draft(name="existing"), draft(name="new")
    await store.add_tasks([existing])

    with pytest.raises(Conflict, match=existing.id):
        await store.add_tasks([new, replace(existing, owner="somebody else")])

    assert await store.task(existing.id) == existing
    with pytest.raises(NotFound):
        await store.task(new.id)


async def test_tasks_added_together_are_queued_in_the_order_given(store: Store, queue: QueueRecord) -> None:
    first = await fill(store, [queued(queue.id) for _ in range(20)])
    second = await fill(store, [queued(queue.id) for _ in range(20)])

    assert await order(store, queue.id) == first + second


async def test_a_change_is_kept_and_returned(store: Store) -> None:
    (task,) = await fill(store, [draft(name="before", tags=("old",))])

    def rename(record: TaskRecord) -> TaskRecord:
        return replace(record, spec=replace(record.spec, name="after", tags=("new",)), updated_at=2.0)

    changed = await store.update(task, rename)

    assert changed == await store.task(task)
    assert changed.spec.name == "after"
    assert [record.id for record in await store.tasks(TaskFilter(name="after", tag="new"))] == [task]
    assert await store.tasks(TaskFilter(tag="old")) == []


async def test_a_change_to_nothing_returns_the_record_as_it_is(store: Store) -> None:
    record = draft()
    await store.add_tasks([record])

    assert await store.update(record.id, lambda same: same) == record


async def test_what_a_change_raises_is_raised_and_nothing_is_written(store: Store) -> None:
    record = draft()
    await store.add_tasks([record])

    def refuse(record: TaskRecord) -> TaskRecord:
        raise Conflict("a reason of its own")

    with pytest.raises(Conflict, match="a reason of its own"):
        await store.update(record.id, refuse)
    assert await store.task(record.id) == record


async def test_no_change_is_lost_among_concurrent_ones(store: Store) -> None:
    (task,) = await fill(store, [draft()])

    def count(record: TaskRecord) -> TaskRecord:
        return replace(record, losses=record.losses + 1)

    await asyncio.gather(*(store.update(task, count) for _ in range(40)))

    assert (await store.task(task)).losses == 40


async def test_a_write_with_the_token_of_an_earlier_run_changes_nothing(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare(request_id="first"))
    await store.update(task, put_back)
    await store.claim([queue.id], any_fits, prepare(request_id="second"))

    with pytest.raises(Stale):
        await store.update(task, _finish("first"))
    assert (await store.task(task)).state is TaskState.PREPARING


async def test_a_finish_and_a_new_claim_at_once_never_both_win(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id) for _ in range(20)])
    for task in tasks:
        await store.claim([queue.id], any_fits, prepare(request_id=task))

    ways = [store.update(task, end(task)) for task in tasks for end in (_finish, _lose)]
    ended = await asyncio.gather(*ways, return_exceptions=True)

    assert sum(isinstance(end, Stale) for end in ended) == len(tasks)


async def test_changes_to_several_tasks_happen_to_all_or_none(store: Store, queue: QueueRecord) -> None:
    first, second = await fill(store, [draft(), draft()])

    with pytest.raises(NotFound):
        await store.update_all([first, second, new_id()], enter(queue.id))

    assert await order(store, queue.id) == []
    assert (await store.task(first)).state is TaskState.DRAFT


async def test_tasks_enqueued_together_stand_in_the_order_given(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [draft() for _ in range(10)])
    wanted = [*tasks[5:], *tasks[:5]]

    changed = await store.update_all(wanted, enter(queue.id))

    assert [record.id for record in changed] == wanted
    assert await order(store, queue.id) == wanted


async def test_a_task_enters_no_queue_that_is_gone(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [draft()])
    await store.delete_queue(queue.id)

    with pytest.raises(NotFound, match="gone"):
        await store.update(task, enter(queue.id))
    with pytest.raises(NotFound, match="gone"):
        await store.add_tasks([queued(queue.id)])
    assert (await store.task(task)).state is TaskState.DRAFT


async def test_a_deleted_task_is_gone_from_everywhere(store: Store, queue: QueueRecord) -> None:
    record = queued(queue.id, tags=("tag",))
    await store.add_tasks([record])

    await store.delete_task(record.id, lambda record: None)

    with pytest.raises(NotFound):
        await store.task(record.id)
    assert await store.tasks(TaskFilter(tag="tag")) == []
    assert await order(store, queue.id) == []


async def test_a_task_that_may_not_be_deleted_stays(store: Store) -> None:
    record = draft()
    await store.add_tasks([record])

    def refuse(record: TaskRecord) -> None:
        raise Conflict(f"{record.id} runs")

    with pytest.raises(Conflict, match=f"{record.id} runs"):
        await store.delete_task(record.id, refuse)
    assert await store.task(record.id) == record


async def test_tasks_are_listed_newest_first_page_by_page(store: Store) -> None:
    tasks = [draft(created_at=float(index // 3)) for index in range(20)]
    await store.add_tasks(tasks)
    wanted = sorted(tasks, key=lambda record: (record.created_at, record.id), reverse=True)

    pages: list[TaskRecord] = []
    while page := await store.tasks(TaskFilter(), before=pages[-1].id if pages else None, limit=7):
        pages += page

    assert pages == wanted


async def test_a_page_behind_a_task_that_is_gone_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="start again from the first page"):
        await store.tasks(TaskFilter(), before=new_id())


async def test_every_filter_holds_back_what_does_not_match(store: Store, queue: QueueRecord) -> None:
    wanted = queued(queue.id, task="ab" * 16, created_at=5.0, owner="ada", name="train", project="p", tags=("t",))
    await store.add_tasks([wanted, draft(task="cd" * 16, name="other")])
    filters = [
        TaskFilter(states=(TaskState.QUEUED,)),
        TaskFilter(states=(TaskState.QUEUED, TaskState.RUNNING)),
        TaskFilter(queue=queue.id),
        TaskFilter(project="p"),
        TaskFilter(tag="t"),
        TaskFilter(name="train"),
        TaskFilter(name_contains="rai"),
        TaskFilter(id_prefix="aba"),
        TaskFilter(owner="ada"),
        TaskFilter(updated_since=5.0),
        TaskFilter(states=(TaskState.QUEUED,), queue=queue.id, project="p", tag="t", owner="ada"),
    ]

    found = [[record.id for record in await store.tasks(each)] for each in filters]

    assert found == [[wanted.id]] * len(filters)


async def test_a_filter_for_no_state_finds_nothing(store: Store) -> None:
    await fill(store, [draft()])

    assert await store.tasks(TaskFilter(states=())) == []


async def test_states_are_listed_together_newest_first(store: Store) -> None:
    tasks = await fill(store, [draft(created_at=float(index)) for index in range(6)])
    for task in tasks[::2]:
        await store.update(task, become(TaskState.COMPLETED))

    found = await store.tasks(TaskFilter(states=(TaskState.COMPLETED, TaskState.DRAFT)), limit=5)

    assert [record.id for record in found] == tasks[:0:-1]


async def test_a_task_taken_out_of_its_queue_has_no_place(store: Store, queue: QueueRecord) -> None:
    first, second = await fill(store, [queued(queue.id), queued(queue.id)])

    await store.update(first, take_out)

    assert await order(store, queue.id) == [second]
    assert await store.position(first) is None


def _finish(request_id: str) -> Change:
    """Ends the run of this request, as a report with its token does."""

    def change(record: TaskRecord) -> TaskRecord:
        if record.state is not TaskState.PREPARING or record.runs[-1].request_id != request_id:
            raise Stale("not yours any more")
        return replace(record, state=TaskState.COMPLETED)

    return change


def _lose(request_id: str) -> Change:
    def change(record: TaskRecord) -> TaskRecord:
        return replace(_finish(request_id)(record), state=TaskState.QUEUED)

    return change


async def test_page_of_large_tasks_ends_early(store: Store) -> None:
    records = [draft(created_at=float(number), description="x" * 5000) for number in range(5)]
    await store.add_tasks(records)

    first = await store.page(TaskFilter(), limit=10, most_bytes=15_000)
    rest = await store.page(TaskFilter(), before=first.records[-1].id, limit=10)
    least = await store.page(TaskFilter(), limit=10, most_bytes=1)
    whole = await store.page(TaskFilter(), limit=5)

    assert 1 < len(first.records) < 5
    assert (first.more, rest.more, least.more, whole.more) == (True, False, True, False)
    assert [record.id for record in (*first.records, *rest.records)] == [record.id for record in reversed(records)]
    assert len(least.records) == 1


async def test_page_that_is_full_says_whether_others_follow(store: Store) -> None:
    await store.add_tasks([draft(created_at=float(number)) for number in range(3)])
    drafts = TaskFilter(states=(TaskState.DRAFT,))

    assert (await store.page(drafts, limit=2)).more
    assert not (await store.page(drafts, limit=3)).more


async def test_update_of_many_sees_what_it_changed_itself(store: Store, queue: QueueRecord) -> None:
    """What was read before the transaction is read again where it was written since."""
    one, other = draft(), draft()
    await store.add_tasks([one, other])

    def renamed(record: TaskRecord) -> TaskRecord:
        return replace(record, updated_at=record.updated_at + 1, state=TaskState.QUEUED, queue=queue.id)

    stored = await store.update_all([one.id, other.id, one.id], renamed)

    assert [record.updated_at for record in stored] == [2.0, 2.0, 3.0]
    assert [record.id for record in await store.entries(queue.id)] == [one.id, other.id]


async def test_times_of_the_latest_runs_are_read(store: Store, queue: QueueRecord) -> None:
    await store.add_tasks([draft(), queued(queue.id)])
    claimed = await store.claim([queue.id], any_fits, prepare())
    assert claimed is not None

    active = await store.latest_runs(TaskFilter(states=(TaskState.PREPARING,)), limit=10)
    drafts = await store.latest_runs(TaskFilter(states=(TaskState.DRAFT,)), limit=10)

    run = claimed.runs[-1].run
    assert [(found.id, found.claimed_at, found.ended_at) for found in active] == [(run.id, run.claimed_at, None)]
    assert drafts == []
