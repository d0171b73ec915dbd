"""Files that a run did not find although they are here: git ignores them, so they were not sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_MOST = 3
_NAMED = re.compile(
    r"No such file or directory: b?(?P<quote>['\"])(?P<path>.+?)(?P=quote)"  # Python, and most that is built on it
    r"|name = '(?P<hdf>[^']+)', errno = 2"
    r"|(?:^|: )(?P<bare>[^:'\"\n]+): No such file or directory",  # programs of the system
    re.MULTILINE,
)


def left_here(log: str, folder: Path) -> list[str]:
    """Return paths, relative to `folder`, that a log says are missing and that git ignores here."""
    from taskyard.snapshot.repository import find

    names = list(dict.fromkeys(_paths(log)))
    repository = find(folder) if names else None
    if repository is None:
        return []
    git = repository.git.with_env(GIT_LITERAL_PATHSPECS="0")  # check-ignore knows no other
    found: list[str] = []
    for name in names:
        path = Path(os.path.normpath(folder / name))
        if path.is_relative_to(repository.root) and path.exists():
            inside = path.relative_to(repository.root).as_posix()
            if git.ask("check-ignore", "-q", "--", inside) is not None:
                found.append(os.path.relpath(path, folder))
    return found[:_MOST]


def _paths(log: str) -> Iterator[str]:
    for match in _NAMED.finditer(log):
        path = match["path"] or match["hdf"] or match["bare"].strip()
        if path and "\0" not in path:
            yield path
