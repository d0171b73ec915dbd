"""Reads what uv's tables in a pyproject.toml say of a workspace, and which of their settings are not followed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard.requirements.files import folders_up, read_toml

Table = Mapping[str, Any]
PROJECT = "pyproject.toml"

_APART = "packages are built apart from each other; name what their builds need in extra-build-dependencies"
NOT_FOLLOWED = {"no-build-isolation": _APART, "no-build-isolation-package": _APART}
"""Settings of [tool.uv] that would decide what is installed, and what to do instead."""


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
    left_out = {path for pattern in rules.get("exclude", []) for path in root.glob(str(pattern))}
    for pattern in rules.get("members", []):
        for path in sorted(root.glob(str(pattern))):
            if path not in left_out and (path / PROJECT).is_file():
                project = read(path / PROJECT).get("project", {})
                yield normalised(str(project.get("name", path.name))), path


def normalised(name: str) -> str:
    """Returns a package's name as packages compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def setting_not_followed(table: Table) -> tuple[str, str] | None:
    """Returns the first setting of [tool.uv] that Taskyard cannot follow, and what to do instead."""
    found = (name for name in NOT_FOLLOWED if _uv(table).get(name) not in (None, False, []))
    return next(((name, NOT_FOLLOWED[name]) for name in found), None)


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


def _uv(table: Table) -> Table:
    uv: Table = table.get("tool", {}).get("uv", {})
    return uv
