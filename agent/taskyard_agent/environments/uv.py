"""The default manager: environments built by uv, from listed requirements, project files and lock files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from taskyard.requirements.uv_tables import PROJECT
from taskyard.wire import RequirementsKind

from taskyard_agent.environments.addresses import check_url
from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.compiled_projects import copied, install_compiled
from taskyard_agent.environments.image_python import lent_to
from taskyard_agent.environments.indexes import Indexes, IndexPolicy, configured_indexes, without_credentials
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.local_project import Pinned
from taskyard_agent.environments.projects import Reading, check_python, read_project
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.requirements import Requirements, read_project_dependencies, with_packages
from taskyard_agent.environments.task_files import inside, read_toml, shown
from taskyard_agent.environments.torch_builds import remarks_on_build, torch_backend_of
from taskyard_agent.environments.uv_lock import LOCK, default_groups, git_address, read_lock, vet_index
from taskyard_agent.environments.uv_settings import UvSettings, as_toml, read_uv_settings
from taskyard_agent.environments.uv_sources import workspace_in
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
    sha256_of,
    site_packages,
    write_lines,
)
from taskyard_agent.environments.written import require_inside

Table = Mapping[str, Any]
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
        tree=request.tree,
        requirements=requirements,
        indexes=indexes,
        index_strategy=_strategy(requirements, indexes, settings),
        torch_backend=torch_backend_of(request, requirements, indexes, settings),
        source=source,
        digest=_digest(source, requirements) if source else "",
        remarks=(*remarks_on(request), *remarks_on_build(request)),
    )


def _strategy(requirements: Requirements, indexes: Indexes, settings: EnvironmentSettings) -> str:
    """Best of all among public indexes, as pip has it, unless the project has rules of its own for uv."""
    usual = "unsafe-best-match" if indexes.all_public() else "first-index"
    return settings.index_strategy or requirements.settings.index_strategy or usual


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
    variables = _variables(recipe, installer)
    if _has_needs(recipe.requirements):
        _pip_install(recipe, prefix, variables, installer, "--compile-bytecode")
    install_compiled(recipe, prefix, installer, variables)


def _fill(recipe: Recipe, prefix: Path, variables: dict[str, str], installer: Installer) -> None:
    if recipe.source is not None and recipe.source.name == "uv.lock":
        _sync(recipe, recipe.source, prefix, variables, installer)
    elif recipe.source is not None or _has_needs(recipe.requirements):
        _pip_install(recipe, prefix, variables, installer)
    install_compiled(recipe, prefix, installer, variables)


def _has_needs(requirements: Requirements) -> bool:
    return bool(requirements.lines or requirements.dynamic or requirements.pinned)


def _read(
    request: EnvironmentRequest, interpreter: Interpreter, policy: IndexPolicy
) -> tuple[Requirements, Path | None]:
    kind, tree = request.environment.requirements, request.tree
    if kind in LISTED:
        return read_listed(request, interpreter, policy), None
    file = file_of(request.environment, tree)
    if kind is RequirementsKind.PYLOCK:
        return _vet_pylock(file, tree, policy), file
    reading = reading_of(request, interpreter)
    if kind is RequirementsKind.UV_LOCK:
        return read_lock(file, None, reading, policy), file
    if kind is not RequirementsKind.PYPROJECT:
        raise failed(f"uv does not read {file.name}; use `--manager {READERS[kind]}`")
    check_python(file.parent, interpreter.version, tree=tree)
    workspace = workspace_in(file.parent, tree)
    packages = request.environment.packages
    if workspace and workspace.root != file.parent and workspace.lock.is_file():
        if packages:
            raise failed(f"{workspace.lock.name} names all that is installed; add {' '.join(packages)} there")
        return read_lock(workspace.lock, file.parent, reading, policy), workspace.lock
    requirements = _read_pyproject(file, reading, policy)
    return with_packages(requirements, packages, reading=reading, policy=policy), None


def _read_pyproject(file: Path, reading: Reading, policy: IndexPolicy) -> Requirements:
    """Reads all that is needed as lines, and uv's settings apart: uv itself reads nothing of the tree."""
    tree = reading.tree
    table = read_toml(file, shown(file, tree)) if file.name == PROJECT else {}
    settings = _settings(file, table, tree, policy)
    project = read_project(file.parent, reading=reading, groups=default_groups(table))
    requirements = read_project_dependencies(project, reading=reading, policy=policy, settings=settings)
    if not table or _is_package(table):
        return requirements
    return dataclasses.replace(
        requirements, projects=tuple(one for one in requirements.projects if one is not project)
    )


def _settings(file: Path, table: Table, tree: Path, policy: IndexPolicy) -> UvSettings:
    """A member's are those of its workspace, but for the indexes of its own."""
    workspace = workspace_in(file.parent, tree)
    own = read_uv_settings(table, file, shown(file, tree), tree=tree, policy=policy)
    if workspace is None or workspace.root == file.parent:
        return own
    root = workspace.root / PROJECT
    shared = read_uv_settings(workspace.table, root, shown(root, tree), tree=tree, policy=policy)
    return dataclasses.replace(
        shared,
        default_index=own.default_index or shared.default_index,
        extra_indexes=(*own.extra_indexes, *shared.extra_indexes),
    )


def _is_package(table: dict[str, Any]) -> bool:
    """uv's own rule (https://docs.astral.sh/uv/concepts/projects/config/#build-systems), or Poetry's."""
    tool = table.get("tool", {})
    if "project" not in table and "poetry" in tool:
        return bool(tool["poetry"].get("package-mode", True))
    return bool(tool.get("uv", {}).get("package", "build-system" in table))


def _vet_pylock(file: Path, tree: Path, policy: IndexPolicy) -> Requirements:
    """Checks every place that a pylock.toml names; returns the files of the tree that it takes."""
    where, files = shown(file, tree), []
    for package in read_toml(file, where).get("packages", []):
        if "index" in package:
            vet_index(str(package["index"]), where, policy)
        if "directory" in package:
            raise failed(f"{where} takes {package.get('name')} from a folder; lock a release of it instead")
        for place in (
            *package.get("wheels", []),
            *(package[key] for key in ("sdist", "archive") if key in package),
        ):
            if "url" in place:
                check_url(str(place["url"]), where)
            if "path" in place:
                files.append(inside(tree, file.parent / str(place["path"]), where))
        if "path" in package.get("vcs", {}):
            raise failed(f"{where} takes {package.get('name')} from a repository by its path; lock its address")
        if "url" in package.get("vcs", {}):
            check_url(git_address(str(package["vcs"]["url"])), where)
    return Requirements(local_files=tuple(path for path in files if path.is_file()))


def _digest(source: Path, requirements: Requirements) -> str:
    """A lock says everything but the groups, which the project files say."""
    files = [source]
    if source.name == LOCK:
        files += [source.with_name(PROJECT), *(folder / PROJECT for folder in requirements.lock_folders)]
    return sha256_of(*(file for file in dict.fromkeys(files) if file.is_file()))


def _sync(recipe: Recipe, lock: Path, prefix: Path, variables: dict[str, str], installer: Installer) -> None:
    requirements = recipe.requirements
    argv = [installer.uv, "sync", *_QUIET, *_configured(recipe, prefix.parent), "--frozen", *_LINKING]
    argv += ["--no-install-project", "--no-install-workspace", "--no-python-downloads"]
    argv += [part for name in requirements.lock_local for part in ("--no-install-package", name)]
    argv += ["--package", requirements.lock_member] if requirements.lock_member else []
    python = ["--python", str(prefix / "bin" / "python")]
    where = {"UV_PROJECT_ENVIRONMENT": str(prefix)}
    installer.run([*argv, *python], cwd=lock.parent, variables={**variables, **where})


def _pip_install(
    recipe: Recipe, prefix: Path, variables: dict[str, str], installer: Installer, *options: str
) -> None:
    requirements, folder = recipe.requirements, prefix.parent
    argv = [installer.uv, "pip", "install", *_QUIET, *_configured(recipe, folder), *_LINKING, *options]
    argv += ["--python", str(prefix / "bin" / "python"), "--break-system-packages"]
    argv += write_lines(recipe, folder)
    argv += _write_pinned(requirements, folder)
    argv += ["--requirement", str(recipe.source)] if recipe.source else []
    argv += [part for file in _descriptions(requirements, folder) for part in ("--requirement", str(file))]
    argv += [part for extra in requirements.dynamic_extras for part in ("--extra", extra)]
    argv += ["--no-deps"] if requirements.exact else []
    argv += ["--torch-backend", recipe.torch_backend] if recipe.torch_backend else []
    argv += ["--prerelease", "allow"] if requirements.pre else []
    argv += ["--require-hashes"] if requirements.require_hashes else []
    argv += ["--no-build"] if installer.variables.get("UV_NO_BUILD") else []  # `uv pip` does not read it
    argv += [part for name in requirements.no_binary for part in ("--no-binary", name)]
    argv += [part for name in requirements.only_binary for part in ("--only-binary", name)]
    with naming_lines(requirements):
        installer.run(argv, cwd=recipe.source.parent if recipe.source else folder, variables=variables)


def _configured(recipe: Recipe, folder: Path) -> list[str]:
    """Writes what [tool.uv] decides into a file of its own: nothing else that lies about is read."""
    options = dict(recipe.requirements.settings.options)
    local = [f"{project.name} ; python_version < '0'" for project in recipe.requirements.projects]
    if local and recipe.source is None:  # no index is asked for a project of the tree, whatever needs it
        options["override-dependencies"] = [*options.get("override-dependencies", []), *local]
    if not options:
        return ["--no-config"]
    file = folder / "uv.toml"
    file.write_text(as_toml(options))
    return ["--config-file", str(file)]


def _write_pinned(requirements: Requirements, folder: Path) -> list[str]:
    """Writes a project that names an index for each of its dependencies, which lines cannot."""
    if not requirements.pinned:
        return []
    names = index_names(requirements.pinned)
    sources = {Requirement(need.line).name: {"index": names[need.url]} for need in requirements.pinned}
    indexes = [{"name": name, "url": without_credentials(url), "explicit": True} for url, name in names.items()]
    project = {
        "name": "taskyard-pinned",
        "version": "0",
        "dependencies": [need.line for need in requirements.pinned],
    }
    file = folder / "pinned" / PROJECT
    file.parent.mkdir(exist_ok=True)
    file.write_text(as_toml({"project": project, "tool": {"uv": {"sources": sources, "index": indexes}}}))
    return ["--requirement", str(file)]


def _descriptions(requirements: Requirements, folder: Path) -> Iterator[Path]:
    for project in requirements.dynamic:
        yield copied(project, folder) / project.description.name


def _variables(recipe: Recipe, installer: Installer) -> dict[str, str]:
    indexes = recipe.indexes
    links = (*indexes.find_links, *(str(folder) for folder in recipe.requirements.wheel_folders))
    values = {
        **dataclasses.replace(indexes, find_links=links).for_uv(),
        "UV_CACHE_DIR": str(installer.downloads / "uv"),
        "UV_INDEX_STRATEGY": recipe.index_strategy,
        **_credentials(recipe.requirements),
    }
    return {name: value for name, value in values.items() if value}


def index_names(pinned: Iterable[Pinned]) -> dict[str, str]:
    """Returns a name of its own for each address, the project's where it can be: an operator may know that."""
    names: dict[str, str] = {}
    for need in pinned:
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", need.index)
        names.setdefault(need.url, plain if plain not in names.values() else f"{plain}-{len(names)}")
    return names


def _credentials(requirements: Requirements) -> dict[str, str]:
    values: dict[str, str] = {}
    for url, name in index_names(requirements.pinned).items():
        parts, prefix = urlsplit(url), f"UV_INDEX_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"
        if parts.username:
            values |= {
                f"{prefix}_USERNAME": unquote(parts.username),
                f"{prefix}_PASSWORD": unquote(parts.password or ""),
            }
    return values
