"""The project's own Python: where it is, what it has installed, and which version a task is to get."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard.config import environment
from taskyard.errors import UsageError
from taskyard.requirements.files import folders_up, nearest, read_toml, script_block

_VERSION = re.compile(r"(?:(?:cpython|pypy|python)[-@]?)?\d+\.\d+(?:\.\d+)?t?")
_CLAUSE = re.compile(r"(?P<operator>~=|==|!=|<=|>=|<|>)\s*(?P<version>\d+(?:\.\d+)*)(?P<any>\.\*)?")
_TOOL_MARKS = ("uv-receipt.toml", "pipx_metadata.json")
"""Files in the environments that `uv tool` and pipx make for a program: never a project's."""
_OLDEST, _NEWEST = 8, 20

# Runs on the project's interpreter, which may be old: the standard library of Python 3.8 must do.
_PROBE = r"""
import sys
sys.path[:] = [entry for entry in sys.path if entry]  # the current folder is anybody's
import importlib.metadata as metadata, importlib.util, json, os, platform, re, site, sysconfig
modules = json.loads(sys.stdin.read())
distributions, holders, listed = {}, {}, {}
def plain(name):
    return re.sub("[-_.]+", "-", name).lower()
def code_of(dist):
    for file in dist.files or ():
        folder, _, name = str(file).rpartition("/")
        stem, _, kind = name.partition(".")
        if kind in ("py", "so", "pyd") or kind.endswith((".so", ".pyd")):
            package = stem == "__init__"
            yield folder if package else folder + "/" + stem if folder else stem, package, file
for dist in metadata.distributions():
    name = dist.metadata["Name"]
    if not name or name in distributions:
        continue
    distributions[name] = dist
    tops = set((dist.read_text("top_level.txt") or "").split())
    for path, package, file in code_of(dist):
        holders.setdefault(path, {})[name] = file if package else None
        tops.discard(path.split("/")[0])
        parts = path.split("/")
        for count in range(1, len(parts)):
            holders.setdefault("/".join(parts[:count]), {}).setdefault(name, "")
    for top in tops:
        listed.setdefault(top, []).append(name)
def is_shared(name, file):
    # An __init__.py in the style of before Python 3.3, of which each distribution of a namespace brings one.
    try:
        with open(str(distributions[name].locate_file(file)), encoding="utf-8", errors="replace") as stream:
            return re.search("extend_path|declare_namespace", stream.read()) is not None
    except OSError:
        return False
def owners(module):
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        found = holders.get("/".join(parts[:count]), {})
        real = [name for name, file in found.items() if file is None or file and not is_shared(name, file)]
        if real:
            return real
        if count == len(parts) and len(found) == 1:
            return list(found)  # a namespace that is wholly of one distribution
    return listed.get(parts[0], [])
def place(top):
    try:
        spec = importlib.util.find_spec(top)
    except Exception:  # what the finders of other people raise
        return None
    if spec is None:
        return None
    folders = [os.path.realpath(folder) for folder in spec.submodule_search_locations or ()]
    return {"file": spec.origin if spec.has_location else None, "folders": folders}
def in_conda(name):
    if (distributions[name].read_text("INSTALLER") or "").strip() not in ("conda", ""):
        return False
    try:
        records = os.listdir(os.path.join(sys.prefix, "conda-meta"))
    except OSError:
        return False
    return plain(name) in {plain(record.rsplit("-", 2)[0]) for record in records}
def installer(name):
    return "conda" if in_conda(name) else (distributions[name].read_text("INSTALLER") or "").strip()
answer = {module: owners(module) for module in modules}
used = {name for names in answer.values() for name in names}
libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
installed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
installed |= {entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")}
installed |= {site.getusersitepackages()} if site.ENABLE_USER_SITE else set()
print(json.dumps({
    "version": platform.python_version(),
    "owners": answer,
    "places": {top: place(top) for top in {module.split(".")[0] for module in modules}},
    "path": [os.path.realpath(entry) for entry in sys.path if os.path.isdir(entry)],
    "libraries": [os.path.realpath(entry) for entry in libraries if entry],
    "installed": [os.path.realpath(entry) for entry in installed if entry],
    "versions": {name: distributions[name].version for name in used},
    "origins": {name: distributions[name].read_text("direct_url.json") for name in used},
    "installers": {name: installer(name) for name in used},
    "standard": sorted(getattr(sys, "stdlib_module_names", ())),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where an interpreter finds a module."""

    file: Path | None = None
    """None for a package without an `__init__.py`, and for what is built in."""
    folders: tuple[Path, ...] = ()
    """Of a package: what it is made of."""

    @property
    def place(self) -> Path | None:
        """The folder that would have to be on `sys.path`."""
        inner = self.folders[0] if self.folders else self.file
        return inner.parent if inner else None


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What the project's interpreter knows of some imports."""

    version: str
    owners: dict[str, list[str]] = field(default_factory=dict)
    """Import → the distributions that bring it."""
    places: dict[str, Found] = field(default_factory=dict)
    """Top-level module → where it is found."""
    path: tuple[Path, ...] = ()
    """Its `sys.path`, without the folder of a script."""
    libraries: tuple[Path, ...] = ()
    """Folders of the standard library."""
    site_packages: tuple[Path, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Distribution → PEP 610 record, for what did not come from an index."""
    installers: dict[str, str] = field(default_factory=dict)
    """Distribution → `pip`, `uv`, `conda` and the like."""
    standard: frozenset[str] = frozenset()

    def is_installed(self, place: Path) -> bool:
        """Whether a folder is one that installers write."""
        return any(place.is_relative_to(folder) for folder in self.site_packages)

    def is_standard(self, place: Path) -> bool:
        """Whether a folder is the standard library's."""
        return not self.is_installed(place) and any(place.is_relative_to(folder) for folder in self.libraries)


UNKNOWN = Installed(version="")
"""What is known where there is no interpreter to ask."""


@dataclass(frozen=True, kw_only=True)
class PythonPlan:
    """Which interpreter a task is to get."""

    version: str | None
    origin: str
    """One phrase for people: `.python-version`, `requires-python in pyproject.toml`."""


def project_python(root: Path, start: Path, variables: Mapping[str, str] = environment()) -> Path | None:
    """Returns the interpreter that the people of this project use; never the one that runs Taskyard as a tool.

    The active virtual environment; `.venv` or `venv` from `start` up to `root`; the active conda environment;
    `python` on the PATH.
    """
    for candidate in _candidates(root, start, variables):
        if candidate.is_file() and not _belongs_to_tool(candidate):
            return candidate
    return None


def plan_python(
    root: Path,
    flag: str | None = None,
    *,
    script: Path | None = None,
    start: Path | None = None,
    variables: Mapping[str, str] = environment(),
) -> PythonPlan:
    """Returns the version that a task is to run with: flag, script, `.python-version`, project, own interpreter.

    Raises UsageError for a flag that is no version.
    """
    if flag is not None:
        return PythonPlan(version=_checked(flag), origin="--python")
    start = start or (script.parent if script else root)
    own = project_python(root, start, variables)
    asked = _from_script(script, own) or _from_version_file(root, start) or _from_project(root, start, own)
    if asked is not None:
        return asked
    if own is None:
        return PythonPlan(version=None, origin="the agent's own")
    return PythonPlan(version=_minor(version_of(own)), origin=f"the project's interpreter {_shown(own, root)}")


def inspect(python: Path, imports: Iterable[str], *, search_path: Sequence[Path] = ()) -> Installed:
    """Ask an interpreter where it finds `imports`, and which distributions bring them.

    `search_path` is its PYTHONPATH. Raises UsageError when it does not start.
    """
    answer = _ask(python, _PROBE, json.dumps(sorted(imports)), search_path=search_path)
    return Installed(
        version=answer["version"],
        owners=answer["owners"],
        places={name: _found(place) for name, place in answer["places"].items() if place},
        path=tuple(map(Path, answer["path"])),
        libraries=tuple(map(Path, answer["libraries"])),
        site_packages=tuple(map(Path, answer["installed"])),
        versions=answer["versions"],
        origins={name: json.loads(text) for name, text in answer["origins"].items() if text},
        installers=answer["installers"],
        standard=frozenset(answer["standard"]),
    )


def _found(place: Mapping[str, Any]) -> Found:
    return Found(
        file=Path(os.path.realpath(place["file"])) if place["file"] else None,
        folders=tuple(map(Path, place["folders"])),
    )


def version_of(python: Path) -> str:
    """Returns an interpreter's version; a virtual environment's is written in its configuration."""
    configuration = python.parent.parent / "pyvenv.cfg"
    if configuration.is_file():
        match = re.search(
            r"(?m)^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", configuration.read_text(encoding="utf-8")
        )
        if match:
            return match[1]
    answer = _ask(python, 'import sys; print(\'{"version": "%d.%d.%d"}\' % sys.version_info[:3])', "")
    return str(answer["version"])


def _ask(python: Path, program: str, text: str, *, search_path: Sequence[Path] = ()) -> dict[str, Any]:
    folder = tempfile.gettempdir()  # not the project's, whose modules could shadow the standard library's
    variables = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    if search_path:
        variables["PYTHONPATH"] = os.pathsep.join(map(str, search_path))
    done = subprocess.run(
        [str(python), "-c", program],
        input=text,
        capture_output=True,
        text=True,
        cwd=folder,
        env=variables,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise UsageError(f"the project's interpreter {python} does not answer: {last[0]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _candidates(root: Path, start: Path, variables: Mapping[str, str]) -> Iterator[Path]:
    if variables.get("VIRTUAL_ENV"):
        yield _python_in(Path(variables["VIRTUAL_ENV"]))
    for folder in folders_up(start, root):
        yield from (
            _python_in(folder / name) for name in (".venv", "venv") if (folder / name / "pyvenv.cfg").is_file()
        )
    if variables.get("CONDA_PREFIX"):
        yield _python_in(Path(variables["CONDA_PREFIX"]), conda=True)
    for name in ("python", "python3"):
        found = shutil.which(name, path=variables.get("PATH", ""))
        if found:
            yield Path(found)


def _python_in(prefix: Path, *, conda: bool = False) -> Path:
    if sys.platform != "win32":
        return prefix / "bin" / "python"
    return prefix / "python.exe" if conda else prefix / "Scripts" / "python.exe"


def _belongs_to_tool(python: Path) -> bool:
    return any((python.parent.parent / mark).exists() for mark in _TOOL_MARKS)


def _checked(flag: str) -> str:
    if not _VERSION.fullmatch(flag):
        raise UsageError(f"--python {flag}: write a version, as in `--python 3.11` or `--python 3.11.7`")
    return flag


def _from_script(script: Path | None, own: Path | None) -> PythonPlan | None:
    block = script_block(script) if script else None
    asked = block.get("requires-python") if block else None
    return _for_specifier(asked, f"requires-python in {script.name}", own) if asked and script else None


def _from_version_file(root: Path, start: Path) -> PythonPlan | None:
    file = nearest(".python-version", start, root)
    if file is None:
        return None
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    named = next((line for line in lines if line and not line.startswith("#")), "")
    # pyenv also writes names of environments there, which say nothing of the version
    return PythonPlan(version=named, origin=_shown(file, root)) if _VERSION.fullmatch(named) else None


def _from_project(root: Path, start: Path, own: Path | None) -> PythonPlan | None:
    for folder in folders_up(start, root):
        file = folder / "pyproject.toml"
        asked = read_toml(file).get("project", {}).get("requires-python") if file.is_file() else None
        if asked:
            return _for_specifier(asked, f"requires-python in {_shown(file, root)}", own)
    return None


def _for_specifier(specifier: str, origin: str, own: Path | None) -> PythonPlan | None:
    """The project's own minor version where it is allowed, else the oldest that is."""
    exact = re.fullmatch(r"\s*==\s*(\d+\.\d+\.\d+)\s*", specifier)
    if exact:
        return PythonPlan(version=exact[1], origin=origin)
    mine = _minor(version_of(own)) if own else None
    if mine and _allows(specifier, mine):
        return PythonPlan(version=mine, origin=f"{origin}, as the project's interpreter")
    minors = (f"3.{number}" for number in range(_OLDEST, _NEWEST))
    oldest = next((minor for minor in minors if _allows(specifier, minor)), None)
    return PythonPlan(version=oldest, origin=origin) if oldest else None


def _allows(specifier: str, minor: str) -> bool:
    """Whether some patch of a minor version satisfies a PEP 440 specifier."""
    return all(_clause_allows(match, minor) for match in _CLAUSE.finditer(specifier))


def _clause_allows(clause: re.Match[str], minor: str) -> bool:
    bound = tuple(int(part) for part in clause["version"].split("."))
    have = tuple(int(part) for part in minor.split("."))
    near = bound[:2]
    operator = clause["operator"]
    if operator == "~=":
        return have >= near and have[: len(bound) - 1] == bound[:-1][:2]
    if operator == "!=":
        return have[: len(near)] != near or (len(bound) > 2)
    if operator == "==":
        return have[: len(near)] == near
    if operator == "<":
        return have < near or (have == near and len(bound) > 2 and bound[2] > 0)
    if operator == ">":
        return have > near or (have == near and len(bound) > 2)
    return have >= near if operator == ">=" else have[: len(near)] <= near


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
