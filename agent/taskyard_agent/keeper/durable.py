"""Files that are, after any crash, there as a whole or not at all; and small ones with space of their own.

Standard library alone: the keeper uses it too.
"""

from __future__ import annotations

import os


def write_whole(path: str, content: bytes) -> None:
    """Writes a file that is, after any crash, there as a whole or not at all."""
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        while content:  # a disk that is nearly full takes a part, and only then says so
            content = content[os.write(fd, content) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    rename(path + ".new", path)


def rename(source: str, target: str) -> None:
    """Renames a file so that the new name outlives a power failure."""
    os.rename(source, target)
    sync_folder(os.path.dirname(target))


def sync_folder(path: str) -> None:
    """Makes the names in a folder outlive a power failure."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def fifo(path: str) -> int:
    """Opens a named pipe, made if need be, which never blocks and never ends: this process holds both ends."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


class Reserved:
    """A small file whose space is taken now, so that a full disk cannot keep it from being written later."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._size = size
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(self._fd, b" " * size)

    def write(self, text: str) -> None:
        """Overwrites it in place; JSON readers skip the blanks that fill it up."""
        os.pwrite(self._fd, text.encode("ascii").ljust(self._size)[: self._size], 0)

    def publish(self, path: str) -> None:
        """Gives it its final name, durably."""
        os.fsync(self._fd)
        rename(self._path, path)
