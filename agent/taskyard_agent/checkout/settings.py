"""What the operator decides about repositories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .child import ChildLimits


@dataclass(frozen=True, kw_only=True)
class CheckoutSettings:
    """The checkout's part of the agent's settings."""

    folder: Path
    """Holds mirrors and trees; agents of one machine and user may share it."""
    trees_folder: Path | None = None
    """Where trees are instead, such as on a node's own disk."""
    tokens: Mapping[str, Path] = field(default_factory=dict)
    """Host (with its port where it is not the usual one) → file with `TOKEN` or `USER:TOKEN`, read at each use."""
    ssh_key: Path | None = None
    """None: what the ssh agent and the operator's ssh configuration offer."""
    ssh_command: tuple[str, ...] = ("ssh",)
    allow_file: bool = False
    """Whether a task may name a repository by a path of this machine."""
    apart: bool = False
    """Whether a task's own `.git` lets it read nothing that others uploaded: containers, and `--run-as`."""
    allow_filters: bool = False
    """Whether git LFS may fetch and write files during the checkout."""
    submodule_hosts: tuple[str, ...] = ()
    """Hosts that submodules may come from beside the repository's own."""
    stall_seconds: float = 60.0
    """How long a transfer may stand still before its host counts as unreachable."""
    fetch_seconds: float = 3600.0
    """How long one fetch may take."""
    memory_bytes: int = 512 << 20
    """Memory of each program that handles a task's code."""
    tree_bytes: int = 20 << 30
    """What a checked-out tree may hold, submodules and all."""
    tree_paths: int = 1_000_000
    """Files and folders of such a tree."""
    archive_bytes: int = 1 << 30
    """Size that an archive may unpack to."""
    archive_files: int = 20_000
    spare_trees: int = 4
    """Unused trees kept for each repository."""
    mirror_bytes: int = 50 * 2**30
    """What all mirrors may occupy."""
    min_free_bytes: int = 0
    """What mirrors leave free on the disk."""
    environ: Mapping[str, str]
    """The agent's own variables, for git; its `GIT_*` are left out."""

    @property
    def limits(self) -> ChildLimits:
        """What a program may take that handles a task's code."""
        return ChildLimits(memory_bytes=self.memory_bytes, file_bytes=self.tree_bytes)

    @property
    def mirrors(self) -> Path:
        """One bare repository for each that tasks come from."""
        return self.folder / "mirrors"

    @property
    def uploads(self) -> Path:
        """Beside each mirror what was uploaded for tasks of that repository; for no task to read."""
        return self.folder / "uploads"

    @property
    def trees(self) -> Path:
        """Checked-out trees, by the mirror that they borrow from."""
        return self.trees_folder or self.folder / "trees"
