"""Measurements of workers and runs, downsampled for a range of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from taskyard.wire import Run, Series

from taskyard_server.errors import Invalid
from taskyard_server.store.base import SampleStore

MOST_POINTS = 2000
DEFAULT_RANGE_SECONDS = 3600.0
SHORTEST_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class TimeRange:
    """What to show: seconds since the epoch, and into how many buckets to divide the time between."""

    start: float | None = None
    """None: an hour before the end; of a run, its claim."""
    end: float | None = None
    """None: now; of a run that has ended, its end."""
    points: int = 300
    names: tuple[str, ...] = ()
    """Empty for all."""


class Metrics:
    """Reads the series of a worker or a run."""

    def __init__(self, samples: SampleStore, clock: Callable[[], float]) -> None:
        self._samples = samples
        self._clock = clock

    async def of_worker(self, name: str, wanted: TimeRange) -> list[Series]:
        """Raises Invalid for a range that is empty."""
        return await self._series(f"worker:{name}", wanted)

    async def of_run(self, run: Run, wanted: TimeRange) -> list[Series]:
        """The range is the whole run's where nothing else is wanted. Raises Invalid for one that is empty."""
        start = run.claimed_at if wanted.start is None else wanted.start
        end = max(run.ended_at or self._clock(), start + SHORTEST_SECONDS) if wanted.end is None else wanted.end
        return await self._series(f"run:{run.id}", replace(wanted, start=start, end=end))

    async def _series(self, subject: str, wanted: TimeRange) -> list[Series]:
        end = self._clock() if wanted.end is None else wanted.end
        start = end - DEFAULT_RANGE_SECONDS if wanted.start is None else wanted.start
        if not (math.isfinite(start) and math.isfinite(end) and start < end):
            raise Invalid("start must lie before end, both in seconds since the epoch")
        if not 0 < wanted.points <= MOST_POINTS:
            raise Invalid(f"points must be 1 to {MOST_POINTS}")
        return await self._samples.series(subject, start=start, end=end, points=wanted.points, names=wanted.names)
