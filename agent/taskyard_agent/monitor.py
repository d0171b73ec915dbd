"""Measures the machine and each run: CPU, memory, disk, network, GPUs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from taskyard.wire import Gpu, Sample


@dataclass(frozen=True, kw_only=True)
class WatchedWorker:
    """A worker whose machine and GPUs are measured."""

    name: str
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WatchedRun:
    """A run whose process tree and GPUs are measured."""

    id: str
    keeper_pid: int
    container_pid: int | None = None
    """The first process of the container that it runs in: the engine's child, not the keeper's."""
    gpus: tuple[Gpu, ...] = ()


class Monitor:
    """Rates are over the time since the previous call, so the first call gives none.

    `cpu_percent` is a share of all the machine's cores, for a run as for the machine.
    """

    def __init__(
        self,
        *,
        disk: Path,
        measure_gpu: Callable[[Gpu], Mapping[str, float]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._disk = disk
        self._measure_gpu = measure_gpu
        self._clock = clock
        self._rates = _Rates()

    def samples(self, worker: WatchedWorker, runs: Sequence[WatchedRun]) -> list[Sample]:
        """Measures now. Called every ten seconds; a call takes some milliseconds."""
        at = self._clock()
        self._rates.begin()
        measured = {f"worker:{worker.name}": {**dict(self._machine()), **self._gpus(worker.gpus)}}
        measured.update({f"run:{run.id}": {**dict(self._run(run)), **self._gpus(run.gpus)} for run in runs})
        self._rates.end()
        return [
            Sample(subject=subject, name=name, at=at, value=value)
            for subject, values in measured.items()
            for name, value in values.items()
        ]

    def _machine(self) -> Iterator[tuple[str, float]]:
        yield from self._rates.since("machine", {"cpu_percent": _machine_cpu(), **_machine_traffic()})
        memory = psutil.virtual_memory()
        yield "memory_bytes", float(memory.total - memory.available)
        yield "memory_percent", memory.percent
        with contextlib.suppress(OSError):
            yield "disk_percent", psutil.disk_usage(str(self._disk)).percent

    def _run(self, run: WatchedRun) -> Iterator[tuple[str, float]]:
        """The run's processes together; what it sends over the network cannot be told from the machine's."""
        memory = 0.0
        rates: dict[str, float] = {}
        for process in _processes(run):
            usage = _usage(process)
            if usage is None:
                continue
            memory += usage.resident
            owner = f"{process.pid}@{usage.started_at}"
            for name, rate in self._rates.since(owner, usage.counters, started_at=usage.started_at):
                rates[name] = rates.get(name, 0.0) + rate
        yield "memory_bytes", memory
        yield "memory_percent", 100 * memory / psutil.virtual_memory().total
        yield from rates.items()

    def _gpus(self, gpus: Sequence[Gpu]) -> dict[str, float]:
        return {f"{name}:{gpu.index}": value for gpu in gpus for name, value in self._measure_gpu(gpu).items()}


class _Rates:
    """Turns counters into rates, and forgets the counters of what was not measured again."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], float] = {}
        self._now: dict[tuple[str, str], float] = {}
        self._previous = self._current = (0.0, 0.0)

    def begin(self) -> None:
        """Begins a round of measurements."""
        self._previous, self._current = self._current, (time.monotonic(), time.time())

    def since(
        self, owner: str, counters: Mapping[str, float], *, started_at: float = 0.0
    ) -> Iterator[tuple[str, float]]:
        """(name, change per second); an owner that started since the previous round did so at zero."""
        began, began_wall = self._previous
        seconds = max(self._current[0] - began, 1e-3)
        start = 0.0 if began and started_at >= began_wall else None
        for name, value in counters.items():
            before = self._before.get((owner, name), start)
            self._now[owner, name] = value
            if before is not None:
                rate = max(0.0, value - before) / seconds
                yield name, min(rate, 100.0) if name == "cpu_percent" else rate  # counted in ticks of 10 ms

    def end(self) -> None:
        """Ends the round."""
        self._before, self._now = self._now, {}


def _machine_cpu() -> float:
    """Percent-seconds that the machine was busy; the eighth field and those before it count nothing twice."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return _percent_seconds(sum(times[:8]) - idle)


def _percent_seconds(seconds: float) -> float:
    return 100 * seconds / (psutil.cpu_count() or 1)


def _machine_traffic() -> dict[str, float]:
    traffic: dict[str, float] = {}
    disk = psutil.disk_io_counters()
    if disk is not None:  # none in some containers
        traffic["disk_read_bytes_per_second"] = disk.read_bytes
        traffic["disk_write_bytes_per_second"] = disk.write_bytes
    network = psutil.net_io_counters()
    if network is not None:
        traffic["network_receive_bytes_per_second"] = network.bytes_recv
        traffic["network_send_bytes_per_second"] = network.bytes_sent
    return traffic


def _processes(run: WatchedRun) -> Iterator[psutil.Process]:
    """Keeper and a container's first process are the parents of orphans, so nothing of a run is elsewhere."""
    yield from _below(run.keeper_pid)
    if run.container_pid is not None:
        with contextlib.suppress(psutil.Error):
            yield psutil.Process(run.container_pid)
        yield from _below(run.container_pid)


def _below(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


@dataclass(frozen=True, kw_only=True)
class _Usage:
    """What one process takes: resident bytes, and counters."""

    started_at: float
    resident: float
    counters: dict[str, float]


def _usage(process: psutil.Process) -> _Usage | None:
    """None when the process is gone or out of reach."""
    try:
        with process.oneshot():
            cpu = process.cpu_times()
            counters = {"cpu_percent": _percent_seconds(cpu.user + cpu.system), **_disk_traffic(process)}
            resident = float(process.memory_info().rss)
            return _Usage(started_at=process.create_time(), resident=resident, counters=counters)
    except psutil.Error:
        return None


def _disk_traffic(process: psutil.Process) -> dict[str, float]:
    try:
        counters = process.io_counters()
    except (psutil.Error, AttributeError):  # another user's; not measured on macOS
        return {}
    return {
        "disk_read_bytes_per_second": counters.read_bytes,
        "disk_write_bytes_per_second": counters.write_bytes,
    }
