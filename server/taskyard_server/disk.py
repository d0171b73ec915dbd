"""The disk under files of ours."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Makes the bytes of a file, or the names in a folder, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
