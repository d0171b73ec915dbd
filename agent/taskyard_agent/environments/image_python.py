"""The Python of an image: what it is, and what it lends to the environments that are built on it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from taskyard.wire import Phase, Reason

from taskyard_agent.environments.indexes import Indexes, configured_indexes
from taskyard_agent.environments.installer import Installer, visible_variables
from taskyard_agent.environments.interpreters import PROBE, Interpreter, Lent, interpreter_from
from taskyard_agent.environments.place import Place
from taskyard_agent.environments.request import EnvironmentSettings, failed
from taskyard_agent.errors import RunFailed

_FIND = """\
for name; do command -v "$name" >/dev/null 2>&1 && exec "$name" -E -c "$TASKYARD_PROBE" lends; done
echo '{}'
"""
_MINOR = re.compile(r"\d+\.\d+")
_NOT_THERE = ("executable file not found", "no such file or directory", "not found in $path")
_INSTALLER = "taskyard"
_NOT_STARTED = 125
"""What a program ends with that its engine did not start."""
TRIPLES = {"x86_64": "x86_64-unknown-linux", "aarch64": "aarch64-unknown-linux"}


_WORD = re.compile(r"[^/\\\x00-\x1f]+")
"""What may be a part of a file's name."""


def find_in_image(
    place: Place, wanted: str | None, settings: EnvironmentSettings, installer: Installer
) -> Interpreter | None:
    """Returns the image's own Python, best of the version that is wanted; None when it has none.

    The answer is kept for as long as the image is the same. Raises RunFailed when no program runs in it, and
    when its Python is of another minor version.
    """
    names = _names(wanted)
    memory = settings.root / "images" / f"{_digest(place.key, *names)}.json"
    record = _read(memory)
    if record is None:
        record = _ask(place, names, installer)
        _write(memory, record)
    if not record:
        return None
    found = interpreter_from({**record, "image": place.key})
    if not _is_plausible(found):
        raise failed(f"the Python of the image {place.name} does not say what it is", reason=Reason.IMAGE)
    _compare(found, wanted, place, installer)
    return found


def _compare(found: Interpreter, wanted: str | None, place: Place, installer: Installer) -> None:
    """As on a machine: another patch will do, another minor version never."""
    minor = None if not wanted or wanted.startswith("/") else _MINOR.search(wanted)
    if minor is None:
        return
    if minor[0] != found.minor:
        raise failed(
            f"the image {place.name} has Python {found.version}, and the task asks for {wanted}: take an image "
            f"that has it, like python:{minor[0]}, or ask for `--python {found.minor}`",
            reason=Reason.IMAGE,
        )
    if wanted not in (found.version, found.minor):
        installer.log(f"the image {place.name} has Python {found.version}; using it for {wanted}")


def _is_plausible(found: Interpreter) -> bool:
    """An image may answer anything, and what it says becomes paths in which the agent writes."""
    library = Path(found.library)
    words = [found.version, *(word for lent in found.lends for word in (lent.name, lent.version))]
    return (
        not library.is_absolute()
        and ".." not in library.parts
        and found.home.startswith("/")
        and all(_WORD.fullmatch(word) for word in words)
    )


def without_python(place: Place) -> RunFailed:
    """The failure of a task that needs Python in an image without."""
    return failed(
        f"the image {place.name} has no Python on its PATH; take one that has, like python:3.12, or install it "
        "with the task's apt packages or set-up script",
        reason=Reason.IMAGE,
    )


def uv_for(interpreter: Interpreter, settings: EnvironmentSettings, installer: Installer) -> str:
    """Returns a uv that runs in the interpreter's image: this machine's own, else its kind, fetched once."""
    machine = interpreter.platform.rpartition("-")[2]
    if interpreter.platform == sysconfig.get_platform() and not interpreter.musl:
        return installer.uv
    if machine not in TRIPLES:
        raise failed(f"there is no uv for images of {machine} processors; use `--manager inherit`")
    triple = f"{TRIPLES[machine]}-{'musl' if interpreter.musl else 'gnu'}"
    version = metadata.version("uv")
    folder = settings.root / "tools" / f"uv-{version}-{triple}"
    program = folder / "bin" / "uv"
    if not program.exists():
        installer.log(f"fetching uv for {triple}")
        own = ["--python", sys.executable]  # else uv looks for one that suits the other platform, and fetches it
        options = ["--no-config", "--color", "never", "--no-progress", "--no-deps", "--target", str(folder)]
        wheel = ["--python-platform", triple, "--only-binary", "uv", f"uv=={version}"]
        argv = [installer.uv, "pip", "install", *own, *options, *wheel]
        _on_this_machine(installer, settings).run(argv, cwd=Path("/"), quiet=True)
    return str(program)


def _on_this_machine(installer: Installer, settings: EnvironmentSettings) -> Installer:
    """The same for what runs here, with this machine's certificates, indexes and downloads."""
    variables = {
        **visible_variables(settings.variables),
        **configured_indexes(settings.variables).for_uv(),
        "UV_CACHE_DIR": str(settings.root / "downloads" / "uv"),  # no image can change that
    }
    return dataclasses.replace(installer, place=None, variables=variables)


@contextlib.contextmanager
def lent_to(site: Path, interpreter: Interpreter) -> Iterator[None]:
    """Shows uv, which looks into the environment alone, what the image has: names, versions and needs.

    What uv replaces it takes away itself; the rest is taken away here, and found in the image by the overlay.
    """
    for package in interpreter.lends:
        _describe(package, site)
    yield
    for folder in site.glob("*.dist-info"):
        if _is_ours(folder):
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def with_lent(packages: tuple[str, ...], interpreter: Interpreter) -> tuple[str, ...]:
    """Adds what an image lends to what is installed; the latter wins."""
    found = {package.name.lower(): f"{package.name}=={package.version}" for package in interpreter.lends}
    found |= {package.partition("==")[0].lower(): package for package in packages}
    return tuple(found[name] for name in sorted(found))


def local_folders(indexes: Indexes) -> tuple[Path, ...]:
    """Returns the folders of this machine that serve as package indexes."""
    addresses = [*indexes.extra, *indexes.find_links, *([indexes.default] if indexes.default else [])]
    paths = (Path(address.removeprefix("file://")) for address in addresses if _is_local(address))
    return tuple(path for path in paths if path.is_dir())


def _is_local(address: str) -> bool:
    return address.startswith(("/", "file:///"))


def _names(wanted: str | None) -> tuple[str, ...]:
    if wanted and wanted.startswith("/"):
        return (wanted,)
    minor = _MINOR.search(wanted or "")
    return (*([f"python{minor[0]}"] if minor else ()), "python3", "python")


def _ask(place: Place, names: tuple[str, ...], installer: Installer) -> dict[str, Any]:
    probe = {"TASKYARD_PROBE": PROBE}
    commands = [["/bin/sh", "-c", _FIND, "sh", *names]]
    if not place.shell:
        commands = [[name, "-E", "-c", PROBE, "lends"] for name in names]
    for command in commands:
        try:
            output = installer.run(command, cwd=Path("/"), variables=probe, quiet=True)
        except RunFailed as failure:
            if failure.phase is not Phase.ENVIRONMENT or failure.infrastructure:  # not the image's fault
                raise
            if not place.shell and any(words in str(failure).lower() for words in _NOT_THERE):
                continue
            raise _broken(place, failure) from failure
        answer: dict[str, Any] = json.loads(output[-1])
        return answer
    return {}


def _broken(place: Place, failure: RunFailed) -> RunFailed:
    message = f"nothing runs in the image {place.name}: {failure}"
    if "exec format error" in str(failure).lower():
        message = f"the image {place.name} is for another processor than this machine's"
    elif f"ended with {_NOT_STARTED}:" in str(failure):
        return failed(message, reason=Reason.CONTAINER, infrastructure=True)
    return failed(message, reason=Reason.IMAGE)


def _describe(package: Lent, site: Path) -> None:
    name = re.sub(r"[-_.]+", "_", package.name)
    folder = site / f"{name}-{package.version}.dist-info"
    if folder.exists():
        return
    folder.mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}"]
    lines += [f"Requires-Dist: {line}" for line in package.requires]
    lines += [f"Provides-Extra: {extra}" for extra in package.extras]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    (folder / "INSTALLER").write_text(f"{_INSTALLER}\n")
    (folder / "RECORD").write_text(
        "".join(f"{folder.name}/{file},,\n" for file in ("METADATA", "INSTALLER", "RECORD"))
    )


def _is_ours(folder: Path) -> bool:
    try:
        return (folder / "INSTALLER").read_text() == f"{_INSTALLER}\n"
    except OSError:
        return False


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return record


def _write(file: Path, record: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{_digest(str(id(record)))}")
    fresh.write_text(json.dumps(record))
    fresh.replace(file)
