"""Runs whose GPUs do nothing, found by what is measured anyway (`max_idle_gpu_seconds`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from taskyard.wire import Sample


@dataclass(frozen=True, kw_only=True)
class GpuRun:
    """A run in its running phase, whose task limits how long its GPUs may do nothing."""

    id: str
    max_idle_seconds: float
    gpus: int


class IdleGpus:
    """Remembers since when the GPUs of each run have been idle; a new agent begins to count anew."""

    def __init__(self, percent: float, clock: Callable[[], float] = time.monotonic) -> None:
        """A GPU below `percent` utilisation does nothing to speak of."""
        self._percent = percent
        self._clock = clock
        self._since: dict[str, float] = {}

    def overdue(self, runs: Iterable[GpuRun], samples: Sequence[Sample]) -> dict[str, str]:
        """The runs to end, with what to say of it. A GPU that reports no utilisation is never idle."""
        now = self._clock()
        idle = [run for run in runs if self._all_idle(run, samples)]
        self._since = {run.id: self._since.get(run.id, now) for run in idle}
        return {
            run.id: f"its GPUs stayed below {self._percent:g} % for {run.max_idle_seconds:g} s"
            for run in idle
            if now - self._since[run.id] >= run.max_idle_seconds
        }

    def _all_idle(self, run: GpuRun, samples: Sequence[Sample]) -> bool:
        used = [
            sample.value
            for sample in samples
            if sample.subject == f"run:{run.id}" and sample.name.startswith("gpu_percent:")
        ]
        return run.gpus > 0 and len(used) == run.gpus and max(used) < self._percent
