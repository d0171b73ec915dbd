"""The pool of trees: each is one run's until it is released, and then made like new for the next."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from taskyard_agent.run_as import take_back

from . import gitdir
from .lock import try_lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TreeState:
    """What stands in a tree since its last use."""

    commit: str = ""
    submodules: tuple[str, ...] = ()


class Slot:
    """One place for a tree; exclusively ours while its lock is held by us or by what we started."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self.lock = lock

    @property
    def tree(self) -> Path:
        """What the task sees."""
        return self.folder / "tree"

    @property
    def git_dir(self) -> Path:
        """The agent's own git directory of the tree, out of the task's sight."""
        return self.folder / "git"

    def module_git_dir(self, path: str) -> Path:
        """The agent's own git directory of a submodule's tree."""
        return self.folder / "modules" / path.replace("%", "%25").replace("/", "%2F")

    @property
    def state(self) -> TreeState:
        """As it was last recorded; empty when it cannot be read."""
        return _read_state(self.folder)

    def record(self, state: TreeState) -> None:
        """Written before the tree is changed, so that a crash never leaves less known than there is."""
        new = self.folder / "state.new"
        new.write_text(json.dumps(asdict(state)))
        new.replace(self.folder / "state.json")

    def empty(self) -> None:
        """Removes everything that stands here."""
        gitdir.remove(self.folder)
        self.folder.mkdir(parents=True)

    def keep(self, claim: Path) -> None:
        """Keeps the place unchanged while the file `claim` exists, even after its lock is released."""
        new = self.folder.with_name(f"{self.folder.name}.kept.new")
        new.write_bytes(os.fsencode(claim))
        new.replace(_kept_file(self.folder))

    def release(self, spare: int) -> None:
        """Lets go of the place, and removes unused ones over `spare`. It is free once nobody holds its lock."""
        os.close(self.lock)
        try:
            _prune(self.folder.parent, spare)
        except OSError as error:
            logger.warning("cannot remove a tree: %s", error, extra={"action": "tree_kept"})


def acquire(pool: Path, commit: str) -> Slot:
    """Takes an unused place, best one that holds `commit` already, else makes a new one."""
    pool.mkdir(parents=True, exist_ok=True)
    for folder in sorted(_folders(pool), key=lambda folder: _read_state(folder).commit != commit):
        lock = try_lock(lock_file(folder))
        if lock is None:
            continue
        if is_kept(folder):
            os.close(lock)
            continue
        slot = Slot(folder, lock)
        take_back(slot.tree)
        return slot
    return _new(pool)


def _new(pool: Path) -> Slot:
    number = 0
    while True:
        folder = pool / str(number)
        number += 1
        if folder.exists() or is_kept(folder) or (lock := try_lock(lock_file(folder))) is None:
            continue
        folder.mkdir(exist_ok=True)
        return Slot(folder, lock)


def _prune(pool: Path, spare: int) -> None:
    """Removes the unused places that were used longest ago. Each is locked anew: a keeper may still hold it."""
    with contextlib.ExitStack() as stack:
        unused = [folder for folder in _folders(pool) if _free(folder, stack)]
        latest_first = sorted(unused, key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in latest_first[spare:]:
            gitdir.remove(folder)


def _free(folder: Path, stack: contextlib.ExitStack) -> bool:
    lock = try_lock(lock_file(folder))
    if lock is not None:
        stack.callback(os.close, lock)
    return lock is not None and not is_kept(folder)


def is_kept(folder: Path) -> bool:
    """Whether a run that has ended still needs what stands there; see `Slot.keep`."""
    marker = _kept_file(folder)
    try:
        claim = Path(os.fsdecode(marker.read_bytes()))
    except FileNotFoundError:
        return False
    try:
        claim.stat()
    except FileNotFoundError:
        marker.unlink(missing_ok=True)
        return False
    except OSError:
        return True  # another user's agent, perhaps
    return True


def _kept_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.kept")


def _folders(pool: Path) -> list[Path]:
    return sorted(folder for folder in pool.iterdir() if folder.is_dir())


def lock_file(folder: Path) -> Path:
    """Whoever holds its lock has the place."""
    return folder.with_name(f"{folder.name}.lock")


def _read_state(folder: Path) -> TreeState:
    try:
        read = json.loads((folder / "state.json").read_text())
        return TreeState(commit=str(read["commit"]), submodules=tuple(map(str, read["submodules"])))
    except (OSError, ValueError, KeyError, TypeError):
        return TreeState()
