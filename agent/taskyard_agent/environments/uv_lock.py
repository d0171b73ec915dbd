"""Reads uv.lock: vets every place that it names, and finds the projects of the tree that take part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from taskyard.requirements.uv_tables import PROJECT, normalised

from taskyard_agent.environments.addresses import check_url
from taskyard_agent.environments.indexes import IndexPolicy, refusal
from taskyard_agent.environments.projects import Reading, read_project
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.requirements import Repository, Requirements
from taskyard_agent.environments.task_files import inside, read_toml, shown
from taskyard_agent.environments.uv_settings import UvSettings, read_uv_settings

LOCK = "uv.lock"
Table = Mapping[str, Any]
_IN_TREE = ("editable", "directory", "virtual")
_OF_BUILDS = (
    "no-build-isolation",
    "no-build-isolation-package",
    "extra-build-dependencies",
    "extra-build-variables",
    "config-settings",
    "config-settings-package",
)
_OF_FILES = ("no-binary", "no-binary-package", "no-build", "no-build-package", "dependency-metadata")


def read_lock(file: Path, member: Path | None, reading: Reading, policy: IndexPolicy) -> Requirements:
    """Reads a lock, for the folder of one member of its workspace or for its own folder (None).

    Raises RunFailed naming the file for what cannot be followed.
    """
    tree, where = reading.tree, shown(file, reading.tree)
    packages: list[Table] = read_toml(file, where).get("package", [])
    repositories = _vet(packages, file, where, tree, policy)
    roots = _roots(packages, file, member)
    if member is not None and not roots:
        raise failed(f"{where} has no member {shown(member, tree)}; run `uv lock` and commit the file")
    reached = _reached(
        packages, roots, {root["name"]: default_groups(_project(file, root), locked=True) for root in roots}
    )
    folders = [inside(tree, file.parent / _place(package), where) for package in reached if _is_used(package)]
    return Requirements(
        projects=tuple(read_project(folder, reading=reading) for folder in dict.fromkeys(folders)),
        repositories=repositories,
        settings=_settings(file, tree, policy),
        lock_member=str(roots[0]["name"]) if member is not None else "",
        lock_local=tuple(str(package["name"]) for package in packages if _kind(package) in _IN_TREE),
        lock_folders=tuple(file.parent / _place(root) for root in roots),
    )


def default_groups(table: Table, *, locked: bool = False) -> tuple[str, ...]:
    """Returns the dependency groups that uv installs unasked: `default-groups`, else `dev`.

    Without a lock and a [tool.uv] nothing says that the project is uv's.
    """
    uv, groups = table.get("tool", {}).get("uv"), table.get("dependency-groups", {})
    if uv is None:
        if not locked:
            return ()
        uv = {}
    chosen = uv.get("default-groups", ["dev"] if "dev" in groups or "dev-dependencies" in uv else [])
    return tuple(groups) if chosen == "all" else tuple(map(str, chosen))


def vet_index(address: str, where: str, policy: IndexPolicy) -> None:
    """Raises RunFailed for an index that this machine does not allow."""
    if policy.accept(address) is None:
        raise failed(refusal(where, address))


def git_address(address: str) -> str:
    """Returns the address as requirements write it."""
    return address if address.startswith("git+") else f"git+{address}"


def _settings(file: Path, tree: Path, policy: IndexPolicy) -> UvSettings:
    """What a lock leaves open is how packages are built."""
    project = file.with_name(PROJECT)
    if not project.is_file():
        return UvSettings()
    where = shown(project, tree)
    settings = read_uv_settings(read_toml(project, where), project, where, tree=tree, policy=policy)
    return UvSettings(options={k: v for k, v in settings.options.items() if k in (*_OF_BUILDS, *_OF_FILES)})


def _vet(
    packages: Sequence[Table], file: Path, where: str, tree: Path, policy: IndexPolicy
) -> tuple[Repository, ...]:
    repositories = []
    for package in packages:
        for kind, place in package.get("source", {}).items():
            if kind == "registry" and "://" in place:
                vet_index(place, where, policy)
            elif kind == "git":
                check_url(git_address(place), where)
                address, _, commit = place.partition("#")
                repositories.append(Repository(url=address.partition("?")[0], commit=commit, origin=where))
            elif kind == "url":
                check_url(place, where)
            elif kind in (*_IN_TREE, "path", "registry"):
                inside(tree, file.parent / place, where)
    return tuple(repositories)


def _roots(packages: Sequence[Table], file: Path, member: Path | None) -> list[Table]:
    """uv installs the project beside the lock, or all members where the workspace is nothing but that."""
    wanted = (member or file.parent).resolve()
    local = [package for package in packages if _kind(package) in ("editable", "virtual")]
    found = [package for package in local if (file.parent / _place(package)).resolve() == wanted]
    return found or ([] if member is not None else local)


def _reached(
    packages: Sequence[Table], roots: Iterable[Table], groups: Mapping[str, Sequence[str]]
) -> Iterator[Table]:
    """Yields the packages of the lock that the roots lead to, whatever their markers say."""
    by_name: dict[str, list[Table]] = {}
    for package in packages:
        by_name.setdefault(str(package["name"]), []).append(package)
    waiting, seen = [(root, frozenset[str]()) for root in roots], set()
    while waiting:
        package, extras = waiting.pop()
        if (step := (str(package["name"]), str(package.get("version")), extras)) in seen:
            continue
        seen.add(step)
        yield package
        needs = [*package.get("dependencies", [])]
        needs += [need for extra in extras for need in package.get("optional-dependencies", {}).get(extra, [])]
        grouped = {normalised(name): lines for name, lines in package.get("dev-dependencies", {}).items()}
        needs += [
            need for group in groups.get(str(package["name"]), ()) for need in grouped.get(normalised(group), [])
        ]
        waiting += [
            (found, frozenset(need.get("extra", []))) for need in needs for found in by_name.get(need["name"], [])
        ]


def _project(file: Path, package: Table) -> Table:
    project = file.parent / _place(package) / PROJECT
    return read_toml(project, project.name) if project.is_file() else {}


def _kind(package: Table) -> str:
    return next(iter(package.get("source", {})), "")


def _place(package: Table) -> str:
    return str(next(iter(package["source"].values())))


def _is_used(package: Table) -> bool:
    """A virtual one is no package: nothing is imported from it."""
    return _kind(package) in ("editable", "directory")
