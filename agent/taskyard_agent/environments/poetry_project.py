"""Reads what Poetry's tables in a pyproject.toml say: dependencies, indexes and scripts, through poetry-core."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard_agent.environments.indexes import PUBLIC_INDEX
from taskyard_agent.environments.local_project import Pinned, Project
from taskyard_agent.environments.request import failed

if TYPE_CHECKING:
    from poetry.core.packages.dependency import Dependency
    from poetry.core.poetry import Poetry


def read_poetry(
    folder: Path, where: str, markers: Mapping[str, str], extras: Collection[str] = (), *, compiled: str = ""
) -> Project:
    """Returns the project with its main dependencies as requirement lines. Raises RunFailed naming `where`."""
    described = parse_poetry(folder, where)
    package = described.package
    missing = sorted(set(extras) - set(map(str, package.extras)))
    if missing:
        there = ", ".join(map(str, package.extras)) or "none"
        raise failed(f"{where} has no extra {missing[0]!r}; it has {there}")
    sources = described.local_config.get("source", [])
    default, others = _indexes(sources)
    chosen = set(extras)
    apart = [need for need in package.requires if getattr(need, "source_name", None)]
    return Project(
        folder=folder,
        name=package.pretty_name or folder.name,
        version=str(package.version),
        scripts=_scripts(described),
        dependencies=tuple(_lines([need for need in package.requires if need not in apart], chosen, markers)),
        pinned=tuple(
            _pinned(apart, chosen, markers, {str(one["name"]): str(one.get("url", "")) for one in sources}, where)
        ),
        default_index=default,
        extra_indexes=others,
        import_from=_import_from(folder, package.packages),
        compiled=compiled,
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


def _lines(dependencies: Collection[Dependency], extras: set[str], markers: Mapping[str, str]) -> Iterator[str]:
    for dependency in dependencies:
        wanted = not dependency.is_optional() or extras.intersection(map(str, dependency.in_extras))
        if wanted:
            yield from _line(dependency, markers)


def _line(dependency: Dependency, markers: Mapping[str, str]) -> Iterator[str]:
    """Paths keep to the project's folder; a requirement line could give them as an absolute URL alone."""
    from poetry.core.packages.path_dependency import PathDependency

    if not isinstance(dependency, PathDependency):
        yield dependency.to_pep_508(with_extras=False)
    elif dependency.marker.validate(dict(markers)):
        names = ",".join(sorted(dependency.extras))
        yield f"./{dependency.path}" + (f"[{names}]" if names else "")


def _pinned(
    dependencies: Collection[Dependency],
    extras: set[str],
    markers: Mapping[str, str],
    urls: Mapping[str, str],
    where: str,
) -> Iterator[Pinned]:
    """`{ version = "^1", source = "internal" }`: Poetry looks for it there alone."""
    for dependency in dependencies:
        name = str(dependency.source_name)
        url = PUBLIC_INDEX if name.lower() == "pypi" else urls.get(name)
        if not url:
            raise failed(
                f"{where}: {dependency.pretty_name} comes from the source {name!r}, which is not described"
            )
        for line in _lines([dependency], extras, markers):
            yield Pinned(line=line, origin=where, index=name, url=url)


def _indexes(sources: list[dict[str, Any]]) -> tuple[str | None, tuple[str, ...]]:
    """Returns the address that stands for the public index, and the further ones, as Poetry ranks them."""
    default, others = None, []
    for source in sources:
        first = source.get("default") or source.get("priority", "primary") in ("default", "primary")
        if not source.get("url") or source.get("priority") == "explicit":
            continue  # the public index by its name; or asked only for what names it
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
