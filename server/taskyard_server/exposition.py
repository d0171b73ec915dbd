"""The server's metrics in Prometheus's text form."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from taskyard.wire import TaskState, WorkerState

from taskyard_server.census import Census, Counting
from taskyard_server.claims import Claims
from taskyard_server.instruments import Instruments
from taskyard_server.recovery import Recovery
from taskyard_server.store.base import Store

CONTENT_TYPE = CONTENT_TYPE_LATEST
_COUNTED = (TaskState.QUEUED, TaskState.WAITING, TaskState.PREPARING, TaskState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the values are read that are not counted as they happen."""

    version: str
    store: Store
    data: Path
    room: Claims
    recovery: Recovery


class Exposition(Collector):
    """Everything that one server shows of itself."""

    def __init__(self, instruments: Instruments, counting: Counting, sources: Sources) -> None:
        self._registry = instruments.registry
        self._counting = counting
        self._sources = sources
        self._census: Census | None = None
        self._registry.register(self)

    async def text(self) -> bytes:
        """The metrics as they are now; what the store holds, as of a short while ago."""
        self._census = await self._counting.latest()
        # Beside the event loop: some two thousand lines take milliseconds.
        return await asyncio.to_thread(generate_latest, self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by Prometheus's library at each scrape."""
        sources, census = self._sources, self._census
        generation = sources.recovery.generation
        info = InfoMetricFamily("taskyard_server", "The server")
        info.add_metric([], {"version": sources.version, "store": sources.store.kind})
        yield info
        yield _gauge("taskyard_store_up", "Whether the store answered the last census", float(census is not None))
        yield _gauge("taskyard_store_generation", "Higher with each restore from a copy", generation.number)
        yield _gauge("taskyard_store_recovering", "1 while nothing is handed out", float(generation.recovering))
        yield _gauge("taskyard_claims_parked", "Claims that wait for a task", sources.room.parked)
        yield from _disk(sources.data)
        if census is not None:
            yield from _queues(census)
            yield _workers(census)

    def describe(self) -> list[Metric]:
        """Nothing beforehand: the library would collect once to learn the names."""
        return []


def _disk(data: Path) -> Iterator[Metric]:
    try:
        free = shutil.disk_usage(data).free
    except OSError:
        return
    yield _gauge("taskyard_disk_free_bytes", "Free where the data folder lies", free)


def _queues(census: Census) -> Iterator[Metric]:
    tasks = GaugeMetricFamily("taskyard_tasks", "Tasks that have not ended", labels=["queue", "state"])
    waits = GaugeMetricFamily(
        "taskyard_queue_wait_seconds", "Longest wait of the tasks in front of a queue", labels=["queue"]
    )
    paused = GaugeMetricFamily("taskyard_queue_paused", "1 where the queue is paused", labels=["queue"])
    for queue in census.queues:
        for state in _COUNTED:
            tasks.add_metric([queue.name, state.value], queue.states.get(state, 0))
        waits.add_metric([queue.name], queue.wait_seconds)
        paused.add_metric([queue.name], float(queue.paused))
    yield from (tasks, waits, paused)


def _workers(census: Census) -> Metric:
    workers = GaugeMetricFamily("taskyard_workers", "Workers by state", labels=["state"])
    for state in WorkerState:
        workers.add_metric([state.value], census.workers.get(state, 0))
    return workers


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
