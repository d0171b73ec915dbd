"""Reads what Poetry's tables in a pyproject.toml say: dependencies, indexes and scripts, through poetry-core."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import default_environment

from taskyard_agent.environments.local_project import Project
from taskyard_agent.environments.request import failed

if TYPE_CHECKING:
    from poetry.core.packages.dependency import Dependency
    from poetry.core.poetry import Poetry


def read_poetry(folder: Path, where: str, extras: Collection[str] = ()) -> Project:
    """Returns the project with its main dependencies as requirement lines. Raises RunFailed naming `where`."""
    described = parse_poetry(folder, where)
    package = described.package
    missing = sorted(set(extras) - set(map(str, package.extras)))
    if missing:
        there = ", ".join(map(str, package.extras)) or "none"
        raise failed(f"{where} has no extra {missing[0]!r}; it has {there}")
    default, others = _indexes(described.local_config.get("source", []))
    return Project(
        folder=folder,
        name=package.pretty_name or folder.name,
        version=str(package.version),
        scripts=_scripts(described),
        dependencies=tuple(_lines(package.requires, set(extras))),
        default_index=default,
        extra_indexes=others,
        import_from=_import_from(folder, package.packages),
    )


def check_poetrys_python(folder: Path, where: str, version: str) -> None:
    """Raises RunFailed naming `where` when the project does not want this version of Python."""
    from poetry.core.constraints.version import Version

    allowed = parse_poetry(folder, where).package.python_constraint
    if not allowed.allows(Version.parse(version)):
        raise failed(f"{where} wants Python {allowed}; this environment has {version}")


@functools.lru_cache(maxsize=32)
def _parsed(folder: Path, _changed: int) -> Poetry:
    from poetry.core.factory import Factory

    return Factory().create_poetry(folder, with_groups=False)


def parse_poetry(folder: Path, where: str) -> Poetry:
    """Reads a project's pyproject.toml as Poetry does. Raises RunFailed naming `where`."""
    try:
        return _parsed(folder, (folder / "pyproject.toml").stat().st_mtime_ns)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:  # what poetry-core raises for bad tables
        raise failed(f"{where} is not what Poetry understands: {error}") from error


def _lines(dependencies: Collection[Dependency], extras: set[str]) -> Iterator[str]:
    for dependency in dependencies:
        wanted = not dependency.is_optional() or extras.intersection(map(str, dependency.in_extras))
        if wanted:
            yield from _line(dependency)


def _line(dependency: Dependency) -> Iterator[str]:
    """Paths keep to the project's folder; a requirement line could give them as an absolute URL alone."""
    from poetry.core.packages.path_dependency import PathDependency

    if not isinstance(dependency, PathDependency):
        yield dependency.to_pep_508(with_extras=False)
    elif dependency.marker.validate(dict(default_environment())):
        names = ",".join(sorted(dependency.extras))
        path = f"./{dependency.path}" + (f"[{names}]" if names else "")
        yield path if dependency.is_file() else f"-e {shlex.quote(path)}"


def _indexes(sources: list[dict[str, Any]]) -> tuple[str | None, tuple[str, ...]]:
    """Returns the address that stands for the public index, and the further ones, as Poetry ranks them."""
    default, others = None, []
    for source in sources:
        first = source.get("default") or source.get("priority", "primary") in ("default", "primary")
        if not source.get("url"):
            continue  # the public index by its name
        if first and default is None and not source.get("secondary"):
            default = str(source["url"])
        else:
            others.append(str(source["url"]))
    return default, tuple(others)


def _scripts(described: Poetry) -> dict[str, str]:
    tables = (described.pyproject.data.get("project", {}), described.local_config)
    scripts = {name: target for table in tables for name, target in table.get("scripts", {}).items()}
    return {name: target for name, target in scripts.items() if isinstance(target, str)}


def _import_from(folder: Path, packages: Collection[Any]) -> Path | None:
    """`packages = [{ include = "mine", from = "lib" }]`: where Poetry's own installation would point."""
    named = next((package["from"] for package in packages if package.get("from")), None)
    return folder / named if named else None
