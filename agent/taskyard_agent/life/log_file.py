"""The log of an agent in the background, which is kept small while the agent and its children write to it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

MOST_BYTES = 10 << 20
LOOK_SECONDS = 60.0
STDERR = 2


def older(log: Path) -> Path:
    """Where a log goes that has grown too large; the one before it is dropped."""
    return log.with_name(f"{log.name}.1")


def trim(log: Path, *, most_bytes: int = MOST_BYTES) -> None:
    """Begins a log anew that is larger; what it holds is kept beside it.

    The file stays the same one: other processes, such as the agents of a pool, hold it open and add to its end. A
    line that one of them writes at this very moment may be lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size <= most_bytes:
            return
        try:
            _copy(log, older(log))
        except OSError as error:
            logger.warning("the older log is lost: %s", error, extra={"action": "log_lost"})
        os.truncate(log, 0)


def _copy(log: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with log.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
        shutil.copyfileobj(source, copy)


@contextlib.contextmanager
def kept_small(
    log: Path, *, descriptor: int = STDERR, most_bytes: int = MOST_BYTES, look_seconds: float = LOOK_SECONDS
) -> Iterator[None]:
    """Trims the log now and then, where it is what this process writes to; elsewhere it is somebody else's."""
    if not _is_written_to(log, descriptor):
        yield
        return
    stopping = threading.Event()

    def look() -> None:
        while not stopping.wait(look_seconds):
            trim(log, most_bytes=most_bytes)

    thread = threading.Thread(target=look, name="log file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _is_written_to(log: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(log.stat(), os.fstat(descriptor))
    except OSError:
        return False
