"""The table of workers."""

from __future__ import annotations

from taskyard.cli.workers import _below_their_parents, _row
from taskyard.wire import Worker, WorkerState


def worker(name: str, parent: str | None = None) -> Worker:
    return Worker(name=name, agent="agent", host="host", state=WorkerState.BUSY, parent=parent)


def test_places_stand_indented_below_the_worker_that_they_belong_to() -> None:
    found = [worker("a:b"), worker("s:1", "s"), worker("s"), worker("s:2", "s"), worker("t:1", "gone")]

    names = [_row(one)[0] for one in _below_their_parents(found)]

    assert names == ["a:b", "s", "  s:1", "  s:2", "  t:1"]
