"""Entries: the queued tasks in their order. Claiming, places, moves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from taskyard.wire import MoveTo, TaskState

from taskyard_server.errors import Conflict
from taskyard_server.recent import Recent
from taskyard_server.store.base import Candidate, Change, Choose, Front, TaskRecord
from taskyard_server.store.ranks import key_after, key_between
from taskyard_server.store.tables import tasks

_ENTRY = "state = 'queued' AND queue = ?"
_KNOWN_SHAPES = 10_000


class Shapes:
    """What the tasks of each shape require; remembered, because it never changes."""

    def __init__(self) -> None:
        self._known: Recent[str, Candidate] = Recent(_KNOWN_SHAPES)

    def candidate(self, connection: sqlite3.Connection, shape: str, rowid: int) -> Candidate:
        """Returns the candidate of a shape, read from the task in row `rowid` if need be."""
        if shape not in self._known:
            (record,) = tasks.select(connection, "WHERE rowid = ?", (rowid,))
            self._known[shape] = record.candidate
        return self._known[shape]


def claim(
    connection: sqlite3.Connection, shapes: Shapes, queues: Sequence[str], choose: Choose, change: Change
) -> TaskRecord | None:
    """Takes the first entry of the shapes that are chosen."""
    for front in choose(fronts(connection, shapes, queues)):
        where = f"WHERE {_ENTRY} AND shape = ? ORDER BY rank LIMIT 1"
        (record,) = tasks.select(connection, where, (front.queue, front.shape))
        return tasks.put(connection, record, change)
    return None


def fronts(connection: sqlite3.Connection, shapes: Shapes, queues: Sequence[str]) -> list[Front]:
    """The first entry of each shape, by queue and rank; those of paused queues are left out."""
    return [
        front
        for queue_id in queues
        if not _paused(connection, queue_id)
        for front in sorted(_fronts(connection, shapes, queue_id), key=lambda front: front.rank)
    ]


def page(connection: sqlite3.Connection, queue_id: str, *, offset: int, limit: int) -> list[TaskRecord]:
    """A stretch of a queue in the order of claiming."""
    # The inner search runs along the index alone, so what is skipped is never read.
    chosen = f"SELECT rowid FROM tasks WHERE {_ENTRY} ORDER BY rank LIMIT ? OFFSET ?"
    return tasks.select(connection, f"WHERE rowid IN ({chosen}) ORDER BY rank", (queue_id, limit, offset))


def shape_counts(connection: sqlite3.Connection, queues: Sequence[str]) -> dict[tuple[str, str], int]:
    """(Queue id, shape) → number of entries; walks along the index alone."""
    query = f"SELECT shape, count(*) FROM tasks INDEXED BY entries_by_shape WHERE {_ENTRY} GROUP BY shape"
    return {
        (queue_id, shape): number
        for queue_id in queues
        for shape, number in connection.execute(query, (queue_id,))
    }


def position(connection: sqlite3.Connection, task_id: str) -> int | None:
    """How many entries stand before a task; None when it is not queued."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM tasks AS ahead WHERE ahead.state = 'queued' AND ahead.queue = tasks.queue"
        " AND ahead.rank < tasks.rank) FROM tasks WHERE id = ? AND state = 'queued'",
        (task_id,),
    ).fetchone()
    return None if row is None else int(row[0])


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A place between two ranks; None stands for the end of the queue on that side."""

    queue: str | None
    low: bytes | None = None
    high: bytes | None = None

    def holds(self, rank: bytes) -> bool:
        """Whether an entry of that rank stands here already."""
        return (self.low is None or self.low < rank) and (self.high is None or rank < self.high)


def gap_at(connection: sqlite3.Connection, task_id: str, index: int) -> Gap:
    """Finds the place that is number `index` once the task is taken out; walks the queue up to it.

    Raises NotFound, Conflict when the task is not queued.
    """
    entry = _entry(connection, task_id)
    ranks = _others(connection, entry, "ORDER BY rank LIMIT 2 OFFSET ?", max(index - 1, 0))
    if index <= 0:
        return Gap(queue=entry.queue, high=_nth(ranks, 0))
    if not ranks:
        return _gap_towards(connection, entry, MoveTo.LAST)
    return Gap(queue=entry.queue, low=ranks[0], high=_nth(ranks, 1))


def move(connection: sqlite3.Connection, task_id: str, to: MoveTo | Gap) -> None:
    """Gives an entry another place. Raises NotFound, Conflict when it is not queued, or in another queue."""
    entry = _entry(connection, task_id)
    gap = _gap_towards(connection, entry, to) if isinstance(to, MoveTo) else to
    if gap.queue != entry.queue:
        raise Conflict(f"task {task_id} went to another queue meanwhile: look where it is, then move it")
    if gap.holds(_rank(entry)):
        return
    # At the end it goes behind the places that are held, too.
    rank = key_between(gap.low, gap.high) if gap.high else key_after(tasks.last_rank(connection, entry.queue))
    connection.execute("UPDATE tasks SET rank = ? WHERE id = ?", (rank, task_id))


def _paused(connection: sqlite3.Connection, queue_id: str) -> bool:
    row = connection.execute("SELECT paused FROM queues WHERE id = ?", (queue_id,)).fetchone()
    return row is not None and bool(row[0])


def _fronts(connection: sqlite3.Connection, shapes: Shapes, queue_id: str) -> Iterator[Front]:
    """One seek per shape, from each to the next one, so the cost does not grow with the number of entries."""
    seek = f"SELECT shape, rank, rowid FROM tasks WHERE {_ENTRY} AND shape {{}} ? ORDER BY shape, rank LIMIT 1"
    found = connection.execute(seek.format(">="), (queue_id, "")).fetchone()
    while found is not None:
        shape, rank, rowid = found
        candidate = shapes.candidate(connection, shape, rowid)
        yield Front(queue=queue_id, shape=shape, rank=rank, candidate=candidate)
        found = connection.execute(seek.format(">"), (queue_id, shape)).fetchone()


def _entry(connection: sqlite3.Connection, task_id: str) -> TaskRecord:
    record = tasks.get(connection, task_id)
    if record.state is not TaskState.QUEUED:
        raise Conflict(f"task {task_id} has no place in a queue: it is {record.state}")
    return record


def _rank(entry: TaskRecord) -> bytes:
    if entry.rank is None:
        raise AssertionError(f"queued task {entry.id} has no rank")
    return entry.rank


def _gap_towards(connection: sqlite3.Connection, entry: TaskRecord, to: MoveTo) -> Gap:
    if to is MoveTo.FIRST:
        return Gap(queue=entry.queue, high=_nth(_others(connection, entry, "ORDER BY rank LIMIT 1"), 0))
    if to is MoveTo.LAST:
        return Gap(queue=entry.queue, low=_nth(_others(connection, entry, "ORDER BY rank DESC LIMIT 1"), 0))
    if to is MoveTo.UP:
        ahead = _others(connection, entry, "AND rank < ? ORDER BY rank DESC LIMIT 2", _rank(entry))
        return Gap(queue=entry.queue, low=_nth(ahead, 1), high=_nth(ahead, 0))
    behind = _others(connection, entry, "AND rank > ? ORDER BY rank LIMIT 2", _rank(entry))
    return Gap(queue=entry.queue, low=_nth(behind, 0), high=_nth(behind, 1))


def _others(connection: sqlite3.Connection, entry: TaskRecord, rest: str, *values: object) -> list[bytes]:
    """Ranks of the other entries of its queue."""
    rows = connection.execute(
        f"SELECT rank FROM tasks WHERE {_ENTRY} AND rank != ? {rest}", (entry.queue, entry.rank, *values)
    )
    return [rank for (rank,) in rows]


def _nth(ranks: Sequence[bytes], index: int) -> bytes | None:
    return ranks[index] if index < len(ranks) else None
