"""A Python project inside the task's tree, as what is built from it and runs in it uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from taskyard_agent.environments.task_files import read_toml


@dataclass(frozen=True, kw_only=True)
class Project:
    """A Python project inside the task's tree; it is used from there, and only its needs are installed."""

    folder: Path
    name: str
    version: str
    scripts: dict[str, str] = field(default_factory=dict)
    """Console scripts: `tool` → `package.module:function`."""
    dependencies: tuple[str, ...] = ()
    dynamic: bool = False
    """Its dependencies are known to its build backend alone."""
    default_index: str | None = None
    """Stands for the public index, where the project says so (`[[tool.poetry.source]]`)."""
    extra_indexes: tuple[str, ...] = ()
    import_from: Path | None = None
    """Where its packages lie, if it says so."""

    @property
    def source(self) -> Path:
        """The folder to import from."""
        src = self.folder / "src"
        return self.import_from or (src if src.is_dir() else self.folder)

    @property
    def build_files(self) -> tuple[Path, ...]:
        """What its build backend usually reads; a change makes another environment where it is dynamic."""
        names = ("pyproject.toml", "setup.cfg", "setup.py", "requirements.txt")
        return tuple(self.folder / name for name in names if (self.folder / name).is_file())

    @property
    def description(self) -> Path:
        """The file through which a builder learns what it needs."""
        project = self.folder / "pyproject.toml"
        return project if project.is_file() and _has_project(project) else self.folder / "setup.py"


def _has_project(file: Path) -> bool:
    return "project" in read_toml(file, file.name)
