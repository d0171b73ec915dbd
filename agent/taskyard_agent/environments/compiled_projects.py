"""Projects of the task's tree that must be built: installed from copies, and no environment leads into a tree."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.local_project import Project
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import copy_of

SOURCES = "sources"
"""Beside an environment: the copies that it was built from, while it is built."""
_PRETENDED = ("SETUPTOOLS_SCM_PRETEND_VERSION", "PDM_BUILD_SCM_VERSION", "POETRY_DYNAMIC_VERSIONING_BYPASS")
"""A copy has no history that could tell its version."""


def copy_projects(recipe: Recipe, folder: Path) -> None:
    """Copies what is to be built, before any program runs that could put links there.

    Raises RunFailed for a link out of a project: no hash over its files would see what it leads to change.
    """
    requirements = recipe.requirements
    for project in {one.folder: one for one in (*requirements.dynamic, *requirements.compiled)}.values():
        target = copied(project, folder)
        copy_of(project.folder, target)
        for path in target.rglob("*"):
            if path.is_symlink() and not path.resolve().is_relative_to(target.resolve()):
                where = path.relative_to(target)
                raise failed(
                    f"{project.name} must be built, and its {where} is a link to a file outside the project"
                )


def copied(project: Project, folder: Path) -> Path:
    """Returns where the copy of a project is."""
    place = hashlib.sha256(str(project.folder).encode()).hexdigest()[:16]
    return folder / SOURCES / place / project.folder.name


def install_compiled(recipe: Recipe, prefix: Path, installer: Installer, variables: dict[str, str]) -> None:
    """Builds and installs the recipe's projects that must be built. Raises RunFailed naming the project."""
    for project in recipe.requirements.compiled:
        copy = copied(project, prefix.parent)
        installer.log(f"building {project.name} of the task's code: {project.compiled}")
        argv: list[str | Path] = [
            installer.uv,
            "pip",
            "install",
            "--color",
            "never",
            "--no-progress",
            "--no-config",
        ]
        argv += [
            "--link-mode",
            "copy",
            "--no-deps",
            "--no-sources",
            "--reinstall",
            "--no-cache",
            "--break-system-packages",
        ]
        argv += ["--python", prefix / "bin" / "python", copy]
        pretended = dict.fromkeys(_PRETENDED, project.version if project.version != "0" else "0.0")
        installer.run(argv, cwd=copy, variables={**variables, **pretended})


def remove_copies(folder: Path) -> None:
    """Removes what projects were built from."""
    shutil.rmtree(folder / SOURCES, ignore_errors=True)


def require_apart(site: Path, tree: Path, projects: Iterable[Project]) -> None:
    """Raises RunFailed when an environment leads into the tree that it was built for: other runs use it, too."""
    known = {canonicalize_name(project.name) for project in projects if project.compiled}
    for found in metadata.distributions(path=[str(site)]):
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        path = Path(unquote(urlsplit(str(origin.get("url", ""))).path))
        local = str(origin.get("url", "")).startswith("file:") and path.is_relative_to(tree.resolve())
        if local and path.is_dir() and canonicalize_name(found.name) not in known:
            raise failed(
                f"{found.name} was installed from {path.relative_to(tree.resolve())}/ of the task's code, which "
                "other runs do not have; name it in [tool.uv.sources], or as `-e ./PATH` in a requirements file"
            )
    for file in (*site.glob("*.pth"), *site.glob("__editable__*.py")):
        if str(tree.resolve()) in file.read_text(encoding="utf-8", errors="replace"):
            raise failed(
                f"{file.name} of the environment leads into the task's code, which later runs do not have"
            )


def place_compiled(site: Path, projects: Iterable[Project]) -> None:
    """Puts what a build made beside the modules it belongs to, as an installation in place does.

    From the current folder these are found first. A file of the code stays as it is.
    """
    for project in projects:
        if project.compiled:
            for name in _built_files(site, project):
                target = project.source / name
                inside = target.parent.resolve().is_relative_to(project.folder.resolve())
                if inside and target.parent.is_dir() and not os.path.lexists(target):
                    shutil.copy2(site / name, target)
                    target.chmod(0o644)


def _built_files(site: Path, project: Project) -> Iterator[PurePosixPath]:
    for found in metadata.distributions(name=project.name, path=[str(site)]):
        for name, *_ in csv.reader((found.read_text("RECORD") or "").splitlines()):
            path = PurePosixPath(name)
            inside = len(path.parts) > 1 and ".." not in path.parts and not path.is_absolute()
            if inside and not path.parts[0].endswith((".dist-info", ".data")) and "__pycache__" not in path.parts:
                yield path
