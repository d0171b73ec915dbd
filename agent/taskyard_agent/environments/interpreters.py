"""Finds the Python that a task asks for, or has uv install it; never takes another minor version."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from taskyard.wire import Reason

from taskyard_agent.environments.installer import Installer, visible_variables
from taskyard_agent.environments.request import EnvironmentSettings, failed
from taskyard_agent.errors import RunFailed

_WANTED = re.compile(r"(?:(?P<kind>cpython|pypy|python)[-@]?)?(?P<version>\d+\.\d+(?:\.\d+)?)(?P<free>t?)")
_PROBE_SECONDS, _MOST_WORDS = 60.0, 2000
PROBE = """
import json, os, platform, site, sys, sysconfig
try:
    from importlib import metadata
except ImportError:
    metadata = None
paths = [p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")]
# Debian's own Python installs elsewhere than into the environments that are made of it.
scheme = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"
def packages():
    for found in metadata.distributions(path=paths) if metadata and sys.argv[-1] == "lends" else ():
        if found.metadata["Name"]:
            extras = found.metadata.get_all("Provides-Extra") or []
            yield [found.metadata["Name"], found.version, found.requires or [], extras]
print(json.dumps({
    "lends": list(packages()),
    "musl": "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""),
    "executable": sys.executable,
    "home": getattr(sys, "_base_executable", None) or sys.executable,
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "platform": sysconfig.get_platform(),
    "prefix": sys.prefix,
    "site_paths": paths,
    "library": sysconfig.get_path("purelib", scheme, vars={"base": "", "platbase": ""}).lstrip("/"),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Lent:
    """A package that an image brings along."""

    name: str
    version: str
    requires: tuple[str, ...]
    extras: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python on this machine, or in an image."""

    executable: str
    home: str
    """The executable itself, where `executable` belongs to a virtual environment."""
    version: str
    implementation: str
    platform: str
    prefix: str
    site_paths: tuple[str, ...]
    """Its site-packages folders, in the order in which it searches them."""
    library: str
    """Site-packages relative to a virtual environment's root: `lib/python3.11/site-packages`."""
    image: str = ""
    """The image that it is in, by the name that stays; empty: this machine."""
    musl: bool = False
    """Whether its C library is musl, for which other programs are made."""
    lends: tuple[Lent, ...] = ()
    """What environments that are built on it need not install; of an image alone."""

    @property
    def minor(self) -> str:
        """`3.11`."""
        return minor_of(self.version)

    @property
    def markers(self) -> dict[str, str]:
        """What markers are compared with. Without `extra`, which poetry-core's markers then take as given."""
        names = {"cpython": "CPython", "pypy": "PyPy"}
        return {
            **{name: str(value) for name, value in default_environment().items()},
            "python_version": self.minor,
            "python_full_version": self.version,
            "implementation_name": self.implementation,
            "implementation_version": self.version,
            "platform_python_implementation": names.get(self.implementation, self.implementation),
        }

    @property
    def version_info(self) -> tuple[int, int]:
        """`(3, 11)`."""
        major, minor = self.minor.split(".")
        return int(major), int(minor)


def find_interpreter(wanted: str | None, settings: EnvironmentSettings, installer: Installer) -> Interpreter:
    """Returns the interpreter for `3.11`, `3.11.7` or an absolute path; None: the operator's default.

    An exact version that can neither be found nor fetched is replaced by another patch of the same minor
    version, and the log says so. Raises RunFailed naming the versions that are there.
    """
    wanted = wanted or settings.python
    if wanted is None:
        return probe(Path(_own_executable()), settings)
    if wanted.startswith("/"):
        return _at_path(Path(wanted), settings)
    asked = _parse(wanted)
    found = _first(asked, _candidates(asked.minor, settings), settings) or _ask_uv(wanted, settings, installer)
    if found is not None:
        return found
    try:
        found = _install(wanted, settings, installer)
    except RunFailed as failure:
        installer.log(str(failure))
        return _other_patch(asked, settings, installer, failure)
    return found or _other_patch(asked, settings, installer, None)


def probe(executable: Path, settings: EnvironmentSettings) -> Interpreter:
    """Asks an interpreter what it is; the answer is kept until its file changes. Raises RunFailed."""
    stat = executable.stat()
    mark = f"{stat.st_mtime_ns}-{stat.st_size}"
    memory = settings.root / "environments" / "interpreters.json"
    known = _read_memory(memory).get(str(executable))
    if known and known["mark"] == mark:
        return interpreter_from(known["interpreter"])
    interpreter = interpreter_from(_run_probe(str(executable), settings))
    _remember(memory, str(executable), {"mark": mark, "interpreter": dataclasses.asdict(interpreter)})
    return interpreter


def minor_of(version: str) -> str:
    """`3.11` of `3.11.7`."""
    return ".".join(version.split(".")[:2])


def _capture(
    argv: list[str], variables: dict[str, str], seconds: float | None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, capture_output=True, cwd="/", env=variables, check=False, timeout=seconds)


def _run_probe(executable: str, settings: EnvironmentSettings) -> dict[str, Any]:
    variables = visible_variables(settings.variables)
    argv = [executable, "-E", "-c", PROBE]
    try:
        try:
            done = _capture(argv, variables, _PROBE_SECONDS)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a clock that was set meanwhile spoils the time-out, not the probe
                raise
            done = _capture(argv, variables, None)
    except subprocess.TimeoutExpired as error:
        raise failed(f"the interpreter {executable} does not answer", infrastructure=True) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-_MOST_WORDS:]
        raise failed(f"the interpreter {executable} does not start: {said}", infrastructure=True)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise failed(f"{executable} is no Python: it does not answer as one", infrastructure=True) from error
    return answer


def interpreter_from(record: Mapping[str, Any]) -> Interpreter:
    """Reads what the probe has printed."""
    lends = tuple(
        Lent(name=name, version=version, requires=tuple(requires), extras=tuple(extras))
        for name, version, requires, extras in record.get("lends", ())
    )
    return Interpreter(**{**record, "site_paths": tuple(record["site_paths"]), "lends": lends})


def _own_executable() -> str:
    return getattr(sys, "_base_executable", None) or sys.executable


def _at_path(path: Path, settings: EnvironmentSettings) -> Interpreter:
    if not os.access(path, os.X_OK):
        raise failed(f"there is no interpreter at {path} on this machine")
    try:
        return probe(path, settings)
    except (RunFailed, OSError) as error:
        if str(path) == settings.python:
            raise
        raise failed(f"--python {path} is none that can be used on this machine: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What somebody asked for, read."""

    version: str
    implementation: str = "cpython"
    free_threaded: bool = False

    @property
    def minor(self) -> str:
        return minor_of(self.version)

    def is_met_by(self, interpreter: Interpreter) -> bool:
        exact = self.version != self.minor
        same = self.version == (interpreter.version if exact else interpreter.minor)
        in_venv = interpreter.executable != interpreter.home
        return same and interpreter.implementation == self.implementation and not (self.free_threaded or in_venv)


def _parse(wanted: str) -> _Asked:
    match = _WANTED.fullmatch(wanted)
    if match is None:
        raise failed(f"{wanted!r} names no Python version; write `--python 3.11` or `--python 3.11.7`")
    implementation = "pypy" if match["kind"] == "pypy" else "cpython"
    return _Asked(version=match["version"], implementation=implementation, free_threaded=bool(match["free"]))


def _candidates(minor: str, settings: EnvironmentSettings) -> Iterator[Path]:
    """Places where people keep interpreters; version managers hide theirs from the PATH."""
    name = f"python{minor}"
    home = Path(settings.variables.get("HOME") or Path.home())
    yield Path(_own_executable())
    folders = [Path(part) for part in settings.variables.get("PATH", os.defpath).split(":") if part]
    folders += [Path("/usr/local/bin"), Path("/usr/bin"), Path("/opt/homebrew/bin")]
    yield from (folder / name for folder in folders if folder.name != "shims")
    roots = (
        settings.root / "pythons",
        home / ".pyenv/versions",
        home / ".local/share/uv/python",
        Path("/opt/python"),
    )
    for root in roots:
        yield from sorted(root.glob(f"*/bin/{name}"), reverse=True)


def _first(asked: _Asked, candidates: Iterable[Path], settings: EnvironmentSettings) -> Interpreter | None:
    for candidate in candidates:
        if not os.access(candidate, os.X_OK):
            continue
        try:
            interpreter = probe(candidate, settings)
        except RunFailed:
            continue  # a stub that does not start; another may
        if asked.is_met_by(interpreter):
            return interpreter
    return None


def _ask_uv(wanted: str, settings: EnvironmentSettings, installer: Installer) -> Interpreter | None:
    try:
        output = _uv(settings, installer, "find", "--system", "--no-project", "--no-python-downloads", wanted)
    except RunFailed:
        return None
    paths = [line for line in output if line.startswith("/")]
    return probe(Path(paths[-1]), settings) if paths else None


def _install(wanted: str, settings: EnvironmentSettings, installer: Installer) -> Interpreter | None:
    if settings.python_downloads == "never":
        return None
    installer.log(f"Python {wanted} is not on this machine; installing it")
    _uv(settings, installer, "install", "--no-bin", wanted)
    return _ask_uv(wanted, settings, installer)


def _uv(settings: EnvironmentSettings, installer: Installer, verb: str, *options: str) -> list[str]:
    from uv import find_uv_bin

    variables = {
        "UV_PYTHON_INSTALL_DIR": str(settings.root / "pythons"),
        "UV_CACHE_DIR": str(settings.root / "downloads" / "uv"),
        **({"UV_PYTHON_INSTALL_MIRROR": settings.python_mirror} if settings.python_mirror else {}),
    }
    argv = [find_uv_bin(), "python", verb, "--no-config", "--color", "never", "--no-progress", *options]
    return installer.run(argv, cwd=Path("/"), variables=variables, quiet=True)


def _other_patch(
    asked: _Asked, settings: EnvironmentSettings, installer: Installer, failure: RunFailed | None
) -> Interpreter:
    same_minor = dataclasses.replace(asked, version=asked.minor)
    near = _first(same_minor, _candidates(asked.minor, settings), settings)
    if near is None or asked == same_minor:
        raise _absent(asked.version, settings, failure) from failure
    installer.log(f"Python {asked.version} is not on this machine; using {near.version}")
    return near


def _absent(version: str, settings: EnvironmentSettings, failure: RunFailed | None) -> RunFailed:
    """`failure` is why it could not be fetched. A version that does not exist will not exist later either."""
    there = ", ".join(_versions_here(settings)) or "none"
    if settings.python_downloads == "never":
        return failed(
            f"Python {version} is not on this machine, which has {there}; its operator can install it, or let uv "
            "do so: --python-downloads auto"
        )
    words = str(failure or "there is no such build")
    why = f"Python {version} is not on this machine, which has {there}, and could not be fetched: {words}"
    if failure is not None and failure.infrastructure:
        reason, target = Reason.PACKAGE_INDEX, failure.target
        return failed(why, reason=reason, infrastructure=True, target=target)
    return failed(f"{why}\nWhat to do: ask for one that exists with --python, or let the operator install it")


def _versions_here(settings: EnvironmentSettings) -> list[str]:
    minors = [f"3.{number}" for number in range(6, 20)]
    found = (_first(_Asked(version=minor), _candidates(minor, settings), settings) for minor in minors)
    return [interpreter.version for interpreter in found if interpreter is not None]


def _read_memory(file: Path) -> dict[str, Any]:
    try:
        memory: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return memory


def _remember(file: Path, executable: str, entry: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.write_text(json.dumps({**_read_memory(file), executable: entry}))
    fresh.replace(file)
