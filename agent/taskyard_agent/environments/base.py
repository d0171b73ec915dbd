"""What the environments package takes and gives, and the four verbs that every manager answers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from taskyard import wire
from taskyard.wire import Phase, Reason

from taskyard_agent.errors import RunFailed

if TYPE_CHECKING:
    from taskyard_agent.environments.indexes import Indexes
    from taskyard_agent.environments.installer import Installer
    from taskyard_agent.environments.interpreters import Interpreter
    from taskyard_agent.environments.requirements import Requirements

Log = Callable[[str], None]
FORMAT = 1
"""Raised when environments are laid out differently: those of an older agent are then left to eviction."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """What the operator decided for this machine."""

    root: Path
    """The agent's folder; `environments/`, `downloads/`, `pythons/` and `sdk/` below it are ours."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The agent's own variables; an installer sees the listed part of them (see `installer.py`)."""
    python: str | None = None
    """Interpreter for tasks that name none; None: the one that runs the agent."""
    python_downloads: str = "auto"
    """`auto`: uv fetches an interpreter that is absent; `never`: such a task fails."""
    python_mirror: str | None = None
    """Where uv fetches interpreters from, instead of its default."""
    allowed_indexes: tuple[str, ...] = ()
    """Package indexes that a task's files may name, beyond the public ones and the operator's pip settings."""
    index_strategy: str | None = None
    """uv's `--index-strategy`; None: pip's way among public indexes, the safe one once a private one is in."""
    max_environments: int = 20
    max_bytes: int = 100 * 2**30
    min_free_bytes: int = 5 * 2**30


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


@dataclass(kw_only=True, eq=False)
class ReadyEnvironment:
    """An environment that a run may use until `release()`; it is not evicted before."""

    python: Path
    bin: Path
    """To be put first on PATH."""
    variables: dict[str, str]
    key: str
    reused: bool
    version: str
    """Of the interpreter: `3.11.7`."""
    packages: tuple[str, ...]
    """What is installed, as `name==version`."""
    lock_fd: int | None = None
    """Holds the environment; hand it to the keeper (`pass_fds`) and it stays held beyond this process."""

    def release(self) -> None:
        """Lets go of the environment. Only closes: unlocking would take it from a keeper that inherited it."""
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what an environment will hold. Equal recipes have equal keys."""

    manager: str
    """Name and version: `uv 0.13.8`."""
    interpreter: Interpreter
    requirements: Requirements
    indexes: Indexes
    index_strategy: str | None = None
    torch_backend: str | None = None
    source: Path | None = None
    """A lock or project file that the manager reads itself; its text is in `digest`."""
    digest: str = ""
    """SHA-256 over what `requirements` does not spell out: lock files, the tool's own configuration."""

    @property
    def key(self) -> str:
        """Names the environment in the cache; where the task's tree lies does not matter."""
        parts = [
            FORMAT,
            self.manager,
            (self.interpreter.home, self.interpreter.version, self.interpreter.implementation),
            self.interpreter.platform,
            self.requirements.for_key(),
            self.indexes.for_key(),
            (self.index_strategy, self.torch_backend, self.digest),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Manager(Protocol):
    """What builds environments. The cache calls the verbs in this order; a module will do as an implementation.

    Files are never read between `resolve` and `install` without being part of the recipe's key.
    """

    def version(self) -> str:
        """Name and version of the tool; a new one makes new environments."""

    def resolve(
        self, request: EnvironmentRequest, interpreter: Interpreter, settings: EnvironmentSettings
    ) -> Recipe:
        """Reads and vets what the task asks for; changes nothing. Raises RunFailed naming file and line."""

    def install(self, recipe: Recipe, prefix: Path, installer: Installer) -> None:
        """Makes a virtual environment at `prefix`, which does not exist yet. Raises RunFailed or RunStopped.

        `installer` runs the tool: logged, masked, cancellable, with the variables that a tool may see. Nothing
        in `prefix` may be a hardlink to a file elsewhere, and bytecode must be compiled.
        """

    def check(self, recipe: Recipe, prefix: Path, installer: Installer) -> None:
        """Raises RunFailed unless the environment at `prefix` starts and holds what the recipe names."""


def failed(message: str, *, reason: Reason = Reason.ENVIRONMENT, infrastructure: bool = False) -> RunFailed:
    """Returns the failure of a run in this phase."""
    return RunFailed(Phase.ENVIRONMENT, reason, message, infrastructure=infrastructure)
