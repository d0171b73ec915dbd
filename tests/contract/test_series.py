"""Measurements as downsampled series."""

from __future__ import annotations

import math

import pytest
from taskyard.wire import Sample, SeriesPoint
from taskyard_server.store.base import SampleStore

SUBJECT = "worker:host:gpu0"


def sample(at: float, value: float, *, name: str = "cpu_percent", subject: str = SUBJECT) -> Sample:
    return Sample(subject=subject, name=name, at=at, value=value)


async def test_a_bucket_tells_minimum_mean_and_maximum(samples: SampleStore) -> None:
    await samples.add([sample(100.0 + at, value) for at, value in ((0, 1.0), (1, 5.0), (2, 3.0), (10, 7.0))])

    (series,) = await samples.series(SUBJECT, start=100.0, end=120.0, points=2)

    assert (series.subject, series.name) == (SUBJECT, "cpu_percent")
    assert series.points == (
        SeriesPoint(at=105.0, minimum=1.0, mean=3.0, maximum=5.0),
        SeriesPoint(at=115.0, minimum=7.0, mean=7.0, maximum=7.0),
    )


async def test_empty_buckets_are_left_out(samples: SampleStore) -> None:
    await samples.add([sample(0.0, 1.0), sample(95.0, 2.0)])

    (series,) = await samples.series(SUBJECT, start=0.0, end=100.0, points=10)

    assert [point.at for point in series.points] == [5.0, 95.0]


async def test_the_start_is_in_the_range_and_the_end_is_not(samples: SampleStore) -> None:
    await samples.add([sample(at, at) for at in (0.9, 1.0, 2.9, 3.0)])

    (series,) = await samples.series(SUBJECT, start=1.0, end=3.0, points=1)

    assert series.points == (SeriesPoint(at=2.0, minimum=1.0, mean=1.95, maximum=2.9),)


async def test_no_more_points_come_than_were_asked_for(samples: SampleStore) -> None:
    await samples.add([sample(at / 7, 1.0) for at in range(500)])

    (series,) = await samples.series(SUBJECT, start=0.0, end=500 / 7, points=33)

    assert len(series.points) == 33


async def test_series_come_by_name_and_only_those_asked_for(samples: SampleStore) -> None:
    names = ["gpu_percent:1", "a.b", "$x", "größe", ""]
    await samples.add([sample(1.0, 1.0, name=name) for name in names])

    every = await samples.series(SUBJECT, start=0.0, end=2.0, points=1)
    some = await samples.series(SUBJECT, start=0.0, end=2.0, points=1, names=["a.b", "none"])

    assert [series.name for series in every] == sorted(names)
    assert [series.name for series in some] == ["a.b"]


async def test_subjects_stay_apart(samples: SampleStore) -> None:
    await samples.add([sample(1.0, 1.0), sample(1.0, 9.0, subject=f"{SUBJECT}1")])

    (series,) = await samples.series(SUBJECT, start=0.0, end=2.0, points=1)

    assert series.points[0].maximum == 1.0


async def test_a_sample_sent_again_counts_once(samples: SampleStore) -> None:
    for _ in range(2):
        await samples.add([sample(1.0, 4.0), sample(2.0, 1.0)])

    (series,) = await samples.series(SUBJECT, start=0.0, end=3.0, points=1)

    assert series.points[0].mean == 2.5


async def test_what_is_no_number_is_left_out(samples: SampleStore) -> None:
    await samples.add([sample(1.0, math.nan), sample(1.5, math.inf)])

    assert await samples.series(SUBJECT, start=0.0, end=2.0, points=1) == []


@pytest.mark.parametrize(("start", "end", "points"), [(1.0, 1.0, 5), (2.0, 1.0, 5), (0.0, 2.0, 0)])
async def test_a_range_without_extent_is_empty(
    samples: SampleStore, start: float, end: float, points: int
) -> None:
    await samples.add([sample(1.0, 1.0)])

    assert await samples.series(SUBJECT, start=start, end=end, points=points) == []


async def test_old_samples_are_forgotten(samples: SampleStore) -> None:
    await samples.add([sample(1.0, 1.0), sample(2.0, 2.0), sample(1.0, 1.0, name="only old")])

    await samples.forget(2.0)

    (series,) = await samples.series(SUBJECT, start=0.0, end=3.0, points=3)
    assert [point.mean for point in series.points] == [2.0]


async def test_series_are_forgotten_a_part_at_a_time(
    samples: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard_server.series.sqlite._LOOKED_AT_IN_A_ROUND", 2)
    names = [f"n{number}" for number in range(5)]
    await samples.add([sample(at, 1.0, name=name) for name in names for at in (1.0, 100.0)])

    for _ in range(3):
        await samples.forget(50.0)

    assert await samples.series(SUBJECT, start=0.0, end=50.0, points=1) == []
    assert [series.name for series in await samples.series(SUBJECT, start=0.0, end=200.0, points=1)] == names
    await samples.forget(150.0)
    for _ in range(3):
        await samples.forget(150.0)
    assert await samples.series(SUBJECT, start=0.0, end=200.0, points=1) == []
