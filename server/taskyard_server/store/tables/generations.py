"""Which restored copy of itself the store is."""

from __future__ import annotations

import sqlite3

from taskyard_server.store.base import Generation, next_generation


def latest(connection: sqlite3.Connection) -> Generation:
    """The current one."""
    row = connection.execute(
        "SELECT number, copied_at, restored_at, resumed_at FROM generations ORDER BY number DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return Generation()
    number, copied_at, restored_at, resumed_at = row
    return Generation(number=number, copied_at=copied_at, restored_at=restored_at, resumed_at=resumed_at)


def begin(connection: sqlite3.Connection, copied_at: float, now: float) -> Generation:
    """Adds the next one."""
    begun = next_generation(latest(connection), copied_at=copied_at, now=now)
    connection.execute(
        "INSERT INTO generations (number, copied_at, restored_at) VALUES (?, ?, ?)",
        (begun.number, begun.copied_at, begun.restored_at),
    )
    return begun


def resume(connection: sqlite3.Connection, now: float) -> Generation:
    """Ends the recovery; a repeat changes nothing."""
    connection.execute(
        "UPDATE generations SET resumed_at = ? WHERE resumed_at IS NULL AND restored_at IS NOT NULL", (now,)
    )
    return latest(connection)
