"""A store that was restored from a copy hands nothing out until what agents know since is decided."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import (
    Beat,
    BeatAnswer,
    KeptRun,
    OnLost,
    Policy,
    RecoveryChoice,
    Run,
    Task,
    TaskState,
    TokenKind,
    UnknownKind,
    WorkerReport,
    WorkerState,
)
from taskyard_server.errors import Conflict, NotFound, Stale, Unavailable
from taskyard_server.store.base import TaskFilter, TokenRecord

from tests.support.services import ADA, COMPLETED, FAILED, Clock, FakeAgent, Services, open_services, sha256
from tests.support.waiting import becomes_true_async

ROOT = replace(ADA, name="root")
ALL = RecoveryChoice(all=True)
Since = Callable[[Services], Awaitable[None]]


@dataclass
class Yard:
    """A server that loses its disk: `before` is in the copy, `since` is not."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    agent: FakeAgent | None = None

    @asynccontextmanager
    async def restored(self, before: Since, since: Since) -> AsyncIterator[Services]:
        async with open_services(self.folder / "old", self.clock) as services:
            await before(services)
        shutil.copytree(self.folder / "old", self.folder / "new")
        copied_at = self.clock()
        self.clock.move(1.0)
        async with open_services(self.folder / "old", self.clock) as services:
            await since(services)
        self.clock.move(100.0)
        async with open_services(self.folder / "new", self.clock) as services:
            await services.stores.store.begin_generation(copied_at=copied_at, now=self.clock())
            await services.recovery.refresh()
            yield services


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


@dataclass
class Story:
    """One agent's, told on both sides of the copy."""

    tasks: list[Task] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    number: int = 1
    fields: dict[str, Any] = field(default_factory=dict)

    def agent(self, services: Services) -> FakeAgent:
        return services.agent(held=self.held)

    async def queue(self, services: Services) -> None:
        self.tasks += [await services.enqueue(**self.fields) for _ in range(self.number)]

    async def take(self, services: Services) -> None:
        self.runs += [await self.agent(services).take_and_start() for _ in range(self.number)]

    async def end(self, services: Services) -> None:
        for run in self.runs:
            await self.agent(services).finish(run)

    async def queue_and_take(self, services: Services) -> None:
        await self.queue(services)
        await self.take(services)

    async def take_and_end(self, services: Services) -> None:
        await self.take(services)
        await self.end(services)

    async def nothing(self, _services: Services) -> None:
        """What happens to those who wait."""

    def kept(self, number: int = 0, **changes: Any) -> KeptRun:
        run, task = self.runs[number], self.tasks[number]
        known = KeptRun(
            run=run,
            task=task,
            control_token=self.held[run.id],
            report_hash=sha256("report"),
            boot_id="boot-1",
            started=True,
        )
        return replace(known, **changes)


async def beat(agent: FakeAgent, *kept: KeptRun) -> BeatAnswer:
    """As an agent's that answered to `copied_at`."""
    place = WorkerReport(
        name=agent.name, state=WorkerState.BUSY, queues=agent.queues, gpus=(), runs=tuple(agent.held)
    )
    plain = await agent.beat()
    sent = Beat(agent=agent.name, host=agent.host, boot_id=agent.boot_id, version="0", workers=(place,), kept=kept)
    assert plain.copied_at is not None
    return await agent.services.runs.beat(sent, agent.actor)


async def kinds(services: Services) -> list[tuple[str, UnknownKind]]:
    return [(one.task, one.kind) for one in (await services.recovery.status("0")).runs]


async def test_nothing_is_handed_out_until_the_operator_resumes(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue, story.nothing) as services:
        agent = story.agent(services)
        assert (await agent.claim()).run is None
        with pytest.raises(Unavailable, match="server resume"):
            await agent.claim(task=story.tasks[0].id)

        parked = asyncio.create_task(agent.claim(wait_seconds=20.0))
        assert await becomes_true_async(lambda: services.claims.parked == 1)
        await services.adoption.resume(ROOT)

        assert (await parked).run is None
        assert (await agent.claim()).run is not None


async def test_a_run_that_the_copy_does_not_know_is_listed_and_left_alone(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue, story.take) as services:
        agent, run = story.agent(services), story.runs[0]

        answer = await agent.beat()

        assert answer.runs == ()
        assert answer.copied_at is not None
        assert await kinds(services) == [(story.tasks[0].id, UnknownKind.RUNNING)]
        with pytest.raises(Unavailable, match="does not know run"):
            await agent.start(run)
        with pytest.raises(Unavailable):
            await agent.log(run, 0, b"line\n")
        with pytest.raises(Unavailable):
            await agent.finish(run)
        assert await kinds(services) == [(story.tasks[0].id, UnknownKind.ENDED)]
        with pytest.raises(Conflict, match="1 runs are undecided"):
            await services.adoption.resume(ROOT)


async def test_an_adopted_run_goes_on_and_ends_once(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue, story.take) as services:
        agent, run = story.agent(services), story.runs[0]
        await agent.beat()

        await services.adoption.adopt(RecoveryChoice(runs=(run.id,)), ROOT)
        await services.adoption.resume(ROOT)

        assert (await agent.claim()).run is None
        assert (await agent.beat()).runs == ()
        await agent.log(run, 0, b"line\n")
        await agent.finish(run, log_bytes=5)
        task = await services.task(story.tasks[0].id)
        assert (task.state, task.run_count) == (TaskState.COMPLETED, 1)


async def test_a_run_that_was_given_up_is_ended_and_its_task_runs_again(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue, story.take) as services:
        agent, run = story.agent(services), story.runs[0]
        await agent.beat()

        await services.adoption.give_up(ALL, ROOT)

        assert [one.stale for one in (await agent.beat()).runs] == [True]
        with pytest.raises(Stale):
            await agent.finish(run)
        with pytest.raises(Stale):
            await agent.log(run, 0, b"line\n")
        await services.adoption.resume(ROOT)
        del story.held[run.id]
        claim = await agent.claim()
        assert claim.run is not None
        assert claim.task is not None
        assert claim.task.id == story.tasks[0].id


async def test_the_ends_of_twenty_tasks_that_the_copy_has_queued_are_listed_and_adopted(yard: Yard) -> None:
    story = Story(number=20)
    async with yard.restored(story.queue, story.take_and_end) as services:
        agent = story.agent(services)
        kept = [story.kept(number, outcome=COMPLETED, ended_at=yard.clock() - 50) for number in range(20)]
        story.held.clear()

        await beat(agent, *kept)

        assert {kind for _, kind in await kinds(services)} == {UnknownKind.ENDED}
        await services.adoption.adopt(ALL, ROOT)
        await services.adoption.resume(ROOT)
        assert [(await services.task(task.id)).state for task in story.tasks] == [TaskState.COMPLETED] * 20
        assert (await agent.claim()).run is None


async def test_the_end_of_a_run_that_the_copy_has_alive_is_taken_from_its_agent(yard: Yard) -> None:
    """Its control token proves it, so that nobody need decide."""
    story = Story()
    async with yard.restored(story.queue_and_take, story.end) as services:
        agent = story.agent(services)
        assert await kinds(services) == [(story.tasks[0].id, UnknownKind.SILENT)]
        kept = story.kept(outcome=COMPLETED, ended_at=yard.clock() - 50)
        story.held.clear()

        await beat(agent, kept)

        assert await kinds(services) == []
        task = await services.task(story.tasks[0].id)
        assert (task.state, task.run_count) == (TaskState.COMPLETED, 1)
        assert task.run is not None
        assert task.run.log_bytes == 0


async def test_an_end_with_another_control_token_is_not_taken(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue_and_take, story.nothing) as services:
        kept = story.kept(outcome=COMPLETED, ended_at=yard.clock(), control_token="forged")

        await beat(story.agent(services), kept)

        assert (await services.task(story.tasks[0].id)).state is TaskState.RUNNING


async def test_leases_stand_still_until_the_store_goes_on_and_are_fresh_then(yard: Yard) -> None:
    story = Story(fields={"policy": Policy(on_lost=OnLost.FAIL)})
    async with yard.restored(story.queue_and_take, story.nothing) as services:
        await services.tick(2000)
        assert (await services.task(story.tasks[0].id)).state is TaskState.RUNNING
        assert await kinds(services) == [(story.tasks[0].id, UnknownKind.SILENT)]

        await services.adoption.resume(ROOT)

        await services.tick(50)
        assert (await services.task(story.tasks[0].id)).state is TaskState.RUNNING
        await services.tick(400)
        assert (await services.task(story.tasks[0].id)).state is TaskState.FAILED


async def test_a_silent_run_can_be_given_up_at_once(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue_and_take, story.nothing) as services:
        await services.adoption.give_up(RecoveryChoice(runs=(story.runs[0].id,)), ROOT)

        assert (await services.task(story.tasks[0].id)).state is TaskState.QUEUED
        with pytest.raises(NotFound):
            await services.adoption.adopt(RecoveryChoice(runs=(story.runs[0].id,)), ROOT)


async def test_a_later_run_follows_the_one_that_the_copy_has_alive(yard: Yard) -> None:
    story = Story(fields={"policy": Policy(retries=1)})

    async def again(services: Services) -> None:
        await story.agent(services).finish_and_forget(story.runs[0], FAILED)
        await services.tick(60)
        story.runs.append(await story.agent(services).take_and_start())

    async with yard.restored(story.queue_and_take, again) as services:
        agent = story.agent(services)
        await agent.beat()

        await services.adoption.adopt(ALL, ROOT)

        task = await services.task(story.tasks[0].id)
        assert (task.state.active, task.run_count) == (True, 2)
        await agent.finish(story.runs[1])
        assert (await services.task(task.id)).state is TaskState.COMPLETED


async def test_a_task_younger_than_the_copy_is_made_again_from_its_agents_journal(yard: Yard) -> None:
    story = Story(fields={"name": "young"})
    async with yard.restored(story.nothing, story.queue_and_take) as services:
        agent = story.agent(services)
        await beat(agent, story.kept())
        (unknown,) = (await services.recovery.status("0")).runs
        assert (unknown.name, unknown.state, unknown.adoptable) == ("young", "", True)

        await services.adoption.adopt(ALL, ROOT)
        await agent.finish(story.runs[0])

        task = await services.task(story.tasks[0].id)
        assert (task.spec.name, task.state) == ("young", TaskState.COMPLETED)


@pytest.mark.parametrize("known", [True, False])
async def test_a_users_own_agent_brings_back_no_task_of_another_account(yard: Yard, known: bool) -> None:
    story = Story(fields={"name": "adas"})
    before = (story.queue, story.take) if known else (story.nothing, story.queue_and_take)
    async with yard.restored(*before) as services:
        bobs = TokenRecord(
            id="agent-token",
            hash="h",
            kind=TokenKind.AGENT,
            name="bobs",
            owner="bob",
            created_at=0.0,
            expires_at=None,
            own_queues=True,
        )
        await services.stores.store.add_token(bobs)
        await beat(story.agent(services), story.kept())

        with pytest.raises(Conflict, match="give it up"):
            await services.adoption.adopt(ALL, ROOT)
        assert len(await services.stores.store.tasks(TaskFilter())) == known
        await services.adoption.give_up(ALL, ROOT)
        await services.adoption.resume(ROOT)


async def test_a_task_younger_than_the_copy_whose_agent_is_too_old_can_only_be_given_up(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.nothing, story.queue_and_take) as services:
        await story.agent(services).beat()
        (unknown,) = (await services.recovery.status("0")).runs
        assert not unknown.adoptable

        with pytest.raises(Conflict, match="too old to send it"):
            await services.adoption.adopt(ALL, ROOT)
        await services.adoption.give_up(ALL, ROOT)
        await services.adoption.resume(ROOT)


async def test_a_run_stays_the_agents_that_reported_it_first(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue, story.take) as services:
        agent, run = story.agent(services), story.runs[0]
        await agent.beat()
        thief = services.agent("thief", token="thief-token", held={run.id: "another control token"})

        await thief.beat()
        with pytest.raises(Unavailable):
            await thief.finish(run)
        await services.adoption.adopt(ALL, ROOT)

        await agent.finish(run)
        assert (await services.task(story.tasks[0].id)).state is TaskState.COMPLETED


async def test_workers_and_tokens_that_matter_are_named(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue_and_take, story.nothing) as services:
        services.recovery.note_token("ty_user_younger_than_the_copy", "10.0.0.7")
        with pytest.raises(Unavailable):
            services.recovery.note_token("a-runs-report-token", "10.0.0.8")

        status = await services.recovery.status("0")

        assert [(one.kind, one.address) for one in status.tokens] == [("user", "10.0.0.7")]
        assert status.silent_workers == ("host:cpu:0",)
        await story.agent(services).beat()
        assert (await services.recovery.status("0")).silent_workers == ()


async def test_nothing_is_decided_where_nothing_was_restored(services: Services) -> None:
    for verb in (services.adoption.adopt, services.adoption.give_up):
        with pytest.raises(Conflict, match="does not recover"):
            await verb(ALL, ROOT)
    await services.adoption.resume(ROOT)
    status = await services.recovery.status("0")
    assert (status.generation, status.recovering, status.runs) == (1, False, ())


async def test_after_the_resumption_an_unknown_run_is_stale_as_ever(yard: Yard) -> None:
    story = Story()
    async with yard.restored(story.queue, story.take) as services:
        await services.adoption.resume(ROOT)

        assert [one.stale for one in (await story.agent(services).beat()).runs] == [True]
