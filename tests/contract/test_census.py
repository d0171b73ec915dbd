"""What monitoring counts, on every store."""

from __future__ import annotations

from dataclasses import replace

import pytest
from taskyard.wire import TaskState, WorkerState
from taskyard_server import census
from taskyard_server.census import Counting
from taskyard_server.errors import Unavailable
from taskyard_server.store import Stores
from taskyard_server.store.base import Store
from taskyard_server.store.timed import timed

from tests.support.records import queue, queued, worker


class Moments:
    """A steady clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_tasks_are_counted_by_queue_and_workers_by_state(store: Store) -> None:
    full, paused = queue("full"), queue("paused", paused=True)
    await store.add_queue(full)
    await store.add_queue(paused)
    # The one that waits longest is not the first in line.
    await store.add_tasks([replace(queued(full.id), queued_at=90.0), replace(queued(full.id), queued_at=40.0)])
    await store.save_worker("idle", lambda _: worker("idle"))
    beside = replace(worker("beside").worker, parent="idle")
    await store.save_worker("beside", lambda _: replace(worker("beside"), worker=beside))

    found = await Counting(store, lambda: 100.0).latest()

    assert found is not None
    assert found.workers == {WorkerState.IDLE: 1}
    assert found.tasks == {TaskState.QUEUED: 2}
    assert [(each.name, each.wait_seconds, each.paused) for each in found.queues] == [
        ("full", 60.0, False),
        ("paused", 0.0, True),
    ]


async def test_a_long_count_is_kept_longer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments()
    counts = store.counts

    async def slow() -> object:
        moments.now += 2.0
        return await counts()

    monkeypatch.setattr(store, "counts", slow)
    counting = Counting(store, lambda: 100.0, moments)
    first = await counting.latest()

    moments.now += 99.0
    assert await counting.latest() is first
    moments.now += 2.0
    assert await counting.latest() is not first


async def test_queues_beyond_the_most_are_counted_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MOST_QUEUES", 1)
    for name, tasks in (("small", 1), ("large", 3), ("middle", 2)):
        record = queue(name)
        await store.add_queue(record)
        await store.add_tasks([queued(record.id) for _ in range(tasks)])

    found = await Counting(store, lambda: 100.0).latest()

    assert found is not None
    assert [(each.name, each.states) for each in found.queues] == [
        ("large", {TaskState.QUEUED: 3}),
        ("", {TaskState.QUEUED: 3}),
    ]


async def test_a_store_says_what_it_takes_on_the_disk(stores: Stores) -> None:
    assert sum((await stores.sizes()).values()) > 0


async def test_a_timed_store_notes_each_verb_and_does_what_the_store_does(store: Store) -> None:
    noted: list[tuple[str, bool]] = []
    same = timed(store, lambda verb, seconds, *, unavailable: noted.append((verb, unavailable)))

    await same.add_queue(queue("one"))

    assert [each.name for each in await store.queues()] == ["one"]
    assert same.kind == store.kind
    assert noted == [("add_queue", False)]


async def test_while_the_store_is_away_there_is_no_census(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> object:
        raise Unavailable("away")

    monkeypatch.setattr(store, "counts", away)

    assert await Counting(store, lambda: 100.0).latest() is None
