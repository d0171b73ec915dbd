"""Parts what a script imports: the repository's own modules, what is installed, and other code of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from taskyard.requirements.imports import Imports, holds_module, imports_of
from taskyard.requirements.interpreters import UNKNOWN, Installed, inspect

_SKIPPED = ("node_modules", "__pycache__", "site-packages", "dist-packages")
_MOST_FOLDERS = 20_000
_LEADS = ("*.pth", "__editable__*", "*.egg-link", "*.dist-info/direct_url.json")
"""Files of site-packages that may name a folder of the repository."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where a script is started, and what its interpreter is."""

    root: Path
    first: Path
    """What Python puts first on `sys.path`: the script's folder, or with `-m` the current one."""
    working_folder: Path
    python: Path | None = None
    """The project's interpreter."""
    search_path: tuple[Path, ...] = ()
    """PYTHONPATH."""
    module: str = ""
    """What `-m` starts."""
    launcher: str = ""
    """A module that is none of the repository's and starts the script; it is needed like an import."""


@dataclass(frozen=True, kw_only=True)
class ProjectCode:
    """What a script imports, by where it is."""

    imports: Imports
    """Those that are not found are neither the repository's nor the standard library's."""
    installed: Installed = UNKNOWN
    import_from: tuple[Path, ...] = ()
    """Folders of the repository in which the interpreter looks, by what is installed there (`.pth`, `-e`)."""
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    """Top-level module → the folder of this machine that has it, which the agent will not get."""
    unreached: Mapping[str, Path] = field(default_factory=dict)
    """Top-level module → the folder of the repository that has it, in which nothing looks."""

    def line_of(self, module: str) -> str:
        """Return the line that imports a module first."""
        top = module.partition(".")[0]
        known = {**self.imports.optional, **self.imports.needed}
        lines = [line for name, line in known.items() if name.partition(".")[0] == top]
        return known.get(module) or next(iter(lines), "") or self.imports.lines.get(top, "the script")


def read_code(script: Path, around: Surroundings, *, all_distributions: bool) -> ProjectCode:
    """Follow the imports of `script` and ask its interpreter for those that are not beside it.

    Without `all_distributions` it is asked only where it may know some in the repository: that takes a moment.
    Raises UsageError when it does not start.
    """
    root, own = around.root, [path for path in around.search_path if path.is_relative_to(around.root)]
    located: list[Path] = []
    unreached: dict[str, Path] = {}
    asks = around.python is not None and (all_distributions or _leads_into(around.python, root))
    while True:
        places = [around.first, *own, *located, *unreached.values()]
        imports = imports_of(script, root, places, working_folder=around.working_folder)
        if around.launcher:
            needed = {around.launcher: "the command line", **imports.needed}
            imports = replace(imports, needed=needed)
        foreign = _foreign(imports) | _started(around, places)
        installed = UNKNOWN
        if asks and around.python is not None:
            installed = inspect(around.python, foreign, search_path=around.search_path)
        new = [place for place in _in_repository(foreign, installed, around) if place not in places]
        missing = {
            top: place
            for top, place in _fallbacks(foreign, installed, imports, root)
            if top not in unreached and place not in places
        }
        if not new and not missing:
            break
        located += dict.fromkeys(new)
        unreached |= missing
    return ProjectCode(
        imports=imports,
        installed=installed,
        import_from=tuple(dict.fromkeys([*located, *_own_path(installed, around)])),
        elsewhere=_elsewhere(_foreign(imports), imports, installed, around),
        unreached={} if imports.unread else {top: imports.found[top] for top in unreached if top in imports.found},
    )


def local_source(origin: Mapping[str, Any]) -> Path | None:
    """Return the file or folder of this machine that a PEP 610 record names."""
    address = urlsplit(str(origin.get("url", "")))
    return Path(os.path.realpath(unquote(address.path))) if address.scheme == "file" else None


def source_folder(project: Path) -> Path:
    """Return the folder of a project from which its packages are imported."""
    return project / "src" if (project / "src").is_dir() else project


def is_repositorys(path: Path, root: Path) -> bool:
    """Whether a path is code of the repository: below its root, and in no virtual environment there."""
    if not path.is_relative_to(root):
        return False
    inside = (folder for folder in (path, *path.parents) if folder.is_relative_to(root))
    return not any(_is_environment(folder) or folder.name in _SKIPPED[2:] for folder in inside)


def _is_environment(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()


def standard_modules(installed: Installed) -> frozenset[str]:
    """Return the top-level names that no requirement is needed for; the SDK is lent to every environment."""
    found = {top for top, found in installed.places.items() if found.place and installed.is_standard(found.place)}
    names = installed.standard or sys.stdlib_module_names
    return frozenset({*names, *found, *sys.builtin_module_names, "__future__", "taskyard"})


def _foreign(imports: Imports) -> set[str]:
    standard = standard_modules(UNKNOWN)
    return {name for name in {**imports.needed, **imports.optional} if name.partition(".")[0] not in standard}


def _started(around: Surroundings, places: list[Path]) -> set[str]:
    """Return the module that `-m` starts, if it must be found like an import."""
    top = around.module.partition(".")[0]
    return {around.module} if top and not any(holds_module(place, top) for place in places) else set()


def _tops(modules: set[str]) -> list[str]:
    return sorted({module.partition(".")[0] for module in modules})


def _in_repository(foreign: set[str], installed: Installed, around: Surroundings) -> Iterator[Path]:
    """Yield the folders of the repository in which the interpreter has some of these modules."""
    for top in _tops(foreign):
        found = installed.places.get(top)
        place = found.place if found else None
        if place is None:
            continue
        if is_repositorys(place, around.root) and holds_module(place, top):
            yield place
        elif installed.is_installed(place):
            yield from _copied_from(top, foreign, installed, around.root)


def _copied_from(top: str, foreign: set[str], installed: Installed, root: Path) -> Iterator[Path]:
    """Yield the folder of the repository from which an installed copy was made."""
    modules = (module for module in foreign if module.partition(".")[0] == top)
    for owner in sorted({owner for module in modules for owner in installed.owners.get(module, [])}):
        source = local_source(installed.origins.get(owner, {}))
        if source and installed.installers.get(owner) != "conda" and is_repositorys(source, root):
            place = source_folder(source)
            if holds_module(place, top):
                yield place


def _fallbacks(
    foreign: set[str], installed: Installed, imports: Imports, root: Path
) -> Iterator[tuple[str, Path]]:
    """Yield modules that only the repository has, in folders where its interpreter does not look."""
    tops = [top for top in _tops(foreign) if top not in installed.places]
    for top in tops:
        place = next((place for place in (root, root / "src") if holds_module(place, top)), None)
        if place:
            yield top, place
    if imports.unread:
        yield from _anywhere(root, set(tops))


def _anywhere(root: Path, tops: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield the folders that hold these modules: some line of the code may put them on the path."""
    for count, (base, folders, _) in enumerate(os.walk(root)):
        if count > _MOST_FOLDERS:
            return
        folder = Path(base)
        folders[:] = [
            name
            for name in folders
            if name not in _SKIPPED and not name.startswith(".") and not _is_environment(folder / name)
        ]
        for top in [top for top in sorted(tops) if holds_module(folder, top)]:
            tops.discard(top)
            yield top, folder


def _own_path(installed: Installed, around: Surroundings) -> Iterator[Path]:
    for entry in installed.path:
        if entry not in around.search_path and is_repositorys(entry, around.root):
            yield entry


def _elsewhere(foreign: set[str], imports: Imports, installed: Installed, around: Surroundings) -> dict[str, Path]:
    found = {top: place for top, place in imports.found.items() if not place.is_relative_to(around.root)}
    for top in _tops(foreign):
        place = installed.places[top].place if top in installed.places else None
        if place and not installed.is_installed(place) and not installed.is_standard(place):
            found[top] = place
    return found


def _leads_into(python: Path, root: Path) -> bool:
    """Whether something that is installed beside an interpreter may lead into the repository."""
    prefix = python.parent.parent
    folders = [*prefix.glob("lib/python3*/site-packages"), *prefix.glob("Lib/site-packages")]
    if not folders:
        return True
    paths = {str(root), os.path.realpath(root)}
    for folder in folders:
        for file in (file for pattern in _LEADS for file in folder.glob(pattern)):
            text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
            if any(path in text for path in paths):
                return True
    return False


def absolute_path(entries: str, folder: Path) -> tuple[Path, ...]:
    """Return the folders of a PYTHONPATH as an interpreter in `folder` reads it."""
    found: Sequence[str] = entries.split(os.pathsep) if entries else ()
    return tuple(dict.fromkeys(Path(os.path.realpath(folder / entry)) for entry in found))
