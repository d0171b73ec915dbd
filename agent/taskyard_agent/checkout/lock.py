"""Locks between the agents of one machine: free as soon as nobody lives who holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from taskyard_agent.errors import RunStopped

POLL_SECONDS = 0.05


def try_lock(path: Path, mode: int = fcntl.LOCK_EX) -> int | None:
    """Takes the lock file's lock and returns its descriptor, None while another holds it against us.

    Lock files are never removed, so that nobody can hold one that is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(path: Path, cancelled: threading.Event, mode: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Waits for the lock and holds it. Raises RunStopped once the run is cancelled."""
    while (descriptor := try_lock(path, mode)) is None:
        if cancelled.wait(POLL_SECONDS):
            raise RunStopped("cancelled during the checkout")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
