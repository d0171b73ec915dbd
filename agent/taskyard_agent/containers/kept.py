"""The images that set-ups made on this machine: the least recently used go first, never one that is used."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard_agent.containers.engine import PREPARED, Engine, engine_of
from taskyard_agent.containers.failure import translated, without_status
from taskyard_agent.containers.settings import ContainerSettings
from taskyard_agent.errors import RunFailed, SettingsError

REPOSITORY = "taskyard.invalid/prepared"
"""No registry can give an image of this name: the top-level domain is reserved for what does not exist."""


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """One line of `agent cache list`."""

    key: str
    image: str
    """What this machine calls it."""
    size_bytes: int
    """With the layers that it shares with others."""
    created_at: float
    used_at: float
    in_use: bool


@dataclass(frozen=True)
class Uses:
    """A lock for each prepared image: exclusive to make or remove it, shared until it has a container.

    When it was used last is the time of the file.
    """

    folder: Path

    def lock(self, key: str, mode: int) -> int | None:
        """Takes the lock; None when others hold it. Closing the descriptor gives it back."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._file(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def note(self, key: str) -> None:
        """It is used now."""
        os.utime(self._file(key))

    def last(self, key: str) -> float | None:
        """When it was used last; None: never by agents of this folder."""
        try:
            return self._file(key).stat().st_mtime
        except FileNotFoundError:
            return None

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.lock"


def uses_of(settings: ContainerSettings) -> Uses:
    """Those of the agent's folder."""
    return Uses(settings.folder / "images")


def list_images(settings: ContainerSettings) -> tuple[PreparedImage, ...]:
    """The prepared images, the least recently used first; none where no engine answers."""
    with _engine(settings) as engine:
        return _entries(engine, uses_of(settings)) if engine else ()


def prune(settings: ContainerSettings, *, everything: bool = False) -> tuple[PreparedImage, ...]:
    """Removes the prepared images beyond the limit, or all that nothing uses; returns what was removed."""
    with _engine(settings) as engine:
        return prune_with(engine, settings, 0 if everything else settings.kept_images) if engine else ()


def prune_with(engine: Engine, settings: ContainerSettings, kept: int) -> tuple[PreparedImage, ...]:
    """Removes the least recently used until `kept` are left; raises RunFailed when the engine fails."""
    uses = uses_of(settings)
    entries = _entries(engine, uses)
    removed: list[PreparedImage] = []
    for entry in entries:
        if len(entries) - len(removed) <= kept:
            break
        if not entry.in_use and _remove(engine, uses, entry):
            removed.append(entry)
    return tuple(removed)


@contextlib.contextmanager
def _engine(settings: ContainerSettings) -> Iterator[Engine | None]:
    """None where there is none, or it does not answer: an agent without containers has a cache all the same."""
    try:
        engine = engine_of(settings)
        engine.client.ping()
    except (RunFailed, SettingsError):
        yield None
        return
    with contextlib.closing(engine):
        yield engine


def _entries(engine: Engine, uses: Uses) -> tuple[PreparedImage, ...]:
    with translated("images cannot be listed"):
        found = engine.client.api.images(filters={"label": PREPARED})
    entries = [entry for record in found if (entry := _entry(engine, uses, record))]
    return tuple(sorted(entries, key=lambda entry: entry.used_at))


def _entry(engine: Engine, uses: Uses, record: dict[str, Any]) -> PreparedImage | None:
    """None for another folder's, and for one that only was made of one."""
    tags = [tag for tag in record.get("RepoTags") or () if tag.startswith(f"{REPOSITORY}:")]
    key = tags[0].rpartition(":")[2] if tags else ""
    used_at = uses.last(key) if key else None
    if used_at is None:
        return None
    return PreparedImage(
        key=key,
        image=tags[0],
        size_bytes=int(record["Size"]),
        created_at=float(record["Created"]),
        used_at=used_at,
        in_use=not _is_free(uses, key) or _has_container(engine, record["Id"]),
    )


def _is_free(uses: Uses, key: str) -> bool:
    lock = uses.lock(key, fcntl.LOCK_EX)
    if lock is not None:
        os.close(lock)
    return lock is not None


def _has_container(engine: Engine, image: str) -> bool:
    with translated("containers cannot be listed"):
        return bool(engine.client.api.containers(all=True, filters={"ancestor": image}))


def _remove(engine: Engine, uses: Uses, entry: PreparedImage) -> bool:
    """The engine has the last word: it keeps what a container is made of."""
    lock = uses.lock(entry.key, fcntl.LOCK_EX)
    if lock is None:
        return False
    try:
        with translated("a prepared image cannot be removed"), without_status(404, 409) as kept:
            engine.client.api.remove_image(entry.image)
        return not kept
    finally:
        os.close(lock)
