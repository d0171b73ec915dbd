"""Files of the task's code: kept inside its tree, read, and named as people know them."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskyard.requirements.files import decoded

from taskyard_agent.environments.request import failed

MOST_BYTES = 8 << 20
"""Of a file that says what to install, which the daemon itself reads."""
BLOCK_BYTES = 1 << 20


def require_small(file: Path, where: str) -> None:
    """Raises RunFailed for a file that is too large to be what it should, or is none."""
    if file.stat().st_size > MOST_BYTES:
        raise failed(
            f"{where} has {file.stat().st_size} bytes; a file that says what to install may have "
            f"{MOST_BYTES >> 20} MiB"
        )


def file_digest(file: Path) -> str:
    """Returns the file's SHA-256, whatever its size."""
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while block := content.read(BLOCK_BYTES):
            yield block


def read_toml(file: Path, where: str) -> dict[str, Any]:
    """Reads a TOML file. Raises RunFailed naming it."""
    try:
        require_small(file, where)
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
    """Reads a text file as pip reads requirements. Raises RunFailed naming it."""
    try:
        require_small(file, where)
        return decoded(file.read_bytes())
    except (OSError, ValueError) as error:
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


def digest_of(folder: Path) -> str:
    """Returns SHA-256 over the names, kinds and contents of all files below a folder, as `copy_of` copies them."""
    total = hashlib.sha256()
    for file in _files_below(folder):
        kind = f"-> {os.readlink(file)}" if file.is_symlink() else f"{os.access(file, os.X_OK)}"
        size = 0 if file.is_symlink() else file.stat().st_size
        total.update(f"{file.relative_to(folder).as_posix()}\0{kind}\0{size}\0".encode())
        for block in () if file.is_symlink() else _blocks(file):
            total.update(block)
    return total.hexdigest()


def copy_of(folder: Path, target: Path) -> Path:
    """Copies a project, so that what builds it neither writes into the tree nor leaves a link to it."""
    for file in _files_below(folder):
        copy = target / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy, follow_symlinks=False)
    return target


def _files_below(folder: Path) -> Iterator[Path]:
    """Yields files and links in order; without those of git, bytecode, and what earlier builds left."""
    for place, names, files in os.walk(folder):
        linked = [name for name in names if os.path.islink(os.path.join(place, name))]
        names[:] = sorted(name for name in names if name not in linked and not _is_a_trace(name))
        yield from (Path(place, name) for name in sorted((*files, *linked)) if not _is_a_trace(name))


def _is_a_trace(name: str) -> bool:
    return name in (".git", "__pycache__") or name.endswith((".pyc", ".egg-info"))
