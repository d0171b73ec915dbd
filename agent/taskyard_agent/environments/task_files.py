"""Files of the task's code: kept inside its tree, read, and named as people know them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from taskyard_agent.environments.request import failed


def read_toml(file: Path, where: str) -> dict[str, Any]:
    """Reads a TOML file. Raises RunFailed naming it."""
    try:
        return parse_toml(file.read_text(encoding="utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        raise failed(f"cannot read {where}: {error}") from error


def inside(tree: Path, path: Path, where: str) -> Path:
    """Returns `path` with its links followed. Raises RunFailed when it leads out of the tree."""
    real = path.resolve()
    if not real.is_relative_to(tree.resolve()):
        raise failed(f"{where} names {path.name}, which lies outside the task's code")
    return real


def text_of(file: Path, where: str) -> str:
    """Reads a text file. Raises RunFailed naming it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise failed(f"cannot read {where}: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Reads TOML. Raises RunFailed naming where it stands."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return dict(toml.loads(text))
    except ValueError as error:
        raise failed(f"{where} is not valid TOML: {error}") from error


def shown(path: Path, tree: Path) -> str:
    """The path as people know it: relative to the repository's root."""
    for root in (tree, tree.resolve()):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return path.name
