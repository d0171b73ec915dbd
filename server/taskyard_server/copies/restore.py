"""Brings a copy back into an empty folder, and begins a new generation of its store.

While `.restoring` is there, no server starts on the folder; a restore that was killed is begun again by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from taskyard_server.copies import archive
from taskyard_server.copies.backup import Progress
from taskyard_server.disk import flush
from taskyard_server.errors import CopyRefused, StartRefused
from taskyard_server.store import open_store
from taskyard_server.store.base import Generation, TokenRecord
from taskyard_server.store.codec import TOKENS
from taskyard_server.store.emptiness import RESTORING
from taskyard_server.store.sqlite import SqliteStore

_NOT_OURS = frozenset({"lost+found"})


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was brought back."""

    data: str
    copied_at: float
    generation: int
    files: int
    revoked: tuple[str, ...] = ()
    """Tokens that the old store had revoked after the copy: revoked again."""
    unknown: tuple[str, ...] = ()
    """Tokens that the old store had issued after the copy: theirs log in or join again."""


def restore(source: Path, control: Path, data: Path, *, compare: Path | None, progress: Progress) -> Restored:
    """Fills the folder `data`, which must be empty, from the copy `source`.

    `compare` is the old data folder, where it can still be read: what it knows of tokens since the copy counts.
    Raises CopyRefused with what to do; then nothing is left behind.
    """
    later = _tokens(compare / archive.CONTROL) if compare is not None else None
    try:
        with source.open("rb") as file, _arriving(control, data):
            manifest = _unpack(file, control, data, progress)
            generation, revoked, unknown = asyncio.run(_begin(control, manifest, later))
            os.sync()  # thousands of small files, whose flushes one by one would take minutes
    except StartRefused as error:
        raise CopyRefused(str(error)) from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise CopyRefused(
            f"nothing was restored: {error.strerror or error}{place}; make room or see to the rights, then try"
            " again"
        ) from error
    return Restored(
        data=str(data),
        copied_at=manifest.copied_at,
        generation=generation.number,
        files=len(manifest.digests),
        revoked=revoked,
        unknown=unknown,
    )


@contextlib.contextmanager
def _arriving(control: Path, data: Path) -> Iterator[None]:
    """Around the work on the folder; what was written goes again when it fails."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    marker = data / RESTORING
    if not marker.exists():
        _require_empty(control, data)
    with os.fdopen(os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CopyRefused(f"another restore fills {data} just now: wait for its end") from error
        flush(data)
        _clear(control, data)
        try:
            yield
        except BaseException:
            _clear(control, data)
            marker.unlink()
            raise
        marker.unlink()
        flush(data)


def _require_empty(control: Path, data: Path) -> None:
    there = sorted(set(os.listdir(data)) - _NOT_OURS)
    if there or control.exists():
        found = ", ".join(there[:5]) or str(control)
        raise CopyRefused(f"{data} is not empty ({found}): a restore fills an empty folder; name one with --data")


def _clear(control: Path, data: Path) -> None:
    for path in data.iterdir():
        if path.name in _NOT_OURS or path.name == RESTORING:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in control.parent.glob(f"{control.name}*"):
        path.unlink()


def _unpack(file: BinaryIO, control: Path, data: Path, progress: Progress) -> archive.Manifest:
    """Writes each member under its name, then compares all with the manifest."""
    digests: dict[str, str] = {}
    manifest = None
    total = os.fstat(file.fileno()).st_size
    for name, size in archive.members(file):
        if name == archive.MANIFEST:
            if size > archive.MOST_MANIFEST_BYTES:
                raise CopyRefused("the manifest of the copy is too large to be one")
            manifest = archive.Manifest.load(b"".join(archive.pieces(file, size)))
        elif name in digests:
            raise CopyRefused(f"this is no copy that Taskyard made: it holds {name} twice")
        else:
            digests[name] = _write(file, size, archive.place_of(name, control, data))
        progress(file.tell(), total)
    if manifest is None:
        raise CopyRefused("this is no copy that Taskyard made: it has no manifest")
    _compare(digests, manifest)
    return manifest


def _write(file: BinaryIO, size: int, path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hashed = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
        for chunk in archive.pieces(file, size):
            hashed.update(chunk)
            written.write(chunk)
    return hashed.hexdigest()


def _compare(digests: dict[str, str], manifest: archive.Manifest) -> None:
    if archive.CONTROL not in digests:
        raise CopyRefused("this is no copy that Taskyard made: it has no control database")
    listed = dict(manifest.digests)
    wrong = sorted(name for name in digests.keys() | listed.keys() if digests.get(name) != listed.get(name))
    wrong += [name for name, digest in digests.items() if archive.is_by_digest(name) and not name.endswith(digest)]
    if wrong:
        raise CopyRefused(f"the copy is damaged: {wrong[0]} is not what the manifest says; take another copy")


async def _begin(
    control: Path, manifest: archive.Manifest, later: dict[str, TokenRecord] | None
) -> tuple[Generation, tuple[str, ...], tuple[str, ...]]:
    """Opens the store, which brings its tables up to date, and begins its new generation."""
    store = SqliteStore(control)
    await store.open()
    try:
        generation = await store.begin_generation(copied_at=manifest.copied_at, now=time.time())
        if later is None:
            return generation, (), ()
        known = {token.id: token for token in await store.tokens()}
        revoked = [token for token in known.values() if not token.revoked and _was_revoked(token, later)]
        for token in revoked:
            await store.update_token(token.id, lambda record: replace(record, revoked=True))
        unknown = [token for token in later.values() if token.id not in known and not token.invitation]
        return generation, tuple(map(_named, revoked)), tuple(map(_named, unknown))
    finally:
        await store.close()


def _was_revoked(token: TokenRecord, later: dict[str, TokenRecord]) -> bool:
    return token.id in later and later[token.id].revoked


def _named(token: TokenRecord) -> str:
    return f"{token.kind} {token.name} ({token.id[:8]})"


async def mark_restored(url: str, data: Path) -> Generation:
    """Begins a new generation of a store that other tools restored. Raises StartRefused."""
    store = open_store(url, data).store
    await store.open()
    try:
        now = time.time()
        copied_at = await store.sign_of_life("restore", now)
        return await store.begin_generation(copied_at=now if copied_at is None else copied_at, now=now)
    finally:
        await store.close()


def _tokens(control: Path) -> dict[str, TokenRecord]:
    """All tokens of a database that nothing else is asked of. Raises CopyRefused."""
    try:
        address = f"file:{quote(str(control.resolve()))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            records = [TOKENS.decode(body) for (body,) in connection.execute("SELECT body FROM tokens")]
    except sqlite3.Error as error:
        raise CopyRefused(f"{control} cannot be compared with ({error}): leave --compare out") from error
    return {record.id: record for record in records}
