"""Whether the disk of the data folder has room for more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from taskyard_server.errors import Unavailable

CHECK_SECONDS = 1.0


class DiskSpace:
    """Looks at most once a second; a floor keeps room for the changes of state that must not fail."""

    def __init__(self, folder: Path, min_free_bytes: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._monotonic = monotonic
        self._checked_at = float("-inf")
        self._free_bytes = 0

    def require_room(self, consequence: str) -> None:
        """Raises Unavailable on a low disk; `consequence` says what is refused."""
        if self._monotonic() - self._checked_at > CHECK_SECONDS:
            self._free_bytes = shutil.disk_usage(self._folder).free
            self._checked_at = self._monotonic()
        if self._free_bytes < self._min_free_bytes:
            free, floor = self._free_bytes >> 20, self._min_free_bytes >> 20
            raise Unavailable(
                f"the server's disk is low ({free} MiB free, {floor} MiB must stay): {consequence} until its "
                "operator makes room or lowers --min-free-disk-bytes"
            )
