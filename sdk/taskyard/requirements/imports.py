"""Reads what a script and its local modules import, without running them."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Imports:
    """Modules from elsewhere, by their dotted names."""

    needed: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    """Imported only where an ImportError is caught."""


def imports_of(script: Path, root: Path) -> Imports:
    """Follows the imports of `script` through the modules of the project; what is not local is returned."""
    reader = _Reader(places=tuple(dict.fromkeys((script.parent, root, root / "src"))))
    reader.read(script)
    return Imports(needed=frozenset(reader.needed), optional=frozenset(reader.optional - reader.needed))


def module_file(module: str, root: Path, start: Path) -> Path | None:
    """Returns the file that `python -m module` would run, if it is the project's."""
    for place in (start, root, root / "src"):
        stem = place.joinpath(*module.split("."))
        for file in (stem.with_suffix(".py"), stem / "__main__.py", stem / "__init__.py"):
            if file.is_file():
                return file
    return None


@dataclass(frozen=True, kw_only=True)
class _Statement:
    """One import: `import a.b` names one module, `from a import b` perhaps two."""

    modules: tuple[str, ...]
    level: int = 0
    optional: bool = False


@dataclass(kw_only=True)
class _Reader:
    places: tuple[Path, ...]
    needed: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)
    seen: set[Path] = field(default_factory=set)

    def read(self, file: Path) -> None:
        if file in self.seen:
            return
        self.seen.add(file)
        tree = _parse(file)
        if tree is not None:
            for statement in _imported(tree, optional=False):
                self._take(statement, file)

    def _take(self, statement: _Statement, file: Path) -> None:
        places = (file.parents[statement.level - 1],) if statement.level else self.places
        local = [found for name in statement.modules for place in places for found in _local_files(name, place)]
        for found in local:
            self.read(found)
        if not local and not statement.level:
            (self.optional if statement.optional else self.needed).add(statement.modules[-1])


def _parse(file: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's own strings, not of ours
            return ast.parse(file.read_bytes(), filename=str(file))
    except (OSError, SyntaxError, ValueError):
        return None  # the run will say it better


def _imported(node: ast.AST, *, optional: bool) -> Iterator[_Statement]:
    """Yields every import that can happen when the program runs."""
    if isinstance(node, ast.Import):
        yield from (_Statement(modules=(alias.name,), optional=optional) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (_from(node, alias.name, optional) for alias in node.names)
    elif isinstance(node, ast.If) and _is_type_checking(node.test):
        yield from _all_imported(node.orelse, optional=optional)
    elif isinstance(node, ast.Try):
        forgiving = optional or any(_catches_import_error(handler) for handler in node.handlers)
        yield from _all_imported([*node.body, *node.handlers], optional=forgiving)
        yield from _all_imported([*node.orelse, *node.finalbody], optional=optional)
    else:
        yield from _all_imported(ast.iter_child_nodes(node), optional=optional)


def _all_imported(nodes: Iterable[ast.AST], *, optional: bool) -> Iterator[_Statement]:
    for node in nodes:
        yield from _imported(node, optional=optional)


def _from(node: ast.ImportFrom, name: str, optional: bool) -> _Statement:
    base = node.module or ""
    longer = f"{base}.{name}" if base else name
    return _Statement(modules=(base, longer), level=node.level, optional=optional)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {name.id for name in ast.walk(handler.type) if isinstance(name, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _local_files(module: str, place: Path) -> list[Path]:
    """Returns the files below `place` that importing `module` runs: packages on the way, and the module itself.

    A folder without Python files in the right places is none of the project's packages, whatever its name.
    """
    found: list[Path] = []
    folder = place
    for part in module.split(".") if module else []:
        if (folder / f"{part}.py").is_file():
            return [*found, folder / f"{part}.py"]
        folder = folder / part
        if not folder.is_dir():
            return found
        if (folder / "__init__.py").is_file():
            found.append(folder / "__init__.py")
    return found
