"""What the environments package is asked, by whom it is told how, what it gives, and how it fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from taskyard import wire
from taskyard.wire import Phase, Reason

from taskyard_agent.environments.place import Place
from taskyard_agent.errors import RunFailed

Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """What the operator decided for this machine."""

    root: Path
    """The agent's folder; `environments/`, `downloads/`, `pythons/` and `sdk/` below it are ours."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The agent's own variables; an installer sees the listed part of them (see `installer.py`)."""
    inherit: bool = False
    """Every task gets this machine's or its image's own environment, whatever manager it asks for."""
    python: str | None = None
    """Interpreter for tasks that name none; None: the one that runs the agent."""
    python_downloads: str = "auto"
    """`auto`: uv fetches an interpreter that is absent; `never`: such a task fails."""
    torch_backend: str = "auto"
    """The build of PyTorch for tasks that ask for none, in the words of `Environment.torch_backend`."""
    python_mirror: str | None = None
    """Where uv fetches interpreters from, instead of its default."""
    allowed_indexes: tuple[str, ...] = ()
    """Package indexes that a task's files may name, beyond the public ones and the operator's pip settings."""
    allowed_channels: tuple[str, ...] = ()
    """Conda channels that tasks may name beyond the public ones: `NAME`, an address or `NAME=ADDRESS`."""
    conda_binary: str | None = None
    """The conda, mamba or micromamba to use, or `none`; None: one on the PATH, else py-rattler."""
    builds: bool = True
    """Whether programs of packages may run as they are installed, with the agent's rights."""
    index_strategy: str | None = None
    """uv's `--index-strategy`; None: pip's way among public indexes, the safe one once a private one is in."""
    max_environments: int = 20
    max_bytes: int = 100 * 2**30
    max_download_bytes: int | None = None
    min_free_bytes: int = 5 * 2**30


class GitSource(Protocol):
    """Repositories, read with the operator's credentials for each host and by the rules of the checkout."""

    def pin(self, url: str, revision: str | None) -> str:
        """Returns the commit that a revision names now; None: the remote's head. Raises RunFailed."""

    def bringing(self, url: str, commit: str) -> AbstractContextManager[Path]:
        """Yields a repository on this machine that holds the commit, and stays for so long. Raises RunFailed."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentRequest:
    """What one run needs."""

    environment: wire.Environment
    tree: Path
    """The root of the checked-out code."""
    work: Path
    """The command's working folder inside the tree."""
    script: Path | None
    gpus: int
    overlay: Path
    """Folder for this run's own thin environment; it is made here and belongs to the caller afterwards."""
    git: GitSource | None = None
    """For requirements from git; None: installers fetch them themselves, without credentials."""
    place: Place | None = None
    """The image in which the environment is for; None: for this machine."""
    needs_python: bool = True
    """Whether the command itself is one of Python's."""


@dataclass(kw_only=True, eq=False)
class ReadyEnvironment:
    """An environment that a run may use until `release()`; it is not evicted before."""

    python: Path
    bin: Path
    """The run's own launchers."""
    bins: tuple[str, ...] = ()
    """Folders of further tools."""
    variables: dict[str, str]
    key: str
    reused: bool
    version: str
    """Of the interpreter: `3.11.7`."""
    packages: tuple[str, ...]
    """What is installed, as `name==version`."""
    reads: tuple[Path, ...] = ()
    """Folders that a container of the run must see."""
    writes: tuple[Path, ...] = ()
    """Those that it must be able to write."""
    lock_fd: int | None = None
    """Holds the environment; hand it to the keeper (`pass_fds`) and it stays held beyond this process."""

    @property
    def path(self) -> str:
        """To be put first on PATH."""
        return os.pathsep.join([str(self.bin), *self.bins])

    def release(self) -> None:
        """Lets go of the environment. Only closes: unlocking would take it from a keeper that inherited it."""
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None


def failed(
    message: str, *, reason: Reason = Reason.ENVIRONMENT, infrastructure: bool = False, target: str = ""
) -> RunFailed:
    """Returns the failure of a run in this phase."""
    return RunFailed(Phase.ENVIRONMENT, reason, message, infrastructure=infrastructure, target=target)
