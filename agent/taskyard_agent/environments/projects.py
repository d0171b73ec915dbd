"""Reads what the files of a Python project inside the task's tree say of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from taskyard.requirements.uv_tables import PROJECT, normalised

from taskyard_agent.environments.build_reasons import reason_to_build
from taskyard_agent.environments.local_project import Project
from taskyard_agent.environments.poetry_project import check_poetrys_python, read_poetry
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.setup_py import UNKNOWN, SetupArguments, lines_of_files, read_setup
from taskyard_agent.environments.task_files import read_toml, shown
from taskyard_agent.environments.uv_sources import sources_of

Table = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """For whom projects are read."""

    tree: Path
    markers: Mapping[str, str] = field(
        default_factory=lambda: {k: str(v) for k, v in default_environment().items()}
    )
    """What markers are compared with."""


def read_project(
    folder: Path, *, reading: Reading, extras: Collection[str] = (), groups: Collection[str] = ()
) -> Project:
    """Reads a local project's own description. Raises RunFailed when it has none that can be followed."""
    file, tree = folder / PROJECT, reading.tree
    where = shown(file, tree)
    table = read_toml(file, where) if file.is_file() else {}
    if _is_poetrys(table):
        return read_poetry(
            folder, where, reading.markers, extras, compiled=_compiled(folder, table, SetupArguments())
        )
    if "project" in table:
        return _described(folder, table, extras, groups, reading)
    if not any((folder / name).is_file() for name in ("setup.py", "setup.cfg")):
        if table:
            return Project(folder=folder, name=folder.name, version="0")
        raise failed(f"{shown(folder, tree)} is no Python project: it has no pyproject.toml and no setup.py")
    return _of_setuptools(folder, table, extras, tree)


def check_python(folder: Path, version: str, *, tree: Path) -> None:
    """Raises RunFailed when a project does not want this version of Python."""
    file = folder / PROJECT
    where = shown(file, tree)
    table = read_toml(file, where) if file.is_file() else {}
    if _is_poetrys(table):
        check_poetrys_python(folder, where, version)
        return
    wanted = table.get("project", {}).get("requires-python")
    if wanted is None and "project" not in table:
        wanted, where = read_setup(folder, shown(folder, tree)).known("python_requires"), shown(folder, tree)
    if wanted:
        _check_specifier(str(wanted), where, version)


def _check_specifier(wanted: str, where: str, version: str) -> None:
    """One that is not released yet counts as what it will be, as it does for uv."""
    try:
        fits = SpecifierSet(wanted).contains(Version(version.rstrip("+")).base_version)
    except InvalidSpecifier as error:
        raise failed(f"{where}: requires-python = {wanted!r} is no range of versions: {error}") from error
    if not fits:
        raise failed(f"{where} wants Python {wanted}; this environment has {version}")


def _is_poetrys(table: Table) -> bool:
    """Whether Poetry's tables say what is needed, or add indexes to what [project] says."""
    own = "poetry" in table.get("tool", {})
    return own and ("project" not in table or "poetry" in table.get("build-system", {}).get("build-backend", ""))


def _compiled(folder: Path, table: Table, setup: SetupArguments) -> str:
    reason = reason_to_build(folder, table, setup)
    return reason and f"{reason}, so its modules are built"


# --- The [project] table ---------------------------------------------------------------------------------


def _described(
    folder: Path, table: Table, extras: Collection[str], groups: Collection[str], reading: Reading
) -> Project:
    project = table["project"]
    where = shown(folder / PROJECT, reading.tree)
    setup = read_setup(folder, shown(folder, reading.tree)) if _by_setuptools(table) else SetupArguments()
    needed, optional = _needs(folder, table, setup)
    dynamic = needed is UNKNOWN or optional is UNKNOWN
    if not dynamic:
        _require_extras(extras, optional, where)
    known = {normalised(extra): lines for extra, lines in ({} if dynamic else optional).items()}
    chosen = [line for extra in extras for line in known[normalised(extra)]] if not dynamic else []
    grouped = [line for group in groups for line in _group(table, group, where)]
    sources = sources_of(folder, table, where, reading, extras=extras, groups=groups)
    if dynamic and sources.elsewhere:
        raise failed(
            f"{where}: only a build would tell what {project.get('name', folder.name)} needs, and "
            f"[tool.uv.sources] takes {sources.elsewhere[0]} from elsewhere; list the dependencies in [project]"
        )
    lines, pinned = sources.place((*([] if dynamic else needed), *chosen, *grouped))
    return Project(
        folder=folder,
        name=project.get("name", folder.name),
        version=str(project.get("version", setup.known("version") or "0")),
        scripts=dict(project.get("scripts", {})),
        entry_points={**project.get("entry-points", {}), "gui_scripts": project.get("gui-scripts", {})},
        dependencies=lines,
        pinned=pinned,
        dynamic=dynamic,
        import_from=_import_from(folder, table, setup),
        compiled=_compiled(folder, table, setup),
    )


def _by_setuptools(table: Table) -> bool:
    return "setuptools" in str(table.get("build-system", {}).get("build-backend", "setuptools"))


def _needs(folder: Path, table: Table, setup: SetupArguments) -> tuple[Any, Any]:
    """Returns the dependencies and those of extras; UNKNOWN for what only the build backend can tell."""
    project, dynamic = table["project"], table["project"].get("dynamic", [])
    needed, optional = project.get("dependencies", []), project.get("optional-dependencies", {})
    rules = table.get("tool", {}).get("setuptools", {}).get("dynamic", {})
    if "dependencies" in dynamic:
        needed = _told(folder, table, rules.get("dependencies"), setup, "install_requires")
    if "optional-dependencies" in dynamic:
        given = rules.get("optional-dependencies")
        optional = (
            _all_known({extra: _of_files(folder, rule) for extra, rule in given.items()})
            if given
            else _told(folder, table, None, setup, "extras_require")
        )
    return needed, optional


def _told(folder: Path, table: Table, rule: Any, setup: SetupArguments, argument: str) -> Any:
    """`{ file = "requirements.txt" }`, or else what setup.py and setup.cfg write out."""
    if rule:
        return _of_files(folder, rule)
    if _by_setuptools(table) and argument in setup.values and setup.is_known(argument):
        value = setup.values[argument]
        return _all_known(value) if isinstance(value, dict) else _requirement_list(value)
    return UNKNOWN


def _of_files(folder: Path, rule: Any) -> Any:
    names = rule.get("file", []) if isinstance(rule, dict) else []
    return lines_of_files([names] if isinstance(names, str) else names, folder) if names else UNKNOWN


def _all_known(table: dict[str, Any]) -> Any:
    lists = {extra: _requirement_list(lines) for extra, lines in table.items()}
    return UNKNOWN if any(lines is UNKNOWN for lines in lists.values()) else lists


def _requirement_list(value: Any) -> Any:
    """setuptools takes a string for its lines."""
    if isinstance(value, str):
        return [line.strip() for line in value.splitlines() if line.strip()]
    good = isinstance(value, (list, tuple)) and all(isinstance(line, str) for line in value)
    return list(value) if good else UNKNOWN


def _require_extras(extras: Collection[str], optional: Table, where: str) -> None:
    there = {normalised(extra) for extra in optional}
    missing = [extra for extra in extras if normalised(extra) not in there]
    if missing:
        raise failed(f"{where} has no extra {missing[0]!r}; it has {', '.join(optional) or 'none'}")


def _group(table: Table, name: str, where: str, seen: tuple[str, ...] = ()) -> Iterator[str]:
    """https://packaging.python.org/en/latest/specifications/dependency-groups."""
    groups = {normalised(group): lines for group, lines in table.get("dependency-groups", {}).items()}
    groups.setdefault("dev", [])
    if normalised(name) == "dev":
        yield from table.get("tool", {}).get("uv", {}).get("dev-dependencies", [])
    if normalised(name) not in groups or name in seen:
        raise failed(f"{where} has no dependency group {name!r}")
    for line in groups[normalised(name)]:
        if isinstance(line, str):
            yield line
        else:
            yield from _group(table, str(line["include-group"]), where, (*seen, name))


def _import_from(folder: Path, table: Table, setup: SetupArguments) -> Path | None:
    """Returns the folder from which the settings of a build backend import its packages."""
    tool = table.get("tool", {})
    packages = tool.get("setuptools", {}).get("packages", {})
    where = packages.get("find", {}).get("where") if isinstance(packages, dict) else None
    mapping = tool.get("setuptools", {}).get("package-dir") or setup.known("package_dir") or {}
    found = setup.known("packages")
    wheel = tool.get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    hatched = [str(Path(package).parent) for package in wheel.get("packages", [])]
    named = (
        (where[0] if isinstance(where, list) and where else where)
        or (mapping.get("") if isinstance(mapping, dict) else None)
        or (found["find"] if isinstance(found, dict) and found.get("find") not in (None, ".") else None)
        or (hatched[0] if hatched else None)
        or tool.get("pdm", {}).get("build", {}).get("package-dir")
        or _module_root(table)
    )
    return folder / str(named) if named else None


def _module_root(table: Table) -> str | None:
    if not str(table.get("build-system", {}).get("build-backend", "")).startswith("uv_build"):
        return None
    root = table.get("tool", {}).get("uv", {}).get("build-backend", {}).get("module-root", "src")
    return str(root) or "."


# --- setup.py and setup.cfg ------------------------------------------------------------------------------


def _of_setuptools(folder: Path, table: Table, extras: Collection[str], tree: Path) -> Project:
    where = shown(folder, tree)
    setup = read_setup(folder, where)
    optional = _all_known(setup.known("extras_require") or {})
    needed = _requirement_list(setup.known("install_requires") or [])
    known = setup.is_known("install_requires", "extras_require") and UNKNOWN not in (needed, optional)
    if known:
        _require_extras(extras, optional, where)
    options = {normalised(extra): lines for extra, lines in optional.items()} if known else {}
    chosen = [line for extra in extras for line in options.get(normalised(extra), [])]
    points = _entry_points(setup.known("entry_points") or {})
    return Project(
        folder=folder,
        name=str(setup.known("name") or folder.name),
        version=str(setup.known("version") or "0"),
        scripts=points.pop("console_scripts", {}),
        entry_points=points,
        dependencies=(*needed, *chosen) if known else (),
        dynamic=not known,
        import_from=_import_from(folder, table, setup),
        compiled=_compiled(folder, table, setup),
    )


def _entry_points(given: Any) -> dict[str, dict[str, str]]:
    """`{"console_scripts": ["tool = package.module:function"]}`."""
    if not isinstance(given, dict):
        return {}
    return {str(group): dict(_points(lines)) for group, lines in given.items()}


def _points(lines: Any) -> Iterator[tuple[str, str]]:
    for line in lines.splitlines() if isinstance(lines, str) else lines or ():
        name, found, target = str(line).partition("=")
        if found:
            yield name.strip(), target.strip()
