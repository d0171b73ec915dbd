"""Reads poetry.lock: exactly what it holds for this interpreter, with the hash of every file.

No library does it without Poetry itself. What is followed: the main group's dependencies through the lock, with
extras and markers; formats 1.0 to 2.x, which differ only in where they keep the hashes.
https://python-poetry.org/docs/basic-usage/#installing-with-poetrylock
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import Marker
from packaging.utils import canonicalize_name

from taskyard_agent.environments.addresses import check_url
from taskyard_agent.environments.indexes import IndexPolicy, refusal
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.local_project import Project
from taskyard_agent.environments.poetry_project import check_poetrys_python, parse_poetry
from taskyard_agent.environments.projects import Reading, read_project
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.requirements import Requirements
from taskyard_agent.environments.task_files import inside, read_toml, shown
from taskyard_agent.errors import RunFailed

if TYPE_CHECKING:
    from poetry.core.packages.dependency import Dependency

LOCK = "poetry.lock"
_LEFT_OUT = ("setuptools", "pip", "wheel", "distribute")
"""What old versions of Poetry never locked, although packages name it."""
_LEGACY_KEYS = ("dependencies", "source", "extras", "dev-dependencies")
_PROJECT_KEYS = ("requires-python", "dependencies", "optional-dependencies")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A poetry.lock, read for one interpreter."""

    requirements: Requirements
    format: str
    """`2.1`."""
    fresh: bool
    """Whether it was made from the pyproject.toml beside it."""


def read_lock(file: Path, interpreter: Interpreter, *, tree: Path, policy: IndexPolicy) -> Lock:
    """Reads a lock. Raises RunFailed when it cannot be followed, or lacks what its pyproject.toml names."""
    where = shown(file, tree)
    table = read_toml(file, where)
    project = file.parent / "pyproject.toml"
    if not project.is_file():
        raise failed(f"there is no pyproject.toml beside {where}, which says what of it is needed")
    described = parse_poetry(file.parent, shown(project, tree))
    check_poetrys_python(file.parent, shown(project, tree), interpreter.version)
    entries = _entries(table)
    walk = _Walk(entries=entries, environment=interpreter.markers, where=where)
    chosen = walk.from_roots([need for need in described.package.requires if not need.is_optional()])
    reading = Reading(tree=tree, markers=interpreter.markers)
    own = [read_project(file.parent, reading=reading)] if described.is_package_mode else []
    return Lock(
        requirements=_requirements(chosen, own, file, reading=reading, policy=policy),
        format=str(table.get("metadata", {}).get("lock-version", "1.0")),
        fresh=table.get("metadata", {}).get("content-hash") in _content_hashes(described.pyproject.data),
    )


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One package of the lock."""

    name: str
    version: str
    python: str
    markers: Any
    dependencies: Mapping[str, Any]
    extras: Mapping[str, Sequence[str]]
    source: Mapping[str, Any]
    hashes: tuple[str, ...]
    files: tuple[str, ...]

    def applies(self, environment: Mapping[str, str]) -> bool:
        """Whether this one of several versions is meant for the interpreter; formats before 2.1 do not say."""
        marker = self.markers.get("main") if isinstance(self.markers, dict) else self.markers
        here = not marker or Marker(marker).evaluate(dict(environment))
        return here and _constraint(self.python).allows(_version(environment["python_full_version"]))


def _entries(table: Mapping[str, Any]) -> list[_Entry]:
    beside = table.get("metadata", {}).get("files", {})
    return [_entry(package, package.get("files", beside.get(package["name"], []))) for package in table["package"]]


def _entry(package: Mapping[str, Any], files: Sequence[Mapping[str, str]]) -> _Entry:
    return _Entry(
        name=canonicalize_name(package["name"]),
        version=str(package["version"]),
        python=str(package.get("python-versions", "*")),
        markers=package.get("markers"),
        dependencies=package.get("dependencies", {}),
        extras={canonicalize_name(name): lines for name, lines in package.get("extras", {}).items()},
        source=package.get("source", {}),
        hashes=tuple(file["hash"] for file in files),
        files=tuple(file["file"] for file in files),
    )


@dataclass(kw_only=True)
class _Walk:
    """Follows dependencies through the lock, from the project's own."""

    entries: Sequence[_Entry]
    environment: Mapping[str, str]
    where: str
    taken: dict[str, _Entry] = field(default_factory=dict)
    followed: set[tuple[str, frozenset[str]]] = field(default_factory=set)

    def from_roots(self, roots: Iterable[Dependency]) -> list[_Entry]:
        waiting = list(roots)
        while waiting:
            need = waiting.pop()
            if need.marker.validate(dict(self.environment)):
                waiting += self._follow(need)
        return [self.taken[name] for name in sorted(self.taken)]

    def _follow(self, need: Dependency) -> Iterator[Dependency]:
        entry = self._entry_for(need)
        step = (need.name, frozenset(map(str, need.extras)))
        if entry is None or step in self.followed:
            return
        self.taken[need.name] = entry
        self.followed.add(step)
        yield from _needs_of(entry, step[1])

    def _entry_for(self, need: Dependency) -> _Entry | None:
        fitting = [
            entry
            for entry in self.entries
            if entry.name == need.name and _fits(need, entry) and entry.applies(self.environment)
        ]
        if fitting:
            return max(fitting, key=lambda entry: _version(entry.version))
        if need.name in _LEFT_OUT:
            return None
        raise failed(
            f"{self.where} holds no {need.pretty_name} ({need.pretty_constraint}) for Python "
            f"{self.environment['python_full_version']}; run `poetry lock` and commit the file"
        )


def _fits(need: Dependency, entry: _Entry) -> bool:
    """A git, URL or path dependency has no version of its own to compare."""
    return need.is_direct_origin() or need.constraint.allows(_version(entry.version))


def _needs_of(entry: _Entry, extras: frozenset[str]) -> Iterator[Dependency]:
    from poetry.core.factory import Factory

    optional = {_name_of(line) for extra in extras for line in entry.extras.get(extra, [])}
    for name, constraints in entry.dependencies.items():
        for constraint in constraints if isinstance(constraints, list) else [constraints]:
            if not _is_optional(constraint) or canonicalize_name(name) in optional:
                yield Factory.create_dependency(name, _without_place(constraint))


def _is_optional(constraint: object) -> bool:
    return isinstance(constraint, dict) and bool(constraint.get("optional"))


def _without_place(constraint: Any) -> Any:
    """Where a locked package comes from says its own entry."""
    if not isinstance(constraint, dict):
        return constraint
    kept = {name: constraint[name] for name in ("version", "markers", "extras", "python") if name in constraint}
    return {"version": "*", **kept}


def _name_of(line: str) -> str:
    return canonicalize_name(re.split(r"[\s\[(<>=!~;]", line.strip(), maxsplit=1)[0])


def _requirements(
    chosen: Sequence[_Entry], own: Sequence[Project], file: Path, *, reading: Reading, policy: IndexPolicy
) -> Requirements:
    writer = _Writer(file=file, reading=reading, policy=policy, projects=list(own))
    for entry in chosen:
        writer.take(entry)
    return Requirements(
        lines=tuple(writer.lines),
        origins=(shown(file, reading.tree),) * len(writer.lines),
        extra_indexes=tuple(dict.fromkeys(writer.indexes)),
        projects=tuple(writer.projects),
        local_files=tuple(writer.local_files),
        exact=True,
    )


@dataclass(kw_only=True)
class _Writer:
    """Turns entries of the lock into requirement lines."""

    file: Path
    reading: Reading
    policy: IndexPolicy
    projects: list[Project]
    lines: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    local_files: list[Path] = field(default_factory=list)

    def take(self, entry: _Entry) -> None:
        kind, place = entry.source.get("type", ""), str(entry.source.get("url", ""))
        if kind == "directory":
            folder = inside(self.reading.tree, self.file.parent / place, LOCK)
            self.projects.append(read_project(folder, reading=self.reading))
        elif kind == "file":
            path = inside(self.reading.tree, self.file.parent / place, LOCK)
            self.local_files.append(path)
            self.lines.append(_hashed(str(path), entry))
        elif kind == "git":
            self._take_git(entry, place)
        elif kind == "url":
            check_url(place, LOCK)
            self.lines.append(_hashed(f"{entry.name} @ {place}", entry))
        else:
            self._take_release(entry, place)

    def _take_git(self, entry: _Entry, place: str) -> None:
        address = _git_address(place)
        check_url(address, LOCK)
        folder = entry.source.get("subdirectory")
        part = f"#subdirectory={folder}" if folder else ""
        self.lines.append(f"{entry.name} @ {address}@{entry.source['resolved_reference']}{part}")

    def _take_release(self, entry: _Entry, index: str) -> None:
        if index:
            accepted = self.policy.accept(index)
            if accepted is None:
                raise failed(refusal(LOCK, index))
            self.indexes.append(accepted)
        if not entry.hashes:
            raise _unhashed(entry)
        self.lines.append(_hashed(f"{entry.name}=={entry.version}", entry))


def _hashed(line: str, entry: _Entry) -> str:
    return " ".join([line, *(f"--hash={digest}" for digest in entry.hashes)])


def _unhashed(entry: _Entry) -> RunFailed:
    return failed(f"{LOCK} has no hash of {entry.name} {entry.version}; run `poetry lock` and commit the file")


def _git_address(place: str) -> str:
    """`git@host:path` → `git+ssh://git@host/path`."""
    if "://" in place:
        return f"git+{place}"
    host, _, path = place.partition(":")
    return f"git+ssh://{host}/{path}"


def _constraint(text: str) -> Any:
    from poetry.core.constraints.version import parse_constraint

    return parse_constraint(text)


def _version(text: str) -> Any:
    from poetry.core.constraints.version import Version

    return Version.parse(text)


def _content_hashes(pyproject: Mapping[str, Any]) -> tuple[str, ...]:
    """What Poetry writes as `content-hash`: since 2.2 over the dependency groups, too."""
    return _content_hash(pyproject, groups={}), _content_hash(pyproject, pyproject.get("dependency-groups", {}))


def _content_hash(pyproject: Mapping[str, Any], groups: Mapping[str, Any]) -> str:
    """As `poetry.packages.locker.Locker._get_content_hash` of Poetry 2.5; 1.x is the case without `project`."""
    project = pyproject.get("project", {})
    own = {key: project[key] for key in _PROJECT_KEYS if project.get(key) is not None}
    tool = pyproject.get("tool", {}).get("poetry", {})
    legacy = not (own or groups)
    keys = [key for key in (*_LEGACY_KEYS, "group") if tool.get(key) is not None or (legacy and key != "group")]
    poetry = {key: tool.get(key) for key in keys}
    content: dict[str, Any] = {**({"project": own} if own else {})}
    content |= {"dependency-groups": groups} if groups else {}
    content = {**content, "tool": {"poetry": poetry}} if content else poetry
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
