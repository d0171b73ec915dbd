"""Many agents parked on one server process: what they cost, how soon one wakes, and that no other does."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import psutil

from tests.benchmarks.bench import Bench
from tests.benchmarks.claims import SPEC
from tests.benchmarks.load import Connection, claim_requests
from tests.benchmarks.results import Measurement, p50, percentile
from tests.support.servers import ServerProcess

AGENTS = 2000
MIB = 1 << 20
SETTLE_SECONDS = 0.2


def measure(bench: Bench) -> Iterator[Measurement]:
    """Each agent has a connection and a claim of its own, as a real one has."""
    agents = len(bench.times(AGENTS, 500))
    _allow_open_files(agents + 200)
    with ServerProcess() as server:
        yield from asyncio.run(_measure(bench, server, agents))


def _allow_open_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(number, hard)), hard))


async def _measure(bench: Bench, server: ServerProcess, agents: int) -> list[Measurement]:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    room = _Room(server, server.issue("agent", name="bench"))
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(Connection(server, server.admin_token))
        connections = [await stack.enter_async_context(Connection(server, room.token)) for _ in range(agents)]
        parked = [asyncio.create_task(room.stay(one, number)) for number, one in enumerate(connections)]
        await room.settled(agents)
        grown = process.memory_info().rss - before
        wakes = [await room.wake(admin) for _ in bench.progress(bench.times(100, 30), "waking")]
        for one in parked:
            one.cancel()
        await asyncio.gather(*parked, return_exceptions=True)
    metric = f"{agents} agents parked on one server process"
    waits = [milliseconds for milliseconds, _ in wakes]
    return [
        Measurement(metric=f"{metric}: memory of the server", value=(before + grown) / MIB, unit="MiB"),
        Measurement(metric=f"{metric}: memory per agent", value=grown / agents / 1024, unit="KiB"),
        Measurement(metric=f"{metric}: enqueue → answer to the claim, p50", value=p50(waits), unit="ms"),
        Measurement(metric=f"{metric}: enqueue → answer, p99", value=percentile(waits, 99), unit="ms"),
        Measurement(metric=f"{metric}: answered per enqueue", value=max(n for _, n in wakes), unit="", at_most=1),
    ]


class _Room:
    """Agents that park, are woken, and park again."""

    def __init__(self, server: ServerProcess, token: str) -> None:
        self.token = token
        self._answers: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()
        self._sent = 0

    async def stay(self, connection: Connection, number: int) -> None:
        """Claims again and again; an answer without a run is no news."""
        for request in claim_requests(f"bench:{number}", wait_seconds=25.0):
            self._sent += 1
            answer = await connection.post("/claims", request)
            if answer["run"] is not None:
                self._answers.put_nowait((time.perf_counter(), answer))

    async def settled(self, agents: int) -> None:
        """Waits until all have claimed, and the server has had the time to park them."""
        while self._sent < agents:  # noqa: ASYNC110 - a benchmark looks, it does not signal
            await asyncio.sleep(0.05)
        await asyncio.sleep(3.0)

    async def wake(self, admin: Connection) -> tuple[float, int]:
        """Enqueues one task; returns the milliseconds to the first answer, and how many came."""
        began = time.perf_counter()
        await admin.post("/tasks", {"spec": SPEC, "queue": "default"})
        at, _ = await self._answers.get()
        await asyncio.sleep(SETTLE_SECONDS)
        more = self._answers.qsize()
        while not self._answers.empty():
            self._answers.get_nowait()
        return (at - began) * 1000, 1 + more
