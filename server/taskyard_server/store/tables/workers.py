"""Worker records."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from taskyard_server.errors import NotFound
from taskyard_server.store.base import WorkerRecord
from taskyard_server.store.codec import WORKERS


def save(
    connection: sqlite3.Connection, name: str, change: Callable[[WorkerRecord | None], WorkerRecord]
) -> WorkerRecord:
    """Raises what `change` raises."""
    was = find(connection, name)
    changed = change(was)
    if changed is not was:
        connection.execute(
            "INSERT INTO workers (name, body) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            (name, WORKERS.encode(changed)),
        )
    return changed


def find(connection: sqlite3.Connection, name: str) -> WorkerRecord | None:
    """None when it never registered."""
    row = connection.execute("SELECT body FROM workers WHERE name = ?", (name,)).fetchone()
    return None if row is None else WORKERS.decode(row[0])


def require(record: WorkerRecord | None, name: str) -> WorkerRecord:
    """Raises NotFound."""
    if record is None:
        raise NotFound(f"there is no worker {name}: `taskyard workers` shows those that there are")
    return record


def by_name(connection: sqlite3.Connection) -> list[WorkerRecord]:
    """All of them."""
    return [WORKERS.decode(body) for (body,) in connection.execute("SELECT body FROM workers ORDER BY name")]


def delete(connection: sqlite3.Connection, name: str) -> None:
    """Raises NotFound."""
    require(find(connection, name), name)
    connection.execute("DELETE FROM workers WHERE name = ?", (name,))
