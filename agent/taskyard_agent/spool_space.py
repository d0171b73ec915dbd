"""Gives the space of a run's log back to the disk once the server has it; its offsets stay as they are."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
"""What is freed at once; a multiple of the blocks of any file system."""
SENT_KEPT_BYTES = 1 << 20
"""Kept of the acknowledged bytes: a server that lost power may ask for the last of them again."""
END_KEPT_BYTES = 64 << 10
"""At the end of the log, where the last exception is read."""
KEEP_SIZE, PUNCH_HOLE = 1, 2


class SpoolSpace:
    """The beginning of one spool that is not on the disk any more: a hole, which a new daemon finds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fails = False
        self.freed = _hole_at_start(path)
        """Bytes at the beginning that are gone."""

    def free(self, *, sent: int | None, taken: Callable[[], int | None]) -> None:
        """Free the blocks that are no longer needed.

        `sent` is the offset that the server acknowledged, None where it takes no more; `taken` returns the
        offset of a reader on this machine, None without one.
        """
        try:
            end = self._path.stat().st_size - END_KEPT_BYTES
        except FileNotFoundError:
            return
        if sent is not None:
            end = min(end, sent - SENT_KEPT_BYTES)
        end -= max(0, end) % BLOCK_BYTES
        if self._fails or end <= self.freed:
            return
        reader = taken()
        if reader is not None:
            end = min(end, reader - reader % BLOCK_BYTES)
        if end > self.freed:
            self._punch(end)

    def _punch(self, end: int) -> None:
        try:
            with self._path.open("r+b") as spool:
                _punch_hole(spool.fileno(), self.freed, end - self.freed)
        except OSError as error:
            self._fails = True
            logger.warning(
                "the log %s keeps its whole size on the disk: its file system frees no part of a file (%s)",
                self._path,
                error.strerror,
                extra={"action": "spool_not_freed"},
            )
        else:
            self.freed = end


def missing(size: int) -> bytes:
    """Return the filler for `size` bytes of a log that neither this machine nor the server still has."""
    line = f"\ntaskyard: {size} bytes of this log are missing: the server had them, and lost them\n".encode()
    return line.ljust(size)[-size:] if size < len(line) else line[:-1].ljust(size - 1) + b"\n"


def _hole_at_start(path: Path) -> int:
    try:
        with path.open("rb") as spool:
            size = os.fstat(spool.fileno()).st_size
            return os.lseek(spool.fileno(), 0, os.SEEK_DATA) if size else 0
    except (AttributeError, OSError):  # no file, no such call here, or no data at all
        return 0


def _punch_hole(fd: int, start: int, length: int) -> None:
    """Raises OSError where the file system, or the operating system, cannot."""
    fallocate = _fallocate()
    if fallocate is None:
        raise OSError(0, "this operating system cannot")
    if fallocate(fd, PUNCH_HOLE | KEEP_SIZE, start, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate
    except AttributeError:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return call
