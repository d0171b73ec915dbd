"""Claiming: each entry once, in order, at a cost that does not grow."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from taskyard.wire import TaskState
from taskyard_server import lifecycle, matching
from taskyard_server.errors import Conflict
from taskyard_server.store.base import Change, Front, QueueRecord, Store, TaskRecord

from tests.support.records import any_fits, at_most, fill, prepare, put_back, queue, queued


async def test_a_claim_takes_the_first_entry_and_returns_it_changed(store: Store, queue: QueueRecord) -> None:
    first, _ = await fill(store, [queued(queue.id), queued(queue.id)])

    claimed = await store.claim([queue.id], any_fits, prepare(request_id="request"))

    assert claimed == await store.task(first)
    assert claimed.state is TaskState.PREPARING
    assert claimed.runs[0].request_id == "request"


async def test_nothing_is_claimed_where_nothing_is_queued(store: Store, queue: QueueRecord) -> None:
    assert await store.claim([queue.id, "no queue"], any_fits, prepare()) is None


async def test_concurrent_claims_hand_out_each_entry_exactly_once(store: Store, queue: QueueRecord) -> None:
    tasks = await fill(store, [queued(queue.id, gpus=index % 3) for index in range(200)])

    claims = await asyncio.gather(*(store.claim([queue.id], any_fits, prepare()) for _ in range(230)))

    taken = [claim.id for claim in claims if claim is not None]
    assert sorted(taken) == sorted(tasks)


async def test_claims_on_two_queues_at_once_hand_out_each_entry_exactly_once(store: Store) -> None:
    one, other = queue("one"), queue("other")
    for record in (one, other):
        await store.add_queue(record)
    tasks = await fill(store, [queued(where.id) for _ in range(40) for where in (one, other)])
    ways = [[one.id, other.id], [other.id, one.id]]

    claims = await asyncio.gather(*(store.claim(ways[index % 2], any_fits, prepare()) for index in range(100)))

    assert sorted(claim.id for claim in claims if claim is not None) == sorted(tasks)


async def test_entries_of_different_shapes_are_claimed_in_the_order_of_the_queue(
    store: Store, queue: QueueRecord
) -> None:
    tasks = await fill(store, [queued(queue.id, gpus=gpus) for gpus in (2, 0, 1, 0, 2, 1)])

    taken = [await store.claim([queue.id], any_fits, prepare()) for _ in tasks]

    assert [claim.id for claim in taken if claim is not None] == tasks


async def test_an_entry_that_does_not_fit_is_passed_over_and_keeps_its_place(
    store: Store, queue: QueueRecord
) -> None:
    large, small = await fill(store, [queued(queue.id, gpus=8), queued(queue.id, gpus=1)])

    first = await store.claim([queue.id], at_most(1), prepare())
    second = await store.claim([queue.id], at_most(8), prepare())

    assert first is not None
    assert second is not None
    assert [first.id, second.id] == [small, large]


async def test_queues_are_tried_in_the_order_given(store: Store) -> None:
    low, high = queue("low"), queue("high")
    for record in (low, high):
        await store.add_queue(record)
    in_low, in_high = await fill(store, [queued(low.id), queued(high.id)])

    claims = [await store.claim([high.id, low.id], any_fits, prepare()) for _ in range(2)]

    assert [claim.id for claim in claims if claim is not None] == [in_high, in_low]


async def test_a_later_queue_is_served_when_nothing_in_an_earlier_one_fits(store: Store) -> None:
    large, small = queue("large"), queue("small")
    for record in (large, small):
        await store.add_queue(record)
    _, fitting = await fill(store, [queued(large.id, gpus=8), queued(small.id)])

    claim = await store.claim([large.id, small.id], at_most(0), prepare())

    assert claim is not None
    assert claim.id == fitting


async def test_a_paused_queue_is_passed_over_until_it_is_resumed(store: Store) -> None:
    paused = queue("paused", paused=True)
    await store.add_queue(paused)
    (task,) = await fill(store, [queued(paused.id)])

    before = await store.claim([paused.id], any_fits, prepare())
    await store.update_queue(paused.id, lambda record: replace(record, paused=False))
    after = await store.claim([paused.id], any_fits, prepare())

    assert before is None
    assert after is not None
    assert after.id == task


async def test_a_claim_sees_what_a_shape_requires_and_avoids(store: Store, queue: QueueRecord) -> None:
    await fill(store, [queued(queue.id, gpus=2, avoid=("host:gpu0",))])
    seen: list[Front] = []

    await store.claim([queue.id], lambda fronts: seen.extend(fronts) or (), prepare())

    assert [(front.candidate.resources.gpus, front.candidate.avoid) for front in seen] == [(2, ("host:gpu0",))]


async def test_the_fronts_are_the_first_entry_of_each_shape_by_queue_and_rank(store: Store) -> None:
    one, other, paused = queue("one"), queue("other"), queue("paused", paused=True)
    for record in (one, other, paused):
        await store.add_queue(record)
    await fill(store, [queued(one.id, gpus=gpus) for gpus in (2, 0, 2, 1, 0)])
    await fill(store, [queued(other.id, gpus=3), queued(paused.id)])

    fronts = await store.fronts([other.id, paused.id, one.id])

    assert [(front.queue, front.candidate.resources.gpus) for front in fronts] == [
        (other.id, 3),
        *((one.id, gpus) for gpus in (2, 0, 1)),
    ]
    assert fronts[1].rank < fronts[2].rank < fronts[3].rank


async def test_a_claim_takes_the_first_of_the_chosen_and_sees_all_queues_before(store: Store) -> None:
    one, other = queue("one"), queue("other")
    for record in (one, other):
        await store.add_queue(record)
    _, chosen = await fill(store, [queued(one.id, gpus=1), queued(other.id, gpus=2)])

    claim = await store.claim(
        [one.id, other.id], lambda fronts: [front for front in fronts if front.queue == other.id], prepare()
    )

    assert claim is not None
    assert claim.id == chosen


async def test_a_claim_that_changes_nothing_leaves_the_entry_in_its_place(
    store: Store, queue: QueueRecord
) -> None:
    (task,) = await fill(store, [queued(queue.id)])
    before = await store.task(task)

    assert await store.claim([queue.id], any_fits, lambda record: record) == before
    assert await store.task(task) == before


async def test_a_worker_is_kept_for_an_entry_in_one_step_and_every_claim_sees_it(
    store: Store, queue: QueueRecord
) -> None:
    large, _ = await fill(store, [ready(queue.id, gpus=4), ready(queue.id, gpus=1)])
    keep = partial(lifecycle.reserve, worker="w", after_seconds=60.0, now=100.0)

    kept = await store.claim([queue.id], any_fits, keep)
    fronts = await store.fronts([queue.id])

    assert kept is not None
    assert (kept.id, kept.state, kept.reserved_for) == (large, TaskState.QUEUED, "w")
    assert [front.candidate.reserved_for for front in fronts] == ["w", None]
    assert await store.position(large) == 0


async def test_of_many_workers_at_once_one_is_kept_for_an_entry(store: Store, queue: QueueRecord) -> None:
    (large,) = await fill(store, [ready(queue.id, gpus=4)])

    def keep(worker: str) -> Change:
        return partial(lifecycle.reserve, worker=worker, after_seconds=60.0, now=100.0)

    await asyncio.gather(*(store.claim([queue.id], any_fits, keep(f"w{number}")) for number in range(8)))

    record = await store.task(large)
    assert [event.kind for event in record.events] == ["reserved"]
    assert record.reserved_for in record.events[0].detail


def ready(queue_id: str, *, gpus: int) -> TaskRecord:
    """A task as the services would queue it."""
    return matching.shaped(queued(queue_id, gpus=gpus))


async def test_an_entry_that_comes_back_is_claimed_again_before_those_behind_it(
    store: Store, queue: QueueRecord
) -> None:
    first, second = await fill(store, [queued(queue.id), queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare())
    await store.update(first, put_back)

    claims = [await store.claim([queue.id], any_fits, prepare()) for _ in range(2)]

    assert [claim.id for claim in claims if claim is not None] == [first, second]


async def test_a_new_entry_stands_behind_one_that_was_claimed_and_may_come_back(
    store: Store, queue: QueueRecord
) -> None:
    (first,) = await fill(store, [queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare())
    (second,) = await fill(store, [queued(queue.id)])

    await store.update(first, put_back)

    assert [record.id for record in await store.entries(queue.id)] == [first, second]


async def test_what_a_claim_raises_leaves_the_entry_in_its_place(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [queued(queue.id)])

    def refuse(record: TaskRecord) -> TaskRecord:
        raise Conflict("not now")

    with pytest.raises(Conflict, match="not now"):
        await store.claim([queue.id], any_fits, refuse)
    assert (await store.task(task)).state is TaskState.QUEUED


async def test_a_run_is_found_by_the_request_that_claimed_it(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [queued(queue.id)])
    for request in ("first", "second"):
        await store.claim([queue.id], any_fits, prepare(request_id=request))
        await store.update(task, put_back)

    found = [await store.run_of_request(request) for request in ("first", "second", "third")]

    assert [record and record.id for record in found] == [task, task, None]


async def test_one_request_takes_one_entry_however_often_it_is_sent(store: Store, queue: QueueRecord) -> None:
    await fill(store, [queued(queue.id) for _ in range(4)])
    claims = [store.claim([queue.id], any_fits, prepare(request_id="one")) for _ in range(3)]

    answers = await asyncio.gather(*claims, store.claim([queue.id], any_fits, prepare()), return_exceptions=True)

    assert sorted(type(answer).__name__ for answer in answers[:3]) == ["Conflict", "Conflict", "TaskRecord"]
    assert not isinstance(answers[3], BaseException)
    assert len(await store.entries(queue.id)) == 2


async def test_a_request_takes_no_entry_again_that_came_back_meanwhile(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare(request_id="one"))
    await store.update(task, put_back)

    with pytest.raises(Conflict):
        await store.claim([queue.id], any_fits, prepare(request_id="one"))
    assert len((await store.task(task)).runs) == 1


async def test_a_request_that_took_an_entry_takes_no_task_by_name(store: Store, queue: QueueRecord) -> None:
    first, second = await fill(store, [queued(queue.id), queued(queue.id)])
    await store.claim([queue.id], any_fits, prepare(request_id="one"))

    with pytest.raises(Conflict):
        await store.update(second, prepare(request_id="one"))
    assert (await store.run_of_request("one") or await store.task(second)).id == first


async def test_only_the_latest_run_is_found_by_its_report_token(store: Store, queue: QueueRecord) -> None:
    (task,) = await fill(store, [queued(queue.id)])
    for report in ("old", "new"):
        await store.claim([queue.id], any_fits, prepare(report_hash=report))
        await store.update(task, put_back)

    found = [await store.task_of_report_token(report) for report in ("old", "new", "none")]

    assert [record and record.id for record in found] == [None, task, None]
