"""A folder without git as a gzipped tar: the same bytes for the same files."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

from taskyard.errors import UsageError

from .files import IGNORE_FILE
from .git import Git


def rules(folder: Path, scratch: Path) -> Git:
    """Git for a folder that has none, so that ignore files mean there what they mean everywhere."""
    empty = scratch / "rules.git"
    Git(cwd=scratch).run("init", "-q", "--bare", "--template=", str(empty))
    return Git(cwd=folder, env={"GIT_DIR": str(empty), "GIT_WORK_TREE": str(folder)})


def write(folder: Path, paths: Sequence[str], target: Path) -> Path:
    """Writes the files, in the order of their names and without times and owners. Raises UsageError."""
    with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(paths):
                _add(tar, folder, path)
    return target


def _add(tar: tarfile.TarFile, folder: Path, path: str) -> None:
    file = folder / path
    entry = tarfile.TarInfo(path)
    if file.is_symlink():
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, _inner_link(folder, path), 0o777
        tar.addfile(entry)
        return
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        entry.size = status.st_size
        entry.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        tar.addfile(entry, stream)


def _inner_link(folder: Path, path: str) -> str:
    link = os.readlink(folder / path)
    target = os.path.normpath(folder / os.path.dirname(path) / link)
    if os.path.isabs(link) or not Path(target).is_relative_to(folder):
        raise UsageError(
            f"{path} is a link out of {folder} (to {link}), which an archive cannot hold: "
            f"add /{path} to {IGNORE_FILE}, or make the folder a git repository with `git init`"
        )
    return link
