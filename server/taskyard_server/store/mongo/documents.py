"""A task as a document: the record as JSON in `body`, and beside it copies of what is searched by.

Names that users choose are only ever values, so a `$` or a dot in one means nothing to MongoDB. `rank` and
`due_at` stand beside the body alone. Ranks are hexadecimal, because BSON orders binary values by their length
first; text it orders by its bytes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import bson
from pymongo import ASCENDING, DESCENDING, IndexModel
from taskyard.wire import TaskState

from taskyard_server.errors import TooLarge
from taskyard_server.mongodb import MAX_DOCUMENT_BYTES, Document
from taskyard_server.schemas import adapter
from taskyard_server.store.base import Candidate, TaskRecord
from taskyard_server.store.codec import TASKS

ENTRIES_BY_SHAPE = "entries_by_shape"
PLACES = "places"
BY_AGE = "by_age"
BY_CHANGE = "by_change"
ONE_RUN_PER_REQUEST = "one_run_per_request"
NEEDED = {"body": 1, "rank": 1, "due_at": 1, "version": 1}
"""What must be read to decode a document."""
HOLDING_STATES = tuple(state.value for state in TaskState if not state.terminal)
"""States in which a task holds a place in its queue."""

_ROOM_BYTES = 64 * 1024
_CANDIDATES = adapter(Candidate)
_NEWEST = [("created_at", DESCENDING), ("_id", DESCENDING)]

INDEXES = [
    # A claim seeks the lowest rank of each shape; positions and pages count along the ranks.
    IndexModel(
        [("state", ASCENDING), ("queue", ASCENDING), ("shape", ASCENDING), ("rank", ASCENDING)],
        name=ENTRIES_BY_SHAPE,
        partialFilterExpression={"state": TaskState.QUEUED.value},
    ),
    IndexModel([("state", ASCENDING), ("queue", ASCENDING), ("rank", ASCENDING)], name=PLACES),
    IndexModel([("due_at", ASCENDING)], name="due", sparse=True),
    IndexModel(_NEWEST, name=BY_AGE),
    IndexModel([("state", ASCENDING), *_NEWEST], name="by_state"),
    IndexModel([("project", ASCENDING), *_NEWEST], name="by_project"),
    IndexModel([("name", ASCENDING), *_NEWEST], name="by_name"),
    IndexModel([("tags", ASCENDING), *_NEWEST], name="by_tag", sparse=True),
    IndexModel([("updated_at", ASCENDING)], name=BY_CHANGE),
    # Of two repeats of one claim, sent to two servers at the same time, one finds the other's run.
    IndexModel([("requests", ASCENDING)], name=ONE_RUN_PER_REQUEST, unique=True, sparse=True),
    IndexModel([("report_hash", ASCENDING)], name="by_report_token", sparse=True),
]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A record as it was read. A write that names its version fails after any other write."""

    record: TaskRecord
    version: int


def to_document(record: TaskRecord, *, version: int, writer: str) -> Document:
    """Raises TooLarge, and Invalid for text that is not Unicode."""
    copies = {name: value for name, value in _copies(record).items() if value is not None}
    body = TASKS.encode(record)
    if len(body) + len(bson.encode(copies)) > MAX_DOCUMENT_BYTES - _ROOM_BYTES:
        raise TooLarge(f"task {record.id} takes more than the 16 MB that MongoDB holds: shorten its code's diff")
    return {"_id": record.id, "version": version, "writer": writer, **copies, "body": body}


def from_document(document: Document) -> Found:
    """Needs the fields in NEEDED."""
    rank = bytes.fromhex(document["rank"]) if "rank" in document else None
    record = TASKS.decode(document["body"], rank=rank, due_at=document.get("due_at"))
    return Found(record=record, version=document["version"])


@functools.lru_cache(maxsize=10_000)
def candidate(requires: bytes) -> Candidate:
    """What the field `requires` says."""
    return _CANDIDATES.validate_json(requires)


def _copies(record: TaskRecord) -> Document:
    latest = record.runs[-1] if record.runs else None
    return {
        "state": record.state.value,
        "queue": record.queue,
        "rank": None if record.rank is None else record.rank.hex(),
        "shape": record.shape,
        "requires": _CANDIDATES.dump_json(record.candidate),
        "due_at": record.due_at,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "project": record.spec.project,
        "name": record.spec.name,
        "tags": list(record.spec.tags) or None,
        "owner": record.owner,
        "requests": [run.request_id for run in record.runs] or None,
        "report_hash": latest.report_hash if latest else None,
    }
