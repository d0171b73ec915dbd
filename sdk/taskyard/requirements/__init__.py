"""Finds out what a script needs installed: the file that says so, or else its imports."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskyard.config import environment
from taskyard.errors import UsageError
from taskyard.requirements.files import folders_up, read_toml, script_block
from taskyard.requirements.imports import Imports, imports_of, module_file
from taskyard.requirements.interpreters import Installed, PythonPlan, inspect, plan_python, project_python
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

DISTRIBUTIONS = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "Bio": "biopython",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "google.protobuf": "protobuf",
    "hydra": "hydra-core",
    "igraph": "python-igraph",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "Levenshtein": "python-Levenshtein",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "pkg_resources": "setuptools",
    "pl_bolts": "lightning-bolts",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pynvml": "nvidia-ml-py",
    "pytorch_lightning": "pytorch-lightning",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "umap": "umap-learn",
    "usb": "pyusb",
    "wx": "wxPython",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}
"""Imports whose distribution has another name, for projects without an interpreter that could tell."""

_LOCAL_LABEL = re.compile(r"\+[\w.]+$")


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


def plan_requirements(
    root: Path,
    script: Path | None,
    *,
    module: str | None = None,
    start: Path | None = None,
    file: Path | None = None,
    packages: Sequence[str] = (),
    manager: Manager | None = None,
    python: Path | None = None,
    variables: Mapping[str, str] = environment(),
) -> RequirementsPlan:
    """Returns what to install: flags, the script's own block, the nearest file, else what the code imports.

    `start` is where the search for a file begins, the script's folder by default; `file` and `packages` are
    flags, relative to the current folder; `python` is the project's interpreter where the caller knows better.
    Where no `manager` is chosen, the file chooses it.
    Raises UsageError for what cannot be followed.
    """
    start = start or (script.parent if script else root)
    if script is None and module is not None:
        script = module_file(module, root, start)
    if manager is Manager.INHERIT:
        return RequirementsPlan(
            kind=RequirementsKind.NONE, manager=manager, origin="the agent's own environment, as it is"
        )
    given = _from_flags(root, file, packages, manager)
    found = given or _from_script(root, script) or _from_folders(root, start, manager)
    if found is None and script is not None:
        found = _from_imports(root, script, python or project_python(root, start, variables))
    if found is None:
        found = RequirementsPlan(kind=RequirementsKind.NONE, origin="nothing: no file says what the program needs")
    return replace(found, manager=manager or READERS.get(found.kind, (Manager.UV,))[0])


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
        for name in own_first:
            file = folder / name
            if file.is_file() and _says_something(file, manager):
                return _of_file(root, file, "the nearest file is")
    return None


def _says_something(file: Path, manager: Manager | None) -> bool:
    """The locks of others are passed over; a pyproject.toml may hold nothing but settings of tools."""
    readers = READERS.get(_kind_of(file))
    if readers and manager and manager not in readers:
        return False
    if file.name != "pyproject.toml":
        return True
    table = read_toml(file)
    return "project" in table or "poetry" in table.get("tool", {})


def _of_file(root: Path, file: Path, why: str) -> RequirementsPlan:
    path = _relative(file, root)
    if file.name in NOT_READ:
        raise UsageError(f"{path} is not read; {NOT_READ[file.name]}, and name it with `--requirements FILE`")
    return RequirementsPlan(kind=_kind_of(file), path=path, origin=f"{why} {path}")


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


def _from_imports(root: Path, script: Path, python: Path | None) -> RequirementsPlan:
    imports = imports_of(script, root)
    installed = inspect(python, imports.needed | imports.optional) if python else Installed(version="")
    wanted = _Wanted(installed=installed)
    for name in sorted(_leaves(_foreign(imports, installed))):
        wanted.add(name, optional=name in imports.optional)
    origin = f"the imports of {_relative(script, root)}"
    if python is not None:
        origin += f" at the versions of {_shown(python, root)}"
    if not wanted.packages:
        return RequirementsPlan(kind=RequirementsKind.NONE, origin=f"nothing: {origin} are the standard library's")
    packages = tuple(sorted(set(wanted.packages), key=str.lower))
    return RequirementsPlan(
        kind=RequirementsKind.IMPORTS, packages=packages, origin=origin, notes=tuple(dict.fromkeys(wanted.notes))
    )


def _foreign(imports: Imports, installed: Installed) -> set[str]:
    """Leaves out the standard library, and the SDK, which every environment is given."""
    standard = {
        *(installed.standard or sys.stdlib_module_names),
        *sys.builtin_module_names,
        "__future__",
        "taskyard",
    }
    return {name for name in imports.needed | imports.optional if name.partition(".")[0] not in standard}


def _leaves(names: set[str]) -> set[str]:
    """Leaves out a package where one of its modules is imported too: that says more."""
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


class _Wanted:
    """Turns imports into requirements."""

    def __init__(self, *, installed: Installed) -> None:
        self._installed = installed
        self.packages: list[str] = []
        self.notes: list[str] = []

    def add(self, module: str, *, optional: bool) -> None:
        owners = self._installed.owners.get(module, [])
        for owner in owners:
            self._add_installed(owner)
        if not owners and not optional:
            self._add_unknown(module)

    def _add_installed(self, name: str) -> None:
        origin = self._installed.origins.get(name, {})
        address, commit = origin.get("url", ""), origin.get("vcs_info", {}).get("commit_id")
        if commit and origin["vcs_info"].get("vcs") == "git":
            self.packages.append(f"{name} @ git+{_without_user(address)}@{commit}")
        elif "dir_info" in origin:
            self.packages.append(name)
            self.notes.append(
                f"{name} is installed from a folder of this machine; the agent takes its latest release"
            )
        else:
            version = _LOCAL_LABEL.sub("", self._installed.versions[name])
            self.packages.append(f"{name}=={version}")

    def _add_unknown(self, module: str) -> None:
        top = module.partition(".")[0]
        known = next((DISTRIBUTIONS[name] for name in (module, _two(module), top) if name in DISTRIBUTIONS), top)
        self.packages.append(known)
        self.notes.append(f"{top} is not installed here, so {known} is taken at its latest version")


def _two(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _without_user(address: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@(?=[^/])", "", address) if address.startswith("http") else address


def _shown(python: Path, root: Path) -> str:
    return python.relative_to(root).as_posix() if python.is_relative_to(root) else str(python)
