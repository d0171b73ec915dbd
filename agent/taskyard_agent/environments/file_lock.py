"""Locks on files that whoever holds them alone may remove."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def take(file: Path, mode: int) -> int | None:
    """Takes the lock, shared or exclusive; None when others hold it. Closing the descriptor gives it back."""
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        if _is_still_there(file, lock):
            return lock
        os.close(lock)  # its holder removed it in between: others would lock another one of the name


def _is_still_there(file: Path, lock: int) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(file))
    except FileNotFoundError:
        return False
