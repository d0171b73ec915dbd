"""Queues on a real store: named, described, paused, estimated, removed."""

from __future__ import annotations

from typing import Any

import pytest
from taskyard.wire import (
    Capacity,
    GpuRange,
    NewQueue,
    Outcome,
    OutcomeKind,
    Phase,
    Queue,
    QueueChanges,
    Reason,
    Resources,
    TaskState,
    WorkerReport,
    WorkerState,
)
from taskyard_server.errors import Conflict, Invalid, NotFound
from taskyard_server.queues import estimated_wait
from taskyard_server.store.codec import TASKS

from tests.support.services import ADA, FAILED, FakeAgent, Services

ID = "ab" * 16
INTERRUPTED = Outcome(kind=OutcomeKind.LOST, reason=Reason.AGENT_STOPPED, phase=Phase.RUNNING)


async def create(services: Services, name: str, **fields: str) -> Queue:
    return await services.queues.create(NewQueue(name=name, **fields), ADA)


async def named(services: Services, name: str = "default") -> Queue:
    return (await services.queues.list(name))[0]


async def test_two_queues_exist_from_the_start_once(services: Services) -> None:
    await services.queues.ensure_defaults()

    assert [queue.name for queue in await services.queues.list()] == ["default", "services"]


@pytest.mark.parametrize("name", ["GPU große 大", "../../etc", "a/b", "$ne", "x" * 200, "0" * 32])
async def test_a_queue_may_have_any_name(services: Services, name: str) -> None:
    queue = await create(services, name)

    assert (await services.queues.find(name)).id == queue.id
    assert (await services.queues.find(queue.id)).name == name


@pytest.mark.parametrize("name", ["", "  ", "a\tb", "x" * 201, "a\u202eb"])
async def test_a_name_must_show_what_it_is(services: Services, name: str) -> None:
    with pytest.raises(Invalid):
        await create(services, name)


async def test_a_queue_keeps_its_workers_and_their_gpus_under_a_new_name(services: Services) -> None:
    queue = await create(services, "old")
    agent, given = services.agent(queues=(queue.id,)), {queue.id: GpuRange(least=1, most=1)}
    await agent.beat()
    task = await services.enqueue("old", resources=Resources(gpus=None))

    await services.queues.change(queue.id, QueueChanges(name="new"), ADA)

    explained = (await services.tasks.explain(task.id, ADA)).summary
    assert (await services.workers.get(agent.name)).queues == ("new",)
    assert (await services.queues.get(queue.id)).workers == (agent.name,)
    assert "no worker watches" not in explained
    claim = await agent.claim(free=Capacity(gpus=1), total=Capacity(slots=2, gpus=2), queue_gpus=given)
    assert claim.run is not None


async def test_an_agent_may_say_names(services: Services) -> None:
    queue = await create(services, "caf\N{LATIN SMALL LETTER E WITH ACUTE}")
    agent = services.agent(queues=("cafe\N{COMBINING ACUTE ACCENT} ",))
    await agent.beat()
    await services.enqueue(queue.name)

    claim = await agent.claim()

    assert claim.run is not None
    assert (await services.queues.get(queue.id)).workers == (agent.name,)


async def test_a_name_is_taken_once(services: Services) -> None:
    with pytest.raises(Conflict, match="'default' exists"):
        await create(services, " default ")


async def test_a_creation_may_be_repeated_with_its_id(services: Services) -> None:
    first = await create(services, "gpu", id=ID)

    again = await create(services, "gpu", id=ID)

    assert again == first
    with pytest.raises(Conflict, match="belongs to the queue 'gpu'"):
        await create(services, "other", id=ID)


async def test_a_queue_can_be_renamed_and_described(services: Services) -> None:
    queue = await create(services, "old")

    changed = await services.queues.change(queue.id, QueueChanges(name="new", description="for A100"), ADA)

    assert (changed.name, changed.description) == ("new", "for A100")
    with pytest.raises(Conflict):
        await services.queues.change(queue.id, QueueChanges(name="default"), ADA)
    with pytest.raises(NotFound):
        await services.queues.find("old")


async def test_a_paused_queue_gives_nothing(services: Services) -> None:
    await services.enqueue()
    queue = await named(services)

    await services.queues.change(queue.id, QueueChanges(paused=True), ADA)

    assert (await services.agent().claim()).run is None


async def test_an_empty_queue_can_be_deleted_and_a_full_one_only_by_force(services: Services) -> None:
    task = await services.enqueue()
    queue = await named(services)

    with pytest.raises(Conflict, match=r"delete by force \(--force\)"):
        await services.queues.delete(queue.id, False, ADA)
    await services.queues.delete(queue.id, True, ADA)

    now = await services.task(task.id)
    assert (now.state, now.queue_id) == (TaskState.DRAFT, None)
    with pytest.raises(NotFound):
        await services.queues.get(queue.id)


async def test_a_task_that_runs_when_its_queue_is_deleted_is_not_lost(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    await agent.take()
    await services.queues.delete((await named(services)).id, True, ADA)

    await services.tick(302)

    now = await services.task(task.id)
    assert (now.state, now.wake_at) == (TaskState.WAITING, None)
    await services.tasks.enqueue(task.id, "services", ADA)
    assert (await services.agent("other", queues=("services",)).claim()).run is not None


async def test_a_story_tells_that_the_queue_of_a_running_task_was_deleted(services: Services) -> None:
    task = await services.enqueue()
    await services.agent().take()

    await services.queues.delete((await named(services)).id, True, ADA)

    last = (await services.tasks.story(task.id, ADA)).events[-1]
    assert (last.kind, last.by) == ("queue_deleted", "ada")


async def test_a_run_that_ends_in_a_queue_that_vanished_is_reported_all_the_same(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await services.stores.store.delete_queue((await named(services)).id)  # and the server died before the rest

    await agent.finish(run, INTERRUPTED)

    now = await services.task(task.id)
    assert (now.state, now.queue_id) == (TaskState.WAITING, None)


async def test_a_run_that_is_lost_in_a_queue_that_vanished_waits_for_another_queue(services: Services) -> None:
    task = await services.enqueue()
    await services.agent().take_and_start()
    await services.stores.store.delete_queue((await named(services)).id)

    await services.tick(302)

    assert (await services.task(task.id)).state is TaskState.WAITING
    last = (await services.tasks.story(task.id, ADA)).events[-1]
    assert "it has no queue: `taskyard enqueue --queue QUEUE" in last.detail
    assert f"`taskyard agent execute --id {task.id}`" in last.detail


async def test_a_task_that_went_elsewhere_stays_there_when_its_old_queue_is_deleted(services: Services) -> None:
    task, old = await services.enqueue(), await named(services)
    store = services.stores.store
    tasks_of = store.tasks

    async def overtaken(*args: Any, **options: Any) -> Any:
        found = await tasks_of(*args, **options)
        await services.tasks.dequeue(task.id, ADA)
        await services.tasks.enqueue(task.id, "services", ADA)
        store.tasks = tasks_of  # type: ignore[method-assign]
        return found

    store.tasks = overtaken  # type: ignore[method-assign]
    await services.queues.delete(old.id, True, ADA)

    now = await services.task(task.id)
    assert (now.state, now.queue) == (TaskState.QUEUED, "services")


async def test_entries_are_paged_in_the_order_of_claiming(services: Services) -> None:
    for name in "abc":
        await services.enqueue(name=name)
    queue = await named(services)

    page = await services.queues.entries(queue.id, 1, 1)

    assert [(entry.position, entry.name) for entry in page.entries] == [(1, "b")]
    assert page.total == 3


async def test_a_queue_shows_its_load_and_its_workers(services: Services) -> None:
    for _ in range(3):
        await services.enqueue()
    agent = services.agent()
    await agent.take_and_start()
    await agent.beat()

    queue = await named(services)

    assert (queue.waiting, queue.running, queue.workers) == (2, 1, (agent.name,))
    assert queue.estimated_wait_seconds is None


async def test_the_wait_is_estimated_from_recent_runs(services: Services) -> None:
    agent = services.agent()
    for _ in range(3):
        await services.enqueue()
        run = await agent.take_and_start()
        services.clock.move(100)
        await agent.finish_and_forget(run, FAILED)
    for _ in range(3):
        await services.enqueue()
    await agent.take_and_start()
    await agent.beat()
    services.clock.move(40)

    queue = await named(services)

    assert queue.estimated_wait_seconds == pytest.approx(260, rel=0.05)


async def test_free_slots_without_a_free_gpu_shorten_no_wait(services: Services) -> None:
    agent, whole = services.agent(), Capacity(slots=4, gpus=4)
    await services.enqueue(resources=Resources(gpus=2))
    run = await agent.start(await agent.take(free=whole, total=whole))
    services.clock.move(100)
    await agent.finish_and_forget(run, FAILED)
    for _ in range(3):
        await services.enqueue(resources=Resources(gpus=2))
    for _ in range(2):
        await agent.start(await agent.take(free=whole, total=whole))

    full = report(agent, runs=tuple(agent.held), total=whole, free=Capacity(slots=2))
    await agent.beat(workers=(full,))

    queue = await named(services)
    assert queue.waiting == 1
    assert queue.estimated_wait_seconds == pytest.approx(100, rel=0.05)


async def test_what_waits_beside_a_free_worker_waits_for_another(services: Services) -> None:
    agent = services.agent()
    await services.enqueue(resources=Resources(gpus=2))

    await agent.beat(workers=(report(agent, total=Capacity(slots=3), free=Capacity(slots=3)),))

    assert (await named(services)).estimated_wait_seconds is None


def report(agent: FakeAgent, **fields: Any) -> WorkerReport:
    return WorkerReport(name=agent.name, state=WorkerState.BUSY, queues=agent.queues, **fields)


@pytest.mark.parametrize(
    ("waiting", "idle", "busy", "usual", "expected"),
    [
        (0, 1, [], [], 0.0),
        (5, 0, [], [10.0], None),
        (1, 1, [], [], None),
        (2, 2, [], [10.0], 10.0),
        (3, 2, [], [10.0], 10.0),
        (0, 0, [4.0], [10.0], 6.0),
        (1, 0, [4.0, 8.0], [10.0], 6.0),
        (2, 0, [4.0, 8.0], [10.0], 12.0),
        (0, 0, [40.0], [10.0], 0.0),
        (1_000_000, 10, [], [10.0], 1_000_000.0),
    ],
)
def test_an_estimate_gives_each_waiting_task_to_the_next_free_worker(
    waiting: int, idle: int, busy: list[float], usual: list[float], expected: float | None
) -> None:
    estimate = estimated_wait(waiting=waiting, idle_workers=idle, busy_seconds=busy, run_seconds=usual)

    assert estimate == (None if expected is None else pytest.approx(expected))


async def test_queues_are_described_without_decoding_tasks(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = services.agent()
    for _ in range(2):
        await services.enqueue()
    await agent.finish_and_forget(await agent.take_and_start())
    await agent.take_and_start()
    await agent.beat()

    def refused(body: bytes, **apart: object) -> None:
        raise AssertionError("a task was decoded")

    before = await services.queues.list("default")
    monkeypatch.setattr(TASKS, "decode", refused)

    assert await services.queues.list("default") == before
    assert before[0].running == 1
    assert before[0].estimated_wait_seconds is not None
