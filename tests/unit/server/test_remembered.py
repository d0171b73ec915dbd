"""What the embedded store keeps in memory is never older than the last acknowledged write."""

from __future__ import annotations

import asyncio

import pytest
from taskyard_server.store.remembered import Remembered


async def test_a_record_is_looked_up_once_until_it_is_written() -> None:
    remembered: Remembered[int] = Remembered()
    file = {"one": 1}

    before = [remembered.get("one", lambda: file["one"]) for _ in range(2)]
    file["one"] = 2
    kept = remembered.get("one", lambda: file["one"])
    await remembered.forgetting(asyncio.sleep(0), "one")

    assert (before, kept, remembered.get("one", lambda: file["one"])) == ([1, 1], 1, 2)


async def test_a_write_whose_caller_is_gone_is_heeded_too() -> None:
    remembered: Remembered[int] = Remembered()
    remembered.get("one", lambda: 1)
    written = asyncio.Event()

    caller = asyncio.ensure_future(remembered.forgetting(written.wait()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    written.set()
    await asyncio.sleep(0.01)

    assert remembered.get("one", lambda: 2) == 2
