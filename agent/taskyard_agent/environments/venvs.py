"""What managers that build virtual environments share: reading the task's request, and checking the result."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from taskyard.wire import Environment, RequirementsKind

from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.indexes import IndexPolicy, configured_indexes
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.requirements import (
    Requirements,
    inside,
    read_packages,
    read_requirements_file,
    read_script,
)

LISTED = (
    RequirementsKind.NONE,
    RequirementsKind.PACKAGES,
    RequirementsKind.IMPORTS,
    RequirementsKind.SCRIPT,
    RequirementsKind.REQUIREMENTS_TXT,
)
"""Kinds that come down to lines, which every manager installs alike."""


def policy_of(settings: EnvironmentSettings) -> IndexPolicy:
    """Returns which indexes a task's files may name on this machine."""
    configured = configured_indexes(settings.variables).addresses
    return IndexPolicy(configured=configured, allowed=settings.allowed_indexes)


def read_listed(request: EnvironmentRequest, policy: IndexPolicy) -> Requirements:
    """Reads a request whose kind is in LISTED. Raises RunFailed naming file and line."""
    wanted, tree = request.environment, request.tree
    if wanted.requirements in (RequirementsKind.PACKAGES, RequirementsKind.IMPORTS):
        recorded = wanted.requirements is RequirementsKind.IMPORTS
        return read_packages(wanted.packages, recorded=recorded, tree=tree, policy=policy)
    if wanted.requirements is RequirementsKind.SCRIPT:
        return read_script(file_of(wanted, tree), tree=tree, policy=policy)
    if wanted.requirements is RequirementsKind.REQUIREMENTS_TXT:
        return read_requirements_file(file_of(wanted, tree), tree=tree, policy=policy)
    return Requirements()


def file_of(wanted: Environment, tree: Path) -> Path:
    """Returns the file that the request names. Raises RunFailed when it is not in the task's code."""
    if not wanted.path:
        raise failed(f"the task's requirements are a {wanted.requirements}, but it names no file")
    file = inside(tree, tree / wanted.path, "the task")
    if not file.is_file():
        raise failed(f"there is no {wanted.path} in the task's code")
    return file


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
    output = installer.run([prefix / "bin" / "python", "-I", "-c", words], cwd=prefix, quiet=True)
    if recipe.interpreter.version.rstrip("+") not in output[-1]:
        raise failed(
            f"the environment runs Python {output[-1]}, not {recipe.interpreter.version}", infrastructure=True
        )
    present = {canonicalize_name(item.partition("==")[0]) for item in installed(site_packages(recipe, prefix))}
    missing = [name for name in _named(recipe) if canonicalize_name(name) not in present]
    if missing:
        raise failed(f"after the installation {', '.join(missing)} is still missing", infrastructure=True)


def _named(recipe: Recipe) -> list[str]:
    names = []
    for line in recipe.requirements.lines:
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
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
