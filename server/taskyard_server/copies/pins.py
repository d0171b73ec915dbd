"""Folders of a copy that is being made: locked while its process lives, else removed by the next one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from taskyard_server.errors import CopyRefused

PREFIX = ".taskyard-backup-"


@contextlib.contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A folder that goes with this block; removes those that killed processes left beside it."""
    remove_abandoned(parent)
    folder = parent / f"{PREFIX}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders whose process is gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def pin(data: Path, pins: Path) -> None:
    """Links each log segment, blob and part of an artifact into `pins`: what the server deletes from now on can
    still be copied."""
    for path in (*data.glob("logs/??/*"), *data.glob("blobs/??/*"), *data.glob("artifacts/[0-9a-f][0-9a-f]/*")):
        pinned = pins / path.relative_to(data)
        try:
            pinned.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.link(path, pinned)
        except (FileExistsError, FileNotFoundError):
            continue  # pinned before, or deleted just now
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise CopyRefused(
                    f"{path} cannot be linked ({error.strerror}): run this as the server's own user, with --data"
                    " on a file system that has hard links"
                ) from error
            raise
