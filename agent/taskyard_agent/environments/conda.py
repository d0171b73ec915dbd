"""Environments of conda packages: through a conda, mamba or micromamba that is there, else py-rattler."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

from taskyard_agent.environments import uv
from taskyard_agent.environments.base import Installed, Recipe
from taskyard_agent.environments.conda_channels import ChannelPolicy, without_secrets
from taskyard_agent.environments.conda_files import EXPLICIT, Policies, read_order
from taskyard_agent.environments.conda_order import CondaOrder
from taskyard_agent.environments.indexes import configured_indexes
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.torch_builds import torch_backend_of
from taskyard_agent.environments.venvs import installed, policy_of, reading_of, remarks_on

BINARIES = ("micromamba", "mamba", "conda")
NO_BINARY = "none"
_RATTLER = "py-rattler"
_SHOW_PYTHON = (
    "import json, sys, sysconfig, platform; print(json.dumps([platform.python_version(), "
    "sysconfig.get_path('purelib', vars={'base': '', 'platbase': ''}).lstrip('/')]))"
)
_COMPILE = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2, workers=0)"
_ACTIVATE = 'for file in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do . "$file"; done; printf "\\0"; env -0'
_NOT_TAKEN = ("PATH", "PWD", "OLDPWD", "SHLVL", "_")


def version() -> str:
    """Of the library that is used where there is no program."""
    return f"{_RATTLER} {metadata.version(_RATTLER)}"


def resolve(request: EnvironmentRequest, interpreter: Interpreter, settings: EnvironmentSettings) -> Recipe:
    """Reads and vets what the task asks for; see `base.Manager`."""
    policies = Policies(
        channels=ChannelPolicy(allowed=settings.allowed_channels),
        indexes=policy_of(settings),
        reading=reading_of(request, interpreter),
    )
    order, requirements = read_order(request, interpreter, policies)
    indexes = configured_indexes(settings.variables).with_added(
        default=requirements.default_index,
        extra=requirements.extra_indexes,
        find_links=requirements.find_links,
        no_index=requirements.no_index,
    )
    tool = program(settings)
    return Recipe(
        manager=_named(tool),
        interpreter=interpreter,
        tree=request.tree,
        requirements=requirements,
        indexes=indexes,
        index_strategy=settings.index_strategy or ("unsafe-best-match" if indexes.all_public() else "first-index"),
        torch_backend=torch_backend_of(request, requirements, indexes, settings) if requirements.lines else None,
        conda=replace(order, tool=tool),
        remarks=(*remarks_on(request), *_remarks(request, order, tool)),
    )


def install(recipe: Recipe, prefix: Path, installer: Installer) -> None:
    """Makes the environment; see `base.Manager`."""
    order = _order_of(recipe)
    if not (order.specs or order.pins):
        (prefix / "conda-meta").mkdir(parents=True)
    elif order.tool is not None:
        _install_by_program(order.tool, order, prefix, installer)
    else:
        _install_by_rattler(order, prefix, installer)
    _remove_credentials(order, prefix)
    python = prefix / "bin" / "python"
    requirements = recipe.requirements
    if not python.exists():
        return
    if requirements.lines or requirements.dynamic or requirements.pinned or requirements.compiled:
        uv.add_packages(recipe, prefix, installer)
    _, library = _ask_python(python, installer)
    installer.run([python, "-I", "-c", _COMPILE, prefix / library], cwd=prefix, quiet=True)


def check(recipe: Recipe, prefix: Path, installer: Installer) -> None:
    """Raises RunFailed unless every package is there, and its Python starts; see `base.Manager`."""
    present = {name for name, _ in _packages(prefix)}
    missing = [name for name in _order_of(recipe).names if name not in present]
    if missing:
        raise failed(f"after the installation {', '.join(missing)} is still missing")
    if recipe.requirements.lines and not (prefix / "bin" / "python").exists():
        raise failed("packages for pip are listed, but the environment has no python; add it to the list")


def describe(recipe: Recipe, prefix: Path, installer: Installer) -> Installed:
    """Returns what is there; without a Python of its own it is used beside the machine's."""
    packages = [f"{name}=={number}" for name, number in _packages(prefix)]
    own = recipe.interpreter
    found = Installed(
        home=own.home,
        python=own.version,
        library=own.library,
        site_paths=(),
        packages=tuple(packages),
        bins=(str(prefix / "bin"),),
        variables=_variables(recipe, prefix, installer),
    )
    python = prefix / "bin" / "python"
    return _with_python(found, python, packages, installer) if python.exists() else found


def _with_python(found: Installed, python: Path, packages: list[str], installer: Installer) -> Installed:
    number, library = _ask_python(python, installer)
    site = python.parent.parent / library
    known = {package.lower() for package in packages}
    added = [package for package in installed(site) if package.lower() not in known]
    return replace(
        found,
        home=str(python),
        python=number,
        library=library,
        site_paths=(str(site),),
        packages=(*packages, *added),
    )


# --- Which tool ------------------------------------------------------------------------------------------


def program(settings: EnvironmentSettings) -> str | None:
    """Returns the program to use; None: py-rattler. Raises RunFailed where neither is there."""
    path = settings.variables.get("PATH", os.defpath)
    if settings.conda_binary not in (None, NO_BINARY):
        named = shutil.which(str(settings.conda_binary), path=path)
        if named is None:
            raise failed(f"there is no {settings.conda_binary}, which --conda-binary names", infrastructure=True)
        return named
    found = [shutil.which(name, path=path) for name in BINARIES if settings.conda_binary is None]
    tool = next((program for program in found if program), None)
    if tool is None and importlib.util.find_spec("rattler") is None:
        raise failed(
            "this machine has neither micromamba, mamba nor conda on the agent's PATH, nor py-rattler; its "
            "operator can install one of them: pip install 'taskyard[conda]'",
            infrastructure=True,
        )
    return tool


def _named(tool: str | None) -> str:
    return version() if tool is None else _version_of(tool, os.stat(tool).st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _version_of(tool: str, _changed: int) -> str:
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"\d+(\.\d+)+", done.stdout)
    return f"{Path(tool).name} {number[0] if number else 'of an unknown version'}"


def _remarks(request: EnvironmentRequest, order: CondaOrder, tool: str | None) -> Iterator[str]:
    how = tool or f"{_RATTLER}, because no conda, mamba or micromamba is on the agent's PATH"
    channels = ", ".join(map(without_secrets, order.channels))
    yield f"conda: {how}; channels: {channels}"
    asked = request.environment.python
    if order.python and asked and asked not in order.python:
        yield f"{request.environment.path} says {order.python}, which goes before Python {asked} of the task"


def _order_of(recipe: Recipe) -> CondaOrder:
    return recipe.conda or CondaOrder()


# --- Installing ------------------------------------------------------------------------------------------


def _install_by_rattler(order: CondaOrder, prefix: Path, installer: Installer) -> None:
    wanted = {"prefix": str(prefix), "cache": str(installer.downloads / "conda"), **asdict(order)}
    with _private_file(prefix.with_name("order.json"), json.dumps(wanted)) as file:
        installer.run(
            [sys.executable, "-I", "-m", "taskyard_agent.environments.conda_rattler", file], cwd=prefix.parent
        )


def _install_by_program(tool: str, order: CondaOrder, prefix: Path, installer: Installer) -> None:
    """The channels go into a file, because addresses may hold credentials, and argv is everybody's to read."""
    micro = Path(tool).name in ("micromamba", "mamba")
    text = _explicit_list(order) if order.pins else _environment_file(order)
    with _private_file(prefix.with_name("order.txt" if order.pins else "order.yml"), text) as file:
        verb = ["create"] if micro or order.pins else ["env", "create"]
        argv: list[str | Path] = [tool, *verb, "--yes", "--quiet", "--prefix", prefix, "--file", file]
        installer.run(argv, cwd=prefix.parent, variables=_settings_of_program(installer))


def _environment_file(order: CondaOrder) -> str:
    """JSON is YAML, too."""
    return json.dumps({"channels": [*order.channels, "nodefaults"], "dependencies": list(order.specs)})


def _explicit_list(order: CondaOrder) -> str:
    digests = [f"#sha256:{pin.sha256}" if pin.sha256 else f"#{pin.md5}" if pin.md5 else "" for pin in order.pins]
    lines = [f"{pin.url}{digest}" for pin, digest in zip(order.pins, digests, strict=True)]
    return "\n".join([EXPLICIT, *lines]) + "\n"


def _settings_of_program(installer: Installer) -> dict[str, str]:
    """No configuration of whoever's home this is; copies, because a hardlink would let an edit reach the cache."""
    cache = installer.downloads / "conda"
    values = {"always_copy": "true", "allow_softlinks": "false", "auto_update_conda": "false"}
    values |= {"channel_priority": "strict", "report_errors": "false", "pkgs_dirs": str(cache / "pkgs")}
    named = {f"{tool}_{name.upper()}": value for tool in ("CONDA", "MAMBA") for name, value in values.items()}
    return {**named, "CONDARC": os.devnull, "MAMBA_NO_RC": "true", "MAMBA_ROOT_PREFIX": str(cache / "root")}


@contextlib.contextmanager
def _private_file(file: Path, text: str) -> Iterator[Path]:
    file.touch(mode=0o600)
    file.write_text(text)
    try:
        yield file
    finally:
        file.unlink()


def _remove_credentials(order: CondaOrder, prefix: Path) -> None:
    """What was fetched with the operator's credentials is noted in the prefix, where tasks can read it."""
    secret = {address: without_secrets(address) for address in order.channels}
    changes = {address: plain for address, plain in secret.items() if address != plain}
    for file in (prefix / "conda-meta").glob("*") if changes else ():
        text = file.read_text()
        for address, plain in changes.items():
            text = text.replace(address, plain)
        file.write_text(text)


# --- What is there ---------------------------------------------------------------------------------------


def _packages(prefix: Path) -> list[tuple[str, str]]:
    records = [json.loads(file.read_bytes()) for file in sorted((prefix / "conda-meta").glob("*.json"))]
    return [(record["name"], record["version"]) for record in records]


def _ask_python(python: Path, installer: Installer) -> tuple[str, str]:
    """Returns its version, and its site-packages relative to the prefix."""
    output = installer.run([python, "-I", "-c", _SHOW_PYTHON], cwd=python.parent, quiet=True)
    number, library = json.loads(output[-1])
    return number, library


def _variables(recipe: Recipe, prefix: Path, installer: Installer) -> dict[str, str]:
    """What activation would set: conda's own, those of the packages' scripts, those of environment.yml."""
    own = {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": str(prefix), "CONDA_SHLVL": "1"}
    found: dict[str, str] = {}
    for file in sorted((prefix / "etc/conda/env_vars.d").glob("*.json")):
        found |= {str(name): str(value) for name, value in json.loads(file.read_bytes()).items()}
    if list((prefix / "etc/conda/activate.d").glob("*.sh")):
        found |= _set_by_scripts(own, prefix, installer)
    return {**found, **_order_of(recipe).variables, **own}


def _set_by_scripts(own: Mapping[str, str], prefix: Path, installer: Installer) -> dict[str, str]:
    shell = shutil.which("bash") or "/bin/sh"
    path = f"{prefix / 'bin'}:{installer.variables.get('PATH', os.defpath)}"
    output = installer.run([shell, "-c", _ACTIVATE], cwd=prefix, variables={**own, "PATH": path}, quiet=True)
    pairs = (item.partition("=") for item in "\n".join(output).split("\0") if "=" in item)
    before: Mapping[str, str] = {**installer.variables, **own}
    return {name: value for name, _, value in pairs if name not in _NOT_TAKEN and before.get(name) != value}
