"""Measurements in a SQLite file of their own, so that they never hold up the control database."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from taskyard.wire import Sample, Series, SeriesPoint

from taskyard_server.store.database import Database, Schema

_FIRST = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (subject, name)
);
CREATE TABLE samples (
    series INTEGER NOT NULL REFERENCES series (id),
    at REAL NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (series, at)
) WITHOUT ROWID;
"""
SAMPLES = Schema(application_id=0x5459_5331, migrations=(_FIRST,), synchronous="NORMAL")
_FORGOTTEN_AT_ONCE = 100
_LOOKED_AT_IN_A_ROUND = 10_000


class SqliteSamples:
    """See `base.SampleStore`. A sample that is sent again replaces itself."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, SAMPLES)
        self._looked_at = 0
        """The series up to which `forget` has gone; the next one goes on from there."""

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def add(self, samples: Sequence[Sample]) -> None:
        await self._database.write(lambda connection: _add(connection, samples))

    async def series(
        self, subject: str, *, start: float, end: float, points: int, names: Sequence[str] = ()
    ) -> list[Series]:
        if end <= start or points < 1:
            return []
        buckets = _Buckets(start=start, end=end, number=points)
        return await self._database.read(lambda connection: _series(connection, subject, buckets, names))

    async def forget(self, before: float) -> None:
        keys = await self._database.read(partial(_next_series, after=self._looked_at))
        self._looked_at = keys[-1][0] if len(keys) == _LOOKED_AT_IN_A_ROUND else 0
        for first in range(0, len(keys), _FORGOTTEN_AT_ONCE):
            portion = [(key, before) for (key,) in keys[first : first + _FORGOTTEN_AT_ONCE]]
            await self._database.write(partial(_forget, portion=portion))


@dataclass(frozen=True, kw_only=True)
class _Buckets:
    start: float
    end: float
    number: int

    @property
    def width(self) -> float:
        return (self.end - self.start) / self.number


def _add(connection: sqlite3.Connection, samples: Sequence[Sample]) -> None:
    # What is no number has no minimum either.
    finite = [sample for sample in samples if math.isfinite(sample.value)]
    connection.executemany(
        "INSERT INTO series (subject, name) VALUES (?, ?) ON CONFLICT DO NOTHING",
        {(sample.subject, sample.name) for sample in finite},
    )
    connection.executemany(
        "INSERT OR REPLACE INTO samples (series, at, value)"
        " VALUES ((SELECT id FROM series WHERE subject = ? AND name = ?), ?, ?)",
        [(sample.subject, sample.name, sample.at, sample.value) for sample in finite],
    )


def _series(connection: sqlite3.Connection, subject: str, buckets: _Buckets, names: Sequence[str]) -> list[Series]:
    known = connection.execute("SELECT id, name FROM series WHERE subject = ? ORDER BY name", (subject,))
    found = [
        Series(subject=subject, name=name, points=_points(connection, key, buckets))
        for key, name in known.fetchall()
        if not names or name in names
    ]
    return [series for series in found if series.points]


def _points(connection: sqlite3.Connection, key: int, buckets: _Buckets) -> tuple[SeriesPoint, ...]:
    # A division may round up to the number of buckets: hence the last one's limit.
    rows = connection.execute(
        "SELECT min(CAST((at - ?2) / ?4 AS INTEGER), ?5) AS bucket, min(value), avg(value), max(value)"
        " FROM samples WHERE series = ?1 AND at >= ?2 AND at < ?3 GROUP BY bucket ORDER BY bucket",
        (key, buckets.start, buckets.end, buckets.width, buckets.number - 1),
    )
    return tuple(
        SeriesPoint(at=buckets.start + (bucket + 0.5) * buckets.width, minimum=minimum, mean=mean, maximum=maximum)
        for bucket, minimum, mean, maximum in rows
    )


def _next_series(connection: sqlite3.Connection, after: int) -> list[tuple[int]]:
    query = "SELECT id FROM series WHERE id > ? ORDER BY id LIMIT ?"
    return connection.execute(query, (after, _LOOKED_AT_IN_A_ROUND)).fetchall()


def _forget(connection: sqlite3.Connection, portion: Sequence[tuple[int, float]]) -> None:
    connection.executemany("DELETE FROM samples WHERE series = ? AND at < ?", portion)
    connection.executemany(
        "DELETE FROM series WHERE id = ? AND NOT EXISTS (SELECT 1 FROM samples WHERE series = id)",
        [(key,) for key, _ in portion],
    )
