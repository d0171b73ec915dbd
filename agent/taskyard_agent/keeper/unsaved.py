"""Names the files that a run wrote beside its code: they are removed with its copy of the code.

Standard library alone: the keeper uses it, before another run can have the tree.
"""

from __future__ import annotations

import os
import time

from taskyard_agent.keeper.globs import Patterns, stamp_file
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
    try:
        with open(stamp_file(tree), "w", encoding="ascii") as file:
            return os.fstat(file.fileno()).st_ctime_ns
    except OSError:
        return 0


def notice(tree: str, since: int, work: str = "", outputs: Patterns | None = None) -> str:
    """Return lines that name what was written in the tree after `since`, the largest first; empty for nothing.

    `outputs` are kept: patterns of files below the folder `work`.
    """
    count = total = 0
    largest: list[tuple[int, str]] = []
    deadline = time.monotonic() + LOOK_SECONDS
    whole = True
    for path, size in _written(tree, since):
        if outputs is not None and _is_output(path, work, outputs):
            continue
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
        f"which is removed; to keep such files: {_option(largest[0][1], work or tree)}"
    ]
    lines += [f"taskyard:   {_shown(os.path.relpath(path, tree))} ({size_text(size)})" for size, path in largest]
    if count > len(largest):
        lines.append(f"taskyard:   and {count - len(largest)} more")
    return "".join(f"{line}\n" for line in lines)


def _is_output(path: str, work: str, outputs: Patterns) -> bool:
    relative = os.path.relpath(path, work)
    return not relative.startswith("..") and outputs.match(relative)


def _option(path: str, work: str) -> str:
    """What to type so that a file like this one is kept: its folder, where it lies in one."""
    folder, name = os.path.split(os.path.relpath(path, work))
    pattern = f"{folder}/**" if folder else f"*{os.path.splitext(name)[1]}" if "." in name[1:] else name
    plain = all(sign.isascii() and (sign.isalnum() or sign in "_-./*") for sign in pattern)
    return f"--output '{pattern}'" if plain and not pattern.startswith(("..", "-")) else "--output GLOB"


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
