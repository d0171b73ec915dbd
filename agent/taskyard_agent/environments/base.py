"""A recipe for an environment, and the verbs that every manager answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from taskyard_agent.environments.conda_order import CondaOrder
from taskyard_agent.environments.indexes import Indexes
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings
from taskyard_agent.environments.requirements import Requirements

FORMAT = 3
"""Raised when environments are laid out differently: those of an older agent are then left to eviction."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what an environment will hold. Equal recipes have equal keys."""

    manager: str
    """Name and version: `uv 0.13.8`."""
    interpreter: Interpreter
    requirements: Requirements
    tree: Path
    """The task's code, into which no environment may lead."""
    indexes: Indexes
    index_strategy: str | None = None
    torch_backend: str | None = None
    source: Path | None = None
    """A lock or project file that the manager reads itself; its text is in `digest`."""
    digest: str = ""
    """SHA-256 over what `requirements` does not spell out: lock files, the tool's own configuration."""
    conda: CondaOrder | None = None
    """What conda installs; `requirements` are then those of pip."""
    remarks: tuple[str, ...] = ()
    """What was chosen, and why; for the run's log."""

    @property
    def key(self) -> str:
        """Names the environment in the cache; where the task's tree lies does not matter."""
        parts = [
            FORMAT,
            self.manager,
            (self.interpreter.home, self.interpreter.version, self.interpreter.implementation),
            (self.interpreter.platform, self.interpreter.image),
            self.requirements.for_key(),
            self.indexes.for_key(),
            (self.index_strategy, self.torch_backend, self.digest),
            self.conda.for_key() if self.conda else [],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What an installation has made."""

    home: str
    """The interpreter's own executable, which may lie in the environment or outside."""
    python: str
    """Its version."""
    library: str
    """Site-packages relative to the environment's root."""
    site_paths: tuple[str, ...]
    packages: tuple[str, ...]
    """As `name==version`."""
    bins: tuple[str, ...] = ()
    """Folders of tools that are not only its Python's launchers."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What a command in it needs set."""


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
        in `prefix` may be a hardlink to a file elsewhere. What it installs is compiled afterwards, but for what
        conda brings: that is compiled already, and has records of it.
        """

    def check(self, recipe: Recipe, prefix: Path, installer: Installer) -> None:
        """Raises RunFailed unless the environment at `prefix` starts and holds what the recipe names."""

    def describe(self, recipe: Recipe, prefix: Path, installer: Installer) -> Installed:
        """Returns what is at `prefix` after it was installed and checked."""
