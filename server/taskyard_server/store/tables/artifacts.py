"""Artifacts, the parts that they name, and which account sent which part."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.artifacts import LOOKED_AT, ArtifactRecord, Totals
from taskyard_server.store.codec import ARTIFACTS

_AT_ONCE = 500
_FOLDER = "artifacts_folder"


def note_sent(connection: sqlite3.Connection, digest: str, account: str, now: float) -> None:
    """A repeat renews the time."""
    connection.execute(
        "INSERT INTO sent_parts (digest, account, at) VALUES (?, ?, ?)"
        " ON CONFLICT (digest, account) DO UPDATE SET at = excluded.at",
        (digest, account, now),
    )


def sent_by(connection: sqlite3.Connection, account: str, digests: Collection[str]) -> set[str]:
    """Those of the digests that the account has sent."""
    return _found(
        connection, "SELECT digest FROM sent_parts WHERE account = ? AND digest IN ({})", digests, account
    )


def referenced(connection: sqlite3.Connection, digests: Collection[str]) -> set[str]:
    """Those that an artifact names or an account has sent."""
    named = _found(connection, "SELECT digest FROM artifact_parts WHERE digest IN ({})", digests)
    return named | _found(connection, "SELECT digest FROM sent_parts WHERE digest IN ({})", digests)


def attach(connection: sqlite3.Connection, records: Sequence[ArtifactRecord]) -> None:
    """Raises Conflict for a part that was not sent, NotFound for a task that is gone."""
    for record in records:
        lacking = record.parts - sent_by(connection, record.account, record.parts)
        if lacking:
            raise Conflict(f"{len(lacking)} parts of {record.artifact.name!r} were not sent: send them first")
        if connection.execute("SELECT 1 FROM tasks WHERE id = ?", (record.task,)).fetchone() is None:
            raise NotFound(f"there is no task {record.task}: keep nothing of it")
        _replace(connection, record)


def _replace(connection: sqlite3.Connection, record: ArtifactRecord) -> None:
    made = record.artifact
    connection.execute("DELETE FROM artifacts WHERE run = ? AND name = ?", (made.run, made.name))
    connection.execute(
        "INSERT INTO artifacts (run, name, task, files, bytes, body) VALUES (?, ?, ?, ?, ?, ?)",
        (made.run, made.name, record.task, len(made.files), made.size, ARTIFACTS.encode(record)),
    )
    connection.executemany(
        "INSERT INTO artifact_parts (digest, account, run, name) VALUES (?, ?, ?, ?)",
        [(digest, record.account, made.run, made.name) for digest in record.parts],
    )


def of_run(connection: sqlite3.Connection, run_id: str) -> list[ArtifactRecord]:
    """All of a run, by name."""
    rows = connection.execute("SELECT body FROM artifacts WHERE run = ? ORDER BY name", (run_id,))
    return [ARTIFACTS.decode(body) for (body,) in rows]


def get(connection: sqlite3.Connection, run_id: str, name: str) -> ArtifactRecord:
    """Raises NotFound."""
    row = connection.execute("SELECT body FROM artifacts WHERE run = ? AND name = ?", (run_id, name)).fetchone()
    if row is None:
        raise NotFound(f"run {run_id} keeps no artifact {name!r}")
    return ARTIFACTS.decode(row[0])


def totals(connection: sqlite3.Connection, run_id: str, besides: Collection[str]) -> Totals:
    """What the run keeps under other names."""
    rows = connection.execute("SELECT name, files, bytes FROM artifacts WHERE run = ?", (run_id,)).fetchall()
    kept = [(files, size) for name, files, size in rows if name not in besides]
    return Totals(files=sum(files for files, _ in kept), bytes=sum(size for _, size in kept))


def forget_task(connection: sqlite3.Connection, task_id: str) -> None:
    """Drops those of all its runs."""
    connection.execute("DELETE FROM artifacts WHERE task = ?", (task_id,))


def forget_unused(connection: sqlite3.Connection, before: float, now: float) -> int:
    """Those that are named are looked at again a while later. Artifacts went with their task."""
    old = connection.execute(
        "SELECT digest, account, EXISTS (SELECT 1 FROM artifact_parts AS named"
        " WHERE named.digest = sent_parts.digest AND named.account = sent_parts.account)"
        " FROM sent_parts WHERE at < ? ORDER BY at LIMIT ?",
        (before, LOOKED_AT),
    ).fetchall()
    unnamed = [(digest, account) for digest, account, named in old if not named]
    connection.executemany("DELETE FROM sent_parts WHERE digest = ? AND account = ?", unnamed)
    connection.executemany(
        "UPDATE sent_parts SET at = ? WHERE digest = ? AND account = ?",
        [(now, digest, account) for digest, account, named in old if named],
    )
    return len(unnamed)


def folder_id(connection: sqlite3.Connection, own: str | None) -> str | None:
    """The first one that was named."""
    if own is not None:
        named = "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"
        connection.execute(named, (_FOLDER, own))
    row = connection.execute("SELECT value FROM settings WHERE name = ?", (_FOLDER,)).fetchone()
    return None if row is None else str(row[0])


def _found(connection: sqlite3.Connection, query: str, digests: Collection[str], *before: str) -> set[str]:
    wanted, found = list(digests), set[str]()
    for first in range(0, len(wanted), _AT_ONCE):
        portion = wanted[first : first + _AT_ONCE]
        marks = ", ".join("?" * len(portion))
        found.update(digest for (digest,) in connection.execute(query.format(marks), (*before, *portion)))
    return found
