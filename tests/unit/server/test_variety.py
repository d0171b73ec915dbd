"""A queue's tasks may differ in what they ask for, up to a number: each claim looks at every kind."""

from __future__ import annotations

import pytest
from taskyard.wire import NewTask, Resources, StopRequest, Task
from taskyard_server import variety
from taskyard_server.errors import Conflict

from tests.support.services import ADA, Services, spec


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variety, "MAX_KINDS", 3)


async def put(services: Services, licences: float, queue: str | None = "default") -> Task:
    new = NewTask(spec=spec(resources=Resources(custom={"licence": licences})), queue=queue)
    return await services.tasks.create(new, ADA)


async def fill(services: Services) -> list[Task]:
    return [await put(services, licences) for licences in (1, 2, 3)]


async def test_a_kind_too_many_is_refused_and_one_that_is_there_is_not(services: Services) -> None:
    await fill(services)

    with pytest.raises(Conflict, match="3 different requirements"):
        await put(services, 4)
    await put(services, 2)


async def test_drafts_and_ended_tasks_get_no_other_way_in(services: Services) -> None:
    first, *_ = await fill(services)
    draft = await put(services, 4, queue=None)
    await services.tasks.stop(first.id, StopRequest(), ADA)
    services.clock.move(variety.LOOK_SECONDS)
    await put(services, 5)

    for way_in in (services.tasks.retry(first.id, ADA), services.tasks.enqueue(draft.id, "default", ADA)):
        with pytest.raises(Conflict):
            await way_in


async def test_what_has_left_the_queue_makes_room(services: Services) -> None:
    first, *_ = await fill(services)
    await services.tasks.stop(first.id, StopRequest(), ADA)
    services.clock.move(variety.LOOK_SECONDS)

    await put(services, 4)
