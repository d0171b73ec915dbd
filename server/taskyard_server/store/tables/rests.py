"""Records of hosts that rest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from taskyard_server.store.base import RestRecord
from taskyard_server.store.codec import RESTS


def save(
    connection: sqlite3.Connection, target: str, change: Callable[[RestRecord | None], RestRecord]
) -> RestRecord:
    """Raises what `change` raises."""
    row = connection.execute("SELECT body FROM rests WHERE target = ?", (target,)).fetchone()
    was = None if row is None else RESTS.decode(row[0])
    changed = change(was)
    if changed is not was:
        body = RESTS.encode(changed)
        connection.execute("INSERT OR REPLACE INTO rests (target, body) VALUES (?, ?)", (target, body))
    return changed


def by_target(connection: sqlite3.Connection) -> list[RestRecord]:
    """All of them."""
    return [RESTS.decode(body) for (body,) in connection.execute("SELECT body FROM rests ORDER BY target")]


def delete(connection: sqlite3.Connection, target: str) -> None:
    """One that is gone is no error."""
    connection.execute("DELETE FROM rests WHERE target = ?", (target,))
