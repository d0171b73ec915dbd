"""Workers on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from taskyard.wire import (
    Capacity,
    Outcome,
    Policy,
    Resources,
    TaskState,
    WorkerCounters,
    WorkerReport,
    WorkerState,
)
from taskyard_server import workers
from taskyard_server.errors import Conflict, Invalid, NotFound

from tests.support.services import ADA, CANCELLED, COMPLETED, DISK_FULL, FAILED, FakeAgent, Services


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
    await agent.beat()

    resumed = await services.workers.resume(agent.name, ADA)

    assert (resumed.state, resumed.paused_reason) == (WorkerState.IDLE, "")
    assert (await agent.claim()).beat
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


# --- Whose a name is

SILENT = 30.0
"""Seconds after which an agent that was not heard may be followed by another of its name."""
OTHERS = [
    {"instance": "two"},
    {"instance": "two", "host": "elsewhere", "boot_id": "boot-2"},
    {"instance": "two", "boot_id": "boot-2"},
    {"instance": "one", "boot_id": "boot-2"},
]


@pytest.mark.parametrize("other", OTHERS, ids=["folder", "machine", "equal-host", "copied-folder"])
async def test_a_name_is_one_agent_s_as_long_as_that_is_heard(services: Services, other: dict[str, str]) -> None:
    first, second = services.agent("w", instance="one"), services.agent("w", **other)
    await services.enqueue()
    await first.beat()
    run = await first.take_and_start()

    for _ in range(5):
        services.clock.move(SILENT - 1)
        (refused,) = (await second.beat()).workers
        with pytest.raises(Conflict, match="another --name, or stop the other"):
            await second.claim()
        assert (refused.paused, refused.taken_seconds) == (True, 1.0)
        assert not (await first.beat()).workers[0].paused

    assert refused.reason.startswith("worker 'w' is another agent's, heard 29 s ago from the machine host")
    assert (await first.finish(run)).outcome == COMPLETED


@pytest.mark.parametrize("other", OTHERS, ids=["folder", "machine", "equal-host", "restart"])
async def test_a_name_passes_to_another_agent_once_the_first_is_silent(
    services: Services, other: dict[str, str]
) -> None:
    first, second = services.agent("w", instance="one"), services.agent("w", **other)
    await first.beat()

    services.clock.move(SILENT)
    (accepted,) = (await second.beat()).workers

    assert (accepted.paused, accepted.taken_seconds) == (False, None)
    assert (await first.beat()).workers[0].taken_seconds == SILENT


async def test_an_agent_that_has_ended_leaves_its_name_to_the_next_at_once(services: Services) -> None:
    first, second = services.agent("w", instance="one"), services.agent("w", instance="two")
    await first.beat()

    await first.beat(WorkerState.STOPPED)

    assert not (await second.beat()).workers[0].paused


async def test_the_end_of_an_agent_that_was_refused_its_name_is_not_the_other_s(services: Services) -> None:
    first, second = services.agent("w", instance="one"), services.agent("w", instance="two")
    await first.beat()

    await second.beat(WorkerState.STOPPED)

    assert (await services.workers.get("w")).state is WorkerState.IDLE


async def test_a_new_daemon_on_an_agent_s_folder_is_that_agent(services: Services) -> None:
    await services.agent("w", instance="one").beat()

    after = services.agent("w", instance="one", host="renamed")

    assert not (await after.beat()).workers[0].paused


async def test_runs_live_on_when_their_agent_came_back_to_a_name_that_was_taken(services: Services) -> None:
    task = await services.enqueue()
    first, second = services.agent("w", instance="one"), services.agent("w", instance="two")
    await first.beat()
    run = await first.take_and_start()
    services.clock.move(SILENT)

    for _ in range(20):
        await services.tick(20)
        await second.beat()
        answer = await first.beat()
        assert (answer.workers[0].paused, answer.runs) == (True, ())

    assert (await first.finish(run)).outcome == COMPLETED
    assert (await services.task(task.id)).state is TaskState.COMPLETED


async def test_silence_while_the_server_was_away_gives_no_name_away(services: Services) -> None:
    first, second = services.agent("w", instance="one"), services.agent("w", instance="two")
    await services.tick()
    await first.beat()

    services.clock.move(120)
    await services.tick()

    assert (await second.beat()).workers[0].paused


async def test_how_long_a_name_stays_taken_may_grow_but_when_its_agent_was_heard_is_told_alike(
    services: Services,
) -> None:
    first, second = services.agent("w", instance="one"), services.agent("w", instance="two")
    await services.tick()
    await first.beat()
    services.clock.move(4)
    (before,) = (await second.beat()).workers

    services.clock.move(60)
    await services.tick()
    (after_a_gap,) = (await second.beat()).workers
    await first.beat()
    (heard_again,) = (await second.beat()).workers

    assert (before.taken_seconds, after_a_gap.taken_seconds) == (SILENT - 4, SILENT)
    assert before.heard_at == after_a_gap.heard_at != heard_again.heard_at


async def test_of_older_agents_the_machine_s_name_must_do(services: Services) -> None:
    first, second = services.agent("w"), services.agent("w", host="elsewhere")
    await first.beat()

    refused = (await second.beat()).workers[0]

    assert refused.paused
    assert not (await first.beat()).workers[0].paused


# --- Pauses and drains


async def test_a_pause_stays_over_beats_and_the_run_goes_on(services: Services) -> None:
    agent = services.agent()
    await services.enqueue()
    run = await agent.take_and_start()

    await services.workers.pause(agent.name, "new disk", ADA)
    answer = await agent.beat()

    worker = await services.workers.get(agent.name)
    assert (worker.state, worker.paused_reason) == (WorkerState.PAUSED, "paused by ada: new disk")
    assert (answer.workers[0].paused, answer.runs) == (True, ())
    assert (await agent.finish(run, COMPLETED)).outcome == COMPLETED


async def test_a_paused_worker_is_given_nothing_until_it_is_resumed(services: Services) -> None:
    agent = services.agent()
    await agent.beat()
    await services.workers.pause(agent.name, "", ADA)
    await services.enqueue()

    assert (await agent.claim()).beat
    assert (await agent.claim()).run is None
    await services.workers.resume(agent.name, ADA)
    assert (await agent.claim()).beat
    assert (await agent.claim()).run is not None


async def test_a_parked_claim_ends_at_once_when_its_worker_is_told_to_end(services: Services) -> None:
    agent = services.agent()
    await agent.beat()
    parked = await agent.park()

    await services.workers.drain(agent.name, ADA)
    claim = await asyncio.wait_for(parked, 5)

    assert (claim.run, claim.beat) == (None, True)
    assert (await agent.beat()).workers[0].drain


async def test_a_drained_agent_that_starts_again_is_not_drained(services: Services) -> None:
    agent = services.agent()
    await agent.beat()
    drained = await services.workers.drain(agent.name, ADA)
    assert (await agent.beat()).workers[0].drain
    await agent.beat(WorkerState.STOPPED)

    answer = await agent.beat(WorkerState.STARTING)

    assert (drained.state, answer.workers[0].drain) == (WorkerState.DRAINING, False)
    assert (await services.workers.get(agent.name)).state is WorkerState.STARTING


async def until(condition: Callable[[], object]) -> None:
    async def hold() -> None:
        while not condition():  # noqa: ASYNC110 - nothing rings when a claim is parked
            await asyncio.sleep(0.001)

    await asyncio.wait_for(hold(), 5)


async def test_a_claim_that_comes_before_the_first_beat_of_a_drained_agent_does_not_wait_for_nothing(
    services: Services,
) -> None:
    agent = services.agent()
    await agent.beat()
    await services.workers.drain(agent.name, ADA)
    assert (await agent.claim()).beat
    await agent.beat(WorkerState.STOPPED)
    waiting = asyncio.create_task(agent.claim(wait_seconds=25.0))
    await until(lambda: services.claims.parked)

    await agent.beat(WorkerState.STARTING)
    await services.enqueue()

    assert (await asyncio.wait_for(waiting, 5)).run is None
    assert (await agent.claim(wait_seconds=25.0)).run is not None


async def test_what_has_ended_cannot_be_drained(services: Services) -> None:
    agent = services.agent()
    await agent.beat(WorkerState.STOPPED)

    with pytest.raises(Conflict, match="stopped already"):
        await services.workers.drain(agent.name, ADA)


@pytest.mark.parametrize(
    ("report", "held", "drain", "shown"),
    [
        ("starting", "", False, "starting"),
        ("idle", "", False, "idle"),
        ("busy", "", False, "busy"),
        ("idle", "by ada", False, "paused"),
        ("busy", "by ada", False, "paused"),
        ("paused", "", False, "paused"),
        ("idle", "by ada", True, "draining"),
        ("busy", "", True, "draining"),
        ("draining", "by ada", False, "draining"),
        ("stopped", "by ada", True, "stopped"),
    ],
)
def test_a_worker_s_state_is_one_word(report: str, held: str, drain: bool, shown: str) -> None:
    said = WorkerReport(name="w", state=WorkerState(report))

    assert workers.state_of(said, held=held, drain=drain) == shown


async def test_a_pause_of_the_agent_itself_is_its_own_to_lift(services: Services) -> None:
    agent = services.agent()
    full = WorkerReport(name=agent.name, state=WorkerState.PAUSED, paused_reason="memory is 95% full")
    answer = await agent.beat(workers=(full,))

    with pytest.raises(Conflict, match="memory is 95% full"):
        await services.workers.resume(agent.name, ADA)
    shown = (await services.workers.get(agent.name)).paused_reason
    await agent.beat()

    assert (shown, answer.workers[0].paused) == ("memory is 95% full", False)
    assert (await services.workers.get(agent.name)).state is WorkerState.IDLE


# --- Places of single tasks


def place(agent: FakeAgent, task: str) -> WorkerReport:
    return WorkerReport(
        name=f"{agent.name}:{task}", state=WorkerState.BUSY, runs=(f"{task}.1",), parent=agent.name
    )


async def test_a_place_goes_away_when_its_agent_says_that_its_run_has_ended(services: Services) -> None:
    agent = services.agent()
    own = WorkerReport(name=agent.name, state=WorkerState.IDLE)
    await agent.beat(workers=(own, place(agent, "a"), place(agent, "b")))

    ended = replace(place(agent, "a"), state=WorkerState.STOPPED, runs=())
    await agent.beat(workers=(own, ended, place(agent, "b")))

    assert [worker.name for worker in await services.workers.list()] == [agent.name, f"{agent.name}:b"]


async def test_of_an_agent_that_fell_silent_the_worker_alone_stays_listed(services: Services) -> None:
    agent = services.agent()
    own = WorkerReport(name=agent.name, state=WorkerState.BUSY, queues=("default",), runs=("a.1",))
    await agent.beat(workers=(own, place(agent, "a")))

    await services.tick(70)
    await services.tick(1)

    (lost,) = await services.workers.list()
    assert (lost.name, lost.state, lost.runs) == (agent.name, WorkerState.LOST, ("a.1",))


async def test_a_worker_for_one_run_is_listed_as_long_as_that(services: Services) -> None:
    agent = services.agent()
    await agent.beat(workers=(WorkerReport(name=agent.name, state=WorkerState.BUSY, runs=("a.1",)),))
    listed = await services.workers.list()

    await agent.beat(workers=(WorkerReport(name=agent.name, state=WorkerState.STOPPED),))

    assert [worker.name for worker in listed] == [agent.name]
    assert await services.workers.list() == []


async def test_the_places_are_back_with_their_agent(services: Services) -> None:
    agent = services.agent()
    own = WorkerReport(name=agent.name, state=WorkerState.BUSY, runs=("a.1",))
    await agent.beat(workers=(own, place(agent, "a")))
    await services.tick(70)
    await services.tick(1)

    await agent.beat(workers=(own, place(agent, "a")))
    await services.tick(1)

    assert [worker.state for worker in await services.workers.list()] == [WorkerState.BUSY, WorkerState.BUSY]


async def test_a_place_cannot_be_paused_and_serves_no_queue(services: Services) -> None:
    agent = services.agent()
    own = WorkerReport(name=agent.name, state=WorkerState.IDLE, queues=("default",))
    await agent.beat(workers=(own, replace(place(agent, "a"), queues=("default",))))

    with pytest.raises(Conflict, match="place of one task"):
        await services.workers.pause(f"{agent.name}:a", "", ADA)
    (queue,) = await services.queues.list("default")

    assert queue.workers == (agent.name,)


# --- Counters


async def test_counters_are_exact_after_a_known_load(services: Services) -> None:
    agent = services.agent(gpus=2)
    for outcome in (COMPLETED, FAILED, CANCELLED):
        await services.enqueue()
        await agent.finish_and_forget(await agent.take_and_start(), outcome)
    await services.enqueue(policy=Policy(retries=1, retry_delay_seconds=600))
    await agent.finish_and_forget(await agent.take_and_start(), FAILED)
    await services.enqueue(resources=Resources(gpus=1))
    await agent.take_and_start()
    for gpus in (0, 0, 1, 2, 2, 2, 3):
        await services.enqueue(resources=Resources(gpus=gpus))
    total = Capacity(slots=2, gpus=2)
    report = WorkerReport(
        name=agent.name,
        state=WorkerState.BUSY,
        queues=agent.queues,
        runs=tuple(agent.held),
        total=total,
        free=Capacity(slots=1, gpus=1),
    )
    await agent.beat(workers=(report,))

    counters = (await services.workers.get(agent.name)).counters

    assert counters == WorkerCounters(executing=1, executed=4, ready=3, constrained=3, waiting=1)


async def test_a_lost_run_counts_as_executed(services: Services) -> None:
    agent = services.agent()
    await services.enqueue()
    await agent.take_and_start()

    await services.tick(400)

    counters = (await services.workers.get(agent.name)).counters
    assert counters is not None
    assert (counters.executing, counters.executed) == (0, 1)


# --- Whose failure it is, and how a pause by the server ends

CONFIRMED = replace(DISK_FULL, confirmed=True)
UNCONFIRMED = replace(DISK_FULL, confirmed=False)


async def fail_in_a_row(services: Services, agent: FakeAgent, outcome: Outcome, times: int = 3) -> None:
    await agent.beat()
    for _ in range(times):
        await services.enqueue()
        await agent.finish_and_forget(await agent.take(), outcome)


async def test_a_failure_that_no_probe_confirms_pauses_no_worker(services: Services) -> None:
    agent = services.agent()

    await fail_in_a_row(services, agent, UNCONFIRMED, times=9)

    worker = await services.workers.get(agent.name)
    assert (worker.infrastructure_failures, worker.paused_reason) == (0, "")


async def test_a_pause_by_the_server_ends_when_the_agents_probe_finds_nothing(services: Services) -> None:
    agent = services.agent()
    await fail_in_a_row(services, agent, CONFIRMED)
    (paused,) = (await agent.beat()).workers

    report = WorkerReport(name=agent.name, state=WorkerState.IDLE, queues=agent.queues, healthy=True)
    (lifted,) = (await agent.beat(workers=(report,))).workers

    assert (paused.paused, paused.probe) == (True, "disk")
    assert (lifted.paused, lifted.probe) == (False, "")
    worker = await services.workers.get(agent.name)
    assert (worker.state, worker.infrastructure_failures) == (WorkerState.IDLE, 0)


async def test_a_pause_by_an_operator_is_never_lifted_by_itself(services: Services) -> None:
    agent = services.agent()
    await fail_in_a_row(services, agent, CONFIRMED)
    await services.workers.pause(agent.name, "being moved", ADA)

    report = WorkerReport(name=agent.name, state=WorkerState.IDLE, queues=agent.queues, healthy=True)
    (told,) = (await agent.beat(workers=(report,))).workers

    assert (told.paused, told.probe) == (True, "")


async def test_a_task_without_another_worker_is_never_tried_three_times_in_a_minute(services: Services) -> None:
    await services.enqueue()
    agent, tried_at = services.agent(), []
    await agent.beat()
    while len(tried_at) < 6:
        claim = await agent.claim()
        if claim.run is not None:
            tried_at.append(services.clock())
            await agent.finish_and_forget(claim.run, CONFIRMED)
            if len(tried_at) % 3 == 0:
                await services.workers.resume(agent.name, ADA)
        await services.tick(1)

    waits = [after - before for before, after in pairwise(tried_at)]
    assert all(after - before > 60 for before, after in zip(tried_at, tried_at[2:], strict=False))
    assert [round(wait / 5) * 5 for wait in waits] == [5, 60, 120, 120, 120]


async def test_while_a_task_avoids_its_only_worker_others_go_first(services: Services) -> None:
    first, second = await services.enqueue(), await services.enqueue()
    agent = services.agent()
    await agent.finish_and_forget(await agent.take(), CONFIRMED)

    assert (await agent.take()).task == second.id
    assert (await services.task(first.id)).state is TaskState.QUEUED


async def test_machines_that_stay_out_of_order_fail_a_task_only_when_it_gives_up(services: Services) -> None:
    task = await services.enqueue(policy=Policy(give_up_after_seconds=600))
    agents = [services.agent(f"w{number}") for number in range(9)]

    for agent in agents:
        await agent.finish_and_forget(await agent.take(), CONFIRMED)
    assert (await services.task(task.id)).state is TaskState.QUEUED
    await services.tick(601)
    await agents[0].finish_and_forget(await agents[0].take(), CONFIRMED)

    assert (await services.task(task.id)).state is TaskState.FAILED
