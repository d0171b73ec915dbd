"""The task's code on this machine: mirrors of repositories, and a pool of trees made from them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Code

from .settings import CheckoutSettings

__all__ = ["CheckoutSettings", "RepositoryCheck", "Tree", "check_repository", "prepare"]


class Tree:
    """A checked-out tree that belongs to one run until it is released."""

    root: Path
    """Top of the tree."""
    work: Path
    """The command's working folder inside it."""
    lock_fd: int | None
    """Lock to be inherited by the run's keeper: the tree is not reused while any process holds it."""
    reads: tuple[Path, ...]
    """Folders outside the tree that its `.git` reads: a container mounts them read-only at the same place."""

    def release(self) -> None:
        """Gives the tree back to the pool, once the run's processes are gone."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RepositoryCheck:
    """Whether this machine can read a repository."""

    url: str
    reachable: bool
    detail: str
    """Git's own words, credentials masked."""
    advice: str = ""
    """What mends it; empty when nothing has to be mended."""


def prepare(
    code: Code,
    *,
    settings: CheckoutSettings,
    fetch_blob: Callable[[str, Path], None],
    log: Callable[[str], None],
    cancelled: threading.Event,
) -> Tree:
    """Makes a tree that holds exactly the code. `fetch_blob(digest, path)` downloads from the server.

    Raises RunFailed in phase checkout, and RunStopped within a second once `cancelled` is set.
    """
    raise NotImplementedError


def check_repository(url: str, settings: CheckoutSettings) -> RepositoryCheck:
    """Asks the repository for its branches with the credentials that a run would use."""
    raise NotImplementedError
