"""One SQLite file in WAL mode: a writer that commits in groups, and readers that it never blocks."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from taskyard_server.errors import StartRefused, Unavailable
from taskyard_server.store.place import Place
from taskyard_server.store.writer import GroupWriter, Operation, explained, is_unavailability

T = TypeVar("T")

_READERS = 4


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The tables of one kind of file. `migrations[n]` is the script that leads from version n to n + 1; the
    first one makes the tables. A script that was released is never edited."""

    application_id: int
    migrations: Sequence[str]
    synchronous: str = "FULL"


class Database:
    """One file. All methods but `open` need it to be open."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path = path
        self._schema = schema
        self._resources = contextlib.ExitStack()
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._opened = False

    async def open(self) -> None:
        """Raises StartRefused with the cure when the file or its folder is unfit."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Finishes what was taken and lets go of the file."""
        self._opened = False
        await asyncio.to_thread(self._resources.close)

    async def write(self, operation: Operation[T]) -> T:
        """Runs `operation` in the writer's thread; see `GroupWriter.run`."""
        self._require_open()
        return await self._writer.run(operation)

    async def read(self, query: Operation[T]) -> T:
        """Runs `query` in a reader's thread. Raises Unavailable."""
        self._require_open()
        with _translating():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._readers, lambda: query(self._reader()))

    def look_up(self, query: Operation[T]) -> T:
        """Runs `query` here and now: for look-ups by key, which take less time than a change of thread."""
        self._require_open()
        with _translating():
            return query(self._looker)

    def _require_open(self) -> None:
        if not self._opened:
            raise Unavailable("the server is starting or stopping: try again")

    def _open(self) -> None:
        with contextlib.ExitStack() as resources:
            resources.enter_context(Place(self.path))
            with self._refusing_foreign_files():
                writing = resources.enter_context(contextlib.closing(self._connect()))
                self._prepare(writing)
                self._looker = resources.enter_context(contextlib.closing(self._connect_reader()))
            resources.callback(self._close_readers)
            self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix=f"reader of {self.path.name}")
            resources.callback(self._readers.shutdown)
            self._writer = GroupWriter(writing, name=self.path.name)
            self._writer.start()
            resources.callback(self._writer.stop)
            self._resources = resources.pop_all()
        self._opened = True

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _reader(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect_reader()
            self._reading.append(self._local.connection)
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _close_readers(self) -> None:
        for connection in self._reading:
            connection.close()
        self._reading, self._local = [], threading.local()

    @contextlib.contextmanager
    def _refusing_foreign_files(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StartRefused(
                f"{self.path} cannot be opened as a database ({error}): put a backup in its place, or name another"
                " folder with --data"
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._refuse_others(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self._schema.synchronous}")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        self._migrate(connection)

    def _refuse_others(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != self._schema.application_id:
            raise StartRefused(
                f"{self.path} belongs to another program: name another file with --store, or another folder with"
                " --data"
            )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        known = len(self._schema.migrations)
        if version > known:
            raise StartRefused(
                f"{self.path} was written by a newer Taskyard (schema {version}, this one knows {known}): install"
                " that version again, or start from a backup made before the upgrade"
            )
        for number in range(version, known):
            # A script commits by itself, so the transaction is part of it.
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {self._schema.application_id};"
                f"{self._schema.migrations[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
            )


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise explained(error) from error
    except sqlite3.Error as error:
        if not is_unavailability(error):
            raise
        raise Unavailable(f"the database cannot be read ({error}): try again") from error
