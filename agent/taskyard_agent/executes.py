"""The folders of `agent execute`: each is one execute's own, and no later agent opens it to carry its run on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import SettingsError
from .journal import Journal


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """A journal of a new folder, which goes away at the end unless it still holds a run."""
    with _alone(folder):
        journal = Journal(folder, f"{os.getpid()}-{secrets.token_hex(4)}")
        journal.open()
    try:
        yield journal
    finally:
        leave(journal)


def abandoned(folder: Path) -> list[Journal]:
    """The journals whose execute was killed, opened: nobody else finds them as long as they are."""
    if not folder.is_dir():
        return []
    with _alone(folder):
        there = [Journal(folder, path.name) for path in sorted(folder.iterdir()) if path.is_dir()]
        return [journal for journal in there if _opens(journal)]


def leave(journal: Journal) -> None:
    """Closes the journal, and removes its folder if nothing of a run is left to be told."""
    if not journal.runs():
        shutil.rmtree(journal.folder, ignore_errors=True)
    journal.close()


def _opens(journal: Journal) -> bool:
    with contextlib.suppress(SettingsError):
        journal.open()
        return True
    return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A folder that was made and is not locked yet looks abandoned."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
