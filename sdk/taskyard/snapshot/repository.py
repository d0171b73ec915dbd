"""The repository that a folder belongs to, and the remote that others know it by."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from taskyard.errors import UsageError

from .git import Git, GitFailed

SCP_LIKE = re.compile(r"^(?:(?P<user>[^@/:]+)@)?(?P<host>\[[^\]/]+\]|[^/:@]{2,}):(?P<path>(?!//).+)$")
"""`host:path`; one letter before the colon is a drive."""
SSH_SCHEMES = ("ssh", "git+ssh", "ssh+git")
SCHEMES = ("https", *SSH_SCHEMES)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """Where others find the repository."""

    name: str
    url: str
    """As git resolves it, without user info."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository and what is checked out of it."""

    root: Path
    git_dir: Path
    objects: Path
    index: Path
    head: str | None
    """The commit that is checked out; None before the first one."""
    branch: str | None
    """None for a detached head."""
    remote: Remote | None
    """The first remote that others can reach."""

    @property
    def git(self) -> Git:
        """Git at the top of the working tree."""
        return git_at(self.root, self.git_dir)


def git_at(root: Path, git_dir: Path) -> Git:
    """Git for a working tree, with every conversion off that the tree itself does not ask for."""
    env = {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(root)}
    git = Git(cwd=root, env=env)
    config = _filters_off(git)
    if os.name != "nt":
        # Elsewhere the file's own bytes are what runs; on Windows git itself made the line ends.
        config["core.autocrlf"] = "false"
    return Git(cwd=root, env=env, config=config)


def find(folder: Path) -> Repository | None:
    """Finds the repository around `folder`; None where there is none. Raises UsageError where git refuses it."""
    try:
        words = Git(cwd=folder).lines("rev-parse", "--absolute-git-dir", "--show-toplevel")
    except GitFailed as error:
        if "not a git repository" in str(error):
            return None
        raise UsageError(f"{folder}: {error}") from error
    git_dir, root = Path(words[0]), Path(words[1])
    git = Git(cwd=root, env={"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(root)})
    objects, index = git.lines("rev-parse", "--git-path", "objects", "--git-path", "index")
    branch = git.ask("symbolic-ref", "-q", "--short", "HEAD")
    return Repository(
        root=root,
        git_dir=git_dir,
        objects=root / objects,
        index=root / index,
        head=git.ask("rev-parse", "-q", "--verify", "HEAD^{commit}"),
        branch=branch,
        remote=_remote(git, branch),
    )


def reachable_by_others(url: str) -> bool:
    """Whether agents take the address and find the same there: they fetch over https and ssh alone."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() in SCHEMES if separator else SCP_LIKE.match(url) is not None


def without_user_info(url: str) -> str:
    """The address without passwords and tokens. An ssh address keeps its user: it is a part of the path there."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = (parts.username or "") if parts.scheme.lower() in SSH_SCHEMES else ""
    return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host))


def _remote(git: Git, branch: str | None) -> Remote | None:
    names = git.lines("remote")
    upstream = git.ask("config", f"branch.{branch}.remote") if branch else None
    for name in sorted(names, key=lambda name: (name != upstream, name != "origin")):
        url = git.ask("remote", "get-url", name)
        if url and reachable_by_others(url):
            return Remote(name=name, url=without_user_info(url))
    return None


def _filters_off(git: Git) -> dict[str, str]:
    """Filters (git LFS and others) would ship a pointer to something that is on this machine alone."""
    names = {key.split(".", 1)[1].rpartition(".")[0] for key in _filter_keys(git)}
    off: dict[str, str] = {}
    for name in sorted(names):
        off |= {f"filter.{name}.{part}": "" for part in ("clean", "smudge", "process")}
        off[f"filter.{name}.required"] = "false"
    return off


def _filter_keys(git: Git) -> list[str]:
    listed = git.ask("config", "--name-only", "--get-regexp", r"^filter\.")
    return listed.splitlines() if listed else []
