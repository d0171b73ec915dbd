"""Names the files that a run wrote beside its code: they are removed with its copy of the code.

Standard library alone: the keeper uses it, before another run can have the tree.
"""

from __future__ import annotations

import os
import time

from taskyard_agent.keeper.memory_guard import size_text

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from collections.abc import Iterator

CACHES = frozenset(
    (
        *("__pycache__", ".git", ".cache", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints"),
        *(".hypothesis", ".tox", ".nox", ".venv", "node_modules"),
    )
)
CACHE_ENDINGS = (".pyc", ".egg-info", ".dist-info")
NAMED = 3
LOOK_SECONDS = 1.0
"""The end of a run does not wait longer for a list."""
NAME_CHARACTERS = 200


def stamp(tree: str) -> int:
    """Return the time on the clock of the tree's file system, in nanoseconds; 0 where it cannot be told."""
    path = os.path.join(os.path.dirname(tree), "started")
    try:
        with open(path, "w", encoding="ascii") as file:
            return os.fstat(file.fileno()).st_ctime_ns
    except OSError:
        return 0


def notice(tree: str, since: int) -> str:
    """Return lines that name what was written in the tree after `since`, the largest first; empty for nothing."""
    count = total = 0
    largest: list[tuple[int, str]] = []
    deadline = time.monotonic() + LOOK_SECONDS
    whole = True
    for path, size in _written(tree, since):
        count, total = count + 1, total + size
        largest = sorted([*largest, (size, path)], key=lambda item: (-item[0], item[1]))[:NAMED]
        if time.monotonic() > deadline:
            whole = False
            break
    if not count:
        return ""
    files = f"{count} file{'s' * (count != 1)}"
    least = "" if whole else "at least "
    lines = [
        f"taskyard: this run wrote {least}{files} ({size_text(total)}) into its copy of the code, "
        "which is removed; write what should stay to a folder outside of it:"
    ]
    lines += [f"taskyard:   {_shown(os.path.relpath(path, tree))} ({size_text(size)})" for size, path in largest]
    if count > len(largest):
        lines.append(f"taskyard:   and {count - len(largest)} more")
    return "".join(f"{line}\n" for line in lines)


def _written(tree: str, since: int) -> Iterator[tuple[str, int]]:
    """Yield each file that was made or changed since, with its size; not what caches hold."""
    waiting = [tree]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # gone, or shut to this user
        for entry in entries:
            if entry.name in CACHES or entry.name.endswith(CACHE_ENDINGS):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                found = _found(entry)
                if found is not None and found.st_ctime_ns > since:
                    yield entry.path, found.st_size


def _found(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _shown(path: str) -> str:
    """The path as one line of text that no terminal obeys."""
    text = path.encode("utf-8", "backslashreplace").decode()
    shown = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)
    return shown if len(shown) <= NAME_CHARACTERS else f"{shown[:NAME_CHARACTERS]}…"
