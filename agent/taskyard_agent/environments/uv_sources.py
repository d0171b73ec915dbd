"""`[tool.uv.sources]` of a project: where dependencies come from, written into their lines for every manager."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from taskyard.requirements.uv_tables import Workspace, normalised, workspace_of

from taskyard_agent.environments.local_project import Pinned
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import inside, read_toml, shown

Table = Mapping[str, Any]
KINDS = ("git", "url", "path", "index", "workspace")


class Reading(Protocol):
    """For whom the sources are read."""

    @property
    def tree(self) -> Path:
        """The task's code."""

    @property
    def markers(self) -> Mapping[str, str]:
        """What markers are compared with."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources that apply to one project's dependencies: https://docs.astral.sh/uv/concepts/projects/dependencies."""

    given: Mapping[str, tuple[Path, Any]]
    """By normalised names: the folder to which paths are relative, and what stands there."""
    workspace: Workspace | None
    folder: Path
    where: str
    markers: Mapping[str, str]
    active: frozenset[str]
    """`extra:NAME` and `group:NAME` for those that are installed."""
    indexes: Mapping[str, str]
    """Addresses by the names that the project and its workspace give them."""

    def place(self, lines: Iterable[str]) -> tuple[tuple[str, ...], tuple[Pinned, ...]]:
        """Returns the lines with the address or path of each, and apart from them what one index alone may give.

        Raises RunFailed for a source that is none.
        """
        placed: list[str] = []
        pinned: list[Pinned] = []
        for line in lines:
            requirement = _parsed(line)
            source = self._source_of(requirement) if requirement else None
            if requirement is None or source is None:
                placed.append(line)
            elif "index" in source[1]:
                pinned.append(self._pinned(line, str(source[1]["index"])))
            elif self._holds(requirement.marker):
                placed.append(self._line(requirement, *source))
        return tuple(placed), tuple(pinned)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names that come from elsewhere than an index."""
        listed = ((name, given if isinstance(given, list) else [given]) for name, (_, given) in self.given.items())
        return tuple(name for name, sources in listed if any("index" not in source for source in sources))

    def _pinned(self, line: str, index: str) -> Pinned:
        if index not in self.indexes:
            raise failed(
                f"{self.where}: [tool.uv.sources] names the index {index!r}, which no [[tool.uv.index]] has"
            )
        return Pinned(line=line, origin=self.where, index=index, url=self.indexes[index])

    def _source_of(self, requirement: Requirement) -> tuple[Path, Table] | None:
        """Returns the one whose marker holds for this interpreter, as uv takes it; None: an index."""
        base, given = self.given.get(normalised(requirement.name), (self.folder, []))
        for source in given if isinstance(given, list) else [given]:
            scope = {f"{kind}:{normalised(str(source[kind]))}" for kind in ("extra", "group") if kind in source}
            if scope <= self.active and self._holds(source.get("marker")):
                return base, source
        return None

    def _holds(self, marker: Marker | str | None) -> bool:
        try:
            return marker is None or Marker(str(marker)).evaluate({**self.markers, "extra": ""})
        except InvalidMarker as error:
            raise failed(f"{self.where}: [tool.uv.sources] has the marker {marker!r}, which is none") from error

    def _line(self, requirement: Requirement, base: Path, source: Table) -> str:
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        if source.get("workspace"):
            return f"{self._relative(self._member(requirement.name))}{extras}"
        if "path" in source:
            return f"{self._relative(base / str(source['path']))}{extras}"
        if "url" in source:
            part = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
            return f"{requirement.name}{extras} @ {source['url']}{part}"
        if "git" in source:
            return f"{requirement.name}{extras} @ {_git(source)}"
        raise failed(f"{self.where}: the source of {requirement.name} names none of {', '.join(KINDS)}")

    def _member(self, name: str) -> Path:
        found = self.workspace.members.get(normalised(name)) if self.workspace else None
        if found is None:
            raise failed(
                f"{self.where}: [tool.uv.sources] takes {name} from the workspace, but no workspace in the task's "
                "code has this member"
            )
        return found

    def _relative(self, path: Path) -> str:
        return f"./{os.path.relpath(path, self.folder)}"


def sources_of(
    folder: Path,
    table: Table,
    where: str,
    reading: Reading,
    *,
    extras: Collection[str] = (),
    groups: Collection[str] = (),
    alone: bool = False,
) -> Sources:
    """Reads the sources of a project, and beneath them those of the workspace that it belongs to.

    `alone`: of a script, which belongs to none.
    """
    workspace = None if alone else workspace_in(folder, reading.tree)
    given: dict[str, tuple[Path, Any]] = {}
    indexes: dict[str, str] = {}
    for base, here in (*([(workspace.root, workspace.table)] if workspace else []), (folder, table)):
        given |= {normalised(name): (base, source) for name, source in _uv(here).get("sources", {}).items()}
        indexes |= {str(index.get("name")): str(index.get("url")) for index in _uv(here).get("index", [])}
    active = {f"extra:{normalised(extra)}" for extra in extras} | {
        f"group:{normalised(group)}" for group in groups
    }
    return Sources(
        given={} if _uv(table).get("no-sources") is True else given,
        workspace=workspace,
        folder=folder,
        where=where,
        markers=reading.markers,
        active=frozenset(active),
        indexes=indexes,
    )


def workspace_in(folder: Path, tree: Path) -> Workspace | None:
    """Returns the uv workspace in the task's tree that a folder belongs to. Raises RunFailed."""
    found = workspace_of(folder, tree, lambda file: read_toml(file, shown(file, tree)))
    for member in found.members.values() if found else ():
        inside(tree, member, shown(found.root / "pyproject.toml", tree) if found else "")
    return found


def _uv(table: Table) -> Table:
    uv: Table = table.get("tool", {}).get("uv", {})
    return uv


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None  # what installs it names it


def _git(source: Table) -> str:
    url = str(source["git"]).removeprefix("git+")
    revision = next((f"@{source[key]}" for key in ("rev", "tag", "branch") if key in source), "")
    folder = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
    return f"git+{url}{revision}{folder}"
