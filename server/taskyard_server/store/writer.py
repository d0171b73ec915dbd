"""The one thread that writes a SQLite file: what waits is committed together, and answered after the commit."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from taskyard.log_lines import Outage

from taskyard_server.errors import Invalid, Unavailable
from taskyard_server.store.rounds import Answer, Rounds

logger = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

_GROUP = 256
CHECKPOINT_SECONDS = 5.0
"""Between two checkpoints of an idle writer: each costs some flushes."""
_BUSY_MILLISECONDS = 10_000


class GroupWriter:
    """Runs operations one after the other, each in its savepoint, many in one transaction."""

    def __init__(self, connection: sqlite3.Connection, *, name: str) -> None:
        self._connection = connection
        self._rounds: Rounds[Operation[Any]] = Rounds(
            self._commit, name=f"writer of {name}", limit=_GROUP, rest=self._checkpoint
        )
        self._checkpointed_at = float("-inf")

    def start(self) -> None:
        """Starts the thread."""
        self._rounds.start()

    def stop(self) -> None:
        """Finishes what was taken, then ends the thread."""
        self._rounds.stop()

    async def run(self, operation: Operation[T]) -> T:
        """Returns what `operation` returned once it is durable; raises what it raised, having written nothing.

        The operation must not commit. Raises Unavailable when the file cannot be written. An operation whose
        caller is cancelled before its turn is left out.
        """
        return cast(T, await self._rounds.ask(operation))

    def _commit(self, operations: Sequence[Operation[Any]]) -> list[Answer]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            answers = [self._attempt(operation) for operation in operations]
            self._connection.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as error:
            self._roll_back()
            # Also for those that had raised: they saw what the others had written, and that is gone.
            return [Answer(error=_unavailable(error))] * len(operations)
        return answers

    def _attempt(self, operation: Operation[Any]) -> Answer:
        self._connection.execute("SAVEPOINT operation")
        try:
            answer = Answer(value=operation(self._connection))
        except Exception as error:  # the edge of the loop: it belongs to the caller, who gets it
            if is_unavailability(error):
                raise
            self._connection.execute("ROLLBACK TO operation")
            answer = Answer(error=explained(error))
        self._connection.execute("RELEASE operation")
        return answer

    def _checkpoint(self) -> float | None:
        """Moves what was committed into the main file and empties the WAL, unless a reader needs it.

        Else the main file of a small database would hold nothing for days, and so would a copy of it alone.
        """
        early = self._checkpointed_at + CHECKPOINT_SECONDS - time.monotonic()
        if early > 0:
            return early
        self._checkpointed_at = time.monotonic()
        try:
            self._connection.execute("PRAGMA busy_timeout = 0")  # the next writer does not wait for readers
            (busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        except sqlite3.Error as error:
            logger.warning("no checkpoint of the database: %s", error, extra={"action": "checkpoint_failed"})
            return CHECKPOINT_SECONDS
        return CHECKPOINT_SECONDS if busy else None

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def is_unavailability(error: Exception) -> bool:
    """Whether it is the file's fault (full, failing, locked, damaged) and not the operation's."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def explained(error: Exception) -> Exception:
    """Text that is no Unicode, such as half of a surrogate pair, is the caller's mistake; the rest stays."""
    if not isinstance(error, UnicodeEncodeError):
        return error
    refusal = Invalid(f"{error.object!r} is not valid Unicode: write it without half characters")
    refusal.__cause__ = error
    return refusal


_outage = Outage(logger, "cannot write the database", "database_unwritable")


def _unavailable(error: Exception) -> Unavailable:
    _outage.failed(error)
    refusal = Unavailable(
        f"the database cannot be written ({error}): free space on the server's disk, then try again"
    )
    refusal.__cause__ = error
    return refusal
