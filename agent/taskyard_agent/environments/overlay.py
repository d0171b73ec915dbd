"""Makes a run's own thin environment over a shared one: what a task installs is its own, the base stays."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from taskyard_agent.environments.local_project import Project

PATH_FILE = "_taskyard.pth"
_NOT_CARRIED_OVER = ("python", "pypy", "activate", "Activate", "deactivate", "pydoc")
_LONGEST_LAUNCHER = 65536
_SHEBANG = re.compile(rb"#!\s*(?P<python>/[^\n]*)\n")
_TRAMPOLINE = re.compile(rb"""#!/bin/sh\n'''exec' ['"]?(?P<python>/[^"'\n]*?)['"]? "\$0" "\$@"\n' '''\n""")
_LONGEST_SHEBANG = 127
"""Linux before 5.1 cuts longer ones."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What an overlay lies over."""

    home: str
    """The interpreter's own executable."""
    version: str
    prefix: Path | None
    """None where nothing of it but its packages is on this machine: an image's own."""
    site_paths: tuple[str, ...]
    library: str
    """Site-packages relative to a virtual environment's root."""


def make_overlay(folder: Path, base: Base, *, projects: Iterable[Project] = (), last: Iterable[Path] = ()) -> Path:
    """Makes `folder` a virtual environment over `base` and returns its interpreter.

    Its own site-packages come first, then the base's, the source folders of `projects`, and the folders `last`.
    """
    python = folder / "bin" / "python"
    site = folder / base.library
    site.mkdir(parents=True)
    python.parent.mkdir()
    _link_python(python, base)
    (folder / "pyvenv.cfg").write_text(_configuration(base))
    (site / PATH_FILE).write_text(_path_file(base, projects, last))
    if base.prefix is not None:
        _add_launchers(python, base.prefix / "bin")
        _link_shared(folder, base.prefix)
    for project in projects:
        _describe_project(project, site, python)
    return python


def write_launcher(file: Path, python: Path, body: bytes) -> None:
    """Writes a script that `python` runs, however long or odd that path is."""
    file.unlink(missing_ok=True)  # what stands there may be a link
    file.write_bytes(_head(python) + body)
    file.chmod(0o755)


def entry_point(target: str) -> bytes:
    """Returns the text of a console script for `package.module:function`."""
    module, _, attribute = target.partition(":")
    name = attribute.partition(".")[0]
    return f"import sys\nfrom {module} import {name}\nsys.exit({attribute}())\n".encode()


def _link_python(python: Path, base: Base) -> None:
    python.symlink_to(base.home)
    minor = ".".join(base.version.split(".")[:2])
    for name in ("python3", f"python{minor}"):
        python.with_name(name).symlink_to("python")


def _configuration(base: Base) -> str:
    home = Path(base.home)
    return (
        f"home = {home.parent}\nimplementation = CPython\nversion = {base.version}\n"
        f"executable = {home}\ninclude-system-site-packages = false\n"
    )


def _path_file(base: Base, projects: Iterable[Project], last: Iterable[Path]) -> str:
    """A .pth file runs line by line; `addsitedir` follows the base's own .pth files, a plain path would not."""
    lines = [f"import site; site.addsitedir({path!r})" for path in base.site_paths]
    lines += [str(project.source) for project in projects]
    lines += [str(path) for path in last]
    return "\n".join(lines) + "\n"


def _add_launchers(python: Path, folder: Path) -> None:
    if not folder.is_dir():
        return
    for name, body in _tools(str(folder), folder.stat().st_mtime_ns):
        if body is None:
            python.with_name(name).symlink_to(folder / name)
        else:
            write_launcher(python.with_name(name), python, body)


@functools.lru_cache(maxsize=64)
def _tools(folder: str, _changed: int) -> tuple[tuple[str, bytes | None], ...]:
    """Returns what the base brings along: names, with the text below the first line where its Python runs it.

    In a system's folder, where everything else lies as well, only the launchers are of interest. Kept in memory,
    because reading thirty small files takes longer than all else that is done for a run.
    """
    own = (Path(folder).parent / "pyvenv.cfg").exists()
    return tuple((name, body) for name, body in _scan(folder) if own or body is not None)


def _scan(folder: str) -> Iterator[tuple[str, bytes | None]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(_NOT_CARRIED_OVER) and not entry.is_dir():
                yield entry.name, _launcher_body(folder, Path(entry.path))


def _launcher_body(folder: str, file: Path) -> bytes | None:
    try:
        with file.open("rb") as stream:
            text = stream.read(_LONGEST_LAUNCHER)
    except OSError:
        return None
    match = _TRAMPOLINE.match(text) or _SHEBANG.match(text)
    runs = match is not None and match["python"].startswith(f"{folder}/py".encode())
    return text[match.end() :] if match and runs and len(text) < _LONGEST_LAUNCHER else None


def _head(python: Path) -> bytes:
    path = os.fsencode(python)
    if len(path) + 2 <= _LONGEST_SHEBANG and not re.search(rb"\s", path):
        return b"#!" + path + b"\n"
    return b"#!/bin/sh\n'''exec' \"" + path + b'" "$0" "$@"\n\' \'\'\'\n'


def _link_shared(folder: Path, prefix: Path) -> None:
    """Packages find their data files at `sys.prefix`; a system's folders are no packages' data."""
    if not any((prefix / mark).exists() for mark in ("pyvenv.cfg", "conda-meta")):
        return
    for name in ("share", "etc", "include"):
        if (prefix / name).is_dir():
            (folder / name).symlink_to(prefix / name)


def _describe_project(project: Project, site: Path, python: Path) -> None:
    """Makes a project in the task's tree look installed: its metadata and its console scripts."""
    name = re.sub(r"[-_.]+", "_", project.name)
    metadata = site / f"{name}-{project.version}.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project.name}\nVersion: {project.version}\n"
    )
    groups = {"console_scripts": project.scripts, **project.entry_points}
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()
    ]
    metadata.joinpath("entry_points.txt").write_text("".join(lines))
    for script, target in project.scripts.items():
        if re.fullmatch(r"[\w.-]+", script):
            write_launcher(python.parent / script, python, entry_point(target))
