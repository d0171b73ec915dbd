"""Says why a project of the task's tree cannot be used as it lies there: its build compiles or writes modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskyard_agent.environments.setup_py import UNKNOWN, SetupArguments

Table = Mapping[str, Any]
_SETUPTOOLS = ("setuptools.build_meta", "setuptools.build_meta:__legacy__")
_PURE = (
    *("hatchling.build", "flit_core.buildapi", "flit.buildapi", "uv_build", "poetry.core.masonry.api"),
    *("poetry.masonry.api", "pdm.backend", "pdm.pep517.api", "whey", "trampolim"),
)
"""Build backends that copy modules as they are, but for the settings below."""
_BUILDING_ARGUMENTS = (
    *("ext_modules", "rust_extensions", "cffi_modules", "cmdclass", "ext_package", "libraries"),
    *("cmake_source_dir", "cmake_args", "mypyc_modules"),
)
_BUILDING_SETTINGS = (
    *(
        ("setuptools", "ext-modules"),
        ("setuptools", "cmdclass"),
        ("setuptools-rust",),
        ("setuptools_scm", "write_to"),
    ),
    *(("setuptools_scm", "version_file"), ("hatch", "build", "hooks"), ("hatch", "build", "force-include")),
    *(("hatch", "build", "targets", "wheel", "hooks"), ("hatch", "build", "targets", "wheel", "force-include")),
    *(("poetry", "build"), ("pdm", "build", "run-setuptools"), ("pdm", "build", "custom-hook")),
    *(("pdm", "version", "write_to"), ("versioneer",)),
)
"""Below [tool]: what compiles, writes a file, or lays modules out in another way than the tree."""


def reason_to_build(folder: Path, table: Table, setup: SetupArguments) -> str:
    """Returns it in words for people; empty where the tree holds all modules as they are imported."""
    system = table.get("build-system", {})
    backend = str(system.get("build-backend", _SETUPTOOLS[0]))
    if system.get("backend-path"):
        return "its build backend lies in the repository"
    if backend not in (*_SETUPTOOLS, *_PURE):
        return f"its build backend {backend} compiles, or may"
    for path in _BUILDING_SETTINGS:
        if _has(table.get("tool", {}), path):
            return f"[tool.{'.'.join(path)}] of its pyproject.toml compiles or writes files"
    wheel = table.get("tool", {}).get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    if isinstance(wheel.get("sources"), dict):
        return "[tool.hatch.build.targets.wheel.sources] lays its modules out in another way than the tree"
    if backend == "pdm.backend" and (folder / "pdm_build.py").is_file():
        return "its pdm_build.py runs at a build"
    return _reason_of_setup(folder, table, setup) if backend in _SETUPTOOLS else ""


def _reason_of_setup(folder: Path, table: Table, setup: SetupArguments) -> str:
    if (folder / "setup.py").is_file() and not setup.complete:
        return "only running its setup.py would tell what it builds"
    for name in _BUILDING_ARGUMENTS:
        if setup.values.get(name):
            return f"its setup.py has {name}"
    mapping = (
        table.get("tool", {}).get("setuptools", {}).get("package-dir") or setup.values.get("package_dir") or {}
    )
    if mapping is UNKNOWN or not _follows_the_tree(mapping):
        return "its package_dir gives packages other names than their folders have"
    scm = setup.values.get("use_scm_version")
    return "its use_scm_version writes a file" if isinstance(scm, dict) or scm is UNKNOWN else ""


def _follows_the_tree(mapping: Mapping[str, str]) -> bool:
    """`{"": "src", "mine": "src/mine"}`: one folder on the path says it all."""
    root = Path(mapping.get("", "."))
    return all(Path(folder) == root / name.replace(".", "/") for name, folder in mapping.items())


def _has(table: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(table, Mapping) or name not in table:
            return False
        table = table[name]
    return bool(table)
