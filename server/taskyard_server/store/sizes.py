"""How many bytes the parts of an embedded store take on the disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path


async def of_files(control: Path, data: Path) -> dict[str, int]:
    """Part → bytes. Walks through the folders in a thread: a large one takes a second."""
    return await asyncio.to_thread(_of_files, control, data)


def _of_files(control: Path, data: Path) -> dict[str, int]:
    return {
        "control": _of_database(control),
        "samples": _of_database(data / "samples.db"),
        "logs": sum(_sizes(data / "logs")),
        "blobs": sum(_sizes(data / "blobs")),
    }


def _of_database(file: Path) -> int:
    return sum(_size(file.with_name(file.name + suffix)) for suffix in ("", "-wal"))


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        yield from (_size(Path(parent, name)) for name in names)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # it was removed meanwhile, or was never made
