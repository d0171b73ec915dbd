"""The default manager: environments built by uv, from listed requirements, project files and lock files."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path
from typing import Any

from taskyard.wire import RequirementsKind

from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.image_python import lent_to
from taskyard_agent.environments.indexes import IndexPolicy, configured_indexes, refusal
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.projects import check_python, read_project
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.requirements import (
    Repository,
    Requirements,
    check_url,
    read_project_dependencies,
)
from taskyard_agent.environments.task_files import inside, read_toml
from taskyard_agent.environments.torch_builds import remarks_on_build, torch_backend_of
from taskyard_agent.environments.uv_sources import UVS_OWN, kinds_of
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
    sha256_of,
    site_packages,
    write_lines,
)
from taskyard_agent.environments.written import require_inside

_QUIET = ("--color", "never", "--no-progress")
_LINKING = ("--link-mode", "copy")
"""A copy is a clone where the file system can; a hardlink would let an edit reach uv's cache."""

check = check_environment
describe = describe_environment


def version() -> str:
    """`uv 0.9.2`."""
    return f"uv {metadata.version('uv')}"


def resolve(request: EnvironmentRequest, interpreter: Interpreter, settings: EnvironmentSettings) -> Recipe:
    """Reads and vets what the task asks for; see `base.Manager`."""
    policy = policy_of(settings)
    requirements, source = _read(request, interpreter, policy)
    indexes = configured_indexes(settings.variables).with_added(
        default=requirements.default_index,
        extra=requirements.extra_indexes,
        find_links=requirements.find_links,
        no_index=requirements.no_index,
    )
    return Recipe(
        manager=version(),
        interpreter=interpreter,
        requirements=requirements,
        indexes=indexes,
        index_strategy=settings.index_strategy or ("unsafe-best-match" if indexes.all_public() else "first-index"),
        torch_backend=torch_backend_of(request, requirements, indexes),
        source=source,
        digest=_digest(source) if source else "",
        remarks=(*remarks_on(request), *remarks_on_build(request)),
    )


def install(recipe: Recipe, prefix: Path, installer: Installer) -> None:
    """Makes the environment; see `base.Manager`."""
    variables = _variables(recipe, installer)
    make: list[str | Path] = [
        installer.uv,
        "venv",
        *_QUIET,
        "--no-config",
        "--no-project",
        "--python",
        recipe.interpreter.home,
        *(["--system-site-packages"] if recipe.interpreter.image else []),
        prefix,
    ]
    installer.run(make, cwd=prefix.parent, variables=variables, quiet=True)
    if recipe.interpreter.image:
        require_inside(prefix)
    with lent_to(site_packages(recipe, prefix), recipe.interpreter):
        _fill(recipe, prefix, variables, installer)


def add_packages(recipe: Recipe, prefix: Path, installer: Installer) -> None:
    """Installs the recipe's lines into an environment that another manager has made, and compiles them."""
    _pip_install(recipe, prefix, _variables(recipe, installer), installer, "--compile-bytecode")


def _fill(recipe: Recipe, prefix: Path, variables: dict[str, str], installer: Installer) -> None:
    if recipe.source is not None and recipe.source.name == "uv.lock":
        _sync(recipe.source, prefix, variables, installer)
    elif recipe.source is not None or recipe.requirements.lines or recipe.requirements.dynamic:
        _pip_install(recipe, prefix, variables, installer)


def _read(
    request: EnvironmentRequest, interpreter: Interpreter, policy: IndexPolicy
) -> tuple[Requirements, Path | None]:
    kind, tree = request.environment.requirements, request.tree
    if kind in LISTED:
        return read_listed(request, policy), None
    file = file_of(request.environment, tree)
    if kind is RequirementsKind.PYLOCK:
        _vet_pylock(read_toml(file, file.name), policy)
        return Requirements(), file
    if kind is RequirementsKind.UV_LOCK:
        return _vet_lock(file, tree, policy), file
    if kind is not RequirementsKind.PYPROJECT:
        raise failed(f"uv does not read {file.name}; use `--manager {READERS[kind]}`")
    check_python(file.parent, interpreter.version, tree=tree)
    return _read_pyproject(file, tree, policy)


def _read_pyproject(file: Path, tree: Path, policy: IndexPolicy) -> tuple[Requirements, Path | None]:
    """Reads the dependencies as lines where they are only that, so that pip and uv make the same of them."""
    project = read_project(file.parent, tree=tree)
    table = read_toml(file, file.name)
    packaged = (project,) if _is_package(table) else ()
    _vet_uv_table(table.get("tool", {}).get("uv", {}), file, tree, policy)
    kinds = kinds_of(table)
    if "git" in kinds and (project.dynamic or kinds.intersection(UVS_OWN)):
        raise failed(
            f"{file.name} takes packages from git in [tool.uv.sources], beside what only uv can follow; run "
            "`uv lock` and commit the uv.lock, which pins them"
        )
    if kinds.intersection(UVS_OWN) or (kinds and project.dynamic):
        return Requirements(projects=packaged), file
    if project.dynamic:
        return Requirements(projects=packaged, dynamic=(project,)), None
    requirements = read_project_dependencies(project, tree=tree, policy=policy)
    return Requirements(**{**vars(requirements), "projects": (*packaged, *requirements.projects)}), None


def _is_package(table: dict[str, Any]) -> bool:
    """uv's own rule (https://docs.astral.sh/uv/concepts/projects/config/#build-systems), or Poetry's."""
    tool = table.get("tool", {})
    if "project" not in table and "poetry" in tool:
        return bool(tool["poetry"].get("package-mode", True))
    return bool(tool.get("uv", {}).get("package", "build-system" in table))


def _vet_uv_table(table: dict[str, Any], file: Path, tree: Path, policy: IndexPolicy) -> None:
    for index in table.get("index", []):
        _vet_index(str(index.get("url", "")), file.name, policy)
    for sources in table.get("sources", {}).values():
        for source in sources if isinstance(sources, list) else [sources]:
            _vet_source(source, file, tree)


def _vet_source(source: dict[str, Any], file: Path, tree: Path) -> None:
    if "git" in source:
        check_url(_git_address(str(source["git"])), file.name)
    if "url" in source:
        check_url(str(source["url"]), file.name)
    if "path" in source:
        inside(tree, file.parent / str(source["path"]), file.name)


def _vet_lock(file: Path, tree: Path, policy: IndexPolicy) -> Requirements:
    """Checks every place that a uv.lock names; returns the projects and repositories that it is made of."""
    folders, repositories = [], []
    for package in read_toml(file, file.name).get("package", []):
        for kind, place in package.get("source", {}).items():
            if kind == "registry":
                _vet_index(place, file.name, policy)
            elif kind == "git":
                check_url(_git_address(place), file.name)
                address, _, commit = place.partition("#")
                repositories.append(Repository(url=address.partition("?")[0], commit=commit, origin=file.name))
            elif kind == "url":
                check_url(place, file.name)
            elif kind in ("editable", "directory"):
                folders.append(inside(tree, file.parent / place, file.name))
            elif kind in ("path", "virtual"):
                inside(tree, file.parent / place, file.name)
    projects = tuple(read_project(folder, tree=tree) for folder in folders)
    return Requirements(projects=projects, repositories=tuple(repositories))


def _vet_pylock(table: dict[str, Any], policy: IndexPolicy) -> None:
    for package in table.get("packages", []):
        if "index" in package:
            _vet_index(str(package["index"]), "pylock.toml", policy)
        if "directory" in package:
            raise failed(f"pylock.toml takes {package.get('name')} from a folder; lock a release of it instead")
        files = [*package.get("wheels", []), *(package[key] for key in ("sdist", "archive") if key in package)]
        for file in files:
            if "url" in file:
                check_url(str(file["url"]), "pylock.toml")
        if "url" in package.get("vcs", {}):
            check_url(_git_address(str(package["vcs"]["url"])), "pylock.toml")


def _vet_index(address: str, where: str, policy: IndexPolicy) -> None:
    if policy.accept(address) is None:
        raise failed(refusal(where, address))


def _git_address(address: str) -> str:
    return address if address.startswith("git+") else f"git+{address}"


def _digest(source: Path) -> str:
    """A lock says everything but the groups; a project that uv must build may read any file beside it."""
    beside = ("pyproject.toml", "setup.cfg", "setup.py", "requirements.txt")
    files = [source, *(source.parent / name for name in beside if source.name != "pylock.toml")]
    return sha256_of(*(file for file in dict.fromkeys(files) if file.is_file()))


def _sync(lock: Path, prefix: Path, variables: dict[str, str], installer: Installer) -> None:
    options = ["--frozen", "--no-install-project", "--no-install-workspace", "--no-install-local"]
    argv = [installer.uv, "sync", *_QUIET, "--no-config", *options, *_LINKING, "--no-python-downloads"]
    python = ["--python", str(prefix / "bin" / "python")]
    where = {"UV_PROJECT_ENVIRONMENT": str(prefix)}
    installer.run([*argv, *python], cwd=lock.parent, variables={**variables, **where})


def _pip_install(
    recipe: Recipe, prefix: Path, variables: dict[str, str], installer: Installer, *options: str
) -> None:
    requirements = recipe.requirements
    argv = [installer.uv, "pip", "install", *_QUIET, "--no-config", *_LINKING, *options]
    argv += ["--python", str(prefix / "bin" / "python"), "--break-system-packages"]
    argv += write_lines(recipe, prefix.parent)
    argv += ["--requirement", str(recipe.source)] if recipe.source else []
    argv += [part for project in requirements.dynamic for part in ("--requirement", str(project.description))]
    argv += [part for extra in requirements.dynamic_extras for part in ("--extra", extra)]
    argv += ["--no-deps"] if requirements.exact else []
    argv += ["--torch-backend", recipe.torch_backend] if recipe.torch_backend else []
    argv += ["--prerelease", "allow"] if requirements.pre else []
    argv += ["--require-hashes"] if requirements.require_hashes else []
    argv += ["--no-build"] if installer.variables.get("UV_NO_BUILD") else []  # `uv pip` does not read it
    argv += [part for name in requirements.no_binary for part in ("--no-binary", name)]
    argv += [part for name in requirements.only_binary for part in ("--only-binary", name)]
    with naming_lines(requirements):
        installer.run(argv, cwd=recipe.source.parent if recipe.source else prefix.parent, variables=variables)


def _variables(recipe: Recipe, installer: Installer) -> dict[str, str]:
    indexes = recipe.indexes
    links = (*indexes.find_links, *(str(folder) for folder in recipe.requirements.wheel_folders))
    values = {
        **dataclasses.replace(indexes, find_links=links).for_uv(),
        "UV_CACHE_DIR": str(installer.downloads / "uv"),
        "UV_INDEX_STRATEGY": recipe.index_strategy,
    }
    return {name: value for name, value in values.items() if value}
