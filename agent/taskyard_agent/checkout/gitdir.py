"""Git directories written by hand: the agent's own for a tree, and the disposable one that its task may use."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

CONFIG = (
    "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
)
SHA256 = "[extensions]\n\tobjectFormat = sha256\n"


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a git directory has checked out."""

    commit: str
    branch: str | None = None
    origin: str | None = None
    """URL of its remote, for tools that record it."""


def write(path: Path, head: Head, *, objects: Path | None, shallow: Path | None = None, tags: bytes = b"") -> None:
    """Writes a git directory that borrows `objects`. Raises FileExistsError where something stands there."""
    path.mkdir()
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (path / folder).mkdir(parents=True)
    if objects is not None:
        borrow(path, objects)
    (path / "config").write_text(_config(head))
    if tags:
        (path / "packed-refs").write_bytes(tags)
    if shallow is not None and shallow.exists():
        shutil.copyfile(shallow, path / "shallow")
    if head.branch:
        branch = path / "refs/heads" / head.branch
        branch.parent.mkdir(parents=True, exist_ok=True)
        branch.write_text(f"{head.commit}\n")
    (path / "HEAD").write_text(f"ref: refs/heads/{head.branch}\n" if head.branch else f"{head.commit}\n")


def borrow(path: Path, objects: Path) -> None:
    """Has a git directory borrow these objects and no others."""
    (path / "objects/info/alternates").write_bytes(os.fsencode(objects) + b"\n")


def borrowed(path: Path) -> bytes:
    """Returns the folder of objects that it borrows; empty for none."""
    try:
        return (path / "objects/info/alternates").read_bytes().removesuffix(b"\n")
    except OSError:
        return b""


def cut(path: Path, commit: str) -> None:
    """Leaves of the commits without parents this one, if it is one: the others are not this task's."""
    shallow = path / "shallow"
    if shallow.exists():
        lines = [line for line in shallow.read_text().split() if line == commit]
        shallow.write_text("".join(f"{line}\n" for line in lines))
        if not lines:
            shallow.unlink()


def remove(path: Path) -> None:
    """Removes whatever stands there, without following links and in spite of taken permissions."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    if not os.path.lexists(path):
        return
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
        return
    path.chmod(0o700)
    for base, folders, _ in os.walk(path):
        for folder in (Path(base) / name for name in folders):
            if not folder.is_symlink():
                folder.chmod(0o700)
    shutil.rmtree(path)


def _config(head: Head) -> str:
    sha256 = len(head.commit) == 64
    text = CONFIG.format(version=1 if sha256 else 0) + (SHA256 if sha256 else "")
    if head.origin:
        quoted = head.origin.replace("\\", "\\\\").replace('"', '\\"')
        text += f'[remote "origin"]\n\turl = "{quoted}"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
    return text
