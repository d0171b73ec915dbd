"""A run's log on the disk, as the keeper writes it: nothing is dropped, and trouble is told.

Standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time

from taskyard_agent.keeper.durable import Reserved, fifo

STATE_BYTES = 512


class Spool:
    """A run's log. What the disk does not take waits here, and `state.json` says so; nothing is dropped."""

    def __init__(self, run_dir: str) -> None:
        self._fd = os.open(os.path.join(run_dir, "output.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._state = Reserved(os.path.join(run_dir, "state.json"), STATE_BYTES)
        self._grown = fifo(os.path.join(run_dir, "grown"))
        self.waiting = b""
        self.trouble = ""
        self.ends_line = True
        """Whether what was appended last ended with its line."""

    @property
    def length(self) -> int:
        """Bytes in the log, what others wrote into it before included."""
        return os.fstat(self._fd).st_size

    def append(self, data: bytes) -> None:
        """Adds to the log, or to what waits."""
        self.waiting += data
        if data:
            self.ends_line = data.endswith(b"\n")
        self.write()

    def write(self) -> None:
        """Writes what waits, as far as the disk takes it."""
        if not self.waiting:
            return
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self._fd, self.waiting) :]
        except OSError as error:
            self._tell(_trouble(error))
        else:
            self._tell("")
        self._poke()

    def sync(self) -> None:
        """Makes the log outlive a power failure, as far as the disk can still do that."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            self.trouble = _trouble(error)

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            with contextlib.suppress(OSError):  # the trouble may be with this file, too
                self._state.write(json.dumps({"trouble": trouble, "at": time.time()}))

    def _poke(self) -> None:
        """Wakes the shipper; a full pipe has woken it already."""
        try:
            os.write(self._grown, b"+")
        except BlockingIOError:
            pass


def _trouble(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: output is held back until there is space"
    return f"the log cannot be written ({error.strerror}): output is held back"
