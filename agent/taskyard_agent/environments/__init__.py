"""Provides the environment of a run: built once, kept in a cache, used through a thin overlay."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

from taskyard import wire
from taskyard.wire import Reason

from taskyard_agent.environments import inherit, pip, poetry, uv
from taskyard_agent.environments.base import Manager, Recipe
from taskyard_agent.environments.building import build_environment
from taskyard_agent.environments.cache import Built, Held, cache_of, limits_of
from taskyard_agent.environments.installer import Installer, visible_variables
from taskyard_agent.environments.interpreters import find_interpreter
from taskyard_agent.environments.overlay import Base, make_overlay
from taskyard_agent.environments.projects import Project
from taskyard_agent.environments.request import (
    EnvironmentRequest,
    EnvironmentSettings,
    Log,
    ReadyEnvironment,
    failed,
)
from taskyard_agent.environments.sdk_path import OLDEST_PYTHON, sdk_folder
from taskyard_agent.errors import RunFailed

__all__ = ["EnvironmentRequest", "EnvironmentSettings", "ReadyEnvironment", "provision"]

MANAGERS: dict[wire.Manager, Manager] = {
    wire.Manager.UV: uv,
    wire.Manager.PIP: pip,
    wire.Manager.POETRY: poetry,
}


def provision(
    request: EnvironmentRequest, *, settings: EnvironmentSettings, log: Log, cancelled: threading.Event
) -> ReadyEnvironment:
    """Returns an environment that satisfies `request`, and holds it until `release()`.

    Raises RunFailed (phase environment) when it cannot be made, RunStopped within a second of `cancelled`.
    """
    installer = Installer(
        log=log,
        cancelled=cancelled,
        downloads=settings.root / "downloads",
        variables=visible_variables(settings.variables),
    )
    try:
        if request.environment.manager is wire.Manager.INHERIT:
            return _inherit(request, settings, installer)
        return _build_or_reuse(request, settings, installer)
    except OSError as error:
        raise _machine_failure(error) from error


def _build_or_reuse(
    request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer
) -> ReadyEnvironment:
    manager = MANAGERS[request.environment.manager]
    interpreter = find_interpreter(request.environment.python, settings, installer)
    recipe = manager.resolve(request, interpreter, settings)
    for remark in recipe.remarks:
        installer.log(remark)
    held = _hold(manager, recipe, settings, installer)
    ready = ReadyEnvironment(
        python=request.overlay / "bin" / "python",
        bin=request.overlay / "bin",
        variables={"VIRTUAL_ENV": str(request.overlay)},
        key=recipe.key,
        reused=held.reused,
        version=held.built.python,
        packages=held.built.packages,
        lock_fd=held.lock_fd,
    )
    try:
        _lay_over(held.built, recipe.requirements.projects, request.overlay, settings)
    except BaseException:
        ready.release()
        raise
    return ready


def _hold(manager: Manager, recipe: Recipe, settings: EnvironmentSettings, installer: Installer) -> Held:
    cache = cache_of(settings)

    def build(folder: Path, lock: int) -> Built:
        cache.prune(limits_of(settings))
        return build_environment(manager, recipe, folder, installer.building(folder, lock))

    held = cache.hold(recipe.key, build, log=installer.log, cancelled=installer.cancelled)
    if not held.reused:
        cache.prune(limits_of(settings))
    return held


def _lay_over(built: Built, projects: tuple[Project, ...], overlay: Path, settings: EnvironmentSettings) -> None:
    base = Base(
        home=built.home,
        version=built.python,
        prefix=Path(built.prefix),
        site_paths=built.site_paths,
        library=built.library,
    )
    last: list[Path] = [*([Path(built.pip)] if built.pip else []), *_sdk(built.python, built.packages, settings)]
    make_overlay(overlay, base, projects=projects, last=last)


def _inherit(request: EnvironmentRequest, settings: EnvironmentSettings, installer: Installer) -> ReadyEnvironment:
    interpreter = inherit.find(request.environment.python, settings, installer)
    if request.environment.requirements is not wire.RequirementsKind.NONE:
        installer.log("the environment is inherited as it is; the task's requirements are not installed")
    packages = inherit.installed(interpreter)
    base = Base(
        home=interpreter.home,
        version=interpreter.version,
        prefix=Path(interpreter.prefix),
        site_paths=interpreter.site_paths,
        library=interpreter.library,
    )
    python = make_overlay(request.overlay, base, last=_sdk(interpreter.version, packages, settings))
    return ReadyEnvironment(
        python=python,
        bin=python.parent,
        variables={"VIRTUAL_ENV": str(request.overlay)},
        key=f"inherit:{interpreter.executable}",
        reused=True,
        version=interpreter.version,
        packages=packages,
    )


def _sdk(version: str, packages: tuple[str, ...], settings: EnvironmentSettings) -> list[Path]:
    """Returns the folder that lends the SDK to an environment without it, if its Python is new enough."""
    major, minor = version.split(".")[:2]
    present = any(package.startswith("taskyard==") for package in packages)
    new_enough = (int(major), int(minor)) >= OLDEST_PYTHON
    return [sdk_folder(settings.root / "sdk")] if new_enough and not present else []


def _machine_failure(error: OSError) -> RunFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failed(f"the disk is full: {error}", reason=Reason.DISK, infrastructure=True)
    return failed(f"cannot make the environment: {error}", infrastructure=True)
