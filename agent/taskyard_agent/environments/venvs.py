"""What managers that build virtual environments share: reading the task's request, and checking the result."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from taskyard.wire import Environment, RequirementsKind

from taskyard_agent.environments.base import Installed, Recipe
from taskyard_agent.environments.indexes import IndexPolicy, configured_indexes
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.projects import Reading
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.requirements import (
    Requirements,
    read_packages,
    read_requirements_file,
    read_script,
    with_packages,
)
from taskyard_agent.environments.task_files import file_digest, inside
from taskyard_agent.errors import RunFailed

LISTED = (
    RequirementsKind.NONE,
    RequirementsKind.PACKAGES,
    RequirementsKind.IMPORTS,
    RequirementsKind.SCRIPT,
    RequirementsKind.REQUIREMENTS_TXT,
)
"""Kinds that come down to lines, which every manager installs alike."""
READERS = {RequirementsKind.POETRY_LOCK: "poetry", RequirementsKind.ENVIRONMENT_YML: "conda"}
"""Who reads what uv and pip do not."""
_LOCKS = ("uv.lock", "pylock.toml", "poetry.lock", "conda-lock.yml")
_MOST_LINES = 3
_ERROR = re.compile(r"(?im)^.*(error|×)")


def policy_of(settings: EnvironmentSettings) -> IndexPolicy:
    """Returns which indexes a task's files may name on this machine."""
    configured = configured_indexes(settings.variables).addresses
    return IndexPolicy(configured=configured, allowed=settings.allowed_indexes)


def reading_of(request: EnvironmentRequest, interpreter: Interpreter) -> Reading:
    """Returns for whom the request's files are read."""
    return Reading(tree=request.tree, markers=interpreter.markers)


def read_listed(request: EnvironmentRequest, interpreter: Interpreter, policy: IndexPolicy) -> Requirements:
    """Reads a request whose kind is in LISTED. Raises RunFailed naming file and line."""
    wanted, tree = request.environment, request.tree
    reading = reading_of(request, interpreter)
    if wanted.requirements in (RequirementsKind.PACKAGES, RequirementsKind.IMPORTS):
        recorded = wanted.requirements is RequirementsKind.IMPORTS
        return read_packages(wanted.packages, recorded=recorded, reading=reading, policy=policy)
    if wanted.requirements is RequirementsKind.SCRIPT:
        requirements = read_script(file_of(wanted, tree), reading=reading, policy=policy)
        return with_packages(requirements, wanted.packages, reading=reading, policy=policy)
    if wanted.requirements is RequirementsKind.REQUIREMENTS_TXT:
        file = file_of(wanted, tree)
        requirements = read_requirements_file(file, reading=reading, policy=policy, work=request.work)
        return with_packages(requirements, wanted.packages, reading=reading, policy=policy)
    return Requirements()


def file_of(wanted: Environment, tree: Path) -> Path:
    """Returns the file that the request names. Raises RunFailed when it is not in the task's code."""
    if not wanted.path:
        raise failed(f"the task's requirements are a {wanted.requirements}, but it names no file")
    file = inside(tree, tree / wanted.path, "the task")
    if not file.is_file():
        raise failed(f"there is no {wanted.path} in the task's code")
    return file


def remarks_on(request: EnvironmentRequest) -> tuple[str, ...]:
    """Says for the run's log what decides the environment, and which lock beside it does not."""
    wanted = request.environment
    if wanted.requirements is RequirementsKind.PACKAGES:
        return ("using the packages that the task lists",)
    if wanted.requirements is RequirementsKind.IMPORTS:
        return ("using what the script imports, because no file says what it needs",)
    if not wanted.path:
        return ()
    beside = (request.tree / wanted.path).parent
    unused = [name for name in _LOCKS if (beside / name).is_file() and name != Path(wanted.path).name]
    added = f", and {' '.join(wanted.packages)} besides" if wanted.packages else ""
    passed_over = f", and not {', '.join(unused)} beside it" if unused else ""
    return (f"using {wanted.path}{added}{passed_over}, because the task names it",)


@contextlib.contextmanager
def naming_lines(requirements: Requirements) -> Iterator[None]:
    """Puts the file and line that a failed installation is about before the tool's own words."""
    try:
        yield
    except RunFailed as failure:
        lines = lines_at_fault(requirements, str(failure))
        if failure.infrastructure or not lines:
            raise
        raise failed("\n".join([*lines, str(failure)])) from failure


def lines_at_fault(requirements: Requirements, words: str) -> list[str]:
    """Returns `requirements.txt:3: name==9` for what a tool names last: whole lines, else their packages."""
    said = words[match.start() :] if (match := _ERROR.search(words)) else words
    pairs = list(zip(requirements.origins, requirements.lines, strict=False))
    whole = [(origin, line) for origin, line in pairs if _bare(line) in said.replace(" ", "")]
    named = whole or [(origin, line) for origin, line in pairs if _names(line, said)]
    return [f"{origin}: {line.partition(' --')[0]}" for origin, line in named[:_MOST_LINES]]


def _bare(line: str) -> str:
    return re.split(r" --|;", line, maxsplit=1)[0].replace(" ", "")


def _names(line: str, words: str) -> bool:
    name = re.split(r"[\s\[(<>=!~;@]", Path(line).name if line.startswith("/") else line, maxsplit=1)[0]
    pattern = r"[-_.]+".join(map(re.escape, re.split(r"[-_.]+", name)))
    return re.search(rf"(?<![\w.-]){pattern}(?![\w-])", words, re.IGNORECASE) is not None


def write_lines(recipe: Recipe, folder: Path) -> list[str]:
    """Writes the recipe's lines beside the environment; returns the options that name these files."""
    options: list[str] = []
    for name, lines in (
        ("requirement", recipe.requirements.lines),
        ("constraint", recipe.requirements.constraints),
    ):
        if lines:
            file = folder / f"{name}s.txt"
            file.touch(mode=0o600)
            file.write_text("\n".join(lines) + "\n")
            options += [f"--{name}", str(file)]
    return options


def site_packages(recipe: Recipe, prefix: Path) -> Path:
    """Returns where the environment at `prefix` keeps its packages."""
    return prefix / recipe.interpreter.library


def installed(site: Path) -> tuple[str, ...]:
    """Returns what is installed as `name==version`, from the metadata alone."""
    found = {(item.name, item.version) for item in metadata.distributions(path=[str(site)])}
    return tuple(f"{name}=={version}" for name, version in sorted(found, key=lambda pair: pair[0].lower()))


def check_environment(recipe: Recipe, prefix: Path, installer: Installer) -> None:
    """Raises RunFailed unless the environment starts as the right Python and holds every package named."""
    words = "import sys; print(sys.prefix, '.'.join(map(str, sys.version_info[:3])))"
    output = installer.run([prefix / "bin" / "python", "-I", "-S", "-c", words], cwd=prefix, quiet=True)
    if recipe.interpreter.version.rstrip("+") not in output[-1]:
        raise failed(f"the environment runs Python {output[-1]}, not {recipe.interpreter.version}")
    present = {canonicalize_name(item.partition("==")[0]) for item in installed(site_packages(recipe, prefix))}
    present |= {canonicalize_name(package.name) for package in recipe.interpreter.lends}
    missing = [name for name in _named(recipe) if canonicalize_name(name) not in present]
    if missing:
        raise failed(f"after the installation {', '.join(missing)} is still missing")


def describe_environment(recipe: Recipe, prefix: Path, installer: Installer) -> Installed:
    """Returns what a virtual environment holds; see `base.Manager`."""
    site = site_packages(recipe, prefix)
    return Installed(
        home=recipe.interpreter.home,
        python=recipe.interpreter.version,
        library=recipe.interpreter.library,
        site_paths=(str(site), *(recipe.interpreter.site_paths if recipe.interpreter.image else ())),
        packages=installed(site),
    )


def _named(recipe: Recipe) -> list[str]:
    names = []
    requirements = recipe.requirements
    for line in (*requirements.lines, *(need.line for need in requirements.pinned)):
        try:
            requirement = Requirement(line.partition(" --")[0])
        except InvalidRequirement:
            continue  # a path or an address, which does not tell its name
        version = recipe.interpreter.version
        variables = {"python_version": recipe.interpreter.minor, "python_full_version": version, "extra": ""}
        if requirement.marker is None or requirement.marker.evaluate(variables):
            names.append(requirement.name)
    return names


def sha256_of(*files: Path) -> str:
    """Returns one digest over the contents of files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()
