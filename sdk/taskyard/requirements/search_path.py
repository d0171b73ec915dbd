"""Reads the folders that a script adds to `sys.path`, without running it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_KEPT = (
    "abspath",
    "realpath",
    "normpath",
    "expanduser",
    "resolve",
    "absolute",
    "as_posix",
    "str",
    "fspath",
    "PurePath",
)
_JOINING = ("join", "joinpath", "Path", "PosixPath", "PurePath")
_ADDING = {"append": 0, "extend": 0, "insert": 1}


@dataclass(frozen=True, kw_only=True)
class Additions:
    """The folders that one file adds to `sys.path`."""

    folders: tuple[Path, ...] = ()
    unread: tuple[int, ...] = ()
    """Lines that add what only a run would tell."""


def additions(tree: ast.Module, file: Path, working_folder: Path) -> Additions:
    """Return the folders that a parsed file adds to `sys.path`, and the lines whose folders stay unknown."""
    reader = _Expressions(file=file, working_folder=working_folder, names=_assigned(tree))
    folders: list[Path] = []
    unread: list[int] = []
    for line, expression in _added(tree):
        found = reader.path(expression)
        if found is None:
            unread.append(line)
        else:
            folders.append(Path(os.path.normpath(working_folder / found)))
    return Additions(folders=tuple(dict.fromkeys(folders)), unread=tuple(unread))


def _added(tree: ast.Module) -> Iterator[tuple[int, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from ((node.lineno, item) for item in _added_by_call(node))
        elif isinstance(node, (ast.AugAssign, ast.Assign)) and _changes_search_path(node):
            yield from ((node.lineno, item) for item in _items(node.value))


def _changes_search_path(node: ast.AugAssign | ast.Assign) -> bool:
    targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
    return any(map(_is_search_path, targets))


def _added_by_call(call: ast.Call) -> Iterator[ast.expr]:
    name = _last_name(call.func)
    if name == "addsitedir" and call.args:
        yield call.args[0]
    if name not in _ADDING or not isinstance(call.func, ast.Attribute) or not _is_search_path(call.func.value):
        return
    argument = call.args[_ADDING[name]] if len(call.args) > _ADDING[name] else None
    if argument is not None:
        yield from _items(argument) if name == "extend" else (argument,)


def _items(value: ast.expr) -> Iterator[ast.expr]:
    """Yield the expressions in a list, or in lists that are added to `sys.path`."""
    if isinstance(value, (ast.List, ast.Tuple)):
        yield from value.elts
    elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        yield from _items(value.left)
        yield from _items(value.right)
    elif not _is_search_path(value):
        yield value


def _is_search_path(node: ast.AST) -> bool:
    if isinstance(node, (ast.Subscript, ast.Starred)):
        return _is_search_path(node.value)
    return isinstance(node, ast.Attribute) and node.attr == "path" and getattr(node.value, "id", "") == "sys"


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _assigned(tree: ast.Module) -> dict[str, ast.expr]:
    """Return the names that are given a value once."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


@dataclass(kw_only=True)
class _Expressions:
    """Evaluates what names a path: literals, `__file__`, `os.path` and `pathlib`."""

    file: Path
    working_folder: Path
    names: dict[str, ast.expr]
    _under_way: set[str] = field(default_factory=set)

    def path(self, node: ast.expr) -> str | None:
        """Return the path that an expression gives; None where only a run would tell."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, ast.BinOp):
            return self._combined(node)
        if isinstance(node, ast.Subscript):
            return self._parents(node)
        return self._formatted(node) if isinstance(node, ast.JoinedStr) else None

    def _named(self, name: str) -> str | None:
        if name == "__file__":
            return str(self.file)
        if name not in self.names or name in self._under_way:
            return None
        self._under_way.add(name)
        try:
            return self.path(self.names[name])
        finally:
            self._under_way.discard(name)

    def _attribute(self, node: ast.Attribute) -> str | None:
        if node.attr in ("pardir", "curdir"):
            return ".." if node.attr == "pardir" else "."
        inner = self.path(node.value) if node.attr == "parent" else None
        return os.path.dirname(inner) if inner is not None else None

    def _called(self, node: ast.Call) -> str | None:
        name = _last_name(node.func)
        if name in ("getcwd", "cwd"):
            return str(self.working_folder)
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        inner = [self.path(argument) for argument in node.args]
        if owner is not None and (own := self.path(owner)) is not None:
            inner.insert(0, own)  # a method of a path, not a function of a module
        parts = [part for part in inner if part is not None]
        if not parts or len(parts) != len(inner):
            return None
        if name == "dirname":
            return os.path.dirname(parts[0])
        if name in _KEPT:
            return os.path.normpath(os.path.join(self.working_folder, parts[0]))
        return os.path.join(*parts) if name in _JOINING else None

    def _combined(self, node: ast.BinOp) -> str | None:
        left, right = self.path(node.left), self.path(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div):
            return os.path.join(left, right)
        return left + right if isinstance(node.op, ast.Add) else None

    def _parents(self, node: ast.Subscript) -> str | None:
        """`path.parents[2]`."""
        if not (isinstance(node.value, ast.Attribute) and node.value.attr == "parents"):
            return None
        inner = self.path(node.value.value)
        level = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if inner is None or not isinstance(level, int) or not 0 <= level < len(Path(inner).parents):
            return None
        return str(Path(inner).parents[level])

    def _formatted(self, node: ast.JoinedStr) -> str | None:
        parts = [self.path(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values]
        return "".join(part for part in parts if part is not None) if None not in parts else None
