"""Real git repositories for tests: made in a temporary folder, free of the settings of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

IDENTITY = {
    **{f"GIT_{who}_NAME": "Ada" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "ada@example.org" for who in ("AUTHOR", "COMMITTER")},
}
ALONE = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **IDENTITY}


class Repository:
    """A working copy."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, root: Path, files: dict[str, str] | None = None) -> Repository:
        """A new repository with one commit that holds `files`."""
        root.mkdir(parents=True)
        repository = cls(root)
        repository.git("init", "-q", "-b", "main")
        if files is not None:
            repository.commit(files)
        return repository

    @classmethod
    def clone(cls, url: str | Path, root: Path, *options: str) -> Repository:
        """A clone of a repository."""
        run("clone", "-q", *options, str(url), str(root), cwd=root.parent)
        return cls(root)

    def git(self, *args: str) -> str:
        """Runs git in it and returns what it printed."""
        return run(*args, cwd=self.root)

    def write(self, files: dict[str, str | bytes]) -> None:
        """Writes files without telling git."""
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, files: dict[str, str] | None = None) -> str:
        """Commits `files`, or everything that is there, and returns the commit."""
        self.write(dict(files or {}))
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", "change")
        return self.head

    @property
    def head(self) -> str:
        """The commit that is checked out."""
        return self.git("rev-parse", "HEAD").strip()

    def publish(self, bare: Path, url: str | None = None) -> str:
        """Pushes it to a bare repository; its remote is then called `url` (default: the bare one's file: URL)."""
        if not bare.exists():
            bare.mkdir(parents=True)
            run("init", "-q", "--bare", "-b", "main", cwd=bare)
        self.git("push", "-q", str(bare), "HEAD:refs/heads/main")
        address = url or bare.as_uri()
        self.git("remote", "add", "origin", address)
        self.git("update-ref", "refs/remotes/origin/main", "HEAD")
        return address


def run(*args: str, cwd: Path) -> str:
    """Runs git alone: no settings but the repository's own. Raises CalledProcessError."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *args], cwd=cwd, env={**kept, **ALONE}, capture_output=True, text=True, check=True
    )
    return done.stdout


def contents(root: Path) -> dict[str, tuple[str, bytes]]:
    """Every file below `root` but git's own: path → (kind and executable bit, bytes or the link's target)."""
    found: dict[str, tuple[str, bytes]] = {}
    for base, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in (*names, *(name for name in folders if (Path(base) / name).is_symlink())):
            path = Path(base) / name
            if name != ".git":
                found[os.fsdecode(path.relative_to(root))] = _content(path)
    return found


def _content(path: Path) -> tuple[str, bytes]:
    if path.is_symlink():
        return "link", os.fsencode(os.readlink(path))
    if not path.is_file():
        return "special", b""
    return ("executable" if os.access(path, os.X_OK) else "file"), path.read_bytes()
