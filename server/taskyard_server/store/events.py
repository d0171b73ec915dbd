"""The first events since a time, gathered from tasks in the order of their creation.

No event of a task is older than the task: once enough are found, tasks that were created after the last of them
need not be looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from taskyard.wire import Event, TaskEvent

from taskyard_server.schemas import adapter

FEW_TASKS = 2000
"""Tasks that are looked at in any order; of more, those that were created first."""


@dataclass(frozen=True, kw_only=True)
class _Story:
    """What is decoded of a record: the rest of it takes ten times as long."""

    events: tuple[Event, ...] = ()


_STORIES = adapter(_Story)


@dataclass(kw_only=True)
class FirstEvents:
    """The first `limit` events since a time, of one kind or of all."""

    since: float
    kind: str | None
    limit: int
    _heap: list[tuple[float, int, str, Event]] = field(default_factory=list)
    _count: int = 0

    def add(self, task_id: str, body: bytes) -> None:
        """Looks at the events of a task, whose record is encoded in `body`."""
        if self.kind is not None and self.kind.encode() not in body:
            return
        for event in _STORIES.validate_json(body).events:
            if event.at >= self.since and self.kind in (None, event.kind):
                self._keep(task_id, event)

    def enough(self, created_at: float) -> bool:
        """Whether no task that was created then, or later, has an event among the first."""
        return len(self._heap) >= self.limit and created_at > -self._heap[0][0]

    def found(self) -> list[TaskEvent]:
        """Oldest first; those of one moment in the order in which they were seen."""
        ordered: Sequence[tuple[float, int, str, Event]] = sorted(self._heap, reverse=True)
        return [TaskEvent(task=task, event=event) for _, _, task, event in ordered]

    def _keep(self, task_id: str, event: Event) -> None:
        # Negative, because the heap gives its smallest away: that must be the latest.
        self._count += 1
        entry = (-event.at, -self._count, task_id, event)
        if len(self._heap) < self.limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)
