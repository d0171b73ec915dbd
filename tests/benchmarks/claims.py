"""Claims and enqueues per second at growing queues: at the store, and over HTTP with one server process."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from taskyard_server import matching
from taskyard_server.store import open_store
from taskyard_server.store.base import QueueRecord, Store, TaskRecord

from tests.benchmarks.bench import Bench
from tests.benchmarks.load import Connection, Load, claim_requests, drive
from tests.benchmarks.results import Measurement, percentile
from tests.support.agents import wait_until
from tests.support.mongod import mongod
from tests.support.records import at_most, new_id, prepare, queued
from tests.support.servers import ServerProcess

AT_ONCE = 8
PORTION = 5_000
MONGODB_CACHE_GIGABYTES = 4.0
"""Room for a million entries with their indexes, as on a machine of its own."""
GPUS = 1
"""What the entries of the long queue ask for; a worker without a GPU fits none of them."""
PEERS = {100_000: "Slurm 500 jobs/s", 1_000_000: "ClearML's queue stops at ~236k entries"}
PROMISED_AT = 100_000
PROMISED_PER_SECOND = 1000
SPEC = {"command": {"kind": "script", "target": "train.py"}}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store that grows, opened by this process or by a server, never by both."""

    name: str
    url: str
    data: Path
    p99_milliseconds: float
    """What one claim in a hundred may take at most."""


def measure_sqlite(bench: Bench) -> Iterator[Measurement]:
    """The embedded store."""
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder:
        data = Path(folder)
        place = Place(name="SQLite", url=f"sqlite://{data}/control.db", data=data, p99_milliseconds=20)
        yield from _measure(bench, place)


def measure_mongodb(bench: Bench) -> Iterator[Measurement]:
    """A real mongod, as a replica set of one node."""
    with (
        mongod(cache_gigabytes=MONGODB_CACHE_GIGABYTES) as uri,
        tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder,
    ):
        url = urlsplit(uri)._replace(path="/benchmark").geturl()
        yield from _measure(bench, Place(name="MongoDB", url=url, data=Path(folder), p99_milliseconds=50))


def _measure(bench: Bench, place: Place) -> Iterator[Measurement]:
    held = 0
    with ServerProcess("--min-free-disk-bytes", "0", data=place.data, store=place.url) as server:
        _wait_until_ready(server)
        for size in (1_000, 20_000) if bench.quick else (1_000, 100_000, 1_000_000):
            server.stop()
            asyncio.run(_grow(bench, place, held, size))
            held = size
            yield from asyncio.run(_at_store(bench, place, size))
            server.start()
            _wait_until_ready(server)
            yield from asyncio.run(_over_http(bench, place, server, size))
        yield from asyncio.run(_behind(bench, place, server, held))


def _wait_until_ready(server: ServerProcess) -> None:
    wait_until((server.data / "admin-token").exists)
    with server.client() as client:
        client.get("/health").raise_for_status()


@contextlib.asynccontextmanager
async def _opened(place: Place) -> AsyncIterator[tuple[Store, QueueRecord]]:
    """The store and the queue that the server made in it."""
    stores = open_store(place.url, place.data)
    await stores.open()
    try:
        default = await stores.store.queue_named("default")
        assert default is not None
        yield stores.store, default
    finally:
        await stores.close()


async def _grow(bench: Bench, place: Place, held: int, size: int) -> None:
    """Fills the queue in portions, as bulk requests would."""
    async with _opened(place) as (store, default):
        entry = _entry(default)
        for _ in bench.progress(range(held, size, PORTION), f"filling to {size:,}"):
            await store.add_tasks([replace(entry, id=new_id()) for _ in range(min(PORTION, size - held))])


def _entry(default: QueueRecord) -> TaskRecord:
    return matching.shaped(queued(default.id, gpus=GPUS))


# --- At the store ----------------------------------------------------------------------------------------


async def _at_store(bench: Bench, place: Place, size: int) -> list[Measurement]:
    rounds = len(bench.times(3000, 500))
    async with _opened(place) as (store, default):
        enqueues = await drive(lambda _: store.add_tasks([_entry(default)]), rounds=rounds, at_once=AT_ONCE)
        claims = await drive(
            lambda _: store.claim([default.id], at_most(GPUS), prepare(due_at=4e9)), rounds=rounds, at_once=AT_ONCE
        )
        looks = await drive(
            lambda _: store.claim([default.id], at_most(0), prepare()), rounds=rounds, at_once=AT_ONCE
        )
    where = f"{place.name} store alone, {size:,} queued"
    return [
        *_rates(f"enqueues, {where}", enqueues),
        *_rates(f"claims, {where}", claims),
        *_rates(f"claims that fit none of them, {where}", looks),
    ]


# --- Over HTTP -------------------------------------------------------------------------------------------


async def _over_http(bench: Bench, place: Place, server: ServerProcess, size: int) -> list[Measurement]:
    rounds = len(bench.times(3000, 500))
    async with _lanes(server, server.admin_token) as lanes:
        task = {"spec": {**SPEC, "resources": {"gpus": GPUS}}, "queue": "default"}
        enqueues = await drive(lambda lane: lanes[lane].post("/tasks", task), rounds=rounds, at_once=AT_ONCE)
    claims = await _claim(server, rounds, gpus=GPUS)
    where = f"{place.name}, one server process, {size:,} queued"
    return [*_rates(f"enqueues, {where}", enqueues), *_promised(f"claims, {where}", claims, place, size)]


async def _behind(bench: Bench, place: Place, server: ServerProcess, size: int) -> list[Measurement]:
    """Entries that fit, behind all those that do not."""
    rounds = len(bench.times(2000, 300))
    async with _lanes(server, server.admin_token) as lanes:
        task = {"spec": {**SPEC, "resources": {"gpus": 0}}, "queue": "default"}
        await drive(lambda lane: lanes[lane].post("/tasks", task), rounds=rounds, at_once=AT_ONCE)
    claims = await _claim(server, rounds, gpus=0)
    where = f"{place.name}, one server process, behind {size:,} that do not fit"
    return _promised(f"claims, {where}", claims, place, size)


async def _claim(server: ServerProcess, rounds: int, *, gpus: int) -> Load:
    requests = [claim_requests(f"bench:{lane}", gpus=gpus) for lane in range(AT_ONCE)]
    async with _lanes(server, server.issue("agent", name="bench")) as lanes:

        async def claim(lane: int) -> None:
            answer = await lanes[lane].post("/claims", next(requests[lane]))
            assert answer["run"] is not None, "there is more queued than is claimed"

        return await drive(claim, rounds=rounds, at_once=AT_ONCE)


@contextlib.asynccontextmanager
async def _lanes(server: ServerProcess, token: str) -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Connection(server, token)) for _ in range(AT_ONCE)]


def _promised(metric: str, load: Load, place: Place, size: int) -> list[Measurement]:
    """The promise holds at 100,000 queued tasks, and is the same at a million."""
    rate, p99 = _rates(metric, load)
    if size < PROMISED_AT:
        return [rate, p99]
    return [
        replace(rate, at_least=PROMISED_PER_SECOND, peer=PEERS.get(size, "")),
        replace(p99, at_most=place.p99_milliseconds),
    ]


def _rates(metric: str, load: Load) -> list[Measurement]:
    return [
        Measurement(metric=f"{metric}, {AT_ONCE} at once", value=load.per_second, unit="/s"),
        Measurement(metric=f"{metric}, p99", value=percentile(load.waits, 99), unit="ms"),
    ]
