"""The snapshot commit: the tracked files as they stand and the chosen others, in objects of their own.

Built with a copy of the index and an object directory beside the repository's, which stays as it is byte for
byte. The same content on the same commit always makes the same snapshot commit.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import tracked_in
from .git import Git, joined
from .repository import Repository, find

AUTHOR = {
    **{f"GIT_{who}_NAME": "Taskyard" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "snapshot@taskyard.invalid" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_DATE": "@1000000000 +0000" for who in ("AUTHOR", "COMMITTER")},
}
GITLINK = "160000"
DEEPEST = 10
"""Submodules within submodules."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the index."""

    flag: str
    mode: str
    object: str
    path: str


class Stage:
    """The temporary index and objects of one snapshot."""

    def __init__(self, repository: Repository, scratch: Path) -> None:
        self._repository = repository
        self._objects = scratch / "objects"
        self._index = scratch / "index"
        self.git = repository.git.with_env(
            GIT_OBJECT_DIRECTORY=str(self._objects), GIT_INDEX_FILE=str(self._index), **AUTHOR
        )

    def open(self) -> None:
        """Copies the index. Its time goes along: git reads from it which entries it cannot trust."""
        (self._objects / "info").mkdir(parents=True)
        alternates = self._objects / "info" / "alternates"
        alternates.write_bytes(os.fsencode(self._repository.objects) + b"\n")
        if self._repository.index.exists():
            shutil.copy2(self._repository.index, self._index)

    def submodules_to_ship(self, *, all_of_them: bool) -> list[str]:
        """Checked-out submodules (with a slash at the end) whose files nobody else could fetch as they are."""
        links = [entry.path for entry in self._entries if entry.mode == GITLINK]
        present = [path for path in links if (self._repository.root / path / ".git").exists()]
        return [f"{path}/" for path in present if all_of_them or not _published(self._repository.root / path)]

    def empty_submodules(self) -> list[str]:
        """Submodules that were never checked out here, those within others too."""
        return sorted(_never_checked_out(self._repository.root, self._entries))

    def write(self, untracked: Sequence[str], submodules: Sequence[str]) -> str:
        """Returns the snapshot commit, which is the checked-out commit itself when nothing differs from it."""
        self._look_at_every_file()
        self.git.run("add", "--update")
        for folder in submodules:
            self._ship(folder)
        self._add(untracked)
        tree = self.git.line("write-tree", "--missing-ok")
        head = self._repository.head
        if head and tree == self.git.line("rev-parse", f"{head}^{{tree}}"):
            return head
        parents = ("-p", head) if head else ()
        return self.git.line("commit-tree", "--no-gpg-sign", tree, *parents, "-m", "Taskyard snapshot")

    def holds(self, path: str) -> bool:
        """Whether the written commit has this file; a submodule is taken to have what lies in it."""
        links = (entry.path for entry in self._entries if entry.mode == GITLINK)
        if any(path.startswith(f"{link}/") for link in links):
            return True
        return bool(self.git.paths("--literal-pathspecs", "ls-files", "-z", "--", path))

    def _look_at_every_file(self) -> None:
        """Takes back what tells git not to look at a file, for those that exist."""
        root = self._repository.root
        hidden = [entry.path for entry in self._entries if entry.flag.islower()]
        sparse = [e.path for e in self._entries if e.flag in "Ss" and os.path.lexists(root / e.path)]
        for option, paths in (("--no-assume-unchanged", hidden), ("--no-skip-worktree", sparse)):
            if paths:
                self.git.run("update-index", option, "-z", "--stdin", stdin=joined(paths))

    def _ship(self, folder: str) -> None:
        """Puts a submodule's files in the place of the link to its commit."""
        self.git.run("update-index", "--force-remove", "-z", "--stdin", stdin=joined([folder.rstrip("/")]))
        self._add(list(tracked_in(self._repository.root, folder)))

    def _add(self, paths: Sequence[str]) -> None:
        if paths:
            self.git.run("update-index", "--add", "--replace", "-z", "--stdin", stdin=joined(paths))

    @functools.cached_property
    def _entries(self) -> list[Entry]:
        """The index as the person left it."""
        return [_entry(line) for line in self.git.paths("ls-files", "-v", "--stage", "-z")]


def _entry(line: str) -> Entry:
    words, _, path = line.partition("\t")
    flag, mode, object_id, _ = words.split(" ")
    return Entry(flag=flag, mode=mode, object=object_id, path=path)


def _never_checked_out(root: Path, entries: Iterable[Entry], depth: int = 0) -> Iterator[str]:
    for path in (entry.path for entry in entries if entry.mode == GITLINK):
        if not (root / path / ".git").exists():
            yield path
            continue
        inner = find(root / path) if depth < DEEPEST else None
        if inner is not None and inner.root == (root / path).resolve():
            below = [_entry(line) for line in inner.git.paths("ls-files", "-v", "--stage", "-z")]
            yield from (f"{path}/{each}" for each in _never_checked_out(inner.root, below, depth + 1))


def _published(folder: Path) -> bool:
    """Whether a submodule's files are those of a commit that its remote had when it was last asked."""
    repository = find(folder)
    if repository is None or repository.remote is None or repository.head is None:
        return False
    git: Git = repository.git
    unpublished = git.line("rev-list", "-1", repository.head, "--not", f"--remotes={repository.remote.name}")
    return not unpublished and not git.run("status", "--porcelain", "--untracked-files=normal")
