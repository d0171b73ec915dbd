"""Remembered answers to mutating requests, and the servers' signs of life."""

from __future__ import annotations

import sqlite3

from taskyard_server.store.base import Answer


def find(connection: sqlite3.Connection, key: str) -> Answer | None:
    """The remembered answer of an idempotency key."""
    row = connection.execute("SELECT request_hash, status, body, at FROM answers WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    request_hash, status, body, at = row
    return Answer(key=key, request_hash=request_hash, status=status, body=body, at=at)


def remember(connection: sqlite3.Connection, answer: Answer) -> None:
    """The first one of a key stays."""
    connection.execute(
        "INSERT INTO answers (key, request_hash, status, at, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (answer.key, answer.request_hash, answer.status, answer.at, answer.body),
    )


def forget(connection: sqlite3.Connection, before: float) -> None:
    """Drops the older ones."""
    connection.execute("DELETE FROM answers WHERE at < ?", (before,))


def sign_of_life(connection: sqlite3.Connection, server_id: str, now: float) -> float | None:
    """Returns the latest sign of any server before this one."""
    (latest,) = connection.execute("SELECT max(at) FROM servers").fetchone()
    connection.execute(
        "INSERT INTO servers (id, at) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at",
        (server_id, now),
    )
    return None if latest is None else float(latest)
