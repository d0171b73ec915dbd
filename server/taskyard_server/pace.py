"""Long work on the event loop, in portions: between them everything else has its turn."""

from __future__ import annotations

import asyncio
import time

PORTION_SECONDS = 0.002
"""Short, because an answer to another request takes several turns of the loop."""


class Pace:
    """Counts the time of a loop over many items; `step` is awaited after each of them."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + PORTION_SECONDS

    async def step(self) -> None:
        """Lets others have the event loop, if this work has had it for a portion's time."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + PORTION_SECONDS
