"""Task records: read, write, list."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from taskyard.wire import TaskState

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import Change, RunRecord, TaskFilter, TaskRecord
from taskyard_server.store.codec import TASKS
from taskyard_server.store.ranks import key_after

_READ = "SELECT tasks.body, tasks.rank, tasks.due_at FROM tasks"
_INSERT = (
    "INSERT INTO tasks (id, state, queue, shape, rank, due_at, created_at, updated_at, project, name, owner, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def get(connection: sqlite3.Connection, task_id: str) -> TaskRecord:
    """Raises NotFound."""
    row = connection.execute(f"{_READ} WHERE id = ?", (task_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no task {task_id}: it was never created, or was deleted")
    return _record(row)


def select(connection: sqlite3.Connection, rest: str, values: Sequence[Any] = ()) -> list[TaskRecord]:
    """Returns the records that the `rest` of the statement selects."""
    return [_record(row) for row in connection.execute(f"{_READ} {rest}", values)]


def add_all(connection: sqlite3.Connection, records: Iterable[TaskRecord]) -> None:
    """Raises Conflict naming the first id that exists, NotFound for a queue that does not."""
    for record in records:
        placed = _placed(connection, record, was=None)
        columns = {"id": placed.id, **_columns(placed), "body": TASKS.encode(placed)}
        try:
            connection.execute(_INSERT, tuple(columns.values()))
        except sqlite3.IntegrityError as error:
            raise Conflict(f"task {record.id} exists already: choose another id, or none") from error
        _index_tags(connection, placed)
        _index_runs(connection, placed, was=None)


def update(connection: sqlite3.Connection, task_id: str, change: Change) -> TaskRecord:
    """Raises NotFound, and what `change` raises."""
    return put(connection, get(connection, task_id), change)


def put(connection: sqlite3.Connection, record: TaskRecord, change: Change) -> TaskRecord:
    """Writes `change(record)` in the place of `record`, which was just read, and returns what is stored now."""
    changed = change(record)
    if changed is record:
        return record
    placed = _placed(connection, changed, was=record)
    _write(connection, record, placed)
    if placed.spec.tags != record.spec.tags:
        connection.execute("DELETE FROM tags WHERE task = ?", (record.id,))
        _index_tags(connection, placed)
    _index_runs(connection, placed, was=record)
    return placed


def delete(connection: sqlite3.Connection, task_id: str, allowed: Callable[[TaskRecord], None]) -> None:
    """Raises NotFound, and what `allowed` raises."""
    allowed(get(connection, task_id))
    connection.execute("DELETE FROM tasks WHERE id = ?", (task_id,))


def newest(
    connection: sqlite3.Connection, wanted: TaskFilter, *, before: str | None, limit: int
) -> list[TaskRecord]:
    """Raises NotFound when the task of `before` is gone."""
    conditions, values = _conditions(wanted)
    if before is not None:
        conditions.append("(created_at, id) < (?, ?)")
        values += [_created_at(connection, before), before]
    order = f"ORDER BY created_at DESC, id DESC LIMIT {int(limit)}"
    if wanted.states is None:
        return select(connection, f"{_where(conditions)} {order}", values)
    # One ordered search per state, merged: an IN would sort every task that is in one of them.
    arm = f"SELECT * FROM (SELECT rowid FROM tasks {_where([*conditions, 'state = ?'])} {order})"
    arms = " UNION ALL ".join([arm] * len(wanted.states)) or "SELECT 0 WHERE 0"
    values = [value for state in wanted.states for value in (*values, state.value)]
    return select(connection, f"WHERE rowid IN ({arms}) {order}", values)


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


def _record(row: tuple[bytes, bytes | None, float | None]) -> TaskRecord:
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


def _write(connection: sqlite3.Connection, was: TaskRecord, now: TaskRecord) -> None:
    # Only the columns that change are named, because SQLite renews every index on a column that is.
    before = _columns(was)
    columns = {name: value for name, value in _columns(now).items() if value != before[name]}
    columns["body"] = TASKS.encode(now)
    names = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE tasks SET {names} WHERE id = ?", (*columns.values(), was.id))


def _placed(connection: sqlite3.Connection, record: TaskRecord, *, was: TaskRecord | None) -> TaskRecord:
    """Gives a record that becomes queued its place; no entry appears in a queue that is gone."""
    if record.state is not TaskState.QUEUED:
        return record
    if was is None or was.state is not TaskState.QUEUED or was.queue != record.queue:
        _require_queue(connection, record)
    if record.rank is not None:
        return record
    return replace(record, rank=key_after(last_rank(connection, record.queue)))


def _require_queue(connection: sqlite3.Connection, record: TaskRecord) -> None:
    if connection.execute("SELECT 1 FROM queues WHERE id = ?", (record.queue,)).fetchone() is None:
        raise NotFound(f"task {record.id} cannot be queued: its queue {record.queue} is gone")


def last_rank(connection: sqlite3.Connection, queue_id: str | None) -> bytes | None:
    """The highest rank of a queue, also among the places that are held by tasks out of it."""
    rows = connection.execute(
        "SELECT max(rank) FROM tasks WHERE queue = ?1 AND state = 'queued' UNION ALL"
        " SELECT max(rank) FROM tasks WHERE queue = ?1 AND state IN ('waiting', 'preparing', 'running')",
        (queue_id,),
    )
    return max((rank for (rank,) in rows if rank is not None), default=None)


def _index_tags(connection: sqlite3.Connection, record: TaskRecord) -> None:
    rows = [(tag, record.id) for tag in set(record.spec.tags)]
    connection.executemany("INSERT INTO tags (tag, task) VALUES (?, ?)", rows)


def _index_runs(connection: sqlite3.Connection, record: TaskRecord, *, was: TaskRecord | None) -> None:
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
