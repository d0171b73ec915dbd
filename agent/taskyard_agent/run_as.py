"""The user that tasks run as, where it is not the agent's own (`--run-as`): who it is, and what is given to it."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from taskyard_agent.errors import SettingsError

BUILDS_NOTHING = {"UV_NO_BUILD": "1", "PIP_ONLY_BINARY": ":all:"}
"""The agent installs packages with its own rights: it must not run what a source distribution brings for that."""
UMASK = 0o022
"""What the agent prepares must be readable for the user."""

Change = Callable[[str, int, os.stat_result], None]
"""Called with an entry's name, a descriptor of its folder, and what it is."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    @property
    def uid_and_gid(self) -> str:
        """As container engines take it."""
        return f"{self.uid}:{self.gid}"

    @property
    def variables(self) -> dict[str, str]:
        """Those in which a process reads who it is."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}

    def give(self, folder: Path) -> None:
        """Makes a folder and all that it holds this user's, without following links.

        Not a file with several names: the other one may be that of a file of the machine's. Each folder is given
        after what it holds, so that nobody else changes it meanwhile.
        """

        def change(name: str, at: int, found: os.stat_result) -> None:
            if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
                os.chown(name, self.uid, self.gid, dir_fd=at, follow_symlinks=False)

        _walk(folder, change, folders_first=False)


def let_read(folder: Path) -> None:
    """Opens a folder of the agent's to every user; it stays the agent's alone to change."""
    folder.chmod(0o755)


def account_of(name: str) -> Account:
    """Raises SettingsError when tasks cannot run as that user."""
    if os.geteuid() != 0:
        raise SettingsError(
            "--run-as needs an agent that root started: start it with sudo, or leave the flag out and start it as "
            f"{name!r}"
        )
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise SettingsError(f"this machine has no user {name!r} for --run-as: make one with `useradd`") from None
    if found.pw_uid == 0:
        raise SettingsError(f"--run-as {name}: that is root itself; name a user without its rights")
    return Account(
        name=name,
        uid=found.pw_uid,
        gid=found.pw_gid,
        groups=tuple(os.getgrouplist(name, found.pw_gid)),
        home=found.pw_dir,
        shell=found.pw_shell or "/bin/sh",
    )


def check_reach(account: Account, local_dir: Path) -> None:
    """Raises SettingsError unless the user can get at what lies below the folder."""
    local_dir.mkdir(parents=True, exist_ok=True)
    asked = subprocess.run(
        ["test", "-x", local_dir], user=account.uid, group=account.gid, extra_groups=account.groups, check=False
    )
    if asked.returncode:
        raise SettingsError(
            f"{account.name} may not enter {local_dir}, where its tasks' code would lie: name another folder with "
            "--local-dir, such as /var/lib/taskyard, or open the folders on the way to it with `chmod o+x`"
        )


def take_back(folder: Path) -> None:
    """Makes a folder that was given away the agent's own again, and nobody else's to change meanwhile.

    Each folder is taken before it is read, so that what another process of the user adds is not overlooked.
    """
    if not os.path.lexists(folder) or os.lstat(folder).st_uid == os.geteuid():
        return

    def change(name: str, at: int, found: os.stat_result) -> None:
        os.chown(name, os.geteuid(), os.getegid(), dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode) & ~0o022 | 0o700, dir_fd=at)

    _walk(folder, change, folders_first=True)


def _walk(folder: Path, change: Change, *, folders_first: bool) -> None:
    with _opened(os.fspath(folder.parent), None) as parent:
        _visit(folder.name, parent, change, folders_first)


def _visit(name: str, at: int, change: Change, folders_first: bool) -> None:
    found = os.stat(name, dir_fd=at, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        change(name, at, found)
        return
    with _opened(name, at) as inside:
        if folders_first:
            change(name, at, found)
        for entry in os.listdir(inside):
            _visit(entry, inside, change, folders_first)
        if not folders_first:
            change(name, at, found)


@contextmanager
def _opened(name: str, at: int | None) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
