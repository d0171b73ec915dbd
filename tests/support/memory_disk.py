"""A folder in memory for what tests store: a store waits for the disk at each commit, thousands of times."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 2 << 30


def memory_disk() -> Path | None:
    """Return it; None where there is none, or little room in it: then temporary files are on the disk."""
    if not os.access(MEMORY, os.W_OK | os.X_OK) or shutil.disk_usage(MEMORY).free < LEAST_FREE_BYTES:
        return None
    return MEMORY
