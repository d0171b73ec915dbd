"""The query parameters that choose a range of time."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from taskyard_server.metrics import MOST_POINTS, TimeRange

LARGEST_TIME = 1e12
"""Far beyond any clock, and small enough to calculate with."""
Time = Annotated[float | None, Query(ge=0, le=LARGEST_TIME, allow_inf_nan=False)]


async def _time_range(
    start: Time = None,
    end: Time = None,
    points: Annotated[int, Query(ge=1, le=MOST_POINTS)] = 300,
    names: Annotated[list[str] | None, Query(alias="name")] = None,
) -> TimeRange:
    return TimeRange(start=start, end=end, points=points, names=tuple(names or ()))


InTimeRange = Annotated[TimeRange, Depends(_time_range)]
