"""Blobs as files below a folder, named by their digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from taskyard_server.disk import flush
from taskyard_server.errors import Invalid, NotFound, StartRefused, TooLarge, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class FolderBlobs:
    """See `base.BlobStore`. A blob appears under its name when it is whole and on the disk.

    Its time of modification is that of its last use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arriving = folder / "arriving"
        self._using = threading.Lock()
        """Held while a use is noted, and while one that is old is forgotten."""

    async def open(self) -> None:
        """Drops what was left half written. Raises StartRefused when the folder cannot be written."""
        try:
            await asyncio.to_thread(self._prepare)
        except OSError as error:
            raise StartRefused(
                f"{self._folder} cannot be written ({error.strerror}): give the server's user the right to it"
            ) from error

    async def close(self) -> None:
        """Nothing is held."""

    async def put(self, digest: str, chunks: AsyncIterator[bytes], *, limit: int) -> int:
        held = await self.size(digest)
        if held is not None:
            return held
        arriving = self._arriving / secrets.token_hex(16)
        try:
            size = await receive(arriving, digest, chunks, limit)
            await on_disk(install, arriving, self._path(digest))
        finally:
            arriving.unlink(missing_ok=True)
        return size

    async def size(self, digest: str) -> int | None:
        path = self._path(digest)
        with self._using:
            try:
                os.utime(path)
                return path.stat().st_size
            except FileNotFoundError:
                return None

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        try:
            blob = self._path(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"there is no blob {digest}: upload it again") from error
        with blob:
            while chunk := await asyncio.to_thread(blob.read, CHUNK_BYTES):
                yield chunk

    async def forget_unused(self, used: Collection[str], before: float) -> int:
        return await on_disk(self._forget_unused, used, before)

    def _forget_unused(self, used: Collection[str], before: float) -> int:
        unused = [path for path in self._folder.glob("??/*") if path.name not in used]
        return sum(self._forget(path, before) for path in unused)

    def _forget(self, path: Path, before: float) -> bool:
        with self._using:
            if path.stat().st_mtime >= before:
                return False
            path.unlink()
        return True

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(self._arriving, ignore_errors=True)
        self._arriving.mkdir(mode=0o700)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise Invalid(f"{digest!r} is not a SHA-256, which is 64 lower-case hexadecimal digits")
        return self._folder / digest[:2] / digest


async def receive(path: Path, digest: str, chunks: AsyncIterator[bytes], limit: int) -> int:
    """Writes the chunks to `path` and returns their size. Raises TooLarge, Invalid for another digest."""
    hashed, size = hashlib.sha256(), 0
    with await on_disk(path.open, "xb", buffering=0) as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"{digest} is larger than {limit} bytes: leave files out, or raise the limit")
            hashed.update(chunk)
            await on_disk(_write, file, chunk)
    if hashed.hexdigest() != digest:
        raise Invalid(f"the bytes have the digest {hashed.hexdigest()}, not {digest}: send them again")
    return size


async def on_disk(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Only the disk's errors are ours to explain: the sender's pass through."""
    try:
        return await asyncio.to_thread(work, *args, **options)
    except OSError as error:
        raise Unavailable(
            f"uploads cannot be written ({error.strerror}): free space on the server's disk, then try again"
        ) from error


def _write(file: BinaryIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def install(arrived: Path, path: Path) -> None:
    """Gives what has arrived its name, durably."""
    flush(arrived)
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flush(path.parent.parent)
    arrived.rename(path)
    flush(path.parent)
