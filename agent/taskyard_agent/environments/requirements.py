"""Reads what a task's files require, flattened and vetted: nothing else needs to be read to install it."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from taskyard.requirements.uv_tables import normalised

from taskyard_agent.environments.addresses import check_url
from taskyard_agent.environments.indexes import IndexPolicy, mask, refusal, without_credentials
from taskyard_agent.environments.local_project import Pinned, Project
from taskyard_agent.environments.projects import Reading, read_project
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import file_digest, inside, parse_toml, shown, text_of
from taskyard_agent.environments.uv_settings import NONE_OF_UV, UvSettings, read_uv_settings
from taskyard_agent.environments.uv_sources import sources_of
from taskyard_agent.errors import RunFailed

_COMMENT = re.compile(r"(^|\s+)#.*$")
_SCRIPT_BLOCK = re.compile(r"(?m)^# /// script\s*$\n(?P<body>(^#(| .*)$\n?)+?)^# ///\s*$")
_LOCAL_LABEL = re.compile(r"(?P<pin>==\s*[\w.!]+)\+[\w.]+")
_LINE_OPTIONS = re.compile(r"\s--?[a-z]")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A git repository at one commit."""

    url: str
    commit: str
    origin: str
    """Where it is named."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What to install. Paths in `lines` are absolute; every index has passed the operator's list."""

    lines: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    """For each of `lines` where it stands: `requirements.txt:3`."""
    pinned: tuple[Pinned, ...] = ()
    """Requirements beside `lines`, each from one index alone; their addresses may hold credentials."""
    settings: UvSettings = NONE_OF_UV
    """What the project's [tool.uv] decides."""
    constraints: tuple[str, ...] = ()
    default_index: str | None = None
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    wheel_folders: tuple[Path, ...] = ()
    """Folders inside the tree that the files name with `--find-links`."""
    no_index: bool = False
    pre: bool = False
    prefer_binary: bool = False
    require_hashes: bool = False
    exact: bool = False
    """The lines name all that is to be installed: nothing that they need is added."""
    no_binary: tuple[str, ...] = ()
    only_binary: tuple[str, ...] = ()
    projects: tuple[Project, ...] = ()
    """Local projects that the files name (`-e .`)."""
    dynamic: tuple[Project, ...] = ()
    """Those of `projects` whose needs only their build backend can tell."""
    dynamic_extras: tuple[str, ...] = ()
    repositories: tuple[Repository, ...] = ()
    """What the lines take from git, once that is pinned."""
    local_files: tuple[Path, ...] = ()
    """Wheels and archives inside the tree."""
    lock_member: str = ""
    """Which member of a workspace its uv.lock is installed for; empty: as it is in the lock's own folder."""
    lock_local: tuple[str, ...] = ()
    """Names of the folders of the tree that a uv.lock has, which are used from there."""
    lock_folders: tuple[Path, ...] = ()
    """Of the projects that a uv.lock is installed for."""

    @property
    def compiled(self) -> tuple[Project, ...]:
        """Those of `projects` whose modules must be built; the others are used as they lie in the tree."""
        return tuple(project for project in self.projects if project.compiled)

    def for_key(self) -> list[object]:
        """What of this decides the content of an environment. Where the tree lies does not."""
        flags = [self.pre, self.prefer_binary, self.require_hashes, self.exact, self.no_binary, self.only_binary]
        names = {str(file): file.name for file in self.local_files}
        lines = [_renamed(line, names) for line in self.lines]
        pinned = [(need.line, without_credentials(need.url)) for need in self.pinned]
        built = {project.folder: project.digest for project in (*self.dynamic, *self.compiled)}
        local = sorted({normalised(project.name) for project in self.projects})
        files = [file_digest(file) for file in self.local_files]
        return [
            lines,
            self.constraints,
            flags,
            self.dynamic_extras,
            files,
            pinned,
            local,
            sorted(built.values()),
            self.settings.options,
        ]


def _renamed(line: str, names: Mapping[str, str]) -> str:
    """Returns a line with the name of a file of the tree in the place of its path."""
    path, space, rest = line.partition(" ")
    file, bracket, extras = path.partition("[")
    return f"{names.get(file, file)}{bracket}{extras}{space}{rest}"


def read_packages(
    packages: Sequence[str], *, recorded: bool, reading: Reading, policy: IndexPolicy
) -> Requirements:
    """Reads requirements given one by one; `recorded` ones lose local labels such as `+cu126`."""
    lines = [_LOCAL_LABEL.sub(r"\g<pin>", package) for package in packages] if recorded else list(packages)
    return read_lines(lines, where="the task's packages", folder=reading.tree, reading=reading, policy=policy)


def with_packages(
    requirements: Requirements, packages: Sequence[str], *, reading: Reading, policy: IndexPolicy
) -> Requirements:
    """Adds what the task lists beside the file that it names."""
    if not packages:
        return requirements
    added = read_packages(packages, recorded=False, reading=reading, policy=policy)
    names = ("lines", "origins", "pinned", "projects", "dynamic", "dynamic_extras", "repositories", "local_files")
    both: dict[str, Any] = {name: (*getattr(requirements, name), *getattr(added, name)) for name in names}
    return replace(requirements, **both)


def read_lines(
    lines: Sequence[str], *, where: str, folder: Path, reading: Reading, policy: IndexPolicy
) -> Requirements:
    """Reads lines that stand elsewhere than in a file of their own; paths in them are relative to `folder`."""
    reader = _Reader(reading=reading, policy=policy)
    for line in lines:
        reader.take(line, where=where, folder=folder)
    return reader.result()


def read_requirements_file(file: Path, *, reading: Reading, policy: IndexPolicy, work: Path) -> Requirements:
    """Reads a requirements file with all that it includes. Raises RunFailed naming file and line.

    Paths of packages are looked for from the folder where the command runs, as pip does it, then from the root of
    the code and from the file's own folder. https://pip.pypa.io/en/stable/reference/requirements-file-format
    """
    reader = _Reader(reading=reading, policy=policy, bases=(work, reading.tree))
    reader.read(file)
    return reader.result()


def read_script(file: Path, *, reading: Reading, policy: IndexPolicy) -> Requirements:
    """Reads the PEP 723 block of a script."""
    where = shown(file, reading.tree)
    block = script_block(text_of(file, where), where)
    settings = read_uv_settings(block, file, where, tree=reading.tree, policy=policy)
    reader = _Reader(reading=reading, policy=policy, settings=settings)
    lines, pinned = sources_of(file.parent, block, where, reading, alone=True).place(block.get("dependencies", []))
    for line in lines:
        reader.take(line, where=where, folder=file.parent)
    reader.take_pinned(pinned)
    return reader.result()


def read_project_dependencies(
    project: Project, *, reading: Reading, policy: IndexPolicy, settings: UvSettings = NONE_OF_UV
) -> Requirements:
    """Reads the dependencies that a project spells out, and those of the projects in the tree that it names."""
    reader = _Reader(reading=reading, policy=policy, settings=settings)
    reader.add_project(project)
    return reader.result()


def script_block(text: str, where: str) -> dict[str, Any]:
    """Returns the PEP 723 table of a script's text. Raises RunFailed when there is none."""
    match = _SCRIPT_BLOCK.search(text.replace("\r\n", "\n"))
    if match is None:
        raise failed(f"{where} has no `# /// script` block")
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in match["body"].splitlines())
    return parse_toml("\n".join(lines), where)


class _OptionError(Exception):
    """An option line that is not on the list."""


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _OptionError(message)


def _option_parser() -> _Options:
    parser = _Options(add_help=False, allow_abbrev=False)
    parser.add_argument("-r", "--requirement", action="append", default=[])
    parser.add_argument("-c", "--constraint", action="append", default=[])
    parser.add_argument("-e", "--editable", action="append", default=[])
    parser.add_argument("-i", "--index-url", "--pypi-url", dest="index_url")
    parser.add_argument("--extra-index-url", action="append", default=[])
    parser.add_argument("-f", "--find-links", action="append", default=[])
    parser.add_argument("--no-binary", action="append", default=[])
    parser.add_argument("--only-binary", action="append", default=[])
    for flag in ("--no-index", "--pre", "--prefer-binary", "--require-hashes"):
        parser.add_argument(flag, action="store_true")
    return parser


_OPTIONS = _option_parser()


@dataclass(kw_only=True)
class _Reader:
    """Gathers the lines of a requirements file and of the files that it includes."""

    reading: Reading
    policy: IndexPolicy
    bases: tuple[Path, ...] = ()
    """Where paths of packages are looked for before the folder of the file that names them."""
    settings: UvSettings = NONE_OF_UV
    lines: list[str] = field(default_factory=list)
    pinned: list[Pinned] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    default_index: str | None = None
    extra_indexes: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    wheel_folders: list[Path] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    no_binary: list[str] = field(default_factory=list)
    only_binary: list[str] = field(default_factory=list)
    projects: dict[Path, Project] = field(default_factory=dict)
    taken: set[tuple[Path, str]] = field(default_factory=set)
    """Projects with each of the extras that were asked for; without one: ""."""
    dynamic_extras: list[str] = field(default_factory=list)
    local_files: list[Path] = field(default_factory=list)
    seen: set[tuple[Path, bool]] = field(default_factory=set)

    @property
    def tree(self) -> Path:
        return self.reading.tree

    def result(self) -> Requirements:
        self._keep_local_names_local()
        settings = self.settings
        projects = tuple(self.projects.values())
        return Requirements(
            lines=tuple(self.lines),
            origins=tuple(self.origins),
            pinned=tuple(dict.fromkeys(self.pinned)),
            settings=settings,
            constraints=tuple(self.constraints),
            default_index=settings.default_index or self.default_index,
            extra_indexes=(*self.extra_indexes, *settings.extra_indexes),
            find_links=(*self.find_links, *settings.find_links),
            wheel_folders=(*self.wheel_folders, *settings.wheel_folders),
            no_index=settings.no_index or "no_index" in self.flags,
            pre="pre" in self.flags,
            prefer_binary="prefer_binary" in self.flags,
            require_hashes="require_hashes" in self.flags,
            no_binary=tuple(self.no_binary),
            only_binary=tuple(self.only_binary),
            projects=projects,
            dynamic=tuple(project for project in projects if project.dynamic),
            dynamic_extras=tuple(dict.fromkeys(self.dynamic_extras)),
            local_files=(
                *self.local_files,
                *(file for folder in settings.wheel_folders for file in _files_in(folder)),
            ),
        )

    def _keep_local_names_local(self) -> None:
        """A project of the tree that another one needs by its name is never looked for in an index."""
        while True:
            local = {normalised(project.name): project for project in self.projects.values()}
            needs = [_requirement_of(line) for line in self.lines]
            waiting = [need for need in needs if need is not None and normalised(need.name) in local]
            if not waiting:
                return
            kept = [number for number, need in enumerate(needs) if need not in waiting]
            self.lines = [self.lines[number] for number in kept]
            self.origins = [self.origins[number] for number in kept]
            for need in waiting:
                if need.marker is None or need.marker.evaluate({**self.reading.markers, "extra": ""}):
                    self._take_project(local[normalised(need.name)].folder, sorted(need.extras))

    def read(self, file: Path, *, constraint: bool = False) -> None:
        name = shown(file, self.tree)
        if (file, constraint) in self.seen:
            return
        self.seen.add((file, constraint))
        for number, line in _logical_lines(text_of(file, name)):
            self.take(line, where=f"{name}:{number}", folder=file.parent, constraint=constraint)

    def take(self, line: str, *, where: str, folder: Path, constraint: bool = False, alone: bool = False) -> None:
        """Takes one line: an option, or a requirement. `alone`: paths in it are relative to `folder` alone."""
        bases = (folder,) if alone else (*self.bases, folder)
        if line.startswith("-"):
            self._take_option(line, where, folder, bases, constraint=constraint)
        else:
            self._take_requirement(line, where, bases, constraint=constraint)

    def add_index(self, address: str, where: str, *, default: bool = False) -> None:
        accepted = self._vetted(address, where)
        if default:
            self.default_index = accepted
        else:
            self.extra_indexes.append(accepted)

    def take_needs(self, project: Project) -> None:
        """Takes the dependencies of a project in the tree, and the indexes that it adds."""
        where = shown(project.folder / "pyproject.toml", self.tree)
        if project.default_index:
            self.add_index(project.default_index, where, default=True)
        for address in project.extra_indexes:
            self.add_index(address, where)
        for line in project.dependencies:
            self.take(line, where=where, folder=project.folder, alone=True)
        self.take_pinned(project.pinned)

    def take_pinned(self, pinned: Iterable[Pinned]) -> None:
        """Takes requirements that come from one index each. Raises RunFailed for one that is not allowed."""
        for need in pinned:
            self.pinned.append(replace(need, url=self._vetted(need.url, need.origin)))

    def add_project(self, project: Project) -> None:
        """Takes a project that was read, and what it needs."""
        self.projects.setdefault(project.folder, project)
        self.taken.add((project.folder, ""))
        self.take_needs(project)

    def _take_option(
        self, line: str, where: str, folder: Path, bases: tuple[Path, ...], *, constraint: bool
    ) -> None:
        try:
            options = _OPTIONS.parse_args(shlex.split(line))
        except (_OptionError, ValueError) as error:
            raise _not_followed(where, line.split(maxsplit=1)[0], line) from error
        for name in options.requirement:
            self.read(self._included(name, where, folder), constraint=constraint)
        for name in options.constraint:
            self.read(self._included(name, where, folder), constraint=True)
        for target in options.editable:
            # A name from an index cannot be editable: a word is a folder, for pip as well.
            path = "" if "://" in target or target.startswith((".", "/", "file:")) else "./"
            self._take_requirement(path + target, where, bases, constraint=constraint)
        self._take_indexes(options, where, folder)
        self.no_binary += options.no_binary
        self.only_binary += options.only_binary
        named = ("no_index", "pre", "prefer_binary", "require_hashes")
        self.flags.update(name for name in named if getattr(options, name))

    def _take_indexes(self, options: argparse.Namespace, where: str, folder: Path) -> None:
        if options.index_url:
            self.add_index(options.index_url, where, default=True)
        for address in options.extra_index_url:
            self.add_index(address, where)
        for address in options.find_links:
            if "://" in address:
                self.find_links.append(self._vetted(address, where))
            else:
                self._take_wheel_folder(self._located(address, (folder, *self.bases), where))

    def _take_wheel_folder(self, folder: Path) -> None:
        self.wheel_folders.append(folder)
        self.local_files += _files_in(folder)

    def _vetted(self, address: str, where: str) -> str:
        accepted = self.policy.accept(address)
        if accepted is None or "${" in accepted:
            raise failed(refusal(where, address))
        return accepted

    def _included(self, name: str, where: str, folder: Path) -> Path:
        if "://" in name:
            raise failed(f"{where} includes {mask(name)}; put that file into the repository")
        return inside(self.tree, folder / name, where)

    def _take_requirement(self, line: str, where: str, bases: tuple[Path, ...], *, constraint: bool) -> None:
        if "${" in line:
            raise failed(f"{where}: variables are not filled in on the agent: {line}")
        target, options = _split_options(_without_egg(line), where)
        if _is_path(target, bases):
            self._take_path(target, options, where, bases)
            return
        if "://" in target.partition(" ")[0]:
            check_url(target, where)
        else:
            _check_requirement(target, where)
        self._add(" ".join((target, *options)), where, constraint=constraint)

    def _add(self, line: str, where: str, *, constraint: bool = False) -> None:
        if constraint:
            self.constraints.append(line)
        else:
            self.lines.append(line)
            self.origins.append(where)

    def _take_path(self, target: str, options: list[str], where: str, bases: tuple[Path, ...]) -> None:
        target, _, marker = (part.strip() for part in target.partition(";"))
        if marker and not self._holds(marker, where):
            return
        name, _, extras = target.removesuffix("]").partition("[")
        name = unquote(urlsplit(name).path) if name.startswith("file:") else name
        path = self._located(name, bases, where)
        if path.is_file():
            self._add(" ".join((f"{path}[{extras}]" if extras else str(path), *options)), where)
            self.local_files.append(path)
        elif path.is_dir():
            self._take_project(path, [extra.strip() for extra in extras.split(",") if extra.strip()])
        else:
            raise failed(f"{where}: there is no {name} in the task's code")

    def _holds(self, marker: str, where: str) -> bool:
        try:
            return Marker(marker).evaluate({**self.reading.markers, "extra": ""})
        except InvalidMarker as error:
            raise failed(f"{where}: {marker!r} is no marker: {str(error).splitlines()[0]}") from error

    def _located(self, name: str, bases: tuple[Path, ...], where: str) -> Path:
        found = next((base / name for base in bases if (base / name).exists()), bases[0] / name)
        return inside(self.tree, found, where)

    def _take_project(self, folder: Path, extras: list[str]) -> None:
        wanted = [extra for extra in extras or [""] if (folder, extra) not in self.taken]
        if not wanted:
            return
        self.taken |= {(folder, ""), *((folder, extra) for extra in wanted)}
        project = read_project(folder, reading=self.reading, extras=extras)
        if project.dynamic:
            self.dynamic_extras += extras
        self.projects.setdefault(folder, project)
        self.take_needs(project)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields (number of the first line, text): continuations joined, comments and blanks gone, as pip does."""
    begun, parts = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        begun = begun or number
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            parts += line[:-1]
            continue
        logical = _COMMENT.sub("", parts + ("" if comment else line)).strip()
        if logical:
            yield begun, logical
        begun, parts = 0, ""
    if parts.strip():
        yield begun, parts.strip()


def _split_options(line: str, where: str) -> tuple[str, list[str]]:
    """Parts a requirement from its own options, of which only hashes and build settings are taken."""
    match = _LINE_OPTIONS.search(line)
    if match is None:
        return line, []
    options = line[match.start() :].split()
    refused = [option for option in options if not option.startswith(("--hash=", "--config-settings="))]
    if refused:
        raise _not_followed(where, refused[0], line)
    return line[: match.start()].strip(), options


def _not_followed(where: str, option: str, line: str) -> RunFailed:
    return failed(f"{where}: the option {option!r} is not followed by Taskyard: {mask(line)}")


def _check_requirement(target: str, where: str) -> None:
    try:
        requirement = Requirement(target)
    except InvalidRequirement as error:
        raise failed(f"{where}: {target!r} is no requirement: {str(error).splitlines()[0]}") from error
    if requirement.url is not None:
        check_url(requirement.url, where)


def _is_path(target: str, bases: tuple[Path, ...]) -> bool:
    plain = target.partition(";")[0].partition("[")[0].strip()
    if target.startswith((".", "/", "file:")):
        return True
    looks_like_one = "/" in plain or plain.endswith((".whl", ".tar.gz", ".zip"))
    return (
        "://" not in target
        and looks_like_one
        and "@" not in plain
        and any((base / plain).exists() for base in bases)
    )


def _without_egg(line: str) -> str:
    """`git+https://host/x#egg=name&subdirectory=d` → `name @ git+https://host/x#subdirectory=d`.

    An installed copy does for a run, so that nothing is lost with `-e`.
    """
    address, found, rest = line.partition("#")
    fragment, _, behind = rest.partition(" ")
    words = dict(word.split("=", 1) for word in fragment.split("&") if "=" in word)
    if not found or "://" not in address or " @ " in address or "egg" not in words:
        return line
    kept = "&".join(f"{name}={value}" for name, value in words.items() if name != "egg")
    return f"{words['egg']} @ {address}{'#' if kept else ''}{kept}{' ' if behind else ''}{behind}"


def _requirement_of(line: str) -> Requirement | None:
    try:
        return Requirement(line.partition(" --")[0])
    except InvalidRequirement:
        return None


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.is_file())
