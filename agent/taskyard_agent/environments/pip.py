"""Environments built by virtualenv and pip, for requirements that only pip follows."""

from __future__ import annotations

import re
import sys
import zipfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from taskyard.requirements.uv_tables import OF_PIP, PROJECT
from taskyard.wire import RequirementsKind

from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.compiled_projects import install_compiled
from taskyard_agent.environments.indexes import Indexes, IndexPolicy, configured_indexes
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.projects import check_python, read_project
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.requirements import Requirements, read_project_dependencies, with_packages
from taskyard_agent.environments.task_files import read_toml, shown
from taskyard_agent.environments.torch_builds import index_of_build, names_torch, torch_backend_of
from taskyard_agent.environments.uv_settings import read_uv_settings
from taskyard_agent.environments.venvs import (
    LISTED,
    READERS,
    check_environment,
    describe_environment,
    file_of,
    naming_lines,
    policy_of,
    read_listed,
    reading_of,
    remarks_on,
    write_lines,
)

_USE_UV = "use `--manager uv`"
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
        extra=[*requirements.extra_indexes, *_torch_index(request, requirements, configured, settings)],
        find_links=requirements.find_links,
        no_index=requirements.no_index,
    )
    return Recipe(
        manager=version(),
        interpreter=interpreter,
        tree=request.tree,
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
    standing_in = _stand_ins(recipe.requirements, prefix.parent)
    if recipe.requirements.lines:
        argv: list[str | Path] = [
            prefix / "bin" / "python",
            "-I",
            "-m",
            "pip",
            "install",
            *_options(recipe.requirements),
        ]
        argv += [*write_lines(recipe, prefix.parent), *standing_in]
        with naming_lines(recipe.requirements):
            installer.run(argv, cwd=prefix.parent, variables=_variables(recipe, installer))
        if standing_in:
            names = [project.name for project in recipe.requirements.projects]
            remove = ["-I", "-m", "pip", "uninstall", "--yes", "--quiet", *names]
            installer.run(
                [prefix / "bin" / "python", *remove],
                cwd=prefix.parent,
                variables=_variables(recipe, installer),
                quiet=True,
            )
    install_compiled(recipe, prefix, installer, recipe.indexes.for_uv())


def _read(request: EnvironmentRequest, interpreter: Interpreter, policy: IndexPolicy) -> Requirements:
    kind = request.environment.requirements
    if kind in LISTED:
        requirements = read_listed(request, interpreter, policy)
    elif kind is RequirementsKind.PYPROJECT:
        requirements = _of_project(request, interpreter, policy)
    else:
        raise failed(f"pip does not read {kind}; use `--manager {READERS.get(kind, 'uv')}`")
    for project in requirements.dynamic:
        raise failed(
            f"only a build of {project.name} would tell what it needs, which pip cannot do without installing it; "
            "use `--manager uv`, or list its dependencies in the [project] table"
        )
    _require_no_words_for_uv(requirements)
    limits = requirements.settings.options.get("constraint-dependencies", [])
    return replace(requirements, constraints=(*requirements.constraints, *map(str, limits)))


def _of_project(request: EnvironmentRequest, interpreter: Interpreter, policy: IndexPolicy) -> Requirements:
    file, tree = file_of(request.environment, request.tree), request.tree
    check_python(file.parent, interpreter.version, tree=tree)
    reading, where = reading_of(request, interpreter), shown(file, tree)
    table = read_toml(file, where) if file.name == PROJECT else {}
    settings = read_uv_settings(table, file, where, tree=tree, policy=policy)
    project = read_project(file.parent, reading=reading)
    requirements = read_project_dependencies(project, reading=reading, policy=policy, settings=settings)
    return with_packages(requirements, request.environment.packages, reading=reading, policy=policy)


def _require_no_words_for_uv(requirements: Requirements) -> None:
    for need in requirements.pinned:
        raise failed(f"{need.origin}: pip cannot take {need.line} from the index {need.index!r} alone; {_USE_UV}")
    for name in sorted(requirements.settings.options.keys() - set(OF_PIP)):
        raise failed(f"pip does not follow {name} of [tool.uv]; {_USE_UV}")


def _torch_index(
    request: EnvironmentRequest, requirements: Requirements, configured: Indexes, settings: EnvironmentSettings
) -> tuple[str, ...]:
    """pip asks every index for every package: this one takes part where PyTorch or its build is named alone."""
    backend = torch_backend_of(request, requirements, configured, settings)
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


def _stand_ins(requirements: Requirements, folder: Path) -> list[str | Path]:
    """Makes an empty wheel for each project of the tree: what needs it by its name shall not get an index's."""
    if requirements.exact or requirements.require_hashes:
        return []
    made: list[str | Path] = []
    for project in requirements.projects:
        name, version = re.sub(r"[-_.]+", "_", project.name), project.version
        info = f"{name}-{version}.dist-info"
        made.append(folder / f"{name}-{version}-py3-none-any.whl")
        with zipfile.ZipFile(made[-1], "w") as wheel:
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project.name}\nVersion: {version}\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return made


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
