"""Provides the environment of a run: built once, kept in a cache, used through a thin overlay."""

from __future__ import annotations

import dataclasses
import errno
import threading
from pathlib import Path

from taskyard import wire
from taskyard.wire import Reason

from taskyard_agent.environments import conda, inherit, pip, poetry, uv
from taskyard_agent.environments.base import Manager, Recipe
from taskyard_agent.environments.building import build_environment
from taskyard_agent.environments.cache import PREFIX, Built, Held, Limits, cache_of, limits_of
from taskyard_agent.environments.compiled_projects import SOURCES, place_compiled
from taskyard_agent.environments.downloads import downloads_of, of_image, used_by
from taskyard_agent.environments.downloads import prune as prune_downloads
from taskyard_agent.environments.git_requirements import pin_repositories
from taskyard_agent.environments.image_python import (
    find_in_image,
    local_folders,
    uv_for,
    with_lent,
    without_python,
)
from taskyard_agent.environments.indexes import operators_hosts
from taskyard_agent.environments.installer import Installer, visible_variables
from taskyard_agent.environments.interpreters import Interpreter, find_interpreter
from taskyard_agent.environments.local_project import Project
from taskyard_agent.environments.overlay import Base, make_overlay
from taskyard_agent.environments.place import Place
from taskyard_agent.environments.reach import unreachable_index
from taskyard_agent.environments.request import (
    EnvironmentRequest,
    EnvironmentSettings,
    Log,
    ReadyEnvironment,
    failed,
)
from taskyard_agent.environments.sdk_path import OLDEST_PYTHON, sdk_folder
from taskyard_agent.environments.task_files import inside
from taskyard_agent.environments.unbuilt import refuse_builds
from taskyard_agent.errors import RunFailed

__all__ = ["EnvironmentRequest", "EnvironmentSettings", "ReadyEnvironment", "provision", "unreachable_index"]

MANAGERS: dict[wire.Manager, Manager] = {
    wire.Manager.UV: uv,
    wire.Manager.PIP: pip,
    wire.Manager.POETRY: poetry,
    wire.Manager.CONDA: conda,
}


def provision(
    request: EnvironmentRequest, *, settings: EnvironmentSettings, log: Log, cancelled: threading.Event
) -> ReadyEnvironment:
    """Returns an environment that satisfies `request`, and holds it until `release()`.

    Raises RunFailed (phase environment) when it cannot be made, RunStopped within a second of `cancelled`.
    """
    downloads = downloads_of(settings)
    shared = settings.root / "downloads"
    try:
        downloads.keep_to(Limits(free_bytes=settings.min_free_bytes))
        with downloads.hold(used_by(request), cancelled=cancelled) as locks:
            installer = Installer(
                log=log,
                cancelled=cancelled,
                downloads=shared / of_image(request.place.key) if request.place else shared,
                variables=visible_variables(settings.variables, inside=request.place is not None),
                held_fds=locks,
                place=request.place,
                git=request.git,
                operators=operators_hosts(settings.variables, settings.python_mirror),
            )
            ready = _provide(request, settings, installer)
        if not ready.reused:
            _keep_to_limits(ready, settings)
        return ready
    except OSError as error:
        raise _machine_failure(error) from error


def _provide(request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer) -> ReadyEnvironment:
    if settings.inherit or request.environment.manager is wire.Manager.INHERIT:
        return _inherit(request, settings, installer)
    return _build_or_reuse(request, settings, installer)


def _keep_to_limits(ready: ReadyEnvironment, settings: EnvironmentSettings) -> None:
    """Downloads go first: without them a build is slow, without its environment every run is."""
    try:
        prune_downloads(settings)
        cache_of(settings).prune(limits_of(settings))
    except BaseException:
        ready.release()
        raise


def _build_or_reuse(
    request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer
) -> ReadyEnvironment:
    manager = _manager(request, installer)
    interpreter = _interpreter(request, settings, installer)
    if interpreter is None:
        return _without_python(request)
    if interpreter.image:
        installer = dataclasses.replace(installer, uv=uv_for(interpreter, settings, installer))
    try:
        recipe = manager.resolve(request, interpreter, settings)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # A file of the task's is not built as its format says: each place in it would need a check of its own.
        raise failed(f"{request.environment.path or 'the list of packages'} cannot be read: {error!r}") from error
    if not settings.builds:
        refuse_builds(recipe)
    recipe = pin_repositories(recipe, request.git)
    for remark in recipe.remarks:
        installer.log(remark)
    held = _hold(manager, recipe, settings, installer)
    ready = ReadyEnvironment(
        python=request.overlay / "bin" / "python",
        bin=request.overlay / "bin",
        bins=held.built.bins,
        variables={**held.built.variables, "VIRTUAL_ENV": str(request.overlay)},
        key=recipe.key,
        reused=held.reused,
        version=held.built.python,
        packages=held.built.packages,
        writes=(request.overlay,),
        lock_fd=held.lock_fd,
    )
    try:
        projects = recipe.requirements.projects
        lent = _lay_over(held.built, tuple(one for one in projects if not one.compiled), request, settings)
        for site in held.built.sites_here[:1]:
            place_compiled(Path(site), projects)
        ready.reads = (Path(held.built.prefix).parent, *lent)
    except BaseException:
        ready.release()
        raise
    return ready


def _hold(manager: Manager, recipe: Recipe, settings: EnvironmentSettings, installer: Installer) -> Held:
    cache = cache_of(settings)

    def build(folder: Path, lock: int) -> Built:
        cache.prune(limits_of(settings))
        prefix = folder / PREFIX
        if installer.place is not None:
            prefix.mkdir()
        requirements = recipe.requirements
        copies = [folder / SOURCES] if requirements.dynamic or requirements.compiled else []
        for copy in copies:
            copy.mkdir()
        here = installer.building(folder, prefix, lock, *copies)
        here = dataclasses.replace(here, reads=(*here.reads, *local_folders(recipe.indexes)))
        return build_environment(manager, recipe, folder, here, cache)

    return cache.hold(recipe.key, build, log=installer.log, cancelled=installer.cancelled)


def _lay_over(
    built: Built, projects: tuple[Project, ...], request: EnvironmentRequest, settings: EnvironmentSettings
) -> list[Path]:
    """Returns the folders outside the environment that the overlay leads to."""
    base = Base(
        home=built.home,
        version=built.python,
        prefix=Path(built.prefix),
        site_paths=built.site_paths,
        library=built.library,
    )
    sdk = _sdk(built.python, built.packages, settings, copied=bool(built.image))
    last = [*_own_folders(request), *([Path(built.pip)] if built.pip else []), *sdk]
    make_overlay(request.overlay, base, projects=projects, last=last)
    return sdk


def _own_folders(request: EnvironmentRequest) -> list[Path]:
    """Returns the folders of the task's code in which its submitter's interpreter finds modules."""
    return [inside(request.tree, request.tree / path, "the task") for path in request.environment.import_from]


def _inherit(request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer) -> ReadyEnvironment:
    interpreter = _inherited(request, settings, installer)
    if interpreter is None:
        return _without_python(request)
    if request.environment.requirements is not wire.RequirementsKind.NONE:
        installer.log("the environment is inherited as it is; the task's requirements are not installed")
    inside = bool(interpreter.image)
    packages = with_lent((), interpreter) if inside else inherit.installed(interpreter)
    base = Base(
        home=interpreter.home,
        version=interpreter.version,
        prefix=None if inside else Path(interpreter.prefix),
        site_paths=interpreter.site_paths,
        library=interpreter.library,
    )
    sdk = _sdk(interpreter.version, packages, settings, copied=inside)
    python = make_overlay(request.overlay, base, last=[*_own_folders(request), *sdk])
    return ReadyEnvironment(
        python=python,
        bin=python.parent,
        variables={"VIRTUAL_ENV": str(request.overlay)},
        key=f"inherit:{interpreter.image}:{interpreter.executable}"
        if inside
        else f"inherit:{interpreter.executable}",
        reused=True,
        version=interpreter.version,
        packages=packages,
        reads=tuple(sdk),
        writes=(request.overlay,),
        lock_fd=None if inside else _lock_of_fetched(interpreter, settings),
    )


def _lock_of_fetched(interpreter: Interpreter, settings: EnvironmentSettings) -> int | None:
    """An interpreter that was fetched is used as it is, so it has to stay for as long as the run."""
    fetched = Path(interpreter.home).resolve().is_relative_to((settings.root / "pythons").resolve())
    return downloads_of(settings).hold_pythons() if fetched else None


def _manager(request: EnvironmentRequest, installer: Installer) -> Manager:
    """In an image uv does what pip would: the two agree on what they read, and the image may have no pip."""
    wanted = request.environment.manager
    if request.place is not None and wanted is wire.Manager.CONDA:
        raise failed(
            "conda builds on the machine itself, not in a container; take an image that has the packages, with "
            "`--manager inherit`, or a queue whose agents run tasks without a container"
        )
    if request.place is not None and wanted is wire.Manager.PIP:
        installer.log("in a container uv installs what pip was asked to")
        return uv
    if wanted not in MANAGERS or not request.environment.requirements.known:
        asked = f"{wanted}, {request.environment.requirements}"
        raise failed(f"this agent is older than the task and does not know how to build ({asked}): update it")
    return MANAGERS[wanted]


def _interpreter(
    request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer
) -> Interpreter | None:
    # Conda brings the interpreter that the task asks for; this one serves where it brings none.
    wanted = None if request.environment.manager is wire.Manager.CONDA else request.environment.python
    if request.place is None:
        return find_interpreter(wanted, settings, installer)
    return _in_image(request.place, request, settings, installer)


def _inherited(
    request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer
) -> Interpreter | None:
    if request.place is None:
        return inherit.find(request.environment.python, settings, installer)
    return _in_image(request.place, request, settings, installer)


def _in_image(
    place: Place, request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer
) -> Interpreter | None:
    """None for an image without Python, which a command that is none of Python's can do without."""
    found = find_in_image(place, request.environment.python, settings, installer)
    wants_packages = request.environment.manager is not wire.Manager.INHERIT and (
        request.environment.requirements is not wire.RequirementsKind.NONE
    )
    if found is None and (request.needs_python or wants_packages):
        raise without_python(place)
    return found


def _without_python(request: EnvironmentRequest) -> ReadyEnvironment:
    request.overlay.mkdir(parents=True)
    return ReadyEnvironment(
        python=Path("python3"),
        bin=request.overlay / "bin",
        variables={},
        key="none",
        reused=True,
        version="",
        packages=(),
    )


def _sdk(version: str, packages: tuple[str, ...], settings: EnvironmentSettings, *, copied: bool) -> list[Path]:
    """Returns the folder that lends the SDK to an environment without it, if its Python is new enough."""
    major, minor = version.split(".")[:2]
    present = any(package.startswith("taskyard==") for package in packages)
    new_enough = (int(major), int(minor)) >= OLDEST_PYTHON
    return [sdk_folder(settings.root / "sdk", copied=copied)] if new_enough and not present else []


def _machine_failure(error: OSError) -> RunFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failed(f"the disk is full: {error}", reason=Reason.DISK, infrastructure=True)
    return failed(f"cannot make the environment: {error}", infrastructure=True)
