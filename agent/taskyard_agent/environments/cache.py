"""Keeps built environments: built once under a lock, used under a shared one, the least recently used go first."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard_agent.environments.contents import LISTING, list_contents, problems_of
from taskyard_agent.environments.file_lock import take
from taskyard_agent.environments.request import EnvironmentSettings, Log
from taskyard_agent.errors import RunStopped

MARKER = "ready.json"
PREFIX = "venv"
_POLL_SECONDS = 0.05
_TRIES_BEFORE_SAYING = 10
_UNWRITABLE = ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What is known of a finished environment; stored as its marker."""

    manager: str
    python: str
    """Version of the interpreter."""
    home: str
    """The interpreter's own executable."""
    prefix: str
    library: str
    """Site-packages relative to a virtual environment's root."""
    site_paths: tuple[str, ...]
    packages: tuple[str, ...]
    """What is installed, as `name==version`."""
    image: str = ""
    """The image that the interpreter is in; empty: this machine."""
    bins: tuple[str, ...] = ()
    """Folders of tools, to follow the run's own on PATH."""
    variables: dict[str, str] = field(default_factory=dict)
    """What a command in it needs set."""
    site_times: dict[str, int] = field(default_factory=dict)
    """When each of `site_paths` got its last entry, in nanoseconds: nobody may add one."""
    pip: str | None = None
    """Folder with a pip for an environment that has none."""
    lends_bytecode: bool = False
    """Whether its bytecode was compiled here, so that the same modules in another environment can have it."""

    @property
    def sites_here(self) -> tuple[str, ...]:
        """Those of `site_paths` that are on this machine: an image's own are not, whatever lies at their paths."""
        return tuple(path for path in self.site_paths if not self.image or Path(path).is_relative_to(self.prefix))


@dataclass(frozen=True, kw_only=True)
class CachedEnvironment:
    """One line of `agent cache list`."""

    key: str
    manager: str
    python: str
    packages: tuple[str, ...]
    size_bytes: int
    created_at: float
    used_at: float
    in_use: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One line of `agent cache verify`."""

    key: str
    manager: str
    problems: tuple[str, ...]
    """Empty: it is whole."""
    removed: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the cache may occupy. None: no limit."""

    environments: int | None = None
    size_bytes: int | None = None
    free_bytes: int | None = None
    """What must stay free on the disk."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """An environment that stays as long as `lock_fd`, or a copy of it in another process, is open."""

    built: Built
    lock_fd: int
    reused: bool


Build = Callable[[Path, int], Built]
"""Fills an empty folder, given the descriptor of the lock that protects it."""


@dataclass(frozen=True)
class Cache:
    """The environments in one folder, shared by any number of processes on this machine.

    `<key>/` holds an environment, `<key>.lock` is locked exclusively to build or remove it and shared to use it.
    An environment without its marker was never finished, and is wiped by whoever gets the lock next.
    """

    folder: Path
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    clock: Callable[[], float] = time.time

    def hold(self, key: str, build: Build, *, log: Log, cancelled: threading.Event) -> Held:
        """Returns the environment `key`, building it unless it is there or somebody else is at it.

        Where a run still uses one that something has changed since, another is built beside it.
        Raises what `build` raises, and RunStopped when cancelled while it waits.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in itertools.count():
            held = self._use(key)
            if held is None:
                name = self._name(key, log)
                held = self._use(name) or self._build(name, build)
            if held is not None:
                return held
            if attempt == _TRIES_BEFORE_SAYING:
                log("the environment is being built by another run; waiting for it")
            if cancelled.wait(_POLL_SECONDS):
                break
        raise RunStopped("the run was ended while its environment was built")

    def entries(self) -> tuple[CachedEnvironment, ...]:
        """Returns the finished environments, the least recently used first."""
        found = (self._describe(marker) for marker in self.folder.glob(f"*/{MARKER}"))
        return tuple(sorted((entry for entry in found if entry is not None), key=lambda entry: entry.used_at))

    def built(self, key: str) -> Built | None:
        """What is known of the environment `key`; None when it is not there. Hold it while the answer is used."""
        return self._read(key)

    @contextlib.contextmanager
    def compiled_by(self, home: str, version: str, image: str) -> Iterator[tuple[Path, ...]]:
        """Yields the site-packages of environments that lend an interpreter's bytecode, the latest used first.

        They stay until the context is left.
        """
        with contextlib.ExitStack() as stack:
            found = []
            for entry in reversed(self.entries()):
                built = self._hold_for_reading(entry.key, stack)
                if (
                    built
                    and built.lends_bytecode
                    and (built.home, built.python, built.image) == (home, version, image)
                ):
                    found.append(Path(built.site_paths[0]))
            yield tuple(found)

    def prune(self, limits: Limits) -> tuple[CachedEnvironment, ...]:
        """Removes unfinished builds, then environments until the limits hold; never one in use.

        Returns the environments removed. `Limits(environments=0)` removes all that can go.
        """
        self._remove_unfinished()
        entries = list(self.entries())
        removed = []
        for entry in tuple(entries):
            if self._within(limits, entries):
                break
            if self._remove(entry.key):
                entries.remove(entry)
                removed.append(entry)
        return tuple(removed)

    def verify(self, *, repair: bool = False) -> tuple[Verdict, ...]:
        """Compares every environment with what it held when it was built; `repair` removes what is broken.

        One in use is never removed, one that is being built is left out.
        """
        verdicts = []
        for marker in sorted(self.folder.glob(f"*/{MARKER}")):
            verdict = self._judge(marker.parent.name)
            if verdict is not None:
                gone = bool(repair and verdict.problems) and self._remove(verdict.key)
                verdicts.append(dataclasses.replace(verdict, removed=gone))
        return tuple(verdicts)

    def _hold_for_reading(self, key: str, stack: contextlib.ExitStack) -> Built | None:
        lock = self._lock(key, fcntl.LOCK_SH)
        if lock is None:
            return None
        stack.callback(os.close, lock)
        built = self._read(key)
        return built if built and self._looks_whole(key, built) else None

    def _judge(self, key: str) -> Verdict | None:
        lock = self._lock(key, fcntl.LOCK_SH)
        if lock is None:
            return None
        try:
            built = self._read(key)
            if built is None:
                return Verdict(key=key, manager="unknown", problems=(f"its {MARKER} cannot be read",))
            listed = _read_marker(self.folder / key / LISTING)
            if listed is None:
                return Verdict(key=key, manager=built.manager, problems=(f"its {LISTING} cannot be read",))
            home = "" if built.image else built.home
            found = problems_of(Path(built.prefix), listed, home, built.sites_here)
            return Verdict(key=key, manager=built.manager, problems=tuple(found))
        finally:
            os.close(lock)

    def _name(self, key: str, log: Log) -> str:
        """Returns the folder's name: the key, with a number behind while those before are broken and in use."""
        name, number = key, 0
        while self._is_broken_in_use(name):
            number += 1
            name = f"{key}-{number}"
            if not (self.folder / name).exists():
                log("the environment was changed, and another run still uses it; building one beside it")
        return name

    def _is_broken_in_use(self, key: str) -> bool:
        lock = self._lock(key, fcntl.LOCK_SH)
        if lock is None:
            return False  # it is being built
        built = self._read(key)
        broken = built is not None and not self._looks_whole(key, built)
        os.close(lock)
        return broken and not self._is_free(key)

    def _use(self, key: str) -> Held | None:
        lock = self._lock(key, fcntl.LOCK_SH)
        if lock is None:
            return None
        built = self._read(key)
        if built is None or not self._looks_whole(key, built):
            os.close(lock)
            return None
        os.utime(self.folder / key / MARKER, (self.clock(), self.clock()))
        return Held(built=built, lock_fd=lock, reused=True)

    def _looks_whole(self, key: str, built: Built) -> bool:
        """What a few looks at the disk can tell before each run; `verify` tells the rest."""
        places = [*built.sites_here, *([] if built.image else [built.home]), *([built.pip] if built.pip else [])]
        kept = all(_time_of(path) == time for path, time in built.site_times.items())
        return kept and all(os.path.exists(place) for place in places) and (self.folder / key / LISTING).exists()

    def _build(self, key: str, build: Build) -> Held | None:
        lock = self._lock(key, fcntl.LOCK_EX)
        if lock is None:
            return None
        try:
            self._build_locked(key, build, lock)
        finally:
            os.close(lock)
        # Turning an exclusive lock into a shared one is not atomic: an eviction may come between, so look again.
        held = self._use(key)
        return dataclasses.replace(held, reused=False) if held else None

    def _build_locked(self, key: str, build: Build, lock: int) -> None:
        folder = self.folder / key
        wipe(folder)
        folder.mkdir()  # readable for the user that tasks run as
        try:
            built = build(folder, lock)
            size = _seal(folder / PREFIX)
            _write_durably(folder / LISTING, json.dumps(list_contents(folder / PREFIX)))
            built = dataclasses.replace(built, site_times={path: _time_of(path) for path in built.sites_here})
        except BaseException:
            wipe(folder)
            raise
        record = {**dataclasses.asdict(built), "size_bytes": size, "created_at": self.clock()}
        _write_durably(folder / MARKER, json.dumps(record))

    def _lock(self, key: str, mode: int) -> int | None:
        return take(self.folder / f"{key}.lock", mode)

    def _read(self, key: str) -> Built | None:
        record = _read_marker(self.folder / key / MARKER)
        if record is None:
            return None
        known = {field.name: record[field.name] for field in dataclasses.fields(Built) if field.name in record}
        known.update({name: tuple(record[name]) for name in ("site_paths", "packages", "bins")})
        return Built(**known)

    def _describe(self, marker: Path) -> CachedEnvironment | None:
        record = _read_marker(marker)
        if record is None:
            return None
        key = marker.parent.name
        return CachedEnvironment(
            key=key,
            manager=record["manager"],
            python=record["python"],
            packages=tuple(record["packages"]),
            size_bytes=record["size_bytes"],
            created_at=record["created_at"],
            used_at=marker.stat().st_mtime,
            in_use=not self._is_free(key),
        )

    def _is_free(self, key: str) -> bool:
        with self._exclusively(key) as free:
            return free

    def _within(self, limits: Limits, entries: list[CachedEnvironment]) -> bool:
        size = sum(entry.size_bytes for entry in entries)
        return (
            (limits.environments is None or len(entries) <= limits.environments)
            and (limits.size_bytes is None or size <= limits.size_bytes)
            and (limits.free_bytes is None or self.free_bytes(self.folder) >= limits.free_bytes)
        )

    def _remove(self, key: str) -> bool:
        with self._exclusively(key) as free:
            if free:
                self._wipe_with_lock(key)
            return free

    def _remove_unfinished(self) -> None:
        for lock in self.folder.glob("*.lock"):
            with self._exclusively(lock.stem) as free:
                if free and not (self.folder / lock.stem / MARKER).exists():
                    self._wipe_with_lock(lock.stem)

    def _wipe_with_lock(self, key: str) -> None:
        wipe(self.folder / key)
        (self.folder / f"{key}.lock").unlink()

    @contextlib.contextmanager
    def _exclusively(self, key: str) -> Iterator[bool]:
        lock = self._lock(key, fcntl.LOCK_EX)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)


def cache_of(settings: EnvironmentSettings) -> Cache:
    """Returns the cache in the agent's folder."""
    return Cache(settings.root / "environments")


def limits_of(settings: EnvironmentSettings) -> Limits:
    """Returns the operator's limits."""
    return Limits(
        environments=settings.max_environments,
        size_bytes=settings.max_bytes,
        free_bytes=settings.min_free_bytes,
    )


def list_environments(settings: EnvironmentSettings) -> tuple[CachedEnvironment, ...]:
    """Returns what the cache holds, the least recently used first."""
    return cache_of(settings).entries()


def prune(settings: EnvironmentSettings, *, everything: bool = False) -> tuple[CachedEnvironment, ...]:
    """Removes what is beyond the operator's limits, or all that no run uses; returns what was removed."""
    return cache_of(settings).prune(Limits(environments=0) if everything else limits_of(settings))


def verify(settings: EnvironmentSettings, *, repair: bool = False) -> tuple[Verdict, ...]:
    """Returns for each environment what is wrong with it; `repair` removes what is broken and not in use."""
    return cache_of(settings).verify(repair=repair)


def wipe(folder: Path) -> None:
    """Removes a folder and all in it, read-only or not; the marker goes first, so that no half of it is used."""
    (folder / MARKER).unlink(missing_ok=True)
    for path, _, _ in os.walk(folder):
        os.chmod(path, stat.S_IRWXU)
    if folder.exists():
        shutil.rmtree(folder)


def _seal(prefix: Path) -> int:
    """Makes everything below `prefix` read-only; returns what it occupies."""
    size = 0
    for path, _, files in os.walk(prefix):
        for name in files:
            size += _seal_one(os.path.join(path, name))
        size += _seal_one(path)
    return size


def _seal_one(path: str) -> int:
    status = os.lstat(path)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode) & _UNWRITABLE)
    return status.st_blocks * 512


def _time_of(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _read_marker(marker: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(marker.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record


def _write_durably(file: Path, text: str) -> None:
    fresh = file.with_name(file.name + ".new")
    with fresh.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
