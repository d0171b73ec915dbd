"""What a server that was restored from a copy must be told: runs and ends that the copy may lack."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

from taskyard.wire import BeatAnswer, KeptRun, to_json

logger = logging.getLogger(__name__)

PORTION_BYTES = 1 << 20
"""Of one beat, whose body the server bounds."""


class Restored:
    """Hands out what the journal keeps, a portion for each beat, for as long as the server recovers."""

    def __init__(self, *, kept: Callable[[float], Sequence[KeptRun]], on_restore: Callable[[], object]) -> None:
        """`kept` is asked for what ended since a time; `on_restore` is called once for each restore."""
        self._kept = kept
        self._on_restore = on_restore
        self._generation = 0
        self._copied_at: float | None = None
        self._next = 0

    def learn(self, answer: BeatAnswer) -> bool:
        """Takes what the server says of itself; returns whether it has just begun to recover."""
        if self._generation and answer.generation not in (0, self._generation):
            logger.warning("the server was restored from a copy", extra={"action": "server_restored"})
            self._on_restore()
        began = answer.copied_at is not None and self._copied_at is None
        self._generation = answer.generation or self._generation
        self._copied_at = answer.copied_at
        return began

    def portion(self) -> tuple[KeptRun, ...]:
        """What the next beat tells; all of it in turn, again and again, because a server keeps it in memory."""
        if self._copied_at is None:
            return ()
        runs = self._kept(self._copied_at)
        first = self._next if self._next < len(runs) else 0
        size, last = 0, first
        while last < len(runs) and (size == 0 or size < PORTION_BYTES):
            size += len(json.dumps(to_json(runs[last])))
            last += 1
        self._next = last
        return tuple(runs[first:last])
