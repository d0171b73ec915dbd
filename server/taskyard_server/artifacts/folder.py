"""The bytes of artifacts: parts as files below a folder, which several servers of one store may share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from taskyard_server.blobs.folder import FolderBlobs, install, on_disk, receive
from taskyard_server.disk import flush
from taskyard_server.errors import NotFound, StartRefused
from taskyard_server.store.artifacts import ArtifactStore

ID_FILE = "id"
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ABANDONED_SECONDS = 86_400.0
"""What arrives for longer than this belongs to a server that is gone."""


class ArtifactFolder(FolderBlobs):
    """Parts under their digests. A part's time of modification is that of its last use.

    The folder has an id, which the store remembers: a server that is given another folder does not start.
    """

    def __init__(self, folder: Path, references: ArtifactStore) -> None:
        super().__init__(folder)
        self.path = folder
        self._references = references

    async def open(self) -> None:
        """Raises StartRefused when the folder cannot be written, or is not the one that the store knows."""
        await super().open()
        try:
            own = await asyncio.to_thread(self._own_id)
        except OSError as error:
            raise StartRefused(f"{self._folder}/{ID_FILE} cannot be written ({error.strerror})") from error
        known = await self._references.folder_id(own)
        if known != own:
            raise StartRefused(
                f"the artifacts of this store are in another folder than {self._folder}: name that one with"
                " --artifacts on every server of the store. Where its content was copied here without its file"
                f" {ID_FILE!r}, or is lost, write `{known}` into {self._folder}/{ID_FILE}"
            )

    async def put(self, digest: str, chunks: AsyncIterator[bytes], *, limit: int) -> int:
        """Stores the part. The bytes are read, compared and written whether or not another account has sent
        them before: neither the answer nor its time tells. Raises Invalid, TooLarge."""
        arriving, path = self._arriving / secrets.token_hex(16), self._path(digest)
        try:
            size = await receive(arriving, digest, chunks, limit)
            await on_disk(install, arriving, path)
        finally:
            arriving.unlink(missing_ok=True)
        return size

    async def read(self, digest: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a part. Raises NotFound."""

        def cut() -> bytes:
            try:
                with self._path(digest).open("rb") as part:
                    return os.pread(part.fileno(), limit, offset)
            except FileNotFoundError as error:
                raise _gone(digest) from error

        return await on_disk(cut)

    async def old(self, prefix: str, before: float) -> list[str]:
        """Digests with this beginning (two digits) that nothing has used since `before`."""

        def unused() -> list[str]:
            with contextlib.suppress(FileNotFoundError):
                return [
                    entry.name for entry in os.scandir(self._folder / prefix) if entry.stat().st_mtime < before
                ]
            return []

        return await on_disk(unused)

    async def forget(self, digests: Collection[str], before: float) -> int:
        """Removes those that nothing has used since `before`; returns how many."""
        return await on_disk(lambda: sum(self._remove(self._path(digest), before) for digest in digests))

    def _remove(self, path: Path, before: float) -> bool:
        """Takes it out of the way first: another server that notes a use meanwhile has either reached it, which
        its time of modification tells, or does not find it."""
        aside = self._arriving / f"{path.name}.{secrets.token_hex(8)}"
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        if aside.stat().st_mtime >= before:
            aside.rename(path)
            return False
        aside.unlink()
        return True

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._arriving.mkdir(exist_ok=True, mode=0o700)
        for path in self._arriving.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                    path.unlink()

    def _own_id(self) -> str:
        """The folder's id; drawn by the first server that opens it."""
        path = self._folder / ID_FILE
        drawn = self._arriving / secrets.token_hex(16)
        drawn.write_text(f"{secrets.token_hex(16)}\n", encoding="ascii")
        flush(drawn)
        with contextlib.suppress(FileExistsError):
            os.link(drawn, path)
            flush(self._folder)
        drawn.unlink()
        found = path.read_text(encoding="ascii", errors="replace").strip()
        if not _ID.fullmatch(found):
            raise StartRefused(f"{path} holds no id of an artifacts folder: bring the file back from a copy")
        return found


class NoArtifacts:
    """A store whose artifacts have no folder: opened, to find out that no server of it has one."""

    def __init__(self, references: ArtifactStore) -> None:
        self._references = references

    async def open(self) -> None:
        """Raises StartRefused where another server keeps artifacts."""
        if await self._references.folder_id(None) is not None:
            raise StartRefused(
                "other servers of this store keep artifacts: name their folder, which all of them see, with"
                " --artifacts FOLDER"
            )

    async def close(self) -> None:
        """Nothing is open."""


def _gone(digest: str) -> NotFound:
    return NotFound(f"the part {digest} is not in the artifacts folder: was the folder restored without it?")
