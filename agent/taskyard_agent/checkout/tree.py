"""Filling a tree: exactly the files of a commit, whatever a task left there, and nothing of its configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Code

from taskyard_agent.errors import RunFailed

from . import gitdir
from .address import Address, routes
from .credentials import network
from .failure import GitFailed, refused
from .git import OFFLINE, Git
from .gitdir import Head
from .mirror import Log, Mirror
from .settings import CheckoutSettings

LFS = {
    "filter.lfs.smudge": "git-lfs smudge -- %f",
    "filter.lfs.process": "git-lfs filter-process",
    "filter.lfs.required": "true",
}
MOST_TAGS = 20_000
"""Tags that a task's own `.git` shows."""


@dataclass(frozen=True, kw_only=True)
class Filling:
    """One working tree, the superproject's or a submodule's, and the mirror that it is filled from."""

    mirror: Mirror
    git_dir: Path
    """The agent's own; holds the index."""
    tree: Path
    address: Address | None
    locks: tuple[int, ...]
    settings: CheckoutSettings
    log: Log

    @property
    def git(self) -> Git:
        """Git for the tree, without the network."""
        return self.mirror.git.at(self.git_dir, self.tree, locks=self.locks)

    def fill(self, commit: str) -> None:
        """Makes the tree hold the commit's files and nothing else. Raises GitFailed."""
        self._open()
        with self._filters() as git:
            git.run("read-tree", "--reset", "-u", commit)
        self.git.run("clean", "-ffdxq")
        _restore_what_git_overlooks(self.tree, plain=stat.S_IMODE((self.git_dir / "index").stat().st_mode))

    def apply(self, patch: str) -> None:
        """Applies a diff that was given through the API. Raises RunFailed naming the file and the line."""
        apply_patch(self.git, patch, "--index")

    def give_to_task(self, head: Head, uploaded: Sequence[str] = ()) -> None:
        """Writes the `.git` that is the task's own; what it does there is thrown away.

        `uploaded` names the objects of an upload, as `git rev-list` takes them: where tasks are kept apart, they
        are copied, because what lies beside them is others'.
        """
        target = self.tree / ".git"
        lent = self.mirror.reads[:1]
        shallow = self.mirror.path / "shallow"
        gitdir.write(target, head, objects=lent[0] if lent else None, shallow=shallow, tags=self._tags())
        if self.mirror.uploaded and self.settings.apart:
            wanted = "".join(f"{name}\n" for name in (head.commit, *uploaded)).encode()
            pack = str(target / "objects/pack/pack")
            self.mirror.git.run("pack-objects", "--revs", "--window=0", "-q", pack, stdin=wanted)
            gitdir.cut(target, head.commit)
        shutil.copyfile(self.git_dir / "index", target / "index")

    def _open(self) -> None:
        gitdir.remove(self.tree / ".git")
        self.tree.mkdir(exist_ok=True)
        if self.git_dir.is_dir() and _borrows_within(self.git_dir, self.mirror):
            gitdir.borrow(self.git_dir, self.mirror.objects)
            (self.git_dir / "index.lock").unlink(missing_ok=True)
            return
        gitdir.remove(self.git_dir)
        self.git_dir.parent.mkdir(exist_ok=True)
        head = Head(commit="0" * _digits(self.mirror))
        gitdir.write(self.git_dir, head, objects=self.mirror.objects)

    @contextlib.contextmanager
    def _filters(self) -> Iterator[Git]:
        """Git LFS alone and only where the operator allows it; no other filter is ever configured here."""
        if not (self.settings.allow_filters and self.address):
            yield self.git
            return
        route = routes(self.address, self.settings)[0]
        with network(self.git, route, self.settings) as git:
            config = {**git.config, **LFS, "remote.origin.url": route.address.url}
            yield git.with_access({**OFFLINE, **git.env}, config, git.secrets)

    def _tags(self) -> bytes:
        mirror = self.mirror.base or self.mirror
        if not ((mirror.path / "packed-refs").exists() or any((mirror.path / "refs/tags").glob("*"))):
            return b""
        count = f"--count={MOST_TAGS}"
        return mirror.git.run("for-each-ref", count, "--format=%(objectname) %(refname)", "refs/tags")


def _restore_what_git_overlooks(folder: Path, *, plain: int) -> None:
    """Removes pipes, sockets and the like, on which the next task would hang; gives files their permissions back.

    Git compares whole seconds: a file is unchanged for it whose permissions were changed in that of its checkout.
    `plain` is what git gives a file that is not executable.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    _restore_permissions(entry, plain)
                elif not entry.is_symlink():
                    os.unlink(entry.path)


def _restore_permissions(file: os.DirEntry[str], plain: int) -> None:
    """Whether it is executable, git has seen to already."""
    mode = stat.S_IMODE(file.stat(follow_symlinks=False).st_mode)
    wanted = plain | (plain & 0o444) >> 2 if mode & stat.S_IXUSR else plain
    if mode != wanted:
        os.chmod(file.path, wanted)


def apply_patch(git: Git, patch: str, *options: str) -> None:
    """Applies a diff; git itself refuses paths that leave the tree, touch `.git` or follow links out of it."""
    data = (patch if patch.endswith("\n") else f"{patch}\n").encode()
    try:
        git.run("apply", *options, "--whitespace=nowarn", "-", stdin=data)
    except GitFailed as failure:
        raise failure.translated(
            "the diff does not apply", "make it against the task's commit, or submit with --ship-code"
        ) from failure


def working_folder(root: Path, code: Code) -> Path:
    """Resolves the working folder, after links, and creates it where git keeps no empty folder."""
    top = root.resolve()
    named = Path(code.working_dir)
    if named.is_absolute() or ".." in named.parts or ".git" in {part.lower() for part in named.parts}:
        raise _outside(code)
    work = (top / named).resolve()
    if not work.is_relative_to(top):
        raise _outside(code)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise refused(f"the working folder {code.working_dir} is a file", "name a folder of the code") from error
    return work


def _outside(code: Code) -> RunFailed:
    return refused(f"the working folder {code.working_dir!r} lies outside the code", "name one inside it")


def _borrows_within(git_dir: Path, mirror: Mirror) -> bool:
    """Whether it borrows from the repository's mirror or from its uploads: its index holds for both."""
    there = (mirror.objects, mirror.uploads.objects, *((mirror.base.objects,) if mirror.base else ()))
    return gitdir.borrowed(git_dir) in {os.fsencode(objects) for objects in there}


def _digits(mirror: Mirror) -> int:
    config = mirror.path / "config"
    return 64 if "sha256" in config.read_text().lower() else 40
