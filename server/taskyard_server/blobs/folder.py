"""Blobs as files below a folder, named by their digest."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from taskyard_server.errors import Invalid, NotFound, StartRefused, TooLarge, Unavailable

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class FolderBlobs:
    """See `base.BlobStore`. A blob appears under its name when it is whole and on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arriving = folder / "arriving"

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
            size = await _receive(arriving, digest, chunks, limit)
            await asyncio.to_thread(_install, arriving, self._path(digest))
        except OSError as error:
            raise Unavailable(
                f"blob {digest} cannot be written ({error.strerror}): free space on the server's disk, try again"
            ) from error
        finally:
            arriving.unlink(missing_ok=True)
        return size

    async def size(self, digest: str) -> int | None:
        try:
            return self._path(digest).stat().st_size
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

    async def delete(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(self._arriving, ignore_errors=True)
        self._arriving.mkdir(mode=0o700)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise Invalid(f"{digest!r} is not a SHA-256, which is 64 lower-case hexadecimal digits")
        return self._folder / digest[:2] / digest


async def _receive(path: Path, digest: str, chunks: AsyncIterator[bytes], limit: int) -> int:
    """Writes the chunks to `path` and returns their size. Raises TooLarge, Invalid for another digest."""
    hashed, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"blob {digest} is larger than {limit} bytes: leave files out, or raise the limit")
            hashed.update(chunk)
            await asyncio.to_thread(file.write, chunk)
        if hashed.hexdigest() != digest:
            raise Invalid(f"the bytes have the digest {hashed.hexdigest()}, not {digest}: send them again")
        await asyncio.to_thread(_flush, file)
    return size


def _install(arrived: Path, path: Path) -> None:
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _flush_folder(path.parent.parent)
    arrived.rename(path)
    _flush_folder(path.parent)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.closing(os.fdopen(descriptor)):
        os.fsync(descriptor)
