"""Measures the machine and each run: CPU, memory, disk, network, GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    gpus: tuple[Gpu, ...] = ()


class Monitor:
    """Rates are over the time since the previous call, so the first call gives none."""

    def __init__(
        self,
        *,
        disk: Path,
        measure_gpu: Callable[[Gpu], Mapping[str, float]],
        clock: Callable[[], float] = time.time,
    ) -> None: ...

    def samples(self, workers: Sequence[WatchedWorker], runs: Sequence[WatchedRun]) -> list[Sample]:
        """Measures now. Called every ten seconds; a call takes some milliseconds."""
        raise NotImplementedError
