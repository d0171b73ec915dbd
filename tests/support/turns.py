"""How long one piece of work keeps everything else on the event loop waiting."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def longest_turn(work: Awaitable[T]) -> tuple[T, float]:
    """Its result, and the most CPU seconds of the loop's thread between two turns of another task.

    CPU time, because on a busy machine the thread itself may wait for long; without the collector, which walks
    everything that the tests before have left.
    """
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    gc.collect()
    gc.disable()
    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    try:
        return await work, longest
    finally:
        watching.cancel()
        gc.enable()
