"""The first events since a time, over all tasks."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from taskyard.wire import Event, TaskEvent
from taskyard_server.store import events as gathering
from taskyard_server.store.base import Store, TaskRecord

from tests.support.records import draft


def eventful(created_at: float, *moments: float, project: str = "") -> TaskRecord:
    """A task with an event at each of these moments; the kinds alternate."""
    events = tuple(Event(at=at, kind=("phase", "note")[number % 2]) for number, at in enumerate(moments))
    return replace(draft(created_at=created_at, project=project), updated_at=max(moments), events=events)


def first(records: list[TaskRecord], since: float, kind: str | None, limit: int) -> list[float]:
    found = [event for record in records for event in record.events if event.at >= since]
    return sorted(event.at for event in found if kind in (None, event.kind))[:limit]


@pytest.mark.parametrize("few", [0, 1000])
async def test_first_events_are_found_whatever_the_order_of_the_tasks(
    store: Store, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    for module in ("taskyard_server.store.tables.tasks", "taskyard_server.store.mongo.tasks"):
        monkeypatch.setattr(f"{module}.FEW_TASKS", few)
    numbers = random.Random(7)
    records = []
    for _ in range(60):
        created = numbers.uniform(0, 100)
        moments = sorted(created + numbers.expovariate(0.05) for _ in range(numbers.randint(1, 6)))
        records.append(eventful(created, *moments))
    await store.add_tasks(records)

    for since, kind, limit in [
        (0, None, 10),
        (0, None, 1000),
        (50, None, 7),
        (90, "note", 5),
        (0, "note", 1),
        (1e9, None, 5),
    ]:
        events = await store.events(since=since, kind=kind, limit=limit)

        assert [event.event.at for event in events] == first(records, since, kind, limit)
        assert all(isinstance(event, TaskEvent) for event in events)


async def test_events_of_one_project_alone(store: Store) -> None:
    mine, other = eventful(1, 2, 3, project="mine"), eventful(1, 2, project="other")
    await store.add_tasks([mine, other])

    events = await store.events(since=0, project="mine")

    assert [event.task for event in events] == [mine.id] * 2


async def test_first_events_cost_what_they_are_not_what_there_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("taskyard_server.store.tables.tasks", "taskyard_server.store.mongo.tasks"):
        monkeypatch.setattr(f"{module}.FEW_TASKS", 10)
    looked_at: list[str] = []
    add = gathering.FirstEvents.add

    def counted(self: gathering.FirstEvents, task_id: str, body: bytes) -> None:
        looked_at.append(task_id)
        add(self, task_id, body)

    monkeypatch.setattr(gathering.FirstEvents, "add", counted)
    await store.add_tasks([eventful(float(number), number, number + 0.5) for number in range(1, 300)])

    events = await store.events(since=0, limit=20)

    assert [event.event.at for event in events] == [1 + number / 2 for number in range(20)]
    assert len(looked_at) < 25
