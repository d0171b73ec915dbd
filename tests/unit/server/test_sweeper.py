"""What happens by itself, on clocks that the test moves."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from taskyard.wire import Code, NewTask, Phase, TaskState, WorkerState
from taskyard_server.errors import NotFound, Unavailable
from taskyard_server.store.base import Answer, TaskFilter
from taskyard_server.sweeper import HOUSEKEEPING_TASKS, MAX_HOLD_SECONDS

from tests.support.services import ADA, Clock, FakeAgent, Services, open_services, spec

DAY = 86_400.0


async def running(services: Services, name: str) -> tuple[str, FakeAgent]:
    task = await services.enqueue(name=name)
    agent = services.agent(name, host=name)
    await agent.take_and_start()
    return task.id, agent


async def state(services: Services, task_id: str) -> tuple[TaskState, bool]:
    task = await services.task(task_id)
    assert task.run is not None
    return task.state, task.run.unresponsive


async def test_leases_do_not_age_while_the_server_is_down(tmp_path: Path) -> None:
    clock = Clock()
    async with open_services(tmp_path, clock) as services:
        task, _ = await running(services, "a")
        await services.tick(50)

    clock.move(3600)
    async with open_services(tmp_path, clock) as services:
        await services.tick(5)
        after_restart = await state(services, task)
        await services.tick(10)

        assert after_restart == (TaskState.RUNNING, False)
        assert await state(services, task) == (TaskState.RUNNING, True)


async def test_leases_do_not_age_while_the_store_is_away(services: Services) -> None:
    task, _ = await running(services, "a")
    await services.tick(50)
    sign_of_life = services.stores.store.sign_of_life

    async def away(*args: object) -> float | None:
        raise Unavailable("the store is away")

    services.stores.store.sign_of_life = away  # type: ignore[method-assign]
    for _ in range(10):
        services.clock.move(60)
        with pytest.raises(Unavailable):
            await services.tick()
    services.stores.store.sign_of_life = sign_of_life  # type: ignore[method-assign]

    await services.tick(5)

    assert await state(services, task) == (TaskState.RUNNING, False)


async def test_leases_do_not_age_over_a_late_tick(services: Services) -> None:
    task, _ = await running(services, "a")
    await services.tick(50)

    services.clock.move(400)
    await services.tick()

    assert await state(services, task) == (TaskState.RUNNING, False)


@pytest.mark.parametrize("seconds", [7200.0, -7200.0])
async def test_a_clock_that_is_set_neither_ends_nor_prolongs_a_lease(services: Services, seconds: float) -> None:
    task, _ = await running(services, "a")
    await services.tick(30)

    services.clock.set_ahead(seconds)
    await services.tick(20)
    before = await state(services, task)
    await services.tick(20)

    assert before == (TaskState.RUNNING, False)
    assert await state(services, task) == (TaskState.RUNNING, True)


async def test_of_two_servers_one_that_lives_keeps_the_leases_aging(services: Services) -> None:
    await running(services, "a")
    await services.tick()

    for _ in range(20):
        services.clock.move(4)
        await services.stores.store.sign_of_life("the other server", services.clock())
    await services.tick()

    active = await services.stores.store.active()
    assert active[0].runs[-1].run.unresponsive


async def test_leases_hold_still_while_most_agents_are_silent_together(services: Services) -> None:
    tasks = [await running(services, name) for name in ("a", "b", "c", "d")]
    _, survivor = tasks[3]

    for _ in range(70):
        await services.tick(10)
        await survivor.beat(phase=Phase.RUNNING)

    assert [await state(services, task) for task, _ in tasks] == [(TaskState.RUNNING, False)] * 4
    assert (await services.workers.get("a")).state is WorkerState.BUSY


async def test_leases_run_again_when_the_agents_are_back(services: Services) -> None:
    tasks = [await running(services, name) for name in ("a", "b", "c", "d")]
    await services.tick(120)

    for _ in range(35):
        for _, agent in tasks[1:]:
            await agent.beat(phase=Phase.RUNNING)
        await services.tick(10)

    assert (await services.task(tasks[0][0])).state is TaskState.QUEUED
    assert [await state(services, task) for task, _ in tasks[1:]] == [(TaskState.RUNNING, False)] * 3


async def test_a_few_silent_agents_are_lost_as_usual(services: Services) -> None:
    tasks = [await running(services, name) for name in ("a", "b", "c", "d")]

    for _ in range(35):
        for _, agent in tasks[2:]:
            await agent.beat(phase=Phase.RUNNING)
        await services.tick(10)

    assert [(await services.task(task)).state for task, _ in tasks[:2]] == [TaskState.QUEUED] * 2


async def test_two_agents_are_too_few_to_hold_the_breath_for(services: Services) -> None:
    tasks = [await running(services, name) for name in ("a", "b")]

    await services.tick(305)

    assert [(await services.task(task)).state for task, _ in tasks] == [TaskState.QUEUED] * 2


async def test_the_held_breath_ends_after_half_an_hour(services: Services) -> None:
    tasks = [await running(services, name) for name in ("a", "b", "c")]

    await services.tick(MAX_HOLD_SECONDS + 20)
    held = [await state(services, task) for task, _ in tasks]
    await services.tick(300)

    assert held == [(TaskState.RUNNING, False)] * 3
    assert [(await services.task(task)).state for task, _ in tasks] == [TaskState.QUEUED] * 3


async def test_waiting_tasks_are_queued_during_the_held_breath_too(services: Services) -> None:
    for name in ("a", "b", "c"):
        await running(services, name)
    waiting = await services.enqueue()
    due = services.clock() + 100
    await services.stores.store.update(
        waiting.id, lambda record: replace(record, state=TaskState.WAITING, due_at=due, rank=None)
    )

    await services.tick(104)

    assert (await services.task(waiting.id)).state is TaskState.QUEUED


async def test_a_silent_worker_is_lost_and_comes_back_with_a_beat(services: Services) -> None:
    agent = services.agent()
    await agent.beat()

    await services.tick(61)
    silent = await services.workers.get(agent.name)
    await agent.beat()

    assert silent.state is WorkerState.LOST
    assert (await services.workers.get(agent.name)).state is WorkerState.IDLE


async def test_workers_are_not_lost_by_the_server_s_own_absence(tmp_path: Path) -> None:
    clock = Clock()
    async with open_services(tmp_path, clock) as services:
        await services.agent().beat()
        await services.tick()

    clock.move(3600)
    async with open_services(tmp_path, clock) as services:
        await services.tick(20)

        assert (await services.workers.list())[0].state is WorkerState.IDLE


async def test_ended_tasks_are_forgotten_with_their_logs_when_their_time_is_over(tmp_path: Path) -> None:
    async with open_services(tmp_path, task_retention_days=10, log_retention_days=5) as services:
        task = await services.enqueue()
        agent = services.agent()
        run = await agent.take_and_start()
        await agent.log(run, 0, b"x")
        await agent.finish(run, log_bytes=1)

        services.clock.move(6 * DAY)
        await services.tick()
        without_log = await services.stores.logs.length(run.id), (await services.task(task.id)).state
        services.clock.move(5 * DAY)
        await services.tick()

        assert without_log == (0, TaskState.COMPLETED)
        with pytest.raises(NotFound):
            await services.tasks.get(task.id, ADA)


async def test_tasks_that_wait_or_run_are_never_forgotten(tmp_path: Path) -> None:
    async with open_services(tmp_path, task_retention_days=1, log_retention_days=1) as services:
        await services.enqueue()
        await services.enqueue()
        await services.agent().take_and_start()

        services.clock.move(100 * DAY)
        await services.tick()

        assert len(await services.stores.store.tasks(TaskFilter())) == 2


async def put_code(services: Services, content: bytes) -> str:
    async def whole() -> AsyncIterator[bytes]:
        yield content

    digest = hashlib.sha256(content).hexdigest()
    await services.stores.blobs.put(digest, whole(), limit=len(content))
    return digest


async def test_code_that_no_task_uses_is_forgotten_after_a_while(tmp_path: Path) -> None:
    async with open_services(tmp_path, Clock(wall=time.time()), blob_retention_days=2) as services:
        digests = [await put_code(services, content) for content in (b"used", b"deleted", b"unused")]
        used, of_deleted, _ = digests
        await services.enqueue(code=Code(archive=used))
        await services.tasks.create_many([NewTask(spec=spec())] * HOUSEKEEPING_TASKS, ADA)
        await services.tasks.delete((await services.enqueue(code=Code(archive=of_deleted))).id, ADA)

        services.clock.move(DAY)
        await services.tick(70)
        early = len(list((tmp_path / "blobs").glob("??/*")))
        services.clock.move(1.5 * DAY)
        await services.tick(70)

        assert early == 3
        assert [await services.stores.blobs.size(digest) is not None for digest in digests] == [True, False, False]


async def test_remembered_answers_are_dropped_after_a_day(services: Services) -> None:
    answer = Answer(key="k", request_hash="h", status=200, body=b"", at=services.clock())
    await services.stores.store.remember(answer)

    await services.tick()
    kept = await services.stores.store.answer("k")
    services.clock.move(DAY + 61)
    await services.tick()

    assert kept == answer
    assert await services.stores.store.answer("k") is None


async def test_workers_that_are_gone_for_a_week_are_forgotten(services: Services) -> None:
    await services.agent("gone").beat(WorkerState.STOPPED)
    await services.agent("here").beat()

    services.clock.move(8 * DAY)
    await services.agent("here").beat()
    await services.tick()

    assert [worker.name for worker in await services.workers.list()] == ["here"]


async def test_housekeeping_that_takes_long_delays_no_lease(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = asyncio.Event()

    async def slow(before: float) -> None:
        await forgotten.wait()

    monkeypatch.setattr(services.stores.samples, "forget", slow)
    task = await services.enqueue()
    await services.agent().claim()
    for _ in range(10):
        services.clock.move(4.0)
        await asyncio.wait_for(services.sweeper.tick(services.clock()), 30)

    assert (await services.task(task.id)).state is TaskState.QUEUED  # the claim was never confirmed
    forgotten.set()
    await services.sweeper.finish_housekeeping()
