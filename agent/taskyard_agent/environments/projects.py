"""Reads what the files of a Python project inside the task's tree say of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from taskyard_agent.environments.local_project import Project
from taskyard_agent.environments.poetry_project import check_poetrys_python, read_poetry
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import read_toml, shown
from taskyard_agent.environments.uv_sources import with_sources


def read_project(folder: Path, *, tree: Path, extras: Collection[str] = ()) -> Project:
    """Reads a local project's own description. Raises RunFailed when it has none that can be followed."""
    file = folder / "pyproject.toml"
    where = shown(file, tree)
    table = read_toml(file, where) if file.is_file() else {}
    if _is_poetrys(table):
        return read_poetry(folder, where, extras)
    if "project" in table:
        return _described(folder, table, extras, where)
    if not table and not (folder / "setup.py").is_file():
        raise failed(f"{shown(folder, tree)} is no Python project: it has no pyproject.toml and no setup.py")
    return Project(folder=folder, name=folder.name, version="0", dynamic=(folder / "setup.py").is_file())


def check_python(folder: Path, version: str, *, tree: Path) -> None:
    """Raises RunFailed when a project with a pyproject.toml does not want this version of Python."""
    file = folder / "pyproject.toml"
    where = shown(file, tree)
    table = read_toml(file, where)
    if _is_poetrys(table):
        check_poetrys_python(folder, where, version)
    elif wanted := str(table.get("project", {}).get("requires-python", "")):
        _check_specifier(wanted, where, version)


def _check_specifier(wanted: str, where: str, version: str) -> None:
    """One that is not released yet counts as what it will be, as it does for uv."""
    try:
        fits = SpecifierSet(wanted).contains(Version(version.rstrip("+")).base_version)
    except InvalidSpecifier as error:
        raise failed(f"{where}: requires-python = {wanted!r} is no range of versions: {error}") from error
    if not fits:
        raise failed(f"{where} wants Python {wanted}; this environment has {version}")


def _is_poetrys(table: Mapping[str, Any]) -> bool:
    """Whether Poetry's tables say what is needed, or add indexes to what [project] says."""
    own = "poetry" in table.get("tool", {})
    return own and ("project" not in table or "poetry" in table.get("build-system", {}).get("build-backend", ""))


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
