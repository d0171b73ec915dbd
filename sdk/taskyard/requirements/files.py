"""Finds and reads the files of a project that say what it needs."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskyard.errors import UsageError

_SCRIPT_BLOCK = re.compile(r"(?m)^# /// script\s*$\n(?P<body>(^#(| .*)$\n?)+?)^# ///\s*$")


def folders_up(start: Path, root: Path) -> Iterator[Path]:
    """Yields `start` and the folders above it, up to `root`."""
    start, root = start.resolve(), root.resolve()
    if not start.is_relative_to(root):
        start = root
    for folder in (start, *start.parents):
        yield folder
        if folder == root:
            return


def nearest(name: str, start: Path, root: Path) -> Path | None:
    """Returns the first file of that name from `start` up to `root`."""
    files = (folder / name for folder in folders_up(start, root))
    return next((file for file in files if file.is_file()), None)


def read_toml(file: Path) -> dict[str, Any]:
    """Reads a TOML file. Raises UsageError naming it."""
    try:
        return parse_toml(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Reads TOML. Raises UsageError naming where it stands."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return dict(toml.loads(text))
    except ValueError as error:
        raise UsageError(f"{where} is not valid TOML: {error}") from error


def script_block(script: Path) -> dict[str, Any] | None:
    """Returns the PEP 723 table of a script, None when it has none. Raises UsageError for one that is broken."""
    try:
        text = script.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return None
    match = _SCRIPT_BLOCK.search(text)
    if match is None:
        return None
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in match["body"].splitlines())
    return parse_toml("\n".join(lines), str(script))
