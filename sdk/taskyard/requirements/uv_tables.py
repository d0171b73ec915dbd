"""Reads what uv's tables say of a workspace, and finds in them what no agent follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard.errors import UsageError
from taskyard.requirements.files import folders_up, read_toml

Table = Mapping[str, Any]
PROJECT = "pyproject.toml"

FOLLOWED = (
    *("constraint-dependencies", "override-dependencies", "exclude-dependencies", "build-constraint-dependencies"),
    *(
        "exclude-newer",
        "exclude-newer-package",
        "resolution",
        "prerelease",
        "fork-strategy",
        "dependency-metadata",
    ),
    *("extra-build-dependencies", "extra-build-variables", "config-settings", "config-settings-package"),
    *("no-binary", "no-binary-package", "no-build", "no-build-package"),
)
"""Settings that are handed to uv as they are. What else [tool.uv] may hold is read apart, or decides nothing."""
OF_PIP = ("constraint-dependencies",)
"""Those of FOLLOWED that pip can follow, too."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A uv workspace: https://docs.astral.sh/uv/concepts/projects/workspaces."""

    root: Path
    table: Table
    """Of its root's pyproject.toml."""
    members: Mapping[str, Path]
    """Folders by the normalised names of their projects, the root's own among them."""

    @property
    def lock(self) -> Path:
        """Where its lock is, if it has one."""
        return self.root / "uv.lock"


def workspace_of(folder: Path, top: Path, read: Callable[[Path], Table] = read_toml) -> Workspace | None:
    """Returns the workspace that a project's folder belongs to; nothing above `top` is looked at."""
    for parent in folders_up(folder, top):
        file = parent / PROJECT
        table = read(file) if file.is_file() else {}
        rules = _uv(table).get("workspace")
        if rules is not None:
            members = dict(_members(parent, table, rules, read))
            return (
                Workspace(root=parent, table=table, members=members) if _is_one(folder, members, parent) else None
            )
    return None


def _is_one(folder: Path, members: Mapping[str, Path], root: Path) -> bool:
    return folder.resolve() in {root.resolve(), *(member.resolve() for member in members.values())}


def _members(root: Path, table: Table, rules: Table, read: Callable[[Path], Table]) -> Iterator[tuple[str, Path]]:
    if "project" in table:
        yield normalised(str(table["project"].get("name", root.name))), root
    left_out = {path for pattern in rules.get("exclude", []) for path in _below(root, str(pattern))}
    for pattern in rules.get("members", []):
        for path in _below(root, str(pattern)):
            if path not in left_out and (path / PROJECT).is_file():
                project = read(path / PROJECT).get("project", {})
                yield normalised(str(project.get("name", path.name))), path


def _below(root: Path, pattern: str) -> Iterator[Path]:
    """Yields what matches in the workspace itself: no pattern and no link leads out of it."""
    if not Path(pattern).is_absolute() and ".." not in Path(pattern).parts:
        top = root.resolve()
        yield from (path for path in sorted(root.glob(pattern)) if path.resolve().is_relative_to(top))


def normalised(name: str) -> str:
    """Returns a package's name as packages compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def line_of(text: str, setting: str, table: str = "tool.uv") -> int:
    """Returns the line on which a table's setting stands; 1 where it is written in another way."""
    here = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*#?\s*\[+\s*([^\]]+?)\s*\]+", line)
        here = header[1] if header else here
        named = re.match(rf"\s*(?:#\s*)?[\"']?{re.escape(setting)}[\"']?\s*=", line)
        if (here == table and named) or here.startswith(f"{table}.{setting}"):
            return number
    return 1


# --- Before a task is submitted --------------------------------------------------------------------------


def check_uv_tables(root: Path, file: Path, table: Table, *, pip: bool = False) -> None:
    """Raises UsageError naming file and line for what the agent would refuse.

    `table` is what `file` says: a pyproject.toml, or the block of a script; `root` is all that is shipped.
    """
    where, text = file.resolve().relative_to(root.resolve()).as_posix(), file.read_text(encoding="utf-8-sig")
    only_uv = next((name for name in FOLLOWED if _uv(table).get(name) and name not in OF_PIP), None)
    if pip and only_uv:
        line = line_of(text, only_uv)
        raise UsageError(f"{where}:{line}: pip does not follow {only_uv} of [tool.uv]; use `--manager uv`")
    for name, problem in _wrong_sources(root, file, table, pip=pip):
        raise UsageError(f"{where}:{line_of(text, name, 'tool.uv.sources')}: {problem}")


def _wrong_sources(root: Path, file: Path, table: Table, *, pip: bool) -> Iterator[tuple[str, str]]:
    workspace = workspace_of(file.parent, root) if file.name == PROJECT else None
    described = [*_uv(table).get("index", []), *(_uv(workspace.table).get("index", []) if workspace else [])]
    indexes = {index.get("name") for index in described}
    for name, given in _uv(table).get("sources", {}).items():
        for source in given if isinstance(given, list) else [given]:
            path = source.get("path")
            if path is not None and not (file.parent / path).resolve().is_relative_to(root.resolve()):
                yield (
                    name,
                    f"{name} comes from {path}, which lies outside {root}: the agent gets only what is in it",
                )
            elif path is not None and not source.get("marker") and not (file.parent / path).exists():
                yield name, f"{name} comes from {path}, which is not there"
            elif source.get("workspace") and (workspace is None or normalised(name) not in workspace.members):
                yield name, f"{name} comes from the workspace, but no workspace in {root} has this member"
            elif "index" in source and source["index"] not in indexes:
                yield (
                    name,
                    f"{name} comes from the index {source['index']!r}, which no [[tool.uv.index]] describes",
                )
            elif pip and "index" in source:
                yield name, f"pip cannot take {name} from one index alone; use `--manager uv`"


def _uv(table: Table) -> Table:
    uv: Table = table.get("tool", {}).get("uv", {})
    return uv
