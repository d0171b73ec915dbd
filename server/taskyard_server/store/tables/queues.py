"""Queue records."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from taskyard.wire import TaskState

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import Change, QueueRecord
from taskyard_server.store.codec import QUEUES
from taskyard_server.store.tables import tasks


def add(connection: sqlite3.Connection, queue: QueueRecord) -> None:
    """Raises Conflict when the id or the name exists."""
    try:
        connection.execute(
            "INSERT INTO queues (id, name, paused, body) VALUES (?, ?, ?, ?)",
            (queue.id, queue.name, queue.paused, QUEUES.encode(queue)),
        )
    except sqlite3.IntegrityError as error:
        raise _taken(queue) from error


def get(connection: sqlite3.Connection, queue_id: str) -> QueueRecord:
    """Raises NotFound."""
    row = connection.execute("SELECT body FROM queues WHERE id = ?", (queue_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no queue {queue_id}: `taskyard queue list` shows those that there are")
    return QUEUES.decode(row[0])


def named(connection: sqlite3.Connection, name: str) -> QueueRecord | None:
    """Finds a queue by its exact name."""
    row = connection.execute("SELECT body FROM queues WHERE name = ?", (name,)).fetchone()
    return None if row is None else QUEUES.decode(row[0])


def by_name(connection: sqlite3.Connection) -> list[QueueRecord]:
    """All of them."""
    return [QUEUES.decode(body) for (body,) in connection.execute("SELECT body FROM queues ORDER BY name")]


def update(
    connection: sqlite3.Connection, queue_id: str, change: Callable[[QueueRecord], QueueRecord]
) -> QueueRecord:
    """Raises NotFound, Conflict when the new name exists, and what `change` raises."""
    changed = change(get(connection, queue_id))
    try:
        connection.execute(
            "UPDATE queues SET name = ?, paused = ?, body = ? WHERE id = ?",
            (changed.name, changed.paused, QUEUES.encode(changed), queue_id),
        )
    except sqlite3.IntegrityError as error:
        raise _taken(changed) from error
    return changed


def delete_empty(connection: sqlite3.Connection, queue_id: str) -> None:
    """Raises NotFound, Conflict while it holds entries."""
    queue = get(connection, queue_id)
    (entries,) = connection.execute(
        "SELECT count(*) FROM tasks WHERE state = 'queued' AND queue = ?", (queue_id,)
    ).fetchone()
    if entries:
        raise Conflict(f"queue {queue.name} holds {entries} tasks: move or remove them first, or force it")
    connection.execute("DELETE FROM queues WHERE id = ?", (queue_id,))


def delete_some(connection: sqlite3.Connection, queue_id: str, force: Change, *, limit: int) -> bool:
    """Takes up to `limit` entries out, and the queue away once it is empty. Returns whether it is gone."""
    get(connection, queue_id)
    entries = tasks.select(
        connection, "WHERE state = 'queued' AND queue = ? ORDER BY rank LIMIT ?", (queue_id, limit)
    )
    for entry in entries:
        tasks.put(connection, entry, force)
    if len(entries) == limit:
        return False
    delete_empty(connection, queue_id)
    return True


def counts(connection: sqlite3.Connection) -> dict[str, dict[TaskState, int]]:
    """Queue id → state → number, for the states waiting, queued, preparing and running."""
    # The index named is the only one that need not look at each record for its queue.
    rows = connection.execute(
        "SELECT queue, 'queued', count(*) FROM tasks INDEXED BY entries_by_rank WHERE state = 'queued'"
        " GROUP BY queue UNION ALL"
        " SELECT queue, state, count(*) FROM tasks WHERE state IN ('waiting', 'preparing', 'running')"
        " AND queue IS NOT NULL GROUP BY queue, state"
    )
    found: dict[str, dict[TaskState, int]] = {}
    for queue_id, state, number in rows:
        found.setdefault(queue_id, {})[TaskState(state)] = number
    return found


def _taken(queue: QueueRecord) -> Conflict:
    return Conflict(f"a queue named {queue.name} exists already: choose another name, or use that one")
