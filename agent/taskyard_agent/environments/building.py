"""Builds one environment from its recipe, in an empty folder that the cache protects."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

from taskyard_agent.environments.base import Manager, Recipe
from taskyard_agent.environments.bytecode import compile_modules, copy_compiled
from taskyard_agent.environments.cache import PREFIX, Built, Cache
from taskyard_agent.environments.compiled_projects import copy_projects, remove_copies, require_apart
from taskyard_agent.environments.git_requirements import with_repositories
from taskyard_agent.environments.image_python import with_lent
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import minor_of
from taskyard_agent.environments.overlay import entry_point, write_launcher
from taskyard_agent.environments.venvs import site_packages
from taskyard_agent.environments.written import require_inside


def build_environment(manager: Manager, recipe: Recipe, folder: Path, installer: Installer, cache: Cache) -> Built:
    """Installs, compiles and checks what the recipe says. Raises RunFailed or RunStopped."""
    begun = time.monotonic()
    prefix = folder / PREFIX
    installer.log(f"building an environment: {recipe.manager}, Python {recipe.interpreter.version}")
    with with_repositories(recipe, installer) as here:
        try:
            copy_projects(recipe, folder)
            manager.install(recipe, prefix, here)
        finally:
            remove_copies(folder)
    _look_at(recipe, prefix)
    if recipe.conda is None:
        _compile(recipe, prefix, installer, cache)
    manager.check(recipe, prefix, installer)
    _look_at(recipe, prefix)
    made = manager.describe(recipe, prefix, installer)
    for site in made.site_paths[:1]:
        require_apart(Path(site), recipe.tree, recipe.requirements.projects)
    packages = with_lent(made.packages, recipe.interpreter)
    lacks_pip = made.site_paths and not any(package.startswith("pip==") for package in made.packages)
    pip = _add_pip(minor_of(made.python), folder, prefix) if lacks_pip else None
    installer.log(f"built in {time.monotonic() - begun:.1f} s; packages: {len(packages)}")
    return Built(
        manager=recipe.manager,
        python=made.python,
        home=made.home,
        prefix=str(prefix),
        library=made.library,
        site_paths=made.site_paths,
        packages=packages,
        image=recipe.interpreter.image,
        bins=made.bins,
        variables=dict(made.variables),
        pip=str(pip) if pip else None,
        lends_bytecode=recipe.conda is None,
    )


def _look_at(recipe: Recipe, prefix: Path) -> None:
    if recipe.interpreter.image:
        require_inside(prefix)


def _compile(recipe: Recipe, prefix: Path, installer: Installer, cache: Cache) -> None:
    python = recipe.interpreter
    with cache.compiled_by(python.home, python.version, python.image) as others:
        modules = copy_compiled(site_packages(recipe, prefix), others, python)
    compile_modules(modules, python, prefix.parent, installer)


def _add_pip(minor: str, folder: Path, prefix: Path) -> Path | None:
    """Unpacks the pip that virtualenv brings beside an environment without one: many scripts call it."""
    from virtualenv.seed.wheels.embed import get_embed_wheel

    wheel = get_embed_wheel("pip", minor)
    if wheel is None:
        return None
    target = folder / "pip"
    with zipfile.ZipFile(wheel.path) as archive:
        archive.extractall(target)
    write_launcher(prefix / "bin" / "pip", prefix / "bin" / "python", entry_point("pip._internal.cli.main:main"))
    return target
