"""Refuses to begin an empty store beside what another store left."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from taskyard_server.errors import StartRefused

RESTORING = ".restoring"
"""In a data folder that a restore fills, until it is whole."""


def refuse_empty_beside_data(control: Path, data: Path) -> None:
    """Raises StartRefused where the control database is missing or empty, and its data folder is not.

    A control database that was copied without its `-wal` file, or not at all, would begin again with nothing,
    with a new administrator, and the old logs and code would be deleted as unused.
    """
    if (data / RESTORING).exists():
        raise StartRefused(f"a restore into {data} did not come to its end: run it again, then start the server")
    if (found := _what_is_there(data)) and is_empty(control):
        raise StartRefused(
            f"{control} is missing or empty, but {data} holds {found} of another store: restore a backup with"
            " `taskyard server restore`, or bring back control.db together with control.db-wal; to begin with"
            " nothing, name an empty folder with --data"
        )


def is_empty(control: Path) -> bool:
    """Whether no server ever finished its first start on this file."""
    if not control.exists():
        return True
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(control))}?mode=ro", uri=True)) as connection:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            rows = "SELECT EXISTS (SELECT 1 FROM tokens) OR EXISTS (SELECT 1 FROM tasks)"
            return not tables or not connection.execute(rows).fetchone()[0]
    except sqlite3.Error:
        return False  # not a database of ours: opening it says so


def _what_is_there(data: Path) -> str:
    found = [name for name in ("logs", "blobs", "artifacts") if next(data.glob(f"{name}/??/*"), None) is not None]
    found += ["admin-token"] if (data / "admin-token").exists() else []
    return ", ".join(found)
