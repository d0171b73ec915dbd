"""What a claim is given on a real store: by label, by name, by queue, by what else is in use."""

from __future__ import annotations

import asyncio

import pytest
from taskyard.wire import Capacity, GpuRange, NewQueue, NewTask, Resources
from taskyard_server.errors import Conflict

from tests.support.services import ADA, Services, spec

FOUR = Capacity(slots=4, gpus=4)


async def test_a_task_goes_to_the_worker_with_its_label(services: Services) -> None:
    await services.enqueue(resources=Resources(requires={"arch": "a100"}))

    refused = await services.agent("v").claim(labels={"arch": "t4"})
    taken = await services.agent("w").claim(labels={"arch": "a100", "room": "3"})

    assert refused.run is None
    assert taken.run is not None


async def test_an_entry_for_one_worker_wakes_that_one(services: Services) -> None:
    other = await services.agent("v").park()
    wanted = await services.agent("w").park()

    await services.enqueue(resources=Resources(worker="w"))

    assert (await asyncio.wait_for(wanted, 5)).run is not None
    assert not other.done()
    services.claims.close()
    await other


async def test_gpus_are_given_by_the_name_of_the_queue(services: Services) -> None:
    await services.queues.create(NewQueue(name="four"), ADA)
    given = {"default": GpuRange(least=1, most=1), "four": GpuRange(least=4, most=4)}
    large = await services.enqueue("four", resources=Resources(gpus=None))
    small = await services.enqueue("default", resources=Resources(gpus=None))
    agent = services.agent(queues=("four", "default"))

    claims = [
        await agent.claim(free=Capacity(slots=free, gpus=free), total=FOUR, queue_gpus=given) for free in (3, 2, 4)
    ]

    assert [claim.run and claim.run.task for claim in claims] == [small.id, None, large.id]


async def test_a_task_taken_by_name_must_fit_in_all_that_it_asks_for(services: Services) -> None:
    draft = await services.tasks.create(NewTask(spec=spec(resources=Resources(worker="v"))), ADA)

    with pytest.raises(Conflict, match="the task is for worker 'v' alone"):
        await services.agent("w").claim(task=draft.id)


async def test_a_worker_with_something_in_use_parks_with_what_is_free(services: Services) -> None:
    waiting = await services.agent("w").park(free=Capacity(slots=1, gpus=1), total=FOUR)

    await services.enqueue(resources=Resources(gpus=2))
    fitting = await services.enqueue(resources=Resources(gpus=1))

    claim = await asyncio.wait_for(waiting, 5)
    assert claim.run is not None
    assert claim.run.task == fitting.id
