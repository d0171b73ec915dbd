"""How many kinds of tasks a queue holds: a claim looks at the first entry of each, so they are bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from taskyard_server.errors import Conflict
from taskyard_server.store.base import Store

MAX_KINDS = 1000
"""Of requirements that differ, in one queue: a claim among so many takes 6 ms on SQLite, among 20,000 0.9 s."""
LOOK_SECONDS = 5.0
"""Least time between two looks at a queue that was full: looking takes the longer the more it holds."""


@dataclass(kw_only=True)
class Kinds:
    """The shapes of one queue's entries, as this server knows them."""

    looked_at: float
    shapes: set[str] = field(default_factory=set)

    def admit(self, shape: str) -> None:
        """Raises Conflict for a shape that would be one too many."""
        if shape not in self.shapes and len(self.shapes) >= MAX_KINDS:
            raise Conflict(
                f"the queue holds tasks of {MAX_KINDS} different requirements: round amounts and memory, leave "
                "out what does not matter, or wait until some have run"
            )
        self.shapes.add(shape)


class Variety:
    """The kinds of tasks in each queue; what other servers enqueue is seen once a queue seems full."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, Kinds] = {}

    async def of(self, queue: str) -> Kinds:
        """The kinds in a queue (id)."""
        known = self._known.get(queue)
        if known is None or (len(known.shapes) >= MAX_KINDS and self._clock() - known.looked_at >= LOOK_SECONDS):
            counts = await self._store.shape_counts([queue])
            known = Kinds(looked_at=self._clock(), shapes={shape for _, shape in counts})
            self._known[queue] = known
        return known
