"""Workers that are kept for a task: when, against whom, until when, and who is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from taskyard.wire import Capacity, Claim, Policy, QueueChanges, Resources, Task, WorkerReport, WorkerState

from tests.support.services import ADA, FakeAgent, Services

FOUR = Capacity(slots=4, gpus=4)
GPU, ALL = Resources(gpus=1), Resources(gpus=4)
BRIEF = Policy(timeout_seconds=30.0, grace_seconds=2.0)


async def take(agent: FakeAgent, free: int = 4, **fields: Any) -> Claim:
    """What a worker with four GPUs is given when so many are free."""
    return await agent.claim(free=Capacity(slots=free, gpus=free), total=FOUR, **fields)


async def report(agent: FakeAgent, state: WorkerState = WorkerState.BUSY, queues: tuple[str, ...] = ()) -> None:
    used = len(agent.held)
    said = WorkerReport(
        name=agent.name,
        state=state,
        queues=queues or agent.queues,
        runs=tuple(agent.held),
        total=FOUR,
        free=Capacity(slots=4 - used, gpus=4 - used),
    )
    await agent.beat(workers=(said,))


async def kept(services: Services, *, policy: Policy | None = None) -> tuple[FakeAgent, Task]:
    """A worker with one of four GPUs in use, which was kept for a task that wants them all."""
    await services.enqueue(resources=GPU, policy=policy or Policy())
    agent = services.agent("w", gpus=4)
    await take(agent)
    large = await services.enqueue(resources=ALL)
    await report(agent)
    for _ in range(7):
        await services.tick(9)
        await report(agent)
    assert (await take(agent, 3)).run is None
    assert await reserved_for(services, large) == "w"
    return agent, large


async def reserved_for(services: Services, task: Task) -> str | None:
    return (await services.stores.store.task(task.id)).reserved_for


async def told(services: Services, task: Task) -> list[str]:
    return [event.kind for event in (await services.tasks.story(task.id, ADA)).events]


async def test_before_the_bound_what_stands_behind_a_large_task_is_given_out(services: Services) -> None:
    await services.enqueue(resources=GPU)
    agent = services.agent("w", gpus=4)
    await take(agent)
    large = await services.enqueue(resources=ALL)
    small = await services.enqueue(resources=GPU)
    services.clock.move(59)

    claim = await take(agent, 3)

    assert claim.run is not None
    assert claim.run.task == small.id
    assert await reserved_for(services, large) is None


async def test_past_the_bound_the_worker_is_kept_and_the_story_tells_of_it(services: Services) -> None:
    agent, large = await kept(services)
    await services.enqueue(resources=GPU)

    claim = await take(agent, 3)

    assert claim.run is None
    story = await services.tasks.story(large.id, ADA)
    assert (story.events[-1].kind, story.events[-1].detail) == (
        "reserved",
        "worker w is kept for it until enough of it is free",
    )


async def test_the_worker_that_is_kept_takes_the_task_once_it_is_free(services: Services) -> None:
    agent, large = await kept(services)
    await services.enqueue("services", resources=Resources(gpus=0))
    agent.held.clear()

    claim = await take(agent, 4, queues=("services", "default"))

    assert claim.run is not None
    assert claim.run.task == large.id
    assert await reserved_for(services, large) is None


async def test_another_worker_takes_the_large_task_at_once(services: Services) -> None:
    _, large = await kept(services)

    claim = await take(services.agent("v", gpus=4))

    assert claim.run is not None
    assert claim.run.task == large.id


async def test_no_second_worker_is_kept_for_a_task(services: Services) -> None:
    _, large = await kept(services)
    await services.enqueue(resources=GPU)
    other = services.agent("v", gpus=4)

    claim = await take(other, 3, runs=("0" * 32 + ".1",))

    assert claim.run is not None
    assert await reserved_for(services, large) == "w"


async def test_before_the_large_task_only_what_ends_before_the_release_is_given_out(services: Services) -> None:
    agent, _ = await kept(services, policy=Policy(timeout_seconds=600.0, grace_seconds=0.0))
    await services.enqueue(resources=GPU)
    await services.enqueue(resources=GPU, policy=Policy(timeout_seconds=601.0))
    brief = await services.enqueue(resources=GPU, policy=BRIEF)

    first, second = await take(agent, 3), await take(agent, 2)

    assert first.run is not None
    assert first.run.task == brief.id
    assert second.run is None


async def test_nothing_is_given_out_where_a_run_without_a_limit_must_end_first(services: Services) -> None:
    agent, _ = await kept(services)
    await services.enqueue(resources=GPU, policy=BRIEF)

    assert (await take(agent, 3)).run is None


async def test_a_worker_is_kept_against_every_queue(services: Services) -> None:
    agent, _ = await kept(services)
    await services.enqueue("services", resources=Resources(gpus=0))

    assert (await take(agent, 3, queues=("services", "default"))).run is None


async def test_a_ring_that_a_kept_worker_cannot_answer_goes_to_another(services: Services) -> None:
    agent, _ = await kept(services)
    held_back = await agent.park(free=Capacity(slots=3, gpus=3), total=FOUR)
    other = await services.agent("v", gpus=1).park()

    small = await services.enqueue(resources=GPU)

    claim = await asyncio.wait_for(other, 5)
    assert claim.run is not None
    assert claim.run.task == small.id
    assert not held_back.done()
    services.claims.close()
    await held_back


async def test_a_worker_that_is_kept_no_longer_looks_again_by_itself(services: Services) -> None:
    agent, large = await kept(services)
    small = await services.enqueue(resources=GPU)
    waiting = await agent.park(free=Capacity(slots=3, gpus=3), total=FOUR)

    await services.tasks.dequeue(large.id, ADA)

    claim = await asyncio.wait_for(waiting, 10)
    assert claim.run is not None
    assert claim.run.task == small.id


async def test_a_task_that_leaves_the_queue_keeps_no_worker(services: Services) -> None:
    _, large = await kept(services)

    await services.tasks.dequeue(large.id, ADA)
    await services.tasks.enqueue(large.id, "default", ADA)

    assert await reserved_for(services, large) is None


@pytest.mark.parametrize("state", [WorkerState.DRAINING, WorkerState.PAUSED, WorkerState.STOPPED])
async def test_a_worker_that_takes_nothing_more_is_not_kept(services: Services, state: WorkerState) -> None:
    agent, large = await kept(services)

    await report(agent, state)
    await services.tick(12)

    assert await reserved_for(services, large) is None
    assert (await told(services, large))[-1] == "released"


async def test_a_worker_that_fell_silent_is_not_kept(services: Services) -> None:
    _, large = await kept(services)

    await services.tick(80)

    assert await reserved_for(services, large) is None
    story = await services.tasks.story(large.id, ADA)
    assert "w is not kept for it any more: its machine fell silent" in [event.detail[7:] for event in story.events]


async def test_a_worker_that_watches_the_queue_no_longer_is_not_kept(services: Services) -> None:
    agent, large = await kept(services)

    await report(agent, queues=("services",))
    await services.tick(12)

    assert await reserved_for(services, large) is None


async def test_a_worker_of_a_paused_queue_is_not_kept(services: Services) -> None:
    _, large = await kept(services)
    queue = await services.queues.find("default")

    await services.queues.change(queue.id, QueueChanges(paused=True), ADA)
    await services.tick(12)

    assert await reserved_for(services, large) is None


async def test_a_worker_is_kept_for_as_long_as_it_takes(services: Services) -> None:
    agent, large = await kept(services)

    for _ in range(6):
        await services.tick(9)
        await report(agent)

    assert await reserved_for(services, large) == "w"
    assert (await told(services, large)).count("reserved") == 1


async def test_it_is_explained_which_worker_is_kept_for_which_task(services: Services) -> None:
    agent, large = await kept(services)
    small = await services.enqueue(resources=GPU)
    await report(agent)

    waits, held_back = [await services.tasks.explain(task.id, ADA) for task in (large, small)]

    assert waits.summary == "worker w is kept for it, and takes it when enough of its runs have ended"
    assert "; kept for this task; needs 4 GPUs, 3 of 4 are free" in waits.workers[0].reason
    assert "; kept for a larger task that has waited too long" in held_back.workers[0].reason


@pytest.mark.parametrize("free", [4, 3])
async def test_a_claim_with_nothing_large_before_it_is_one_operation_of_the_store(
    services: Services, free: int
) -> None:
    await services.enqueue(resources=GPU)
    await services.enqueue(resources=ALL)
    store = services.stores.store
    asked, claim = list[object](), store.claim

    async def counted(*args: Any) -> Any:
        asked.append(args)
        return await claim(*args)

    store.claim = counted  # type: ignore[method-assign]
    taken = await take(services.agent("w", gpus=4), free)

    assert taken.run is not None
    assert len(asked) == 1
