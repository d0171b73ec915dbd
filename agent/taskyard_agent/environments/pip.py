"""Environments built by virtualenv and pip, for requirements that only pip follows."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from taskyard.wire import RequirementsKind

from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.indexes import Indexes, IndexPolicy, configured_indexes
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.projects import check_python, read_project
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.requirements import Requirements, read_project_dependencies
from taskyard_agent.environments.torch_builds import index_of_build, names_torch, torch_backend_of
from taskyard_agent.environments.venvs import (
    LISTED,
    READERS,
    check_environment,
    describe_environment,
    file_of,
    naming_lines,
    policy_of,
    read_listed,
    remarks_on,
    write_lines,
)

check = check_environment
describe = describe_environment


def version() -> str:
    """virtualenv brings the pip that it installs, so its version stands for both."""
    return f"pip of virtualenv {metadata.version('virtualenv')}"


def resolve(request: EnvironmentRequest, interpreter: Interpreter, settings: EnvironmentSettings) -> Recipe:
    """Reads and vets what the task asks for; see `base.Manager`."""
    requirements = _read(request, interpreter, policy_of(settings))
    configured = configured_indexes(settings.variables)
    indexes = configured.with_added(
        default=requirements.default_index,
        extra=[*requirements.extra_indexes, *_torch_index(request, requirements, configured)],
        find_links=requirements.find_links,
        no_index=requirements.no_index,
    )
    return Recipe(
        manager=version(),
        interpreter=interpreter,
        requirements=requirements,
        indexes=indexes,
        remarks=remarks_on(request),
    )


def install(recipe: Recipe, prefix: Path, installer: Installer) -> None:
    """Makes the environment; see `base.Manager`."""
    state = installer.downloads / "virtualenv"
    options = ["--no-periodic-update", "--no-vcs-ignore", "--activators", "", "--app-data", str(state)]
    make: list[str | Path] = [
        sys.executable,
        "-I",
        "-m",
        "virtualenv",
        *options,
        "--python",
        recipe.interpreter.home,
        prefix,
    ]
    installer.run(make, cwd=prefix.parent, quiet=True)
    if recipe.requirements.lines:
        argv: list[str | Path] = [
            prefix / "bin" / "python",
            "-I",
            "-m",
            "pip",
            "install",
            *_options(recipe.requirements),
        ]
        argv += write_lines(recipe, prefix.parent)
        with naming_lines(recipe.requirements):
            installer.run(argv, cwd=prefix.parent, variables=_variables(recipe, installer))


def _read(request: EnvironmentRequest, interpreter: Interpreter, policy: IndexPolicy) -> Requirements:
    kind, tree = request.environment.requirements, request.tree
    if kind in LISTED:
        requirements = read_listed(request, policy)
    elif kind is RequirementsKind.PYPROJECT:
        folder = file_of(request.environment, tree).parent
        check_python(folder, interpreter.version, tree=tree)
        project = read_project(folder, tree=tree)
        needs = read_project_dependencies(project, tree=tree, policy=policy)
        requirements = replace(needs, projects=(project, *needs.projects))
    else:
        raise failed(f"pip does not read {kind}; use `--manager {READERS.get(kind, 'uv')}`")
    for project in (project for project in requirements.projects if project.dynamic):
        raise failed(
            f"only a build of {project.name} would tell what it needs, which pip cannot do without installing it; "
            "use `--manager uv`, or list its dependencies in the [project] table"
        )
    return requirements


def _torch_index(request: EnvironmentRequest, requirements: Requirements, configured: Indexes) -> tuple[str, ...]:
    """pip asks every index for every package: this one takes part where PyTorch or its build is named alone."""
    backend = torch_backend_of(request, requirements, configured)
    asked_for = request.environment.torch_backend != "auto" or names_torch(requirements)
    return index_of_build(backend) if asked_for else ()


def _options(requirements: Requirements) -> list[str]:
    flags = {
        "--pre": requirements.pre,
        "--prefer-binary": requirements.prefer_binary,
        "--require-hashes": requirements.require_hashes,
    }
    named = [f"--no-binary={name}" for name in requirements.no_binary]
    named += [f"--only-binary={name}" for name in requirements.only_binary]
    return ["--progress-bar", "off", "--no-compile", *(flag for flag, given in flags.items() if given), *named]


def _variables(recipe: Recipe, installer: Installer) -> dict[str, str]:
    """pip reads its own configuration; these are its addresses with what the task's files added."""
    indexes = recipe.indexes
    folders = [str(folder) for folder in recipe.requirements.wheel_folders]
    values = {
        "PIP_CACHE_DIR": str(installer.downloads / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_INDEX_URL": indexes.default,
        "PIP_EXTRA_INDEX_URL": " ".join(indexes.extra),
        "PIP_FIND_LINKS": " ".join([*indexes.find_links, *folders]),
        "PIP_NO_INDEX": "1" if indexes.no_index else None,
    }
    return {name: value for name, value in values.items() if value}
