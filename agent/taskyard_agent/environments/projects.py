"""A Python project inside the task's tree: what its own files say of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import read_toml, shown
from taskyard_agent.environments.uv_sources import with_sources


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


def read_project(folder: Path, *, tree: Path, extras: Collection[str] = ()) -> Project:
    """Reads a local project's own description. Raises RunFailed when it has none that can be followed."""
    file = folder / "pyproject.toml"
    where = shown(file, tree)
    table = read_toml(file, where) if file.is_file() else {}
    if _is_poetrys(table):
        from taskyard_agent.environments.poetry_project import read_poetry

        return read_poetry(folder, where, extras)
    if "project" in table:
        return _described(folder, table, extras, where)
    if not table and not (folder / "setup.py").is_file():
        raise failed(f"{shown(folder, tree)} is no Python project: it has no pyproject.toml and no setup.py")
    return Project(folder=folder, name=folder.name, version="0", dynamic=(folder / "setup.py").is_file())


def _is_poetrys(table: Mapping[str, Any]) -> bool:
    """Whether Poetry's tables say what is needed, or add indexes to what [project] says."""
    own = "poetry" in table.get("tool", {})
    return own and ("project" not in table or "poetry" in table.get("build-system", {}).get("build-backend", ""))


def _has_project(file: Path) -> bool:
    return "project" in read_toml(file, file.name)


def _described(folder: Path, table: Mapping[str, Any], extras: Collection[str], where: str) -> Project:
    project = table["project"]
    optional = project.get("optional-dependencies", {})
    dynamic = {"dependencies", "optional-dependencies"}.intersection(project.get("dynamic", []))
    missing = [extra for extra in extras if extra not in optional]
    if missing and not dynamic:
        raise failed(f"{where} has no extra {missing[0]!r}; it has {', '.join(optional) or 'none'}")
    chosen = [line for extra in extras for line in optional.get(extra, [])]
    return Project(
        folder=folder,
        name=project.get("name", folder.name),
        version=project.get("version", "0"),
        scripts=dict(project.get("scripts", {})),
        dependencies=with_sources((*project.get("dependencies", []), *chosen), table, where),
        dynamic=bool(dynamic),
    )
