"""How full the control groups are that this agent was put into, as in a container or a unit with `MemoryMax`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taskyard_agent.keeper.cgroups import own_folder

UNLIMITED = 1 << 60


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Where a group tells its limit, what it holds, and what of that the kernel would drop: files read before."""

    limit: str
    held: str
    droppable: str


VERSION_1 = _Files(limit="memory.limit_in_bytes", held="memory.usage_in_bytes", droppable="total_inactive_file")
VERSION_2 = _Files(limit="memory.max", held="memory.current", droppable="inactive_file")


def in_use() -> Iterator[float]:
    """The part in use, from 0 to 1, of each limited group that holds this process."""
    for folder, files in _groups():
        limit, held = _number(folder / files.limit), _number(folder / files.held)
        if limit is not None and held is not None and 0 < limit < UNLIMITED:
            yield max(0, held - (_number(folder / "memory.stat", files.droppable) or 0)) / limit


def limits() -> Iterator[int]:
    """Bytes that each limited group that holds this process may hold."""
    for folder, files in _groups():
        limit = _number(folder / files.limit)
        if limit is not None and 0 < limit < UNLIMITED:
            yield limit


def _groups() -> Iterator[tuple[Path, _Files]]:
    for files, own in ((VERSION_2, own_folder()), (VERSION_1, own_folder("memory"))):
        folder = Path(own)
        while own and (folder / files.held).exists():  # the topmost has none
            yield folder, files
            folder = folder.parent


def _number(file: Path, field: str = "") -> int | None:
    """A file's only number, or that of its line `field N`; None for `max`, and where there is none."""
    try:
        lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    words = [line[-1] for line in lines if line and (not field or line[0] == field)]
    return int(words[0]) if words and words[0].isdigit() else None
