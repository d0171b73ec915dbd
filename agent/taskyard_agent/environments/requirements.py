"""Reads what a task's files require, flattened and vetted: nothing else needs to be read to install it."""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from taskyard_agent.environments.indexes import IndexPolicy, mask, refusal
from taskyard_agent.environments.local_project import Project
from taskyard_agent.environments.projects import read_project
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import inside, parse_toml, shown, text_of
from taskyard_agent.errors import RunFailed

URL_SCHEMES = ("https", "git+https", "git+ssh", "git+file")
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

    def for_key(self) -> list[object]:
        """What of this decides the content of an environment. Where the tree lies does not."""
        flags = [self.pre, self.prefer_binary, self.require_hashes, self.exact, self.no_binary, self.only_binary]
        names = {str(file): file.name for file in self.local_files}
        lines = [names.get(line, line) for line in self.lines]
        files = [*self.local_files, *(file for project in self.dynamic for file in project.build_files)]
        return [lines, self.constraints, flags, self.dynamic_extras, [_sha256(file) for file in files]]


def read_packages(packages: Sequence[str], *, recorded: bool, tree: Path, policy: IndexPolicy) -> Requirements:
    """Reads requirements given one by one; `recorded` ones lose local labels such as `+cu126`."""
    lines = [_LOCAL_LABEL.sub(r"\g<pin>", package) for package in packages] if recorded else list(packages)
    return read_lines(lines, where="the task's packages", folder=tree, tree=tree, policy=policy)


def read_lines(lines: Sequence[str], *, where: str, folder: Path, tree: Path, policy: IndexPolicy) -> Requirements:
    """Reads lines that stand elsewhere than in a file of their own; paths in them are relative to `folder`."""
    reader = _Reader(tree=tree, policy=policy)
    for line in lines:
        reader.take(line, where=where, folder=folder)
    return reader.result()


def read_requirements_file(file: Path, *, tree: Path, policy: IndexPolicy) -> Requirements:
    """Reads a requirements file with all that it includes. Raises RunFailed naming file and line."""
    reader = _Reader(tree=tree, policy=policy)
    reader.read(file)
    return reader.result()


def read_script(file: Path, *, tree: Path, policy: IndexPolicy) -> Requirements:
    """Reads the PEP 723 block of a script."""
    where = shown(file, tree)
    block = script_block(file.read_text(encoding="utf-8-sig"), where)
    tool = block.get("tool", {}).get("uv", {})
    if tool.get("sources"):
        raise failed(
            f"{where}: [tool.uv.sources] in a script's block is not followed; write the dependency as "
            "`name @ git+https://…`"
        )
    reader = _Reader(tree=tree, policy=policy)
    for index in tool.get("index", []):
        reader.add_index(str(index.get("url", "")), where, default=bool(index.get("default")))
    for line in block.get("dependencies", []):
        reader.take(line, where=where, folder=file.parent)
    return reader.result()


def read_project_dependencies(project: Project, *, tree: Path, policy: IndexPolicy) -> Requirements:
    """Reads the dependencies that a pyproject.toml spells out."""
    reader = _Reader(tree=tree, policy=policy)
    reader.take_needs(project)
    return reader.result()


def script_block(text: str, where: str) -> dict[str, Any]:
    """Returns the PEP 723 table of a script's text. Raises RunFailed when there is none."""
    match = _SCRIPT_BLOCK.search(text.replace("\r\n", "\n"))
    if match is None:
        raise failed(f"{where} has no `# /// script` block")
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in match["body"].splitlines())
    return parse_toml("\n".join(lines), where)


def check_url(address: str, where: str) -> None:
    """Raises RunFailed unless an address that a file names outright may be fetched."""
    scheme = urlsplit(address).scheme.lower()
    if scheme not in URL_SCHEMES or "${" in address or urlsplit(address).netloc.startswith("-"):
        raise failed(f"{where} names {mask(address)}; addresses begin with {', '.join(URL_SCHEMES)}")


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

    tree: Path
    policy: IndexPolicy
    lines: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    default_index: str | None = None
    extra_indexes: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    wheel_folders: list[Path] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    no_binary: list[str] = field(default_factory=list)
    only_binary: list[str] = field(default_factory=list)
    projects: list[Project] = field(default_factory=list)
    dynamic_extras: list[str] = field(default_factory=list)
    local_files: list[Path] = field(default_factory=list)
    seen: set[tuple[Path, bool]] = field(default_factory=set)

    def result(self) -> Requirements:
        return Requirements(
            lines=tuple(self.lines),
            origins=tuple(self.origins),
            constraints=tuple(self.constraints),
            default_index=self.default_index,
            extra_indexes=tuple(self.extra_indexes),
            find_links=tuple(self.find_links),
            wheel_folders=tuple(self.wheel_folders),
            no_index="no_index" in self.flags,
            pre="pre" in self.flags,
            prefer_binary="prefer_binary" in self.flags,
            require_hashes="require_hashes" in self.flags,
            no_binary=tuple(self.no_binary),
            only_binary=tuple(self.only_binary),
            projects=tuple(self.projects),
            dynamic=tuple(project for project in self.projects if project.dynamic),
            dynamic_extras=tuple(dict.fromkeys(self.dynamic_extras)),
            local_files=tuple(self.local_files),
        )

    def read(self, file: Path, *, constraint: bool = False) -> None:
        name = shown(file, self.tree)
        if (file, constraint) in self.seen:
            return
        self.seen.add((file, constraint))
        for number, line in _logical_lines(text_of(file, name)):
            self.take(line, where=f"{name}:{number}", folder=file.parent, constraint=constraint)

    def take(self, line: str, *, where: str, folder: Path, constraint: bool = False) -> None:
        """Takes one line: an option, or a requirement."""
        if line.startswith("-"):
            self._take_option(line, where, folder, constraint=constraint)
        else:
            self._take_requirement(line, where, folder, constraint=constraint)

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
            self.take(line, where=where, folder=project.folder)

    def _take_option(self, line: str, where: str, folder: Path, *, constraint: bool) -> None:
        try:
            options = _OPTIONS.parse_args(shlex.split(line))
        except (_OptionError, ValueError) as error:
            raise _not_followed(where, line.split(maxsplit=1)[0], line) from error
        for name in options.requirement:
            self.read(self._included(name, where, folder), constraint=constraint)
        for name in options.constraint:
            self.read(self._included(name, where, folder), constraint=True)
        for target in options.editable:
            self._take_requirement(_without_egg(target), where, folder, constraint=constraint)
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
                self._take_wheel_folder(inside(self.tree, folder / address, where))

    def _take_wheel_folder(self, folder: Path) -> None:
        self.wheel_folders.append(folder)
        self.local_files += sorted(file for file in folder.glob("*") if file.is_file())

    def _vetted(self, address: str, where: str) -> str:
        accepted = self.policy.accept(address)
        if accepted is None or "${" in accepted:
            raise failed(refusal(where, address))
        return accepted

    def _included(self, name: str, where: str, folder: Path) -> Path:
        if "://" in name:
            raise failed(f"{where} includes {mask(name)}; put that file into the repository")
        return inside(self.tree, folder / name, where)

    def _take_requirement(self, line: str, where: str, folder: Path, *, constraint: bool) -> None:
        if "${" in line:
            raise failed(f"{where}: variables are not filled in on the agent: {line}")
        target, options = _split_options(line, where)
        if _is_path(target, folder):
            self._take_path(target, where, folder)
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

    def _take_path(self, target: str, where: str, folder: Path) -> None:
        name, _, extras = target.removesuffix("]").partition("[")
        name = unquote(urlsplit(name).path) if name.startswith("file:") else name
        path = inside(self.tree, folder / name, where)
        if path.is_file():
            self._add(str(path), where)
            self.local_files.append(path)
        elif path.is_dir():
            self._take_project(path, [extra.strip() for extra in extras.split(",") if extra])
        else:
            raise failed(f"{where}: there is no {name} in the task's code")

    def _take_project(self, folder: Path, extras: list[str]) -> None:
        project = read_project(folder, tree=self.tree, extras=extras)
        if project.dynamic:
            self.dynamic_extras += extras
        self.projects.append(project)
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


def _is_path(target: str, folder: Path) -> bool:
    if target.startswith((".", "/", "file:")):
        return True
    plain = target.partition("[")[0]
    return "://" not in target and "/" in plain and "@" not in plain and (folder / plain).exists()


def _without_egg(target: str) -> str:
    """`git+https://host/x#egg=name` → `name @ git+https://host/x`: an installed copy does for a run."""
    address, found, name = target.partition("#egg=")
    return f"{name.partition('&')[0]} @ {address}" if found and "://" in address else target


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
