"""Turns what a script imports into requirements: what the project's interpreter has, and never a guess."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard.errors import UsageError
from taskyard.requirements.distributions import distribution_of
from taskyard.requirements.project_code import (
    ProjectCode,
    Surroundings,
    is_repositorys,
    local_source,
    standard_modules,
)

_LOCAL_LABEL = re.compile(r"\+[\w.]+$")
_GIT_SECONDS = 10.0


def needs_of(code: ProjectCode, around: Surroundings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requirements of the modules that are not the repository's, and what to say of them.

    Raises UsageError for code of this machine that the agent would not get, and for a module whose package nothing
    names: one that is called like it may be a stranger's.
    """
    standard = standard_modules(code.installed)
    imports = {**code.imports.optional, **code.imports.needed}
    foreign = {name for name in imports if name.partition(".")[0] not in standard}
    wanted = _Wanted(code=code, around=around)
    for name in sorted(_leaves(foreign)):
        wanted.add(name, optional=name not in code.imports.needed)
    for top in sorted(set(code.elsewhere) - {name.partition(".")[0] for name in foreign}):
        wanted.add_elsewhere(top)
    packages = tuple(sorted(set(wanted.packages), key=str.lower))
    if wanted.unknown:
        raise UsageError(_question(wanted.unknown, packages, code, around))
    return packages, tuple(dict.fromkeys(wanted.notes))


def shown(path: Path, root: Path) -> str:
    """Return a path as people of the repository know it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _leaves(names: set[str]) -> set[str]:
    """Leave out a package where one of its modules is imported too: that says more."""
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


@dataclass(kw_only=True)
class _Wanted:
    """Gathers requirements, module by module."""

    code: ProjectCode
    around: Surroundings
    packages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add(self, module: str, *, optional: bool) -> None:
        top = module.partition(".")[0]
        owners = self.code.installed.owners.get(module, [])
        if top in self.code.elsewhere and optional:
            place = self.code.elsewhere[top]
            self.notes.append(
                f"{self.code.line_of(module)} can do without {top}, which is in {place} here: left out"
            )
        elif top in self.code.elsewhere:
            self.add_elsewhere(module, owners)
        elif owners:
            for owner in owners:
                self._add_installed(module, owner)
        elif not optional:
            self._add_known(module)

    def add_elsewhere(self, module: str, owners: Sequence[str] = ()) -> None:
        """Add code of this machine that others can get from a remote. Raises UsageError for any other."""
        place = self.code.elsewhere[module.partition(".")[0]]
        for owner in owners or (module.partition(".")[0],):
            source = local_source(self.code.installed.origins.get(owner, {}))
            self._add_local(module, owner, source or _project_of(place))

    def _add_installed(self, module: str, name: str) -> None:
        installed = self.code.installed
        origin = installed.origins.get(name, {})
        if not origin or installed.installers.get(name) == "conda":
            # conda's name the folder that they were built in: https://github.com/conda/conda/issues/11580
            self.packages.append(f"{name}=={_LOCAL_LABEL.sub('', installed.versions[name])}")
            return
        source = local_source(origin)
        if source is not None:
            self._add_local(module, name, source)
        else:
            self.packages.append(_by_address(name, origin))

    def _add_local(self, module: str, name: str, source: Path) -> None:
        """Add what was installed from this machine: nothing of the kind is ever looked for on an index."""
        if is_repositorys(source, self.around.root) and source.is_file():
            self.packages.append(f"./{source.relative_to(self.around.root).as_posix()}")
            return
        clone = _published(source)
        if clone is None:
            raise UsageError(self._not_sent(module, source))
        self.packages.append(f"{name} @ {clone}")
        self.notes.append(
            f"{name} is taken from where {source} was cloned from, at the commit that is checked out"
        )

    def _add_known(self, module: str) -> None:
        known = distribution_of(module)
        if known is None:
            self.unknown.append(module)
            return
        self.packages.append(known)
        where = f"{module.partition('.')[0]} is not installed here"
        self.notes.append(f"{where}, so {known} is taken at its latest version")

    def _not_sent(self, module: str, place: Path) -> str:
        return (
            f"{self.code.line_of(module)} imports {module.partition('.')[0]}, which is code of this machine in "
            f"{place}: the agent does not get it, and a package of that name on an index may be a stranger's; "
            "copy or link it into the repository, or say what to install with --package or --requirements"
        )


def _project_of(place: Path) -> Path:
    """Return the project that a folder of modules belongs to."""
    marks = ("pyproject.toml", "setup.py", "setup.cfg")
    folders = (folder for folder in (place, place.parent) if any((folder / mark).is_file() for mark in marks))
    return next(folders, place)


def _by_address(name: str, origin: Mapping[str, Any]) -> str:
    address = _without_user(str(origin.get("url", "")))
    folder = f"#subdirectory={origin['subdirectory']}" if origin.get("subdirectory") else ""
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"{name} @ {vcs.get('vcs', 'git')}+{address}@{vcs.get('commit_id', '')}{folder}"
    digest = origin.get("archive_info", {}).get("hash", "")
    return f"{name} @ {address}{folder or (f'#{digest}' if digest.startswith('sha256=') else '')}"


def _without_user(address: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@(?=[^/])", "", address) if address.startswith("http") else address


def _published(folder: Path) -> str | None:
    """Return the address of an editable clone (`pip install -e git+…`); None where others would get other code."""
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel"))
        remote = _git(folder, "remote", "get-url", "origin")
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        pushed = _git(folder, "branch", "--remotes", "--contains", commit)
    except (OSError, subprocess.SubprocessError):
        return None
    if changed or not pushed or not remote.startswith(("https://", "ssh://")):
        return None
    part = folder.relative_to(top).as_posix() if folder.is_relative_to(top) else "."
    return f"git+{_without_user(remote)}@{commit}" + (f"#subdirectory={part}" if part != "." else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=_GIT_SECONDS
    )
    return done.stdout.strip()


def _question(modules: list[str], packages: tuple[str, ...], code: ProjectCode, around: Surroundings) -> str:
    tops = list(dict.fromkeys(modules))
    lines = ", ".join(f"{module} ({code.line_of(module)})" for module in tops)
    where = f"{shown(around.python, around.root)} does not have" if around.python else "no interpreter here has"
    slots = [f"PACKAGE-OF-{module}" for module in tops]
    typed = " ".join(shlex.quote(word) for word in (*packages, *slots))
    return (
        f"the script imports {lines}, which {where}, and a package of that name may be a stranger's: "
        f"install what it needs there, list it in a requirements.txt, or type: --package {typed}"
    )
