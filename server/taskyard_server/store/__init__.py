"""What the server keeps, and where: one address opens the store, the logs, the blobs and the samples."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from taskyard_server.errors import StartRefused
from taskyard_server.store.artifacts import ArtifactStore, PartStore
from taskyard_server.store.base import BlobStore, LogStore, SampleStore, Store
from taskyard_server.store.sizes import of_files


class Part(Protocol):
    """What is opened before it is used."""

    async def open(self) -> None:
        """Raises StartRefused with the cure."""

    async def close(self) -> None:
        """Finishes what was taken and lets go."""


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Everything that is kept."""

    store: Store
    logs: LogStore
    blobs: BlobStore
    samples: SampleStore
    sizes: Callable[[], Awaitable[dict[str, int]]]
    """Part → bytes on the disk. Raises Unavailable."""
    artifacts: ArtifactStore
    artifact_parts: PartStore | None
    """None: there is no place for them, so no outputs are kept."""
    parts: tuple[Part, ...] = ()
    """Those that are opened, in this order."""

    async def open(self) -> None:
        """Raises StartRefused with the cure; then nothing stays open."""
        async with contextlib.AsyncExitStack() as opened:
            for part in self.parts:
                await part.open()
                opened.push_async_callback(part.close)
            opened.pop_all()

    async def close(self) -> None:
        """Finishes what was taken and lets go."""
        async with contextlib.AsyncExitStack() as closing:
            for part in self.parts:
                closing.push_async_callback(part.close)


def open_store(url: str, data: Path, artifacts: Path | None = None) -> Stores:
    """Returns what `url` names, still to be opened. Logs and blobs of an embedded store lie below `data`, and so
    do artifacts unless a folder is named for them.

    `sqlite:///absolute/path`, `sqlite:relative/path` or the empty string (`control.db` below `data`), or
    `mongodb://…`. Raises StartRefused for any other.
    """
    control = control_file(url, data)
    return _in_mongo(url, artifacts) if control is None else _in_files(control, data, artifacts)


def control_file(url: str, data: Path) -> Path | None:
    """Returns the file of an embedded store's control database; None for MongoDB. Raises as `open_store`."""
    scheme = url.partition(":")[0]
    if scheme in ("", "sqlite"):
        return _sqlite_path(url) if url else data / "control.db"
    if scheme in ("mongodb", "mongodb+srv"):
        return None
    raise StartRefused(f"--store {scheme}://… is not known: give sqlite:///path or mongodb://host/database")


def _sqlite_path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.strip("/"):
        raise StartRefused(f"--store {url} names no file: write sqlite:///absolute/path, with three slashes")
    return Path(unquote(parts.path))


def _in_files(path: Path, data: Path, artifacts: Path | None) -> Stores:
    from taskyard_server.artifacts.folder import ArtifactFolder
    from taskyard_server.blobs.folder import FolderBlobs
    from taskyard_server.logs.files import FileLogs
    from taskyard_server.series.sqlite import SqliteSamples
    from taskyard_server.store.sqlite import SqliteStore
    from taskyard_server.store.sqlite_artifacts import SqliteArtifacts

    store, logs = SqliteStore(path), FileLogs(data / "logs")
    blobs, samples = FolderBlobs(data / "blobs"), SqliteSamples(data / "samples.db")
    references = SqliteArtifacts(store.database)
    folder = ArtifactFolder(artifacts or data / "artifacts", references)
    return Stores(
        store=store,
        logs=logs,
        blobs=blobs,
        samples=samples,
        sizes=functools.partial(of_files, path, data),
        artifacts=references,
        artifact_parts=folder,
        parts=(store, logs, blobs, samples, folder),
    )


def _in_mongo(url: str, artifacts: Path | None) -> Stores:
    from taskyard_server.artifacts.folder import ArtifactFolder, NoArtifacts

    try:
        from taskyard_server.blobs.mongo import MongoBlobs
        from taskyard_server.logs.mongo import MongoLogs
        from taskyard_server.series.mongo import MongoSamples
        from taskyard_server.store.mongo import MongoStore
        from taskyard_server.store.mongo.artifacts import MongoArtifacts
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("pymongo", "bson", "gridfs"):
            raise
        raise StartRefused("--store mongodb://… needs the extra: pip install 'taskyard[mongo]'") from error
    store = MongoStore(url)
    database = store.database
    logs, blobs, samples = MongoLogs(database), MongoBlobs(database), MongoSamples(database)
    references = MongoArtifacts(database)
    folder = ArtifactFolder(artifacts, references) if artifacts is not None else None
    return Stores(
        store=store,
        logs=logs,
        blobs=blobs,
        samples=samples,
        sizes=database.sizes,
        artifacts=references,
        artifact_parts=folder,
        parts=(store, blobs, folder or NoArtifacts(references)),
    )
