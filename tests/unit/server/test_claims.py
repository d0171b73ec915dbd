"""The waiting room: who is woken, and that no wake is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from taskyard.wire import Capacity, Claim, QueueChanges, Resources, StopRequest, WorkerReport, WorkerState
from taskyard_server import lifecycle, workers
from taskyard_server.errors import Unavailable
from taskyard_server.matching import Offer
from taskyard_server.store.base import WorkerRecord

from tests.support.services import ADA, Services


async def soon(waiting: asyncio.Task[Claim]) -> Claim:
    return await asyncio.wait_for(waiting, 5)


async def end(services: Services, *waiting: asyncio.Task[Claim]) -> list[Claim]:
    """Sends everybody home and returns what they were answered."""
    services.claims.close()
    return [await soon(claim) for claim in waiting]


async def test_an_entry_wakes_a_parked_claim_at_once(services: Services) -> None:
    waiting = await services.agent().park()

    task = await services.enqueue()

    claim = await soon(waiting)
    assert claim.run is not None
    assert claim.run.task == task.id


async def test_an_entry_wakes_exactly_one_claim_the_longest_idle(services: Services) -> None:
    looks = count_looks(services)
    parked = [await services.agent(f"agent {number}").park() for number in range(5)]
    looks.clear()

    await services.enqueue()
    first = await soon(parked[0])

    assert first.run is not None
    assert len(looks) == 1
    assert [claim.run for claim in await end(services, *parked[1:])] == [None] * 4


async def test_who_has_waited_longest_is_counted_over_several_claims(services: Services) -> None:
    veteran, newcomer = services.agent("veteran"), services.agent("newcomer")
    await veteran.claim()
    services.clock.move(60)
    waiting_newcomer = await newcomer.park()
    waiting_veteran = await veteran.park()

    await services.enqueue()

    assert (await soon(waiting_veteran)).run is not None
    assert [claim.run for claim in await end(services, waiting_newcomer)] == [None]


async def test_only_a_claim_that_fits_is_woken(services: Services) -> None:
    small = await services.agent("small", gpus=0).park()
    big = await services.agent("big", gpus=2).park()

    await services.enqueue(resources=Resources(gpus=2))

    assert (await soon(big)).run is not None
    assert not small.done()
    await end(services, small)


async def test_a_waiter_whose_client_is_gone_takes_nothing_and_passes_the_wake_on(services: Services) -> None:
    here = True

    async def leaves() -> bool:
        return not here

    gone = await services.agent("gone").park(gone=leaves)
    there = await services.agent("there").park()
    here = False

    await services.enqueue()

    assert (await soon(there)).run is not None
    assert (await soon(gone)).run is None


async def test_a_waiter_that_is_cancelled_passes_the_wake_on(services: Services) -> None:
    first = await services.agent("first").park()
    second = await services.agent("second").park()

    queue = await services.queues.find("default")
    with unannounced(services):
        await services.enqueue()

    await services.claims.hear_entries([queue.id])
    first.cancel()

    assert (await soon(second)).run is not None


async def test_a_look_that_fails_passes_the_wake_on(services: Services) -> None:
    first = await services.agent("first").park()
    second = await services.agent("second").park()
    claim = services.stores.store.claim
    failures = [Unavailable("the store is away")]

    async def fail_once(*args: object) -> object:
        if failures:
            raise failures.pop()
        return await claim(*args)  # type: ignore[arg-type]

    services.stores.store.claim = fail_once  # type: ignore[method-assign,assignment]
    await services.enqueue()

    assert (await soon(second)).run is not None
    with pytest.raises(Unavailable):
        await soon(first)


async def test_no_wake_is_lost_between_a_look_and_the_wait(services: Services) -> None:
    """The entry appears while the claim's first look is on its way and has already passed it."""
    claim = services.stores.store.claim

    async def enqueue_after(*args: object) -> object:
        found = await claim(*args)  # type: ignore[arg-type]
        services.stores.store.claim = claim  # type: ignore[method-assign]
        await services.enqueue()
        return found

    services.stores.store.claim = enqueue_after  # type: ignore[method-assign,assignment]

    waiting = asyncio.create_task(services.agent().claim(wait_seconds=25.0))

    assert (await soon(waiting)).run is not None


async def test_a_waiter_that_takes_another_entry_passes_the_wake_on(services: Services) -> None:
    both = await services.agent("both", queues=("default", "services")).park()
    other = await services.agent("other", queues=("services",)).park()

    with unannounced(services):
        first = await services.enqueue("default")
    second = await services.enqueue("services")

    taken = [(await soon(waiting)).run for waiting in (both, other)]
    assert [run.task for run in taken if run] == [first.id, second.id]


async def test_every_entry_of_a_burst_finds_its_waiter(services: Services) -> None:
    parked = [await services.agent(f"agent {number}").park() for number in range(8)]

    tasks = await asyncio.gather(*(services.enqueue() for _ in range(8)))

    taken = [(await soon(waiting)).run for waiting in parked]
    assert {run.task for run in taken if run} == {task.id for task in tasks}


async def test_a_directive_ends_the_parked_claim_of_its_agent_at_once(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    waiting = await agent.park(worker=None)
    other = await services.agent("other").park()

    await services.tasks.stop(task.id, StopRequest(), ADA)

    claim = await soon(waiting)
    assert [(directive.run, directive.cancel) for directive in claim.directives] == [(run.id, True)]
    assert not other.done()
    await end(services, other)


@pytest.mark.parametrize("state", [WorkerState.PAUSED, WorkerState.DRAINING, WorkerState.STOPPED])
async def test_a_worker_that_takes_nothing_more_has_its_parked_claim_answered_at_once(
    services: Services, state: WorkerState
) -> None:
    agent = services.agent()
    waiting = await agent.park()
    other = await services.agent("other").park()

    await agent.beat(state)

    assert (await soon(waiting)).run is None
    assert not other.done()
    await end(services, other)


async def test_a_claim_that_offers_what_its_worker_has_not_is_answered_so_that_it_is_sent_anew(
    services: Services,
) -> None:
    agent = services.agent(gpus=2)
    waiting = await agent.park()
    await agent.beat()
    assert not waiting.done()

    report = WorkerReport(name=agent.name, state=WorkerState.BUSY, free=Capacity(gpus=1), total=Capacity(gpus=2))
    await agent.beat(workers=(report,))

    assert (await soon(waiting)).run is None


async def test_the_place_of_a_service_goes_with_its_run(services: Services) -> None:
    agent = services.agent()
    place = WorkerReport(name=f"{agent.name}:task", state=WorkerState.BUSY, parent=agent.name)
    await agent.beat(workers=(place,))
    assert [worker.parent for worker in await services.workers.list()] == [agent.name]

    await agent.beat(workers=(replace(place, state=WorkerState.STOPPED),))

    assert await services.workers.list() == []


async def test_a_directive_between_two_claims_is_told_by_the_next_and_by_no_later_one(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    await agent.take_and_start()
    await services.tasks.stop(task.id, StopRequest(), ADA)

    first = await soon(asyncio.create_task(agent.claim(worker=None, wait_seconds=25.0)))
    second = await agent.park(worker=None)

    assert first.directives
    assert not second.done()
    await end(services, second)


async def test_a_cancel_through_another_server_ends_the_parked_claim_too(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    waiting = await agent.park(worker=None)
    cancel = partial(lifecycle.request_cancel, requeue=False, by="bob", now=services.clock())
    await services.stores.store.update(task.id, cancel)

    await services.claims.hear_directives()

    assert [directive.run for directive in (await soon(waiting)).directives] == [run.id]


@pytest.mark.parametrize("change", [workers.drained, partial(workers.paused, reason="new disk")])
async def test_a_drain_or_pause_through_another_server_ends_the_parked_claim_too(
    services: Services, change: Callable[..., WorkerRecord]
) -> None:
    agent, store = services.agent(), services.stores.store
    await agent.beat()
    services.claims.hear_workers(await store.workers())
    waiting = await agent.park()
    await store.save_worker(agent.name, change)

    services.claims.hear_workers(await store.workers())

    assert (await soon(waiting)).beat


async def test_a_requeued_task_wakes_a_waiter(services: Services) -> None:
    task = await services.enqueue()
    await services.agent("silent").claim()
    waiting = await services.agent("other").park()

    await services.tick(31)

    claim = await soon(waiting)
    assert claim.run is not None
    assert claim.run.id == f"{task.id}.2"


async def test_a_repeated_claim_sends_the_earlier_one_away(services: Services) -> None:
    agent = services.agent()
    earlier = await agent.park(request_id="r")

    later = asyncio.create_task(agent.claim(request_id="r", wait_seconds=25.0))

    assert (await soon(earlier)).run is None
    await services.enqueue()
    assert (await soon(later)).run is not None


async def test_parked_claims_are_answered_empty_when_the_server_stops(services: Services) -> None:
    parked = [await services.agent(f"agent {number}").park() for number in range(3)]

    answers = await end(services, *parked)

    assert [answer.run for answer in answers] == [None] * 3
    assert services.claims.parked == 0


async def test_an_entry_that_came_through_another_server_wakes_the_one_that_fits(services: Services) -> None:
    parked = [await services.agent(f"small {number}").park() for number in range(3)]
    big = await services.agent("big", gpus=2).park()
    looks = count_looks(services)
    with unannounced(services):
        await services.enqueue(resources=Resources(gpus=2))

    await services.claims.hear_entries([(await services.queues.find("default")).id])

    assert (await soon(big)).run is not None
    assert len(looks) == 1
    await end(services, *parked)


async def test_all_entries_that_came_through_another_server_find_their_waiters(services: Services) -> None:
    parked = [await services.agent(f"agent {number}").park() for number in range(4)]
    with unannounced(services):
        tasks = [await services.enqueue() for _ in range(3)]

    await services.claims.hear_entries([(await services.queues.find("default")).id])
    await until(lambda: sum(claim.done() for claim in parked) == len(tasks))

    assert sum(claim.run is not None for claim in await end(services, *parked)) == len(tasks)


async def test_a_resumed_queue_wakes_a_claim_for_each_entry(services: Services) -> None:
    queue = await services.queues.find("default")
    await services.stores.store.update_queue(queue.id, lambda record: replace(record, paused=True))
    for _ in range(2):
        await services.enqueue()
    parked = [await services.agent(f"agent {number}").park() for number in range(2)]

    await services.queues.change(queue.id, QueueChanges(paused=False), ADA)

    assert all([(await soon(waiting)).run for waiting in parked])


async def test_two_thousand_parked_claims_do_nothing_until_they_are_woken(services: Services) -> None:
    looks = count_looks(services)
    agents = [services.agent(f"agent {number}") for number in range(2000)]
    parked = [asyncio.create_task(agent.claim(wait_seconds=25.0)) for agent in agents]
    await until(lambda: len(looks) == 2000 and services.claims.parked == 2000)
    looks.clear()

    await services.enqueue()
    await until(lambda: any(claim.done() for claim in parked))

    assert len(looks) == 1
    assert sum(claim.run is not None for claim in await end(services, *parked)) == 1


async def test_leaving_the_room_leaves_nothing_behind(services: Services) -> None:
    with services.claims.park(Offer(worker="w"), ["q1", "q2", "q1"], request_id="r"):
        assert services.claims.parked == 1

    assert services.claims.parked == 0


def count_looks(services: Services) -> list[object]:
    """Counts the claims that reach the store."""
    claim, looks = services.stores.store.claim, list[object]()

    async def counted(*args: object) -> object:
        looks.append(args)
        return await claim(*args)  # type: ignore[arg-type]

    services.stores.store.claim = counted  # type: ignore[method-assign,assignment]
    return looks


@contextlib.contextmanager
def unannounced(services: Services) -> Iterator[None]:
    """What is enqueued in here wakes nobody in this process, as if another server had done it."""
    announce, services.claims.announce = services.claims.announce, lambda record: None  # type: ignore[method-assign]
    yield
    services.claims.announce = announce  # type: ignore[method-assign]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)
