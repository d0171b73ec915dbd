"""Workers on a real store."""

from __future__ import annotations

import pytest
from taskyard.wire import WorkerState
from taskyard_server.errors import Conflict, Invalid, NotFound

from tests.support.services import ADA, COMPLETED, DISK_FULL, FAILED, Services


async def test_a_beat_registers_a_worker(services: Services) -> None:
    agent = services.agent(queues=("default", "services"))

    await agent.beat()

    worker = await services.workers.get(agent.name)
    assert (worker.state, worker.queues, worker.host) == (WorkerState.IDLE, ("default", "services"), "host")
    assert worker.registered_at == worker.last_seen_at == services.clock()


async def test_counters_stay_over_beats_and_a_success_ends_a_row_of_failures(services: Services) -> None:
    agent = services.agent()
    for outcome in (DISK_FULL, DISK_FULL, FAILED, DISK_FULL, COMPLETED):
        await services.enqueue()
        await services.tick(301)
        await agent.beat()
        run = await agent.take_and_start()
        await agent.finish_and_forget(run, outcome)
    await agent.beat()

    worker = await services.workers.get(agent.name)

    assert (worker.completed, worker.failed, worker.infrastructure_failures) == (1, 4, 0)
    assert worker.paused_reason == ""


@pytest.mark.parametrize("name", ["", "a/b", " a", "a\nb", "x" * 201])
async def test_a_worker_s_name_can_be_part_of_an_address(services: Services, name: str) -> None:
    with pytest.raises(Invalid):
        await services.agent(name).beat()


async def test_a_repeated_finish_counts_once(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()

    for _ in range(3):
        await agent.finish(run, COMPLETED)

    assert (await services.workers.get(agent.name)).completed == 1


async def test_a_resumed_worker_takes_tasks_again(services: Services) -> None:
    agent = services.agent()
    for _ in range(3):
        await services.enqueue()
        await agent.finish_and_forget(await agent.take(), DISK_FULL)
    await services.enqueue()

    resumed = await services.workers.resume(agent.name, ADA)

    assert (resumed.state, resumed.paused_reason) == (WorkerState.IDLE, "")
    assert (await agent.claim()).run is not None


async def test_a_living_worker_cannot_be_deleted_and_a_stopped_one_can(services: Services) -> None:
    agent = services.agent()
    await agent.beat()

    with pytest.raises(Conflict, match="stop its agent first"):
        await services.workers.delete(agent.name, ADA)
    await agent.beat(WorkerState.STOPPED)
    await services.workers.delete(agent.name, ADA)

    assert await services.workers.list() == []


async def test_what_is_not_there_is_not_found(services: Services) -> None:
    with pytest.raises(NotFound):
        await services.workers.get("nobody")
    with pytest.raises(NotFound):
        await services.workers.resume("nobody", ADA)
