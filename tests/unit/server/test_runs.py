"""Runs on a real store: claimed, confirmed, started, finished, lost, revived."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import (
    NewTask,
    OnLost,
    Outcome,
    OutcomeKind,
    Phase,
    Policy,
    Reason,
    Resources,
    RunReport,
    Sample,
    StopRequest,
    TaskState,
    WorkerState,
)
from taskyard_server.errors import Conflict, Forbidden, Invalid, NotFound, Stale, Unavailable

from tests.support.services import (
    ADA,
    CANCELLED,
    COMPLETED,
    DISK_FULL,
    FAILED,
    START,
    Clock,
    Services,
    hung_up,
    open_services,
    present,
    spec,
)


async def test_a_claim_answers_everything_that_the_run_needs(services: Services) -> None:
    new = NewTask(spec=spec(name="train", secrets=("HF_TOKEN",)), queue="default", secret_values={"HF_TOKEN": "s"})
    task = await services.tasks.create(new, ADA)

    claim = await services.agent().claim()

    assert claim.run is not None
    assert claim.run.id == f"{task.id}.1"
    assert claim.task is not None
    assert (claim.task.queue, claim.task.state) == ("default", TaskState.PREPARING)
    assert claim.secrets == {"HF_TOKEN": "s"}


async def test_queues_are_tried_strictly_in_the_order_given(services: Services) -> None:
    later = await services.enqueue("services")
    first = await services.enqueue("default")
    agent = services.agent(queues=("default", "services"))

    taken = [(await agent.claim()).run for _ in range(2)]

    assert [run and run.task for run in taken] == [first.id, later.id]


async def test_repeating_a_request_returns_the_same_run_even_after_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    async with open_services(tmp_path, clock) as services:
        await services.enqueue()
        await services.enqueue()
        first = await services.agent().claim(request_id="r1")

    async with open_services(tmp_path, clock) as services:
        again = await services.agent().claim(request_id="r1")

    assert again.run == first.run


async def test_two_concurrent_repeats_take_one_task(services: Services) -> None:
    await services.enqueue()
    await services.enqueue()
    agent = services.agent()

    claims = await asyncio.gather(*(agent.claim(request_id="r1", wait_seconds=1.0) for _ in range(2)))

    taken = {claim.run.id for claim in claims if claim.run is not None}
    assert len(taken) == 1
    assert claims[-1].run is not None


async def test_a_repeated_request_finds_its_run_though_there_is_word_for_its_worker(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    await agent.beat()
    taken = await agent.claim(request_id="r1")
    await services.workers.drain(agent.name, ADA)

    again = await agent.claim(request_id="r1")

    assert again.run == taken.run
    assert (await agent.claim()).beat


async def test_a_repeated_request_finds_its_run_on_a_server_that_is_stopping(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    taken = await agent.claim(request_id="r1")
    services.claims.close()

    again = await agent.claim(request_id="r1")

    assert again.run == taken.run


async def test_a_claim_whose_client_has_hung_up_takes_nothing(services: Services) -> None:
    task = await services.enqueue()

    claim = await services.agent().claim(gone=hung_up)

    assert claim.run is None
    assert (await services.task(task.id)).state is TaskState.QUEUED


async def test_a_claim_whose_client_has_hung_up_leaves_the_word_for_its_worker_to_the_next(
    services: Services,
) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await services.workers.pause(agent.name, "", ADA)
    await services.tasks.stop(run.task, StopRequest(), ADA)

    await agent.claim(gone=hung_up)
    heard = await agent.claim()

    assert (heard.beat, [directive.run for directive in heard.directives]) == (True, [run.id])


async def test_a_claim_from_a_queue_that_the_token_does_not_list_is_refused(services: Services) -> None:
    agent = services.agent()
    actor = replace(agent.actor, queues=("services",))

    with pytest.raises(Forbidden, match="not for default"):
        await services.runs.claim(agent.request(), actor, hung_up)


async def test_a_task_can_be_taken_by_name_even_as_a_draft(services: Services) -> None:
    draft = await services.tasks.create(NewTask(spec=spec()), ADA)

    claim = await services.agent().claim(task=draft.id)

    assert claim.run is not None
    assert claim.run.task == draft.id


async def test_a_task_taken_by_name_must_fit(services: Services) -> None:
    task = await services.enqueue(resources=Resources(gpus=2))

    with pytest.raises(Conflict, match="needs 2 GPUs, the worker has 0"):
        await services.agent().claim(task=task.id)


async def test_a_task_taken_by_name_must_be_in_a_queue_of_the_token(services: Services) -> None:
    task = await services.enqueue("services")
    agent = services.agent()
    actor = replace(agent.actor, queues=("default",))

    with pytest.raises(Forbidden, match="in none of them"):
        await services.runs.claim(agent.request(task=task.id), actor, present)


async def test_an_unconfirmed_claim_goes_back_to_its_place(services: Services) -> None:
    first, second = await services.enqueue(), await services.enqueue()
    await services.agent().claim()

    await services.tick(31)

    entries = await services.queues.entries((await services.queues.find("default")).id, 0, 10)
    assert [entry.task for entry in entries.entries] == [first.id, second.id]
    assert (await services.task(first.id)).unstarted == 1


async def test_the_fifth_claim_that_never_started_fails_the_task(services: Services) -> None:
    task = await services.enqueue()

    for _ in range(5):
        await services.agent().claim()
        await services.tick(31)

    story = await services.tasks.story(task.id, ADA)
    assert story.task.state is TaskState.FAILED
    assert story.events[-1].detail == "claimed 5 times without ever starting"


async def test_a_run_that_was_handed_out_again_cannot_start(services: Services) -> None:
    await services.enqueue()
    slow, quick = services.agent("slow"), services.agent("quick")
    claim = await slow.claim()
    assert claim.run is not None
    await services.tick(31)
    await quick.take()

    with pytest.raises(Stale):
        await slow.start(claim.run)


async def test_start_may_be_repeated(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()

    again = await agent.start(run)

    assert again == run
    assert run.started_at == START


async def test_start_after_the_end_is_stale(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take()
    await agent.finish(run, FAILED)

    with pytest.raises(Stale, match="has ended"):
        await agent.start(run)


async def test_finish_is_final_and_may_be_repeated(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    first = await agent.finish(run, COMPLETED, log_bytes=7)

    again = await agent.finish(run, COMPLETED, log_bytes=7)
    late = await agent.finish(run, FAILED, log_bytes=9)

    assert first == again == late
    assert (await services.task(task.id)).state is TaskState.COMPLETED


async def test_only_the_agent_that_claimed_may_report(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take()
    thief = services.agent("thief", token="another token", held=dict(agent.held))

    with pytest.raises(Forbidden):
        await thief.start(run)
    answer = await thief.beat()
    with pytest.raises(Stale):
        await thief.log(run, 0, b"x")

    assert answer.runs[0].stale


async def test_a_wrong_control_token_is_stale_everywhere(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take()
    agent.held[run.id] = "guessed"

    answer = await agent.beat()
    with pytest.raises(Stale):
        await agent.start(run)
    with pytest.raises(Stale):
        await agent.finish(run)
    with pytest.raises(Stale):
        await agent.log(run, 0, b"x")

    assert answer.runs[0].stale


async def test_a_beat_of_a_run_that_nobody_knows_is_stale(services: Services) -> None:
    report = RunReport(id="0" * 32 + ".1", control_token="x", phase=Phase.RUNNING)

    answer = await services.agent().beat(runs=(report,))

    assert [(directive.run, directive.stale) for directive in answer.runs] == [(report.id, True)]


async def test_a_cancel_is_repeated_until_the_run_ends(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await services.tasks.stop(task.id, StopRequest(), ADA)

    answers = [await agent.beat() for _ in range(2)]
    await agent.finish(run, CANCELLED)

    assert all(answer.runs[0].cancel for answer in answers)
    assert (await services.task(task.id)).state is TaskState.CANCELLED
    assert (await agent.beat()).runs == ()


async def test_a_process_that_ended_before_the_cancel_keeps_its_true_outcome(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await services.tasks.stop(task.id, StopRequest(), ADA)

    await agent.finish(run, COMPLETED)

    assert (await services.task(task.id)).state is TaskState.COMPLETED


async def test_a_stopped_task_that_failed_is_not_tried_again(services: Services) -> None:
    task = await services.enqueue(policy=Policy(retries=3))
    agent = services.agent()
    run = await agent.take_and_start()
    await services.tasks.stop(task.id, StopRequest(), ADA)

    await agent.finish(run, FAILED)

    assert (await services.task(task.id)).state is TaskState.FAILED


async def test_stop_with_requeue_puts_a_running_task_back_to_its_place(services: Services) -> None:
    task, _ = await services.enqueue(), await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await services.tasks.stop(task.id, StopRequest(requeue=True), ADA)

    await agent.finish_and_forget(run, CANCELLED)

    again = await agent.claim()
    assert again.run is not None
    assert again.run.id == f"{task.id}.2"


async def test_a_silent_run_is_first_unresponsive_then_lost_then_queued_again(services: Services) -> None:
    task = await services.enqueue()
    await services.agent().take_and_start()

    await services.tick(61)
    unresponsive = await services.task(task.id)
    await services.tick(240)
    lost = await services.task(task.id)

    assert unresponsive.state is TaskState.RUNNING
    assert unresponsive.run is not None
    assert unresponsive.run.unresponsive
    assert (lost.state, lost.losses) == (TaskState.QUEUED, 1)
    assert lost.run is not None
    assert lost.run.outcome is not None
    assert lost.run.outcome.reason is Reason.LEASE


async def test_beats_keep_a_run_alive(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    await agent.take_and_start()

    for _ in range(60):
        await services.tick(10)
        await agent.beat(phase=Phase.RUNNING)

    now = await services.task(task.id)
    assert now.state is TaskState.RUNNING
    assert now.run is not None
    assert not now.run.unresponsive


@pytest.mark.parametrize(
    ("on_lost", "state"),
    [(OnLost.REQUEUE, TaskState.QUEUED), (OnLost.FAIL, TaskState.FAILED), (OnLost.WAIT, TaskState.WAITING)],
)
async def test_on_lost_decides(services: Services, on_lost: OnLost, state: TaskState) -> None:
    task = await services.enqueue(policy=Policy(on_lost=on_lost))
    await services.agent().take_and_start()

    await services.tick(302)

    assert (await services.task(task.id)).state is state


async def test_the_third_loss_fails_the_task(services: Services) -> None:
    task = await services.enqueue()

    for number in range(3):
        await services.agent(f"agent {number}").take_and_start()
        await services.tick(302)

    now = await services.task(task.id)
    assert (now.state, now.losses) == (TaskState.FAILED, 3)


@pytest.mark.parametrize("on_lost", [OnLost.REQUEUE, OnLost.WAIT])
async def test_a_lost_run_that_comes_back_before_a_successor_is_revived(
    services: Services, on_lost: OnLost
) -> None:
    task = await services.enqueue(policy=Policy(on_lost=on_lost))
    agent = services.agent()
    run = await agent.take_and_start()
    await services.tick(302)

    answer = await agent.beat(phase=Phase.RUNNING)

    now = await services.task(task.id)
    assert answer.runs == ()
    assert (now.state, now.losses) == (TaskState.RUNNING, 0)
    assert now.run is not None
    assert (now.run.id, now.run.outcome) == (run.id, None)
    assert (await services.agent("other").claim()).run is None


async def test_a_lost_run_that_comes_back_ended_counts_as_it_ended(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await services.tick(302)

    await agent.finish(run, COMPLETED)

    assert (await services.task(task.id)).state is TaskState.COMPLETED
    assert (await services.agent("other").claim()).run is None


async def test_a_lost_run_that_comes_back_after_its_successor_is_stale(services: Services) -> None:
    await services.enqueue()
    old, new = services.agent("old"), services.agent("new")
    run = await old.take_and_start()
    await services.tick(302)
    await new.take()

    answer = await old.beat()

    assert answer.runs[0].stale
    with pytest.raises(Stale):
        await old.finish(run)


async def test_a_task_that_was_edited_in_between_does_not_take_its_old_run_back(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    await agent.take_and_start()
    await services.tick(302)
    await services.tasks.dequeue(task.id, ADA)
    await services.tasks.enqueue(task.id, "default", ADA)

    answer = await agent.beat()

    assert answer.runs[0].stale


async def test_revival_and_claim_never_both_succeed(services: Services) -> None:
    task = await services.enqueue()
    old, new = services.agent("old"), services.agent("new")
    await old.take_and_start()
    await services.tick(302)

    answer, claim = await asyncio.gather(old.beat(), new.claim())

    assert bool(answer.runs and answer.runs[0].stale) == (claim.run is not None)
    assert (await services.task(task.id)).run_count == (2 if claim.run else 1)


@pytest.mark.parametrize("instance", ["one", ""], ids=["agent", "older-agent"])
async def test_a_reboot_loses_the_runs_of_that_machine_once_it_was_silent(
    services: Services, instance: str
) -> None:
    task = await services.enqueue()
    before = services.agent(instance=instance)
    await before.beat()
    await before.take_and_start()

    services.clock.move(30)
    await services.agent(instance=instance, boot_id="boot-2").beat()

    now = await services.task(task.id)
    assert now.state is TaskState.QUEUED
    assert now.run is not None
    assert now.run.outcome is not None
    assert now.run.outcome.reason is Reason.REBOOT


async def test_what_an_agent_still_knows_of_after_a_reboot_is_its_own_to_report(services: Services) -> None:
    task = await services.enqueue()
    before = services.agent(instance="one")
    await before.beat()
    run = await before.take_and_start()

    services.clock.move(30)
    after = services.agent(instance="one", boot_id="boot-2", held=before.held)
    await after.beat(WorkerState.STARTING)
    await after.finish(run)

    assert (await services.task(task.id)).state is TaskState.COMPLETED


@pytest.mark.parametrize(
    "other", [{"instance": "two"}, {"instance": "one", "host": "elsewhere"}], ids=["equal-host", "copied-folder"]
)
async def test_another_agent_of_a_silent_one_s_name_is_no_reboot_of_its_machine(
    services: Services, other: dict[str, str]
) -> None:
    task = await services.enqueue()
    first = services.agent(instance="one")
    await first.beat()
    run = await first.take_and_start()

    services.clock.move(30)
    await services.agent(boot_id="boot-2", **other).beat()

    assert (await first.finish(run)).outcome == COMPLETED
    assert (await services.task(task.id)).state is TaskState.COMPLETED


async def test_an_agent_told_to_stop_charges_nobody(services: Services) -> None:
    task = await services.enqueue()
    stopped = Outcome(kind=OutcomeKind.LOST, reason=Reason.AGENT_STOPPED, phase=Phase.RUNNING)

    for number in range(4):
        agent = services.agent(f"agent {number}")
        await agent.finish(await agent.take_and_start(), stopped)

    now = await services.task(task.id)
    assert (now.state, now.losses, now.retries_used) == (TaskState.QUEUED, 0, 0)


async def test_retries_wait_twice_as_long_each_time(services: Services) -> None:
    task = await services.enqueue(policy=Policy(retries=2, retry_delay_seconds=10))
    agent = services.agent()
    delays = []

    for _ in range(2):
        await agent.finish_and_forget(await agent.take_and_start(), FAILED)
        wake_at = (await services.task(task.id)).wake_at
        assert wake_at is not None
        delays.append(wake_at - services.clock())
        await services.tick(delays[-1])
    await agent.finish_and_forget(await agent.take_and_start(), FAILED)

    assert delays == [10, 20]
    assert (await services.task(task.id)).state is TaskState.FAILED


async def test_a_machine_s_failure_goes_elsewhere_and_is_not_charged(services: Services) -> None:
    task = await services.enqueue(policy=Policy(retries=1))
    broken, sound = services.agent("broken"), services.agent("sound")

    await broken.finish_and_forget(await broken.take(), DISK_FULL)

    assert (await services.task(task.id)).retries_used == 0
    assert (await broken.claim()).run is None
    assert (await sound.claim()).run is not None


async def test_a_task_goes_back_to_the_only_worker_when_no_other_takes_it(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    await agent.finish_and_forget(await agent.take(), DISK_FULL)

    await services.tick(301)

    assert (await agent.claim()).run is not None


async def test_the_third_machine_that_fails_a_task_fails_it_for_good(services: Services) -> None:
    task = await services.enqueue()

    for number in range(3):
        agent = services.agent(f"agent {number}")
        await agent.finish(await agent.take(), DISK_FULL)

    assert (await services.task(task.id)).state is TaskState.FAILED


async def test_three_failures_of_its_own_in_a_row_pause_a_worker(services: Services) -> None:
    agent = services.agent()
    for _ in range(3):
        await services.enqueue()
        await agent.finish_and_forget(await agent.take(), DISK_FULL)
    await services.enqueue()

    answer = await agent.beat()
    claim = await agent.claim()

    assert answer.workers[0].paused
    assert "no space left" in answer.workers[0].reason
    assert claim.run is None
    assert (await services.workers.get(agent.name)).state is WorkerState.PAUSED


async def test_an_agent_s_measurements_of_others_are_dropped(services: Services) -> None:
    agent = services.agent()
    own = Sample(subject=f"worker:{agent.name}", name="cpu_percent", at=START, value=1.0)
    foreign = replace(own, subject="worker:other")

    await agent.beat(samples=(own, foreign))

    series = [
        await services.stores.samples.series(sample.subject, start=START - 1, end=START + 1, points=1)
        for sample in (own, foreign)
    ]
    assert [len(found) for found in series] == [1, 0]


# --- Logs


async def test_a_log_is_complete_when_it_is_held_up_to_the_length_stated_at_the_end(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await agent.log(run, 0, b"one\n")
    await agent.finish(run, COMPLETED, log_bytes=8)
    before = await services.runs.read_log(run.id, 0, 100)

    await agent.log(run, 4, b"two\n")

    after = await services.runs.read_log(run.id, 0, 100)
    assert (before.complete, after.complete) == (False, True)
    assert after.data == b"one\ntwo\n"


async def test_the_tail_of_a_superseded_run_goes_on_its_own_log(services: Services) -> None:
    await services.enqueue()
    old, new = services.agent("old"), services.agent("new")
    lost = await old.take_and_start()
    await services.tick(302)
    successor = await new.take()

    await old.log(lost, 0, b"late\n")

    assert (await services.runs.read_log(lost.id, 0, 100)).data == b"late\n"
    assert (await services.runs.read_log(successor.id, 0, 100)).data == b""


async def test_a_log_ends_at_the_cap_and_says_so(tmp_path: Path) -> None:
    async with open_services(tmp_path, log_cap_bytes=6) as services:
        task = await services.enqueue()
        agent = services.agent()
        run = await agent.take_and_start()

        position = await agent.log(run, 0, b"12345678")
        await agent.log(run, 8, b"9")
        await agent.finish(run, COMPLETED, log_bytes=9)

        story = await services.tasks.story(task.id, ADA)
        assert (position.offset, position.capped) == (6, True)
        assert [event.kind for event in story.events].count("log_capped") == 1
        assert (await services.runs.read_log(run.id, 0, 100)).complete


async def test_a_low_disk_refuses_logs_and_keeps_taking_ends(tmp_path: Path) -> None:
    async with open_services(tmp_path, min_free_disk_bytes=1 << 60) as services:
        task = await services.enqueue()
        agent = services.agent()
        run = await agent.take_and_start()

        with pytest.raises(Unavailable, match="logs are refused"):
            await agent.log(run, 0, b"x")
        await agent.finish(run)

        assert (await services.task(task.id)).state is TaskState.COMPLETED


@pytest.mark.parametrize(
    ("lines", "expected"), [(0, b""), (1, b"c"), (2, b"b\rB\nc"), (3, b"a\nb\rB\nc"), (9, b"a\nb\rB\nc")]
)
async def test_the_tail_counts_lines_by_line_feeds(services: Services, lines: int, expected: bytes) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await agent.log(run, 0, b"a\nb\rB\nc")

    tail = await services.runs.tail_log(run.id, lines)

    assert tail.data == expected
    assert tail.offset == tail.length - len(expected)


async def test_the_tail_of_a_long_log_is_read_from_its_end(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    lines = [f"{number:0100}\n".encode() for number in range(3000)]
    await agent.log(run, 0, b"".join(lines))

    tail = await services.runs.tail_log(run.id, 2000)

    assert tail.data == b"".join(lines[-2000:])


async def test_a_reader_is_woken_by_an_append_and_by_the_end(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()

    waiting = asyncio.create_task(services.runs.wait_for_log(run.id, 0, 30))
    await asyncio.sleep(0)
    await agent.log(run, 0, b"x")
    appended = await asyncio.wait_for(waiting, 1)
    waiting = asyncio.create_task(services.runs.wait_for_log(run.id, 1, 30))
    await asyncio.sleep(0)
    await agent.finish(run, COMPLETED, log_bytes=1)
    ended = await asyncio.wait_for(waiting, 1)

    assert (appended, ended) == (True, True)


async def test_nothing_new_in_time_is_false(services: Services) -> None:
    await services.enqueue()
    run = await services.agent().take()

    assert not await services.runs.wait_for_log(run.id, 0, 0.01)


async def test_what_is_not_there_is_not_found(services: Services) -> None:
    task = await services.enqueue()

    with pytest.raises(NotFound):
        await services.runs.get(f"{task.id}.1")
    with pytest.raises(NotFound):
        await services.runs.read_log("no such run", 0, 1)


async def test_a_claim_with_a_hash_that_is_none_is_refused(services: Services) -> None:
    agent = services.agent()

    with pytest.raises(Invalid, match="SHA-256"):
        await agent.claim(control_hash="secret in plain")


async def test_an_agent_measures_its_own_runs_alone(services: Services) -> None:
    await services.enqueue()
    run = await services.agent().take_and_start()
    forged = Sample(subject=f"run:{run.id}", name="cpu_percent", at=services.clock(), value=99.0)
    stranger = services.agent("other:cpu:0", host="other", token="other-token")
    stranger.held = {run.id: "a guess"}

    await stranger.beat(samples=(forged,))

    subject, now = forged.subject, services.clock()
    assert await services.stores.samples.series(subject, start=now - 60, end=now + 60, points=10) == []


async def test_log_ends_where_its_run_said(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await agent.log(run, 0, b"first ")
    await agent.finish(run, log_bytes=11)

    whole = await agent.log(run, 6, b"last words that were never said")

    assert whole.offset == 11
    assert (await services.runs.read_log(run.id, 0, 100)).data == b"first last "


async def test_log_of_a_deleted_task_is_not_made_again(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await agent.log(run, 0, b"text")
    await agent.finish(run, log_bytes=100)
    await services.tasks.delete(task.id, ADA)

    with pytest.raises(NotFound):
        await agent.log(run, 0, b"text")

    assert await services.stores.logs.length(run.id) == 0


async def test_log_that_is_written_while_its_task_is_deleted_is_dropped(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await agent.finish(run, log_bytes=100)
    append = services.stores.logs.append

    async def overtaken(*args: Any, **options: Any) -> int:
        await services.tasks.delete(task.id, ADA)
        return await append(*args, **options)

    monkeypatch.setattr(services.stores.logs, "append", overtaken)
    with pytest.raises(NotFound):
        await agent.log(run, 0, b"text")

    assert await services.stores.logs.length(run.id) == 0
