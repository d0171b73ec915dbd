"""Keeps what installers fetched for the next build: the least recently used goes first where the disk is low."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Manager
from uv import find_uv_bin

from taskyard_agent.environments.cache import Limits, cache_of, wipe
from taskyard_agent.environments.file_lock import take
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings
from taskyard_agent.errors import RunStopped

UV = "uv"
PYTHONS = "pythons"
IMAGES = "images"
MANAGERS = {Manager.PIP: ("pip", "virtualenv"), Manager.CONDA: ("conda",)}
"""What they use besides uv's."""
_SHARED = (UV, *(name for names in MANAGERS.values() for name in names))
_POLL_SECONDS = 0.05
_TIDY_SECONDS = 600

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Download:
    """One line of `agent cache list`."""

    name: str
    """`uv`, `images/sha256-…`, `pythons/cpython-…`."""
    size_bytes: int
    used_at: float
    in_use: bool


@dataclass(frozen=True)
class Downloads:
    """The folders `downloads/` and `pythons/` in an agent's folder, shared by any number of processes.

    Each has a lock: shared to use it, exclusive to remove it; the time of that file is its last use. All
    interpreters have one together.
    """

    root: Path
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    @contextlib.contextmanager
    def hold(self, names: Iterable[str], *, cancelled: threading.Event) -> Iterator[tuple[int, ...]]:
        """Keeps these for as long as the context lasts, or a copy of the descriptors it yields is open.

        Raises RunStopped when cancelled while one of them is being removed.
        """
        with contextlib.ExitStack() as stack:
            locks = []
            for name in names:
                locks.append(self._wait_for(name, cancelled))
                stack.callback(os.close, locks[-1])
            yield tuple(locks)

    def hold_pythons(self) -> int:
        """Keeps the interpreters until the descriptor and its copies are closed. Call it while they are held."""
        return self._wait_for(PYTHONS, threading.Event())

    def entries(self) -> tuple[Download, ...]:
        """Returns what is kept, the least recently used first."""
        return self._described(self._names())

    def keep_to(self, limits: Limits) -> tuple[Download, ...]:
        """Removes what no build uses until the limits hold, that of images first. Interpreters are not counted.

        Returns what was removed. Without a limit of size nothing is measured while the disk has room.
        """
        if limits.size_bytes is None and self._has_room(limits):
            return ()
        return tuple(self._removed_for(limits))

    def remove(self, needed: Iterable[Path]) -> tuple[Download, ...]:
        """Removes all that nothing uses, but for interpreters that one of the executables `needed` belongs to."""
        real = [path.resolve() for path in needed]
        chosen = []
        for download in self.entries():
            place = self._place(download.name).resolve()
            if not any(path.is_relative_to(place) for path in real) and self._remove(download.name):
                chosen.append(download)
        return tuple(chosen)

    def _removed_for(self, limits: Limits) -> Iterator[Download]:
        fetched = self._described(name for name in self._names() if not name.startswith(f"{PYTHONS}/"))
        kept = {download.name: download.size_bytes for download in fetched}
        for download in sorted(fetched, key=lambda one: not one.name.startswith(f"{IMAGES}/")):
            if self._within(limits, kept):
                return
            if download.name == UV:
                kept[UV] = self._tidied_uv()
                if self._within(limits, kept):
                    return
            if self._remove(download.name):
                extra = {"action": "downloads_removed"}
                logger.info("removed the downloads %s to keep to the limits", download.name, extra=extra)
                del kept[download.name]
                yield download

    def _within(self, limits: Limits, kept: Mapping[str, int]) -> bool:
        small = limits.size_bytes is None or sum(kept.values()) <= limits.size_bytes
        return small and self._has_room(limits)

    def _has_room(self, limits: Limits) -> bool:
        place = self.root / "downloads"
        place.mkdir(parents=True, exist_ok=True)
        return limits.free_bytes is None or self.free_bytes(place) >= limits.free_bytes

    def _tidied_uv(self) -> int:
        """Removes what uv itself would not use again; returns the size of what is left."""
        with self._exclusively(UV) as free:
            if free:
                place = str(self._place(UV))
                tidy = [find_uv_bin(), "cache", "prune", "--no-config", "--quiet", "--cache-dir", place]
                subprocess.run(tidy, env={}, check=False, capture_output=True, timeout=_TIDY_SECONDS)
        return _size_of(self._place(UV))

    def _names(self) -> Iterator[str]:
        yield from (name for name in _SHARED if self._place(name).is_dir())
        yield from (f"{IMAGES}/{folder.name}" for folder in _folders(self.root / "downloads" / IMAGES))
        yield from (f"{PYTHONS}/{folder.name}" for folder in _folders(self.root / PYTHONS))

    def _described(self, names: Iterable[str]) -> tuple[Download, ...]:
        return tuple(sorted(map(self._describe, names), key=lambda download: download.used_at))

    def _describe(self, name: str) -> Download:
        with self._exclusively(name) as free:
            used_at = self._lock_of(name).stat().st_mtime
        return Download(name=name, size_bytes=_size_of(self._place(name)), used_at=used_at, in_use=not free)

    def _remove(self, name: str) -> bool:
        with self._exclusively(name) as free:
            if free:
                _empty(self._place(name))
                if name.startswith(f"{IMAGES}/"):
                    self._lock_of(name).unlink()
        return free

    def _wait_for(self, name: str, cancelled: threading.Event) -> int:
        file = self._lock_of(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        while (lock := take(file, fcntl.LOCK_SH)) is None:
            if cancelled.wait(_POLL_SECONDS):
                raise RunStopped("the run was ended while its environment was built")
        os.utime(file)
        return lock

    @contextlib.contextmanager
    def _exclusively(self, name: str) -> Iterator[bool]:
        file = self._lock_of(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = take(file, fcntl.LOCK_EX)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _place(self, name: str) -> Path:
        return self.root / name if name.startswith(f"{PYTHONS}/") else self.root / "downloads" / name

    def _lock_of(self, name: str) -> Path:
        own = PYTHONS if name.startswith(f"{PYTHONS}/") else name
        return self.root / "downloads" / f"{own}.lock"


def downloads_of(settings: EnvironmentSettings) -> Downloads:
    """Returns those in the agent's folder."""
    return Downloads(settings.root)


def limits_of(settings: EnvironmentSettings) -> Limits:
    """Returns the operator's limits."""
    return Limits(size_bytes=settings.max_download_bytes, free_bytes=settings.min_free_bytes)


def used_by(request: EnvironmentRequest) -> tuple[str, ...]:
    """Returns the names of what a build for the request may use."""
    own = MANAGERS.get(request.environment.manager, ())
    return (PYTHONS, UV, *own, *([of_image(request.place.key)] if request.place else []))


def of_image(key: str) -> str:
    """Each image has its own: what runs in it may change them, and the image is the task's choice."""
    return f"{IMAGES}/{key.replace(':', '-')}"


def list_downloads(settings: EnvironmentSettings) -> tuple[Download, ...]:
    """Returns what was fetched, the least recently used first."""
    return downloads_of(settings).entries()


def prune(settings: EnvironmentSettings, *, everything: bool = False) -> tuple[Download, ...]:
    """Removes what is beyond the operator's limits, or all that nothing uses; returns what was removed."""
    downloads = downloads_of(settings)
    if not everything:
        return downloads.keep_to(limits_of(settings))
    cache = cache_of(settings)
    built = (cache.built(entry.key) for entry in cache.entries())
    return downloads.remove(Path(one.home) for one in built if one)


def _folders(place: Path) -> list[Path]:
    """Links to others, such as uv's from a minor version to its latest, are not counted twice."""
    if not place.is_dir():
        return []
    return sorted(
        path for path in place.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."
    )


def _size_of(folder: Path) -> int:
    size = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # gone meanwhile
                size += os.lstat(os.path.join(path, name)).st_blocks * 512
    return size


def _empty(folder: Path) -> None:
    """A link to another disk stays, for the next build to fill."""
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            wipe(child)
        else:
            child.unlink()
    if not folder.is_symlink():
        folder.rmdir()
