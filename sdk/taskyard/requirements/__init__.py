"""Finds out what a script needs installed: the file that says so, or else its imports."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskyard.config import environment
from taskyard.errors import UsageError
from taskyard.requirements.files import (
    check_requirements_file,
    folders_up,
    local_projects,
    read_toml,
    script_block,
    text_of,
)
from taskyard.requirements.import_needs import needs_of, shown
from taskyard.requirements.imports import module_file
from taskyard.requirements.interpreters import PythonPlan, plan_python, project_python
from taskyard.requirements.project_code import (
    ProjectCode,
    Surroundings,
    absolute_path,
    read_code,
    source_folder,
)
from taskyard.requirements.uv_tables import PROJECT, Workspace, check_uv_tables, workspace_of
from taskyard.wire import Manager, RequirementsKind

__all__ = ["PythonPlan", "RequirementsPlan", "plan_python", "plan_requirements", "project_python"]

_PIPENV = "write a requirements.txt with `pipenv requirements`"
NOT_READ = {"Pipfile": _PIPENV, "Pipfile.lock": _PIPENV}
"""Formats that no manager reads, and what to do instead."""

ORDER = (
    "uv.lock",
    "pylock.toml",
    "poetry.lock",
    "conda-lock.yml",
    "Pipfile.lock",
    "requirements.txt",
    "environment.yml",
    "environment.yaml",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "Pipfile",
)
"""Which of the files in one folder says it."""

READERS = {
    RequirementsKind.UV_LOCK: (Manager.UV,),
    RequirementsKind.PYLOCK: (Manager.UV,),
    RequirementsKind.POETRY_LOCK: (Manager.POETRY,),
    RequirementsKind.ENVIRONMENT_YML: (Manager.CONDA,),
    RequirementsKind.PYPROJECT: (Manager.UV, Manager.PIP, Manager.POETRY),
}
"""Who reads what; the first is taken where nobody chose. Every manager reads the other kinds."""

SEARCH_PATH = "PYTHONPATH"


@dataclass(frozen=True, kw_only=True)
class RequirementsPlan:
    """What a task needs installed, as the wire says it."""

    kind: RequirementsKind
    path: str | None = None
    """The file, relative to the repository's root."""
    packages: tuple[str, ...] = ()
    manager: Manager = Manager.UV
    """What builds it."""
    origin: str = ""
    """One sentence for people."""
    notes: tuple[str, ...] = ()
    """What a careful person would want to look at: unpinned packages and the like."""
    import_from: tuple[str, ...] = ()
    """Folders of the repository in which the submitter's interpreter finds modules, relative to the root."""
    search_path: str = ""
    """PYTHONPATH as it is here, relative to the working folder; without what lies outside the repository."""


def plan_requirements(
    root: Path,
    script: Path | None,
    *,
    module: str | None = None,
    launcher: str = "",
    start: Path | None = None,
    file: Path | None = None,
    packages: Sequence[str] = (),
    manager: Manager | None = None,
    python: Path | None = None,
    variables: Mapping[str, str] = environment(),
) -> RequirementsPlan:
    """Return what to install: flags, the script's own block, the nearest file, else what the code imports.

    `launcher` is the module of a program that starts the script. `start` is the working folder; without a script
    the search for a file begins there. `file` and `packages` are flags, relative to the current folder; `python`
    is the project's interpreter where the caller knows better. Where no `manager` is chosen, the file chooses it.
    Raises UsageError for what cannot be followed.
    """
    working_folder = (start or (script.parent if script else root)).resolve()
    nearest = script.parent if script else working_folder
    first = script.resolve().parent if script else working_folder
    if script is None and module is not None:
        script = module_file(module, root, working_folder)
    around = Surroundings(
        root=root.resolve(),
        first=first,
        working_folder=working_folder,
        python=python or project_python(root, nearest, variables),
        search_path=absolute_path(variables.get(SEARCH_PATH, ""), working_folder),
        module=module or "",
        launcher=launcher,
    )
    found = _plan(around, script, nearest, file=file, packages=packages, manager=manager)
    return replace(found, search_path=_own_search_path(around))


def _plan(
    around: Surroundings,
    script: Path | None,
    nearest: Path,
    *,
    file: Path | None,
    packages: Sequence[str],
    manager: Manager | None,
) -> RequirementsPlan:
    found: RequirementsPlan | None
    if manager is Manager.INHERIT:
        found = RequirementsPlan(kind=RequirementsKind.NONE, origin="the agent's own environment, as it is")
    else:
        root = around.root
        found = _from_flags(root, file, packages, manager) or _from_script(root, script)
        found = found or _from_folders(root, nearest, manager)
    code = _read_code(around, script, all_distributions=found is None)
    if found is None and script is not None and code is not None:
        found = _from_imports(around, script, code)
    if found is None:
        found = RequirementsPlan(kind=RequirementsKind.NONE, origin="nothing: no file says what the program needs")
    chosen = manager or READERS.get(found.kind, (Manager.UV,))[0]
    found = replace(found, manager=chosen)
    _check_uv(around.root, found)
    return _with_code(found, around, code)


def _read_code(around: Surroundings, script: Path | None, *, all_distributions: bool) -> ProjectCode | None:
    """Read what the script imports; an interpreter that does not start matters where nothing else is known."""
    if script is None:
        return None
    if all_distributions:
        return read_code(script.resolve(), around, all_distributions=True)
    with contextlib.suppress(UsageError):
        return read_code(script.resolve(), around, all_distributions=False)
    return None


def _with_code(plan: RequirementsPlan, around: Surroundings, code: ProjectCode | None) -> RequirementsPlan:
    """Add where the script finds the repository's own modules, and say so."""
    if code is None:
        return plan
    root, python = around.root, shown(around.python, around.root) if around.python else "the interpreter"
    brought = _brought_folders(plan, around)
    own = (folder for folder in code.import_from if folder != around.first and folder not in brought)
    folders = tuple(shown(folder, root) for folder in own)
    notes = [f"modules are found in {', '.join(folders)}, too, as {python} finds them"] if folders else []
    for top, place in code.unreached.items():
        if place not in brought:
            path = os.path.relpath(place, around.working_folder)
            notes.append(
                f"{code.line_of(top)} imports {top} from {shown(place, root)}, where Python does not look by "
                f"itself; if it fails, add --env {SEARCH_PATH}={path}"
            )
    if plan.kind is not RequirementsKind.IMPORTS:
        for top, place in code.elsewhere.items():
            notes.append(
                f"{code.line_of(top)} imports {top}, which is in {place} here: the agent does not get that"
            )
    return replace(plan, import_from=folders, notes=(*plan.notes, *notes))


def _brought_folders(plan: RequirementsPlan, around: Surroundings) -> set[Path]:
    """Return the folders that the agent puts on the path because the requirements name their project."""
    root, folders = around.root, [around.root / name for name in plan.packages if name.startswith("./")]
    file = root / plan.path if plan.path else None
    if file and plan.kind in (RequirementsKind.PYPROJECT, RequirementsKind.UV_LOCK, RequirementsKind.POETRY_LOCK):
        folders += [file.parent] if _is_package(file.parent / "pyproject.toml") else []
    elif file and plan.kind in (RequirementsKind.REQUIREMENTS_TXT, RequirementsKind.ENVIRONMENT_YML):
        bases = (around.working_folder, root, file.parent)
        folders += [base / name for name in local_projects(text_of(file)) for base in bases]
    return {source_folder(folder.resolve()) for folder in folders if folder.is_dir()}


def _is_package(file: Path) -> bool:
    table = read_toml(file) if file.is_file() else {}
    return "build-system" in table or "poetry" in table.get("tool", {})


def _own_search_path(around: Surroundings) -> str:
    own = [folder for folder in around.search_path if folder.is_relative_to(around.root)]
    return ":".join(
        Path(os.path.relpath(folder, around.working_folder)).as_posix() for folder in own
    )  # agents' own


def _check_uv(root: Path, plan: RequirementsPlan) -> None:
    """What only uv's tables say is looked at before a task is submitted."""
    if plan.path is None or plan.manager not in (Manager.UV, Manager.PIP):
        return
    file = root / plan.path
    if plan.kind is RequirementsKind.SCRIPT:
        check_uv_tables(root, file, script_block(file) or {}, pip=plan.manager is Manager.PIP)
    elif file.name == PROJECT:
        check_uv_tables(root, file, read_toml(file), pip=plan.manager is Manager.PIP)


def _from_flags(
    root: Path, file: Path | None, packages: Sequence[str], manager: Manager | None
) -> RequirementsPlan | None:
    if file and packages:
        raise UsageError("--requirements and --package exclude each other; add the package to the file")
    if packages:
        listed = tuple(packages)
        return RequirementsPlan(
            kind=RequirementsKind.PACKAGES, packages=listed, origin=f"--package {' '.join(listed)}"
        )
    if file is None:
        return None
    if not file.is_file():
        raise UsageError(f"--requirements {file}: there is no such file")
    if not file.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"--requirements {file} lies outside {root}, whose code is what the agent gets; move it there"
        )
    plan = _of_file(root, file, "--requirements names")
    readers = READERS.get(plan.kind)
    if readers and manager and manager not in readers:
        raise UsageError(f"{manager} does not read {plan.path}; use `--manager {readers[0]}`, or leave it out")
    return plan


def _from_script(root: Path, script: Path | None) -> RequirementsPlan | None:
    if script is None or script_block(script) is None:
        return None
    path = _relative(script, root)
    return RequirementsPlan(kind=RequirementsKind.SCRIPT, path=path, origin=f"the `# /// script` block of {path}")


def _from_folders(root: Path, start: Path, manager: Manager | None) -> RequirementsPlan | None:
    own_first = sorted(ORDER, key=lambda name: READERS.get(_kind_of(Path(name))) != (manager,))
    for folder in folders_up(start, root):
        locked = _member_of_locked(folder, root) if manager in (None, Manager.UV) else None
        if locked is not None:
            why = f"{_relative(locked.lock, root)} is the lock of the workspace of"
            return _of_file(root, folder / PROJECT, why)
        for name in own_first:
            file = folder / name
            if file.is_file() and _says_something(file, manager):
                return _of_file(root, file, "the nearest file is")
    return None


def _member_of_locked(folder: Path, root: Path) -> Workspace | None:
    """The lock at the root of a workspace is every member's, whatever else lies in a member's folder."""
    found = workspace_of(folder, root) if (folder / PROJECT).is_file() else None
    return found if found and found.root.resolve() != folder.resolve() and found.lock.is_file() else None


def _says_something(file: Path, manager: Manager | None) -> bool:
    """The locks of others are passed over; a pyproject.toml may hold nothing but settings of tools."""
    readers = READERS.get(_kind_of(file))
    if readers and manager and manager not in readers:
        return False
    if file.name == "setup.cfg":
        return _describes_project(file)
    if file.name != "pyproject.toml":
        return True
    table = read_toml(file)
    return "project" in table or "poetry" in table.get("tool", {})


def _describes_project(file: Path) -> bool:
    """A setup.cfg may hold nothing but settings of tools, too."""
    sections = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        sections.read_string(text_of(file))
    except configparser.Error as error:
        raise UsageError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    return any(sections.has_section(name) for name in ("metadata", "options"))


def _of_file(root: Path, file: Path, why: str) -> RequirementsPlan:
    path = _relative(file, root)
    if file.name in NOT_READ:
        raise UsageError(f"{path} is not read; {NOT_READ[file.name]}, and name it with `--requirements FILE`")
    if file.name in ("setup.py", "setup.cfg"):
        # Any agent takes a folder of the code for a project: what it needs is read there, or its backend is asked.
        folder = f"./{'' if '/' not in path else path.rpartition('/')[0]}"
        return RequirementsPlan(kind=RequirementsKind.PACKAGES, packages=(folder,), origin=f"{why} {path}")
    kind = _kind_of(file)
    if kind is RequirementsKind.REQUIREMENTS_TXT:
        check_requirements_file(file, root)
    return RequirementsPlan(kind=kind, path=path, origin=f"{why} {path}")


def _kind_of(file: Path) -> RequirementsKind:
    if file.name in ("uv.lock", "poetry.lock", "pyproject.toml"):
        return RequirementsKind(file.name)
    if re.fullmatch(r"pylock(\.[^.]+)?\.toml", file.name):
        return RequirementsKind.PYLOCK
    if file.suffix in (".yml", ".yaml"):
        return RequirementsKind.ENVIRONMENT_YML
    return RequirementsKind.SCRIPT if file.suffix == ".py" else RequirementsKind.REQUIREMENTS_TXT


def _relative(file: Path, root: Path) -> str:
    return file.resolve().relative_to(root.resolve()).as_posix()


# --- Imports ---------------------------------------------------------------------------------------------


def _from_imports(around: Surroundings, script: Path, code: ProjectCode) -> RequirementsPlan:
    packages, notes = needs_of(code, around)
    origin = f"the imports of {_relative(script, around.root)}"
    if around.python is not None:
        origin += f" at the versions of {shown(around.python, around.root)}"
    if not packages:
        nothing = f"nothing: {origin} are the standard library's"
        return RequirementsPlan(kind=RequirementsKind.NONE, origin=nothing, notes=notes)
    return RequirementsPlan(kind=RequirementsKind.IMPORTS, packages=packages, origin=origin, notes=notes)
