"""A Python project inside the task's tree, as what is built from it and runs in it uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskyard_agent.environments.task_files import digest_of, read_toml


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A requirement that comes from one index alone, which a plain line cannot say (`{ index = "internal" }`)."""

    line: str
    origin: str
    index: str
    """Its name, under which an operator may have given credentials (`UV_INDEX_INTERNAL_USERNAME`)."""
    url: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """A Python project inside the task's tree: modules are imported from there, requirements are installed."""

    folder: Path
    name: str
    version: str
    scripts: dict[str, str] = field(default_factory=dict)
    """Console scripts: `tool` → `package.module:function`."""
    entry_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further entry points by their group."""
    dependencies: tuple[str, ...] = ()
    pinned: tuple[Pinned, ...] = ()
    dynamic: bool = False
    """Its dependencies are known to its build backend alone."""
    default_index: str | None = None
    """Stands for the public index, where the project says so (`[[tool.poetry.source]]`)."""
    extra_indexes: tuple[str, ...] = ()
    import_from: Path | None = None
    """Where its packages lie, if it says so."""
    compiled: str = ""
    """Why its modules must be built (`setup.py has ext_modules`); empty: they are used as they lie in the tree."""

    @property
    def source(self) -> Path:
        """The folder to import from."""
        return self.import_from or self._usual_source()

    def _usual_source(self) -> Path:
        src, module = self.folder / "src", self.name.replace("-", "_").replace(".", "/")
        flat = (self.folder / module / "__init__.py").is_file() or (self.folder / f"{module}.py").is_file()
        return src if src.is_dir() and not flat else self.folder

    @property
    def digest(self) -> str:
        """SHA-256 over all its files: whatever a build of it reads is among them."""
        return digest_of(self.folder)

    @property
    def description(self) -> Path:
        """The file through which a builder learns what it needs."""
        project = self.folder / "pyproject.toml"
        return project if project.is_file() and _has_project(project) else self.folder / "setup.py"


def _has_project(file: Path) -> bool:
    return "project" in read_toml(file, file.name)
