"""Token records; the secrets themselves are never kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import TokenRecord
from taskyard_server.store.codec import TOKENS


def add(connection: sqlite3.Connection, token: TokenRecord) -> None:
    """Raises Conflict when the id or the hash exists."""
    try:
        connection.execute(
            "INSERT INTO tokens (id, hash, created_at, body) VALUES (?, ?, ?, ?)",
            (token.id, token.hash, token.created_at, TOKENS.encode(token)),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"token {token.id} exists already: draw another") from error


def by_hash(connection: sqlite3.Connection, token_hash: str) -> TokenRecord | None:
    """Finds a token, also a revoked or expired one."""
    row = connection.execute("SELECT body FROM tokens WHERE hash = ?", (token_hash,)).fetchone()
    return None if row is None else TOKENS.decode(row[0])


def newest(connection: sqlite3.Connection) -> list[TokenRecord]:
    """All of them, newest first."""
    rows = connection.execute("SELECT body FROM tokens ORDER BY created_at DESC, id DESC")
    return [TOKENS.decode(body) for (body,) in rows]


def update(
    connection: sqlite3.Connection, token_id: str, change: Callable[[TokenRecord], TokenRecord]
) -> TokenRecord:
    """Raises NotFound, and what `change` raises."""
    changed = change(_get(connection, token_id))
    connection.execute(
        "UPDATE tokens SET hash = ?, body = ? WHERE id = ?", (changed.hash, TOKENS.encode(changed), token_id)
    )
    return changed


def delete(connection: sqlite3.Connection, token_id: str) -> None:
    """Raises NotFound."""
    _get(connection, token_id)
    connection.execute("DELETE FROM tokens WHERE id = ?", (token_id,))


def _get(connection: sqlite3.Connection, token_id: str) -> TokenRecord:
    row = connection.execute("SELECT body FROM tokens WHERE id = ?", (token_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no token {token_id}: `taskyard token list` shows those that there are")
    return TOKENS.decode(row[0])
