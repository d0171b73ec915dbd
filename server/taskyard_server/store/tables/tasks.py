"""Task records: read, write, list."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskyard.wire import TaskEvent, TaskState

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import Change, RecordPage, RunRecord, TaskFilter, TaskRecord
from taskyard_server.store.codec import TASKS
from taskyard_server.store.events import FEW_TASKS, FirstEvents
from taskyard_server.store.ranks import key_after
from taskyard_server.store.run_times import RunTimes, latest

_READ = "SELECT tasks.body, tasks.rank, tasks.due_at FROM tasks"
_INSERT = (
    "INSERT INTO tasks (id, state, queue, shape, rank, due_at, created_at, updated_at, project, name, owner, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_TAG = "INSERT INTO tags (tag, task) VALUES (?, ?)"

Row = tuple[bytes, bytes | None, float | None]
"""Body, rank and due time of a task."""


def get(connection: sqlite3.Connection, task_id: str) -> TaskRecord:
    """Raises NotFound."""
    row = connection.execute(f"{_READ} WHERE id = ?", (task_id,)).fetchone()
    if row is None:
        raise _no_task(task_id)
    return _record(row)


def select(connection: sqlite3.Connection, rest: str, values: Sequence[Any] = ()) -> list[TaskRecord]:
    """Returns the records that the `rest` of the statement selects."""
    return [_record(row) for row in connection.execute(f"{_READ} {rest}", values)]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A record that was encoded outside of the writer."""

    record: TaskRecord
    body: bytes
    was: TaskRecord | None = None
    row: Row | None = None
    """The row that `was` was read from: what stands in the table must be the same when it is written."""


def ready(record: TaskRecord) -> Ready:
    """Encodes a new record."""
    return Ready(record=record, body=TASKS.encode(record))


def changed(row: Row, change: Change) -> Ready:
    """Decodes a row, changes the record and encodes it. Raises what `change` raises."""
    was = _record(row)
    record = change(was)
    return Ready(record=record, body=row[0] if record is was else TASKS.encode(record), was=was, row=row)


def rows(connection: sqlite3.Connection, task_ids: Sequence[str]) -> dict[str, Row]:
    """Reads rows without decoding them; ids that are not there are left out."""
    marks = ", ".join("?" * len(task_ids))
    found = connection.execute(f"SELECT id, body, rank, due_at FROM tasks WHERE id IN ({marks})", tuple(task_ids))
    return {task_id: (body, rank, due_at) for task_id, body, rank, due_at in found}


def add_all(connection: sqlite3.Connection, records: Iterable[Ready]) -> None:
    """Raises Conflict naming the first id that exists, NotFound for a queue that does not."""
    entrance = Entrance(connection)
    tags: list[tuple[str, str]] = []
    for each in records:
        record, rank = each.record, entrance.rank(each.record, was=None)
        row = (record.id, *{**_columns(record), "rank": rank}.values(), each.body)
        try:
            connection.execute(_INSERT, row)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"task {record.id} exists already: choose another id, or none") from error
        tags += _tag_rows(record)
        _index_runs(connection, record, was=None)
    connection.executemany(_INSERT_TAG, tags)


def update_all(
    connection: sqlite3.Connection, task_ids: Sequence[str], prepared: Mapping[str, Ready], change: Change
) -> list[TaskRecord]:
    """Writes what was prepared; what changed since then is changed here. Raises NotFound, and as `change`."""
    entrance = Entrance(connection)
    stored: list[TaskRecord] = []
    for task_id in task_ids:
        row = connection.execute(f"{_READ} WHERE id = ?", (task_id,)).fetchone()
        if row is None:
            raise _no_task(task_id)
        known = prepared.get(task_id)
        each = known if known is not None and known.row == row else changed(row, change)
        stored.append(_put(connection, each, entrance))
    return stored


def update(connection: sqlite3.Connection, task_id: str, change: Change) -> TaskRecord:
    """Raises NotFound, and what `change` raises."""
    return put(connection, get(connection, task_id), change)


def put(connection: sqlite3.Connection, record: TaskRecord, change: Change) -> TaskRecord:
    """Writes `change(record)` in the place of `record`, which was just read, and returns what is stored now."""
    after = change(record)
    if after is record:
        return record
    return _put(connection, Ready(record=after, body=TASKS.encode(after), was=record), Entrance(connection))


def _put(connection: sqlite3.Connection, each: Ready, entrance: Entrance) -> TaskRecord:
    was = each.was
    if was is None or each.record is was:
        return each.record
    placed = entrance.admit(each.record, was=was)
    _write(connection, was, placed, each.body)
    if placed.spec.tags != was.spec.tags:
        connection.execute("DELETE FROM tags WHERE task = ?", (was.id,))
        _index_tags(connection, placed)
    _index_runs(connection, placed, was=was)
    return placed


def delete(connection: sqlite3.Connection, task_id: str, allowed: Callable[[TaskRecord], None]) -> None:
    """Raises NotFound, and what `allowed` raises."""
    allowed(get(connection, task_id))
    connection.execute("DELETE FROM tasks WHERE id = ?", (task_id,))


def newest(
    connection: sqlite3.Connection, wanted: TaskFilter, *, before: str | None, limit: int
) -> list[TaskRecord]:
    """Raises NotFound when the task of `before` is gone."""
    rest, values = _newest(connection, wanted, before, limit)
    return select(connection, rest, values)


def page(
    connection: sqlite3.Connection, wanted: TaskFilter, *, before: str | None, limit: int, most_bytes: int
) -> RecordPage:
    """As `newest`; reads one body after the other, so that no more are in memory than the answer takes."""
    rest, values = _newest(connection, wanted, before, limit + 1)
    keys = connection.execute(f"SELECT rowid FROM tasks {rest}", values).fetchall()
    records: list[TaskRecord] = []
    size = 0
    for key in keys[:limit]:
        row = connection.execute(f"{_READ} WHERE rowid = ?", key).fetchone()
        if row is None:
            continue  # deleted since the keys were read
        size += len(row[0])
        if records and size > most_bytes:
            return RecordPage(records=records, more=True)
        records.append(_record(row))
    return RecordPage(records=records, more=len(keys) > limit)


def _newest(
    connection: sqlite3.Connection, wanted: TaskFilter, before: str | None, limit: int
) -> tuple[str, list[Any]]:
    """The rest of a statement, and its values."""
    conditions, values = _conditions(wanted)
    if before is not None:
        conditions.append("(created_at, id) < (?, ?)")
        values += [_created_at(connection, before), before]
    order = f"ORDER BY created_at DESC, id DESC LIMIT {int(limit)}"
    if wanted.states is None:
        return f"{_where(conditions)} {order}", values
    # One ordered search per state, merged: an IN would sort every task that is in one of them.
    arm = f"SELECT * FROM (SELECT rowid FROM tasks {_where([*conditions, 'state = ?'])} {order})"
    arms = " UNION ALL ".join([arm] * len(wanted.states)) or "SELECT 0 WHERE 0"
    values = [value for state in wanted.states for value in (*values, state.value)]
    return f"WHERE rowid IN ({arms}) {order}", values


def latest_runs(connection: sqlite3.Connection, wanted: TaskFilter, *, limit: int) -> list[RunTimes]:
    """Decodes nothing but these."""
    rest, values = _newest(connection, wanted, None, limit)
    found = [latest(body) for (body,) in connection.execute(f"SELECT body FROM tasks {rest}", values)]
    return [times for times in found if times is not None]


def events(connection: sqlite3.Connection, first: FirstEvents, project: str | None) -> list[TaskEvent]:
    """Gathers them; see `FirstEvents`."""
    changed_since, values = "updated_at >= ?", [first.since]
    counted = f"SELECT count(*) FROM (SELECT 1 FROM tasks WHERE {changed_since} LIMIT {FEW_TASKS + 1})"
    (number,) = connection.execute(counted, values).fetchone()
    index = "tasks_by_change" if number <= FEW_TASKS else "tasks_by_age"
    query = f"SELECT id, created_at, project, body FROM tasks INDEXED BY {index} WHERE {changed_since}"
    for task_id, created_at, of_project, body in connection.execute(f"{query} ORDER BY created_at, id", values):
        if first.enough(created_at):
            break
        if project in (None, of_project):
            first.add(task_id, body)
    return first.found()


def of_request(connection: sqlite3.Connection, request_id: str) -> TaskRecord | None:
    """Finds the task that this claim request took."""
    found = select(connection, "JOIN runs ON task = id WHERE request_id = ?", (request_id,))
    return found[0] if found else None


def of_report_token(connection: sqlite3.Connection, report_hash: str) -> TaskRecord | None:
    """Finds the task whose latest run has this report token."""
    found = select(connection, "JOIN runs ON task = id WHERE report_hash = ?", (report_hash,))
    return next((record for record in found if record.runs[-1].report_hash == report_hash), None)


def active(connection: sqlite3.Connection) -> list[TaskRecord]:
    """Those that a worker holds."""
    return select(connection, "WHERE state IN ('preparing', 'running') ORDER BY created_at, id")


def due(connection: sqlite3.Connection, now: float, limit: int) -> list[str]:
    """Ids, earliest first."""
    rows = connection.execute("SELECT id FROM tasks WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, limit))
    return [task_id for (task_id,) in rows]


def shift_leases(connection: sqlite3.Connection, seconds: float) -> None:
    """Moves the due time of every active task."""
    connection.execute(
        "UPDATE tasks SET due_at = due_at + ? WHERE state IN ('preparing', 'running') AND due_at IS NOT NULL",
        (seconds,),
    )


def _no_task(task_id: str) -> NotFound:
    return NotFound(f"there is no task {task_id}: it was never created, or was deleted")


def _record(row: Row) -> TaskRecord:
    body, rank, due_at = row
    return TASKS.decode(body, rank=rank, due_at=due_at)


def _columns(record: TaskRecord) -> dict[str, Any]:
    return {
        "state": record.state.value,
        "queue": record.queue,
        "shape": record.shape,
        "rank": record.rank,
        "due_at": record.due_at,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "project": record.spec.project,
        "name": record.spec.name,
        "owner": record.owner,
    }


def _write(connection: sqlite3.Connection, was: TaskRecord, now: TaskRecord, body: bytes) -> None:
    # Only the columns that change are named, because SQLite renews every index on a column that is.
    before = _columns(was)
    columns = {name: value for name, value in _columns(now).items() if value != before[name]}
    columns["body"] = body
    names = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE tasks SET {names} WHERE id = ?", (*columns.values(), was.id))


class Entrance:
    """Lets records into queues within one operation: each queue's existence and end are looked up once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._existing: set[str | None] = set()
        self._last: dict[str | None, bytes | None] = {}

    def admit(self, record: TaskRecord, *, was: TaskRecord | None) -> TaskRecord:
        """Returns the record with its rank; see `rank`."""
        rank = self.rank(record, was=was)
        return record if rank == record.rank else replace(record, rank=rank)

    def rank(self, record: TaskRecord, *, was: TaskRecord | None) -> bytes | None:
        """Gives a record that becomes queued its place; no entry appears in a queue that is gone."""
        if record.state is not TaskState.QUEUED:
            return record.rank
        if was is None or was.state is not TaskState.QUEUED or was.queue != record.queue:
            self._require_queue(record)
        if record.rank is not None:
            return record.rank
        if record.queue not in self._last:
            self._last[record.queue] = last_rank(self._connection, record.queue)
        rank = key_after(self._last[record.queue])
        self._last[record.queue] = rank
        return rank

    def _require_queue(self, record: TaskRecord) -> None:
        if record.queue in self._existing:
            return
        if self._connection.execute("SELECT 1 FROM queues WHERE id = ?", (record.queue,)).fetchone() is None:
            raise NotFound(f"task {record.id} cannot be queued: its queue {record.queue} is gone")
        self._existing.add(record.queue)


def last_rank(connection: sqlite3.Connection, queue_id: str | None) -> bytes | None:
    """The highest rank of a queue, also among the places that are held by tasks out of it."""
    rows = connection.execute(
        "SELECT max(rank) FROM tasks WHERE queue = ?1 AND state = 'queued' UNION ALL"
        " SELECT max(rank) FROM tasks WHERE queue = ?1 AND state IN ('waiting', 'preparing', 'running')",
        (queue_id,),
    )
    return max((rank for (rank,) in rows if rank is not None), default=None)


def _index_tags(connection: sqlite3.Connection, record: TaskRecord) -> None:
    connection.executemany(_INSERT_TAG, _tag_rows(record))


def _tag_rows(record: TaskRecord) -> list[tuple[str, str]]:
    return [(tag, record.id) for tag in set(record.spec.tags)]


def _index_runs(connection: sqlite3.Connection, record: TaskRecord, *, was: TaskRecord | None) -> None:
    if record.runs == (was.runs if was else ()):
        return
    known, wanted = _run_keys(was.runs if was else ()), _run_keys(record.runs)
    if wanted[: len(known)] != known:
        connection.execute("DELETE FROM runs WHERE task = ?", (record.id,))
        known = []
    rows = [(record.id, *keys) for keys in wanted[len(known) :]]
    try:
        connection.executemany(
            "INSERT INTO runs (task, number, request_id, report_hash) VALUES (?, ?, ?, ?)", rows
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"the request that claims task {record.id} took another one: ask for that") from error


def _run_keys(runs: Sequence[RunRecord]) -> list[tuple[int, str, str]]:
    return [(run.run.number, run.request_id, run.report_hash) for run in runs]


def _conditions(wanted: TaskFilter) -> tuple[list[str], list[Any]]:
    tests: dict[str, Any] = {
        "queue = ?": wanted.queue,
        "project = ?": wanted.project,
        "name = ?": wanted.name,
        "instr(name, ?)": wanted.name_contains,
        "owner = ?": wanted.owner,
        # Searches of their own, so that few matches are not looked for along all tasks by age.
        "rowid IN (SELECT rowid FROM tasks WHERE updated_at >= ?)": wanted.updated_since,
        "id IN (SELECT task FROM tags WHERE tag = ?)": wanted.tag,
        # Not LIKE, in which a prefix could hold wildcards; U+10FFFF stands behind every other character.
        "id >= ?": wanted.id_prefix,
        "id < ? || char(1114111)": wanted.id_prefix,
    }
    given = {test: value for test, value in tests.items() if value is not None}
    return list(given), list(given.values())


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _created_at(connection: sqlite3.Connection, task_id: str) -> float:
    row = connection.execute("SELECT created_at FROM tasks WHERE id = ?", (task_id,)).fetchone()
    if row is None:
        raise NotFound(f"task {task_id}, where the page before ended, is gone: start again from the first page")
    at: float = row[0]
    return at
