"""The project's own Python: where it is, what it has installed, and which version a task is to get."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
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
import importlib.metadata as metadata, json, platform, sys
wanted = json.loads(sys.stdin.read())
found, tops = {}, {}
for dist in metadata.distributions():
    name = dist.metadata["Name"]
    if not name or name in found:
        continue
    found[name] = dist
    listed = (dist.read_text("top_level.txt") or "").split()
    files = [str(file) for file in dist.files or ()]
    code = [file for file in files if file.endswith((".py", ".so", ".pyd"))]
    for top in set(listed) | {file.split("/")[0].split(".")[0] for file in code}:
        tops.setdefault(top, []).append((name, files))
def owners(module):
    candidates = tops.get(module.split(".")[0], [])
    while len(candidates) > 1 and module:
        path = module.replace(".", "/")
        exact = [name for name, files in candidates if any(f.startswith((path + "/", path + ".")) for f in files)]
        if exact:
            return exact
        module = module.rpartition(".")[0]
    return [name for name, _ in candidates]
answer = {module: owners(module) for module in wanted}
used = {name for names in answer.values() for name in names}
print(json.dumps({
    "version": platform.python_version(),
    "owners": answer,
    "versions": {name: found[name].version for name in used},
    "origins": {name: found[name].read_text("direct_url.json") for name in used},
    "standard": sorted(getattr(sys, "stdlib_module_names", ())),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What the project's interpreter knows of some imports."""

    version: str
    owners: dict[str, list[str]] = field(default_factory=dict)
    """Import → the distributions that bring it."""
    versions: dict[str, str] = field(default_factory=dict)
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Distribution → PEP 610 record, for what did not come from an index."""
    standard: frozenset[str] = frozenset()


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


def inspect(python: Path, imports: Iterable[str]) -> Installed:
    """Asks an interpreter which distributions bring `imports`. Raises UsageError when it does not start."""
    answer = _ask(python, _PROBE, json.dumps(sorted(imports)))
    origins = {name: json.loads(text) for name, text in answer["origins"].items() if text}
    return Installed(
        version=answer["version"],
        owners=answer["owners"],
        versions=answer["versions"],
        origins=origins,
        standard=frozenset(answer["standard"]),
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
    answer = _ask(python, "import json, platform; print(json.dumps({'version': platform.python_version()}))", "")
    return str(answer["version"])


def _ask(python: Path, program: str, text: str) -> dict[str, Any]:
    folder = tempfile.gettempdir()  # not the project's, whose modules could shadow the standard library's
    done = subprocess.run(
        [str(python), "-c", program], input=text, capture_output=True, text=True, cwd=folder, check=False
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
