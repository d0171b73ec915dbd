"""Waits for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def becomes_true(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the condition holds within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


async def becomes_true_async(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """The same in an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False
