"""A host that cannot be reached rests: its tasks wait, others go on, no retry is charged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from taskyard.wire import (
    Code,
    Environment,
    NewQueue,
    Outcome,
    OutcomeKind,
    Phase,
    Policy,
    Reason,
    Run,
    Task,
    TaskState,
)
from taskyard_server.auth import Actor
from taskyard_server.rests import FIRST_SECONDS, LONGEST_SECONDS, after_failure
from taskyard_server.store.base import RestRecord
from taskyard_server.targets import host_of, target_of, targets_of

from tests.support.services import ADA, BOB, FAILED, FakeAgent, Services, spec

HOST = "git.example.org"
CODE = Code(repository=f"https://{HOST}/a/b.git", commit="a" * 40)
OTHER = Code(repository="git@elsewhere.org:a/b.git", commit="a" * 40)
AWAY = Outcome(
    kind=OutcomeKind.FAILED,
    reason=Reason.GIT_HOST,
    phase=Phase.CHECKOUT,
    message="it timed out\nmore",
    infrastructure=True,
    target=HOST,
)


async def fail(agent: FakeAgent, outcome: Outcome = AWAY) -> Run:
    run = await agent.take()
    return await agent.finish_and_forget(run, outcome)


async def takes(agent: FakeAgent) -> Task | None:
    """What the agent takes now."""
    return (await agent.claim()).task


async def test_its_tasks_wait_and_others_go_on(services: Services) -> None:
    first = await services.enqueue(code=CODE)
    behind, other = await services.enqueue(code=CODE), await services.enqueue(code=OTHER)
    agent = services.agent()

    await fail(agent)
    taken = await takes(agent)

    assert taken is not None
    assert taken.id == other.id
    for task in (first, behind):
        assert (await services.task(task.id)).state is TaskState.QUEUED
        summary = (await services.tasks.explain(task.id, ADA)).summary
        assert f"it waits for {HOST}, which could not be reached 1 time" in summary
        assert "(it timed out); tried again in 5 s, and given up after 30 min" in summary


async def test_the_first_of_its_tasks_tries_again_and_the_others_wait_for_it(services: Services) -> None:
    first, behind = await services.enqueue(code=CODE), await services.enqueue(code=CODE)
    agent = services.agent()
    await fail(agent)

    await services.tick(FIRST_SECONDS + 1)
    trial = await agent.take()
    other_worker = services.agent("other:cpu:0")

    assert trial.task == first.id
    assert await takes(agent) is None
    taken = await takes(other_worker)  # which has not failed, and need not wait for one that did
    assert taken is not None
    assert taken.id == behind.id


async def test_a_rest_grows_to_five_minutes_and_a_start_ends_it(services: Services) -> None:
    await services.enqueue(code=CODE, policy=Policy(give_up_after_seconds=1e6))
    agent = services.agent()
    waits = []
    for _ in range(9):
        await fail(agent)
        (rest,) = await services.stores.store.rests()
        waits.append(rest.until - services.clock())
        await services.tick(waits[-1])

    run = await agent.take_and_start()

    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert await services.stores.store.rests() == []
    assert (await services.task(run.task)).run_count == 10


async def test_a_parked_claim_is_woken_when_a_rest_ends(services: Services) -> None:
    task = await services.enqueue(code=CODE)
    agent = services.agent()
    await fail(agent)
    parked = await agent.park()

    await services.tick(FIRST_SECONDS + 1)
    claim = await parked

    assert claim.task is not None
    assert claim.task.id == task.id


async def test_no_worker_is_charged_for_a_host_that_a_task_named(services: Services) -> None:
    agent = services.agent()
    for number in range(9):
        code = replace(CODE, repository=f"https://host{number}.org/x")
        await services.enqueue(code=code)
        await agent.beat()
        await fail(agent, replace(AWAY, target=f"host{number}.org"))

    worker = await services.workers.get(agent.name)

    assert (worker.infrastructure_failures, worker.paused_reason) == (0, "")


@pytest.mark.parametrize("reason", [Reason.GIT_HOST, Reason.PACKAGE_INDEX])
async def test_an_older_agent_s_failures_of_hosts_are_read_so(services: Services, reason: Reason) -> None:
    await services.enqueue(code=CODE)
    agent = services.agent()
    await agent.beat()

    await fail(agent, replace(AWAY, target="", reason=reason))

    (rest,) = await services.stores.store.rests()
    assert rest.target == (HOST if reason is Reason.GIT_HOST else "its package index")
    assert (await services.workers.get(agent.name)).infrastructure_failures == 0


async def test_a_host_that_one_worker_cannot_reach_is_another_s_to_use(services: Services) -> None:
    broken, well = services.agent("broken"), services.agent("well")
    for _ in range(4):
        await services.enqueue(code=CODE)
    await fail(broken)

    for _ in range(3):
        assert await takes(broken) is None
        await well.finish_and_forget(await well.take_and_start())
    await services.tick(FIRST_SECONDS + 1)

    assert await takes(broken) is not None  # it tries again for itself


async def test_a_host_that_two_workers_cannot_reach_rests_for_all_until_one_does(services: Services) -> None:
    one, two, three = (services.agent(name) for name in ("one", "two", "three"))
    await services.enqueue(code=CODE)
    await services.enqueue(code=CODE)
    await fail(one)
    await fail(two)

    assert await takes(three) is None

    await services.tick(30)
    await three.finish_and_forget(await three.take_and_start())

    assert await takes(three) is not None


class OfBob(FakeAgent):
    """A user's own agent, which serves the queues that the user created."""

    @property
    def actor(self) -> Actor:
        return replace(super().actor, owner=BOB.owner, own_queues=True)


async def test_a_users_own_agents_let_no_host_rest_for_others(services: Services) -> None:
    await services.queues.create(NewQueue(name="bobs"), BOB)
    for queue in ("bobs", "bobs", "default"):
        await services.enqueue(queue, code=CODE)
    for name in ("one", "two"):
        await fail(OfBob(services, name, queues=("bobs",)))

    assert await takes(services.agent("three")) is not None


async def test_a_task_gives_up_when_its_time_is_over_with_its_own_reason(services: Services) -> None:
    task = await services.enqueue(code=CODE, policy=Policy(give_up_after_seconds=60, retries=3))
    agent = services.agent()
    for _ in range(3):
        await fail(agent)
        await services.tick(21)

    await services.tick(30)

    ended = await services.task(task.id)
    assert (ended.state, ended.retries_used) == (TaskState.FAILED, 0)
    assert ended.run is not None
    assert ended.run.outcome == AWAY
    last = (await services.tasks.story(task.id, ADA)).events[-1]
    assert last.detail.startswith(f"{HOST} could not be reached for 6")


async def test_the_task_behind_one_that_gave_up_has_waited_as_long(services: Services) -> None:
    await services.enqueue(code=CODE, policy=Policy(give_up_after_seconds=60))
    behind = await services.enqueue(code=CODE, policy=Policy(give_up_after_seconds=60))
    agent = services.agent()
    await fail(agent)
    await services.tick(62)

    assert (await fail(agent)).task == behind.id

    assert (await services.task(behind.id)).state is TaskState.FAILED


async def test_a_retried_task_has_its_whole_time_again(services: Services) -> None:
    task = await services.enqueue(code=CODE, policy=Policy(give_up_after_seconds=10))
    agent = services.agent()
    await fail(agent)
    await services.tick(12)
    assert (await services.task(task.id)).state is TaskState.FAILED

    await services.tick(LONGEST_SECONDS + 10)
    await services.tasks.retry(task.id, ADA)
    await fail(agent)

    assert (await services.task(task.id)).state is TaskState.QUEUED


async def test_a_failure_of_its_own_shows_that_its_host_was_there(services: Services) -> None:
    await services.enqueue(code=CODE)
    agent = services.agent()
    await fail(agent)
    await services.tick(FIRST_SECONDS + 1)

    await fail(agent, replace(FAILED, phase=Phase.ENVIRONMENT))

    assert await services.stores.store.rests() == []


async def test_another_server_on_the_store_knows_of_it(services: Services) -> None:
    """As two servers on one database: the second learns of the rest with its next tick, and until then does not
    give the task back to the worker that has just failed it."""
    from taskyard_server.claims import Claims
    from taskyard_server.runs import Runs

    await services.enqueue(code=CODE)
    await services.enqueue(code=CODE)
    agent = services.agent()
    store = services.stores.store
    other = Runs(
        store,
        Claims(store, services.clock),
        services.stores.logs,
        services.stores.samples,
        services.clock,
        services.config,
    )
    await fail(agent)

    services.runs = other
    assert await takes(agent) is None
    await other.look_at_rests()
    assert await takes(agent) is None
    services.clock.move(FIRST_SECONDS + 1)

    assert await takes(agent) is not None


# --- Pure parts


def rested(rest: RestRecord | None, now: float, claimed_at: float = 1e9, worker: str = "w") -> RestRecord:
    return after_failure(rest, target=HOST, worker=worker, claimed_at=claimed_at, detail="", now=now)


def test_runs_that_were_under_way_do_not_make_a_rest_longer() -> None:
    first = rested(None, 100.0)

    again = rested(first, 101.0, claimed_at=99.0)

    assert again == first
    assert first.until == 100.0 + FIRST_SECONDS


def test_a_rest_never_grows_beyond_its_longest() -> None:
    rest = None
    for number in range(200):
        rest = rested(rest, 300.0 * number)

    assert rest is not None
    assert rest.until - rest.failed_at == LONGEST_SECONDS


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://GitHub.com/x/y.git", "github.com"),
        ("git@github-work:me/x.git", "github-work"),
        ("ssh://git@h:22/x", "h"),
        ("ssh://git@h:2222/x", "h:2222"),
        ("https://localhost:8443/x", "localhost:8443"),
        ("user@[::1]:x", "[::1]"),
        ("https://u:p@h/x", "h"),
        ("https://h:nine/x", ""),
        ("/srv/code.git", ""),
        ("file:///srv/code.git", ""),
        ("./code", ""),
    ],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host


def test_a_task_s_hosts_are_those_of_its_code_and_of_addresses_among_its_packages() -> None:
    packages = (
        "six",
        "a @ git+https://one.org/a.git@main",
        "https://two.org:8/b-1.0-py3-none-any.whl",
    )

    hosts = targets_of(spec(code=CODE, environment=Environment(packages=packages)))

    assert hosts == {HOST, "one.org", "two.org:8"}


def test_an_outcome_s_own_word_comes_first() -> None:
    assert target_of(replace(AWAY, target="other.org"), spec(code=CODE)) == "other.org"
    assert target_of(replace(AWAY, target=""), spec()) == "its git host"
    assert target_of(FAILED, spec(code=CODE)) == ""
