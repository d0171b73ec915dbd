"""Measurements in MongoDB: one document per subject and moment, holding what was measured then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from taskyard.wire import Sample, Series, SeriesPoint

from taskyard_server.mongodb import Database, Document, translating


class MongoSamples:
    """See `base.SampleStore`. A sample that is sent again replaces itself."""

    def __init__(self, database: Database) -> None:
        database.declare("samples", [IndexModel([("_id.at", ASCENDING)], name="by_age")])
        self._database = database

    @translating
    async def add(self, samples: Sequence[Sample]) -> None:
        # What is no number has no minimum either.
        writes = [_write(sample) for sample in samples if math.isfinite(sample.value)]
        if writes:
            await self._samples.bulk_write(writes, ordered=False)

    @translating
    async def series(
        self, subject: str, *, start: float, end: float, points: int, names: Sequence[str] = ()
    ) -> list[Series]:
        if end <= start or points < 1:
            return []
        width = (end - start) / points
        cursor = await self._samples.aggregate(_buckets(subject, start, end, points, names))
        found = [(_name(bucket["_id"]["key"]), _point(bucket, start, width)) async for bucket in cursor]
        found.sort(key=lambda each: (each[0], each[1].at))
        return [
            Series(subject=subject, name=name, points=tuple(point for _, point in of_name))
            for name, of_name in groupby(found, key=lambda each: each[0])
        ]

    @translating
    async def forget(self, before: float) -> None:
        await self._samples.delete_many({"_id.at": {"$lt": float(before)}})

    @property
    def _samples(self) -> AsyncCollection[Document]:
        return self._database.collection("samples")


def _write(sample: Sample) -> UpdateOne:
    moment = _moment(sample.subject, sample.at)
    return UpdateOne({"_id": moment}, {"$set": {f"values.{_key(sample.name)}": float(sample.value)}}, upsert=True)


def _buckets(subject: str, start: float, end: float, points: int, names: Sequence[str]) -> list[Document]:
    """Minimum, mean and maximum for each name and bucket that has samples."""
    wanted = {"values.k": {"$in": [_key(name) for name in names]}} if names else {}
    place = {"$floor": {"$divide": [{"$subtract": ["$_id.at", start]}, (end - start) / points]}}
    # A division may round up to the number of buckets: hence the last one's limit.
    bucket = {"key": "$values.k", "number": {"$min": [place, points - 1]}}
    value = "$values.v"
    return [
        {"$match": {"_id": {"$gte": _moment(subject, start), "$lt": _moment(subject, end)}}},
        {"$project": {"values": {"$objectToArray": "$values"}}},
        {"$unwind": "$values"},
        {"$match": wanted},
        {"$group": {"_id": bucket, "low": {"$min": value}, "mean": {"$avg": value}, "high": {"$max": value}}},
    ]


def _point(bucket: Document, start: float, width: float) -> SeriesPoint:
    at = start + (bucket["_id"]["number"] + 0.5) * width
    return SeriesPoint(at=at, minimum=bucket["low"], mean=bucket["mean"], maximum=bucket["high"])


def _moment(subject: str, at: float) -> Document:
    """The id of a document; such ids order by subject, then by time."""
    return {"subject": subject, "at": float(at)}


def _key(name: str) -> str:
    """A name as the name of a field, which is never empty, and where a dot or a `$` would mean something."""
    return f"x{name.encode().hex()}"


def _name(key: str) -> str:
    return bytes.fromhex(key.removeprefix("x")).decode()
