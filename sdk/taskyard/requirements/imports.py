"""Reads what a script and its local modules import, without running them."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskyard.requirements.search_path import additions

_MACHINE = frozenset({"os.name", "platform.machine", "platform.system", "sys.platform", "sys.version_info"})


@dataclass(frozen=True, kw_only=True)
class Imports:
    """What a script and the modules of its project import."""

    needed: Mapping[str, str] = field(default_factory=dict)
    """Modules that lie in none of the places: dotted name → the line that imports it first, `train.py:3`."""
    optional: Mapping[str, str] = field(default_factory=dict)
    """Those that are imported only where an ImportError is caught, or on some machines."""
    found: Mapping[str, Path] = field(default_factory=dict)
    """Top-level name of each module that was found → the place that has it."""
    lines: Mapping[str, str] = field(default_factory=dict)
    """Top-level name → the line that imports it first."""
    added: tuple[Path, ...] = ()
    """Folders that the code itself puts on `sys.path`."""
    unread: tuple[str, ...] = ()
    """Lines that put on `sys.path` what only a run would tell."""


def imports_of(script: Path, root: Path, places: Sequence[Path], *, working_folder: Path) -> Imports:
    """Follow the imports of `script` through the modules in `places`, the first of which wins.

    The folders that the code adds to `sys.path` count as places. `working_folder` is where it is started.
    """
    added: tuple[Path, ...] = ()
    while True:
        reader = _Reader(places=tuple(dict.fromkeys((*places, *added))), root=root, working_folder=working_folder)
        reader.read(script)
        new = tuple(dict.fromkeys(folder for folder in reader.added if folder.is_dir()))
        if set(new) <= set(added):
            return reader.result()
        added = tuple(dict.fromkeys((*added, *new)))


def module_file(module: str, root: Path, start: Path) -> Path | None:
    """Return the file that `python -m module` would run, if it is the project's."""
    for place in (start, root, root / "src"):
        stem = place.joinpath(*module.split("."))
        for file in (stem.with_suffix(".py"), stem / "__main__.py", stem / "__init__.py"):
            if file.is_file():
                return file
    return None


def holds_module(place: Path, name: str) -> bool:
    """Whether importing this top-level name would find something of the project in `place`."""
    folder = place / name
    return (place / f"{name}.py").is_file() or (folder.is_dir() and next(folder.glob("*.py"), None) is not None)


@dataclass(frozen=True, kw_only=True)
class _Statement:
    """One import: `import a.b` names one module, `from a import b` perhaps two."""

    modules: tuple[str, ...]
    line: int
    level: int = 0
    optional: bool = False


@dataclass(kw_only=True)
class _Reader:
    places: tuple[Path, ...]
    root: Path
    working_folder: Path
    needed: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)
    found: dict[str, Path] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    added: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)

    def result(self) -> Imports:
        return Imports(
            needed=self.needed,
            optional={name: line for name, line in self.optional.items() if name not in self.needed},
            found=self.found,
            lines=self.lines,
            added=tuple(dict.fromkeys(folder for folder in self.added if folder.is_dir())),
            unread=tuple(self.unread),
        )

    def read(self, file: Path) -> None:
        if file in self.seen:
            return
        self.seen.add(file)
        tree = _parse(file)
        if tree is None:
            return
        own = additions(tree, file.absolute(), self.working_folder)
        self.added += own.folders
        self.unread += [f"{self._shown(file)}:{line}" for line in own.unread]
        for statement in _imported(tree, optional=False):
            self._take(statement, file)

    def _take(self, statement: _Statement, file: Path) -> None:
        local = self._beside(statement, file) if statement.level else self._in_places(statement, file)
        for found in local:
            self.read(found)
        if not local and not statement.level:
            kind = self.optional if statement.optional else self.needed
            kind.setdefault(statement.modules[-1], f"{self._shown(file)}:{statement.line}")

    def _beside(self, statement: _Statement, file: Path) -> list[Path]:
        place = file.parents[statement.level - 1]
        return [found for name in statement.modules for found in _local_files(name, place)]

    def _in_places(self, statement: _Statement, file: Path) -> list[Path]:
        """Return the files of the first place that has the module, as the interpreter would."""
        top = statement.modules[0].partition(".")[0]
        for place in self.places:
            local = [found for name in statement.modules for found in _local_files(name, place)]
            if local:
                self.found.setdefault(top, place)
                self.lines.setdefault(top, f"{self._shown(file)}:{statement.line}")
                return local
        return []

    def _shown(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)


def _parse(file: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's own strings, not of ours
            return ast.parse(file.read_bytes(), filename=str(file))
    except (OSError, SyntaxError, ValueError):
        return None  # the run will say it better


def _imported(node: ast.AST, *, optional: bool) -> Iterator[_Statement]:
    """Yield every import that can happen when the program runs."""
    if isinstance(node, ast.Import):
        yield from (_Statement(modules=(alias.name,), line=node.lineno, optional=optional) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (_from(node, alias.name, optional) for alias in node.names)
    elif isinstance(node, ast.If) and _is_type_checking(node.test):
        yield from _all_imported(node.orelse, optional=optional)
    elif isinstance(node, ast.If) and _asks_the_machine(node.test):
        yield from _all_imported([*node.body, *node.orelse], optional=True)
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
    return _Statement(modules=(base, longer), line=node.lineno, level=node.level, optional=optional)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {name.id for name in ast.walk(handler.type) if isinstance(name, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})


def _asks_the_machine(test: ast.expr) -> bool:
    """Whether a condition is of the system or of Python's version: one branch alone is for this machine."""
    read = (node for node in ast.walk(test) if isinstance(node, ast.Attribute))
    return any(f"{getattr(node.value, 'id', '')}.{node.attr}" in _MACHINE for node in read)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _local_files(module: str, place: Path) -> list[Path]:
    """Return the files below `place` that importing `module` runs: packages on the way, and the module itself.

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
