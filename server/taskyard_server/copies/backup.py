"""Copies an embedded store into one file while its server runs, or while none does.

The copy is made beside the server, not by it: SQLite gives another process a consistent view, log segments only
grow, and blobs never change. First everything is pinned, then the databases' views are opened (this is the copy's
point in time), then what appeared in between is pinned, too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from taskyard_server.copies import archive
from taskyard_server.copies.pins import pin, private_folder
from taskyard_server.disk import flush
from taskyard_server.errors import CopyRefused
from taskyard_server.store.emptiness import is_empty

PAGES_AT_ONCE = 2048
Progress = Callable[[int, int], None]
"""Is called with the bytes done so far and those to do."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What was copied."""

    file: str
    copied_at: float
    bytes: int
    tasks: int
    tokens: int
    logs: int
    """Runs of which there is a log."""
    blobs: int
    artifact_parts: int = 0


@dataclass(kw_only=True)
class _Counted:
    """Bytes done, of those that are to do."""

    total: int
    progress: Progress
    done: int = 0

    def advance(self, number: int) -> None:
        self.done += number
        self.progress(self.done, self.total)


@dataclass(kw_only=True)
class _View:
    """The databases as of one moment."""

    at: float
    control: sqlite3.Connection
    samples: sqlite3.Connection | None


def back_up(control: Path, data: Path, target: Path, *, replace: bool = False, progress: Progress) -> Backup:
    """Writes the copy to `target`, which appears whole or not at all, readable by its owner alone.

    Raises CopyRefused with what to do; then nothing is left behind.
    """
    if target.exists() and not replace:
        raise CopyRefused(f"{target} exists: name another file, or give --replace")
    if is_empty(control):
        raise CopyRefused(f"there is no store at {control}: name the server's data folder with --data")
    try:
        with private_folder(target.resolve().parent) as work, private_folder(data) as pins:
            pin(data, pins)
            with _view(control, data) as view:
                pin(data, pins)
                _require_room(target, view, pins)
                return _written(view, data, pins, work, target, replace=replace, progress=progress)
    except (OSError, sqlite3.Error) as error:
        raise _explained(error, target) from error


@contextlib.contextmanager
def _view(control: Path, data: Path) -> Iterator[_View]:
    at = time.time()  # before the views: what was acknowledged by then is in them
    with contextlib.ExitStack() as opened:
        samples = data / archive.SAMPLES
        kept = opened.enter_context(_reading(samples)) if samples.exists() else None
        yield _View(control=opened.enter_context(_reading(control)), samples=kept, at=at)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection inside a read transaction: it sees nothing that is committed from now on."""
    address = f"file:{quote(str(path.resolve()))}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield connection


def _size(connection: sqlite3.Connection | None) -> int:
    if connection is None:
        return 0
    (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * size)


def _require_room(target: Path, view: _View, pins: Path) -> None:
    """Refuses before anything is written what cannot succeed; databases are copied once before they are packed."""
    needed = _size(view.control) + max(_size(view.control), _size(view.samples)) + _size(view.samples)
    needed += sum(path.stat().st_size for path in _files(pins))
    free = shutil.disk_usage(target.resolve().parent).free
    if free < needed:
        raise CopyRefused(
            f"{target} needs about {needed >> 20} MiB and its disk has {free >> 20} MiB free: make room, or name"
            " another place"
        )


def _files(pins: Path) -> list[Path]:
    return sorted(path for path in pins.glob("*/??/*"))


def _written(
    view: _View, data: Path, pins: Path, work: Path, target: Path, *, replace: bool, progress: Progress
) -> Backup:
    files = _files(pins)
    total = _size(view.control) + _size(view.samples) + sum(path.stat().st_size for path in files)
    part = work / "archive"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        writer = archive.Writer(file=file, advance=_Counted(total=total, progress=progress).advance)
        _add_database(writer, archive.CONTROL, view.control, work)
        if view.samples is not None:
            _add_database(writer, archive.SAMPLES, view.samples, work)
        if (data / archive.TOKEN_FILE).exists():
            _add_bytes(writer, archive.TOKEN_FILE, (data / archive.TOKEN_FILE).read_bytes())
        if (data / archive.ARTIFACTS_ID).exists():
            _add_bytes(writer, archive.ARTIFACTS_ID, (data / archive.ARTIFACTS_ID).read_bytes())
        for path in files:
            _add_pinned(writer, path, path.relative_to(pins).as_posix())
        version = importlib.metadata.version("taskyard")
        manifest = archive.Manifest(copied_at=view.at, version=version, digests=dict(writer.digests))
        _add_bytes(writer, archive.MANIFEST, manifest.dump())
        writer.end()
        file.flush()
        os.fsync(file.fileno())
    _install(part, target, replace=replace)
    return _summary(target, manifest, view)


def _add_bytes(writer: archive.Writer, name: str, data: bytes) -> None:
    writer.add(name, io.BytesIO(data), len(data))


def _add_database(writer: archive.Writer, name: str, source: sqlite3.Connection, work: Path) -> None:
    copy = work / name
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous = OFF")  # it is read back below and thrown away
        source.backup(target, pages=PAGES_AT_ONCE)
    with copy.open("rb") as file:
        writer.add(name, file, copy.stat().st_size)
    copy.unlink()


def _add_pinned(writer: archive.Writer, path: Path, name: str) -> None:
    """A blob or a part whole, of a log segment what it has now: an append cuts off what was never acknowledged."""
    with path.open("rb") as file:
        if name.startswith("logs/"):
            _add_bytes(writer, name, file.read())
        elif writer.add(name, file, path.stat().st_size) != path.name:
            raise CopyRefused(f"the bytes of {name} are not those of its name: the disk may be failing; delete it")


def _install(part: Path, target: Path, *, replace: bool) -> None:
    if replace:
        os.replace(part, target)
    else:
        os.link(part, target)  # refuses a file that appeared meanwhile
    flush(target.resolve().parent)


def _summary(target: Path, manifest: archive.Manifest, view: _View) -> Backup:
    names = manifest.digests
    (tasks,), (tokens,) = (
        view.control.execute(query).fetchone()
        for query in ("SELECT count(*) FROM tasks", "SELECT count(*) FROM tokens")
    )
    return Backup(
        file=str(target),
        copied_at=manifest.copied_at,
        bytes=target.stat().st_size,
        tasks=tasks,
        tokens=tokens,
        logs=len({name.rpartition(".")[0] for name in names if name.startswith("logs/")}),
        blobs=sum(name.startswith("blobs/") for name in names),
        artifact_parts=sum(name.startswith("artifacts/") and archive.is_by_digest(name) for name in names),
    )


def _explained(error: Exception, target: Path) -> CopyRefused:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return CopyRefused(
        f"no copy was made: {reason}{place}; make room or see to the rights of {target} and of the data folder,"
        " then try again"
    )
