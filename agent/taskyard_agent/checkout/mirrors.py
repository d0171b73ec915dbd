"""The mirrors on a machine: what they occupy, and which go when it is too much; never one that somebody needs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import gitdir
from .lock import try_lock
from .mirror import change_lock, use_lock
from .pool import is_kept, lock_file
from .settings import CheckoutSettings

REMOVED = ".removed-"
"""No key begins so."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CachedMirror:
    """One repository in `agent cache list`."""

    key: str
    size_bytes: int
    """Without its trees."""
    trees: int
    """Checked-out trees that borrow from it; they go with it."""
    used_at: float
    in_use: bool = False


def list_mirrors(settings: CheckoutSettings) -> tuple[CachedMirror, ...]:
    """Returns the mirrors, the least recently used first."""
    return tuple(
        dataclasses.replace(mirror, in_use=not _is_free(settings.mirrors / mirror.key, settings))
        for mirror in _described(settings)
    )


def prune_mirrors(settings: CheckoutSettings, *, everything: bool = False) -> tuple[CachedMirror, ...]:
    """Removes mirrors, the least recently used first, until the operator's limits hold, or all; with their trees.

    One whose tree a run has, or that is being used or added to, stays. Returns those that went.
    """
    for folder in (settings.mirrors, settings.uploads):
        for half_removed in folder.glob(f"{REMOVED}*"):
            shutil.rmtree(half_removed, ignore_errors=True)
    kept = _described(settings)
    removed = []
    for mirror in tuple(kept):
        if not everything and _within(settings, kept):
            break
        if _remove(settings.mirrors / mirror.key, settings):
            kept.remove(mirror)
            removed.append(mirror)
    return tuple(removed)


def make_room(settings: CheckoutSettings) -> None:
    """Prunes after something was fetched. That it failed is no reason for a run to fail."""
    try:
        removed = prune_mirrors(settings)
    except OSError as error:
        logger.warning("cannot remove a mirror: %s", error, extra={"action": "mirror_kept"})
        return
    for mirror in removed:
        logger.info("removed the mirror %s", mirror.key, extra={"action": "mirror_removed"})


def _described(settings: CheckoutSettings) -> list[CachedMirror]:
    """Takes no lock, so that no run finds the tree taken that it would have had."""
    return sorted((_describe(path, settings) for path in _mirrors(settings)), key=lambda mirror: mirror.used_at)


def _mirrors(settings: CheckoutSettings) -> Iterator[Path]:
    if settings.mirrors.is_dir():
        for path in settings.mirrors.iterdir():
            if not path.name.startswith(".") and (path / "HEAD").is_file():
                yield path


def _describe(path: Path, settings: CheckoutSettings) -> CachedMirror:
    used = use_lock(path) if use_lock(path).exists() else path
    return CachedMirror(
        key=path.name,
        size_bytes=_size(path) + _size(settings.uploads / path.name),
        trees=len(list(_borrowers(path, settings))),
        used_at=used.stat().st_mtime,
    )


def _within(settings: CheckoutSettings, kept: list[CachedMirror]) -> bool:
    size = sum(mirror.size_bytes for mirror in kept)
    return size <= settings.mirror_bytes and shutil.disk_usage(settings.folder).free >= settings.min_free_bytes


def _remove(path: Path, settings: CheckoutSettings) -> bool:
    with contextlib.ExitStack() as stack:
        if not _hold(path, settings, stack):
            return False
        for tree in _borrowers(path, settings):
            gitdir.remove(tree)
        for part in (settings.uploads / path.name, path):  # what borrows first
            if part.is_dir():
                removed = part.with_name(f"{REMOVED}{part.name}")
                part.rename(removed)  # at once: no half of a mirror is ever used
                shutil.rmtree(removed)
    return True


def _is_free(path: Path, settings: CheckoutSettings) -> bool:
    with contextlib.ExitStack() as stack:
        return _hold(path, settings, stack)


def _hold(path: Path, settings: CheckoutSettings, stack: contextlib.ExitStack) -> bool:
    """Takes every lock that somebody holds who needs the mirror, until the stack is closed.

    While `use_lock` is held, no tree can begin to borrow from the mirror.
    """
    first = (use_lock(path), change_lock(path))
    if not all(_take(lock, stack) for lock in first):
        return False
    return all(_take(lock_file(tree), stack) and not is_kept(tree) for tree in _borrowers(path, settings))


def _take(lock: Path, stack: contextlib.ExitStack) -> bool:
    descriptor = try_lock(lock)
    if descriptor is not None:
        stack.callback(os.close, descriptor)
    return descriptor is not None


def _borrowers(path: Path, settings: CheckoutSettings) -> Iterator[Path]:
    """Places in the pool whose tree, or a submodule's, borrows objects from the mirror."""
    wanted = {os.fsencode(part / "objects") for part in (path, settings.uploads / path.name)}
    for place in settings.trees.glob("*/*/"):
        if any(gitdir.borrowed(folder) in wanted for folder in (place / "git", *place.glob("modules/*"))):
            yield place


def _size(path: Path) -> int:
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return size
