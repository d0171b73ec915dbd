"""Reads what a task wants of conda: from environment.yml, a lock, an explicit list or the task's packages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskyard.wire import RequirementsKind

from taskyard_agent.environments.conda_channels import DEFAULT_CHANNEL, ChannelPolicy
from taskyard_agent.environments.conda_order import PACKAGE, CondaOrder, Pin
from taskyard_agent.environments.indexes import IndexPolicy
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.projects import Reading
from taskyard_agent.environments.request import EnvironmentRequest, failed
from taskyard_agent.environments.requirements import Requirements, read_lines
from taskyard_agent.environments.task_files import shown, text_of
from taskyard_agent.environments.venvs import LISTED, file_of, read_listed

EXPLICIT = "@EXPLICIT"
_SPEC = re.compile(r"(?:(?P<channel>[^\s\[]+?)::)?(?P<rest>[A-Za-z0-9_][^\x00-\x1f]*)")
_ELSEWHERE = re.compile(r"\[[^\]]*\b(?:channel|url|subdir)\s*=|://")
_PYTHON = re.compile(r"python(?=$|[\s=<>!~\[])")
_VERSION = re.compile(r"(?:cpython|python)?[-@]?(\d+\.\d+(?:\.\d+)?)")
_MOST_VALUES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Policies:
    """Where packages may come from."""

    channels: ChannelPolicy
    indexes: IndexPolicy
    reading: Reading


def read_order(
    request: EnvironmentRequest, interpreter: Interpreter, policies: Policies
) -> tuple[CondaOrder, Requirements]:
    """Reads what the task asks for: conda's part, and pip's. Raises RunFailed naming the file."""
    kind, tree = request.environment.requirements, request.tree
    if kind is RequirementsKind.PACKAGES:
        where = "the task's packages"
        order = _solved(request, list(request.environment.packages), [], where, policies)
        return order, Requirements()
    if kind is RequirementsKind.ENVIRONMENT_YML:
        file = file_of(request.environment, tree)
        return _read_yaml(request, file, policies)
    if kind is RequirementsKind.REQUIREMENTS_TXT:
        file = file_of(request.environment, tree)
        text = text_of(file, shown(file, tree))
        if EXPLICIT in text.splitlines():
            return _explicit(text, shown(file, tree), policies), Requirements()
    if kind in LISTED:
        pip = read_listed(request, interpreter, policies.indexes)
        return _with_python(request, CondaOrder(channels=_channels([], str(kind), policies)), needed=True), pip
    raise failed(f"conda does not read {kind}; leave `--manager` out, and its own manager is taken")


# --- environment.yml -------------------------------------------------------------------------------------


def _read_yaml(request: EnvironmentRequest, file: Path, policies: Policies) -> tuple[CondaOrder, Requirements]:
    where = shown(file, request.tree)
    table = _parse(text_of(file, where), where)
    if "package" in table:
        return _locked(table, where, policies)
    conda, pip = _parted(table.get("dependencies") or [], where)
    requirements = read_lines(
        pip, where=where, folder=file.parent, reading=policies.reading, policy=policies.indexes
    )
    order = _solved(request, conda, table.get("channels") or [], where, policies, needed=bool(pip))
    variables = {str(name): str(value) for name, value in (table.get("variables") or {}).items()}
    return replace(order, variables=variables), requirements


def _parse(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        table = yaml.safe_load(text)
        if _written_out(table, {}) > _MOST_VALUES:
            raise failed(f"{where} repeats parts of itself by `*name` without end: write it out")
    except (yaml.YAMLError, RecursionError) as error:
        raise failed(f"{where} is not valid YAML: {error}") from error
    if not isinstance(table, dict):
        raise failed(f"{where} is no environment: it has no `dependencies`")
    return table


def _written_out(value: Any, known: dict[int, float]) -> float:
    """How many values it would be with every `*name` written out: a short file can stand for billions."""
    if id(value) not in known:
        known[id(value)] = float("inf")  # what contains itself
        parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        known[id(value)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(value)]


def _parted(dependencies: Sequence[Any], where: str) -> tuple[list[str], list[str]]:
    """Parts conda's specs from the lines of the `pip:` section."""
    conda, pip = [], []
    for item in dependencies:
        if isinstance(item, str):
            conda.append(item)
        elif isinstance(item, dict) and list(item) == ["pip"]:
            pip += [str(line) for line in item["pip"] or []]
        else:
            raise failed(f"{where}: {item!r} is neither a package nor a `pip:` section")
    return conda, pip


def _solved(
    request: EnvironmentRequest,
    specs: Sequence[str],
    channels: Sequence[str],
    where: str,
    policies: Policies,
    *,
    needed: bool = False,
) -> CondaOrder:
    vetted = tuple(_vetted(spec, where, policies.channels) for spec in specs)
    order = CondaOrder(channels=_channels(channels, where, policies), specs=vetted)
    return _with_python(request, order, needed=needed)


def _channels(names: Sequence[str], where: str, policies: Policies) -> tuple[str, ...]:
    named = [str(name) for name in names if name != "nodefaults"] or [DEFAULT_CHANNEL]
    addresses = [address for name in named for address in policies.channels.resolve(name, where)]
    return tuple(dict.fromkeys(addresses))


def _vetted(spec: str, where: str, policy: ChannelPolicy) -> str:
    """Returns the spec with the address of the channel that it names."""
    match = _SPEC.fullmatch(spec.strip())
    if match is None or _ELSEWHERE.search(match["rest"]):
        raise failed(f"{where}: {spec!r} is no package that can be followed; write `name=1.2` or `channel::name`")
    if match["channel"] is None:
        return match["rest"]
    (address,) = policy.resolve(match["channel"], where)[:1]
    return f"{address}::{match['rest']}"


def _with_python(request: EnvironmentRequest, order: CondaOrder, *, needed: bool) -> CondaOrder:
    """Adds the interpreter that the task asks for, unless its file names one; pip's part needs one at any rate."""
    named = [spec for spec in order.specs if _PYTHON.match(spec.rpartition("::")[2])]
    if named:
        return replace(order, python=named[0])
    wanted = request.environment.python
    if wanted is None:
        return replace(order, specs=(*order.specs, "python") if needed else order.specs)
    version = _VERSION.fullmatch(wanted)
    if version is None:
        raise failed(f"conda has no Python {wanted!r}; write `--python 3.11`")
    return replace(order, specs=(*order.specs, f"python={version[1]}"))


# --- Locks -----------------------------------------------------------------------------------------------


def _locked(table: Mapping[str, Any], where: str, policies: Policies) -> tuple[CondaOrder, Requirements]:
    """conda-lock's own format, version 1: https://conda.github.io/conda-lock/output/."""
    here = [item for item in table["package"] if item.get("platform") == subdir() and _is_main(item)]
    if not here:
        raise failed(f"{where} holds nothing for {subdir()}; `conda-lock --platform {subdir()}` adds it")
    pins = [
        _pin(item["url"], item.get("hash", {}), where, policies) for item in here if item["manager"] == "conda"
    ]
    pip = [
        f"{item['name']}=={item['version']} --hash=sha256:{item['hash']['sha256']}"
        for item in here
        if item["manager"] == "pip"
    ]
    requirements = Requirements(lines=tuple(pip), origins=(where,) * len(pip), exact=True)
    return CondaOrder(channels=_of_pins(pins), pins=tuple(pins)), requirements


def _is_main(item: Mapping[str, Any]) -> bool:
    return item.get("category", "main") == "main" and not item.get("optional", False)


def _explicit(text: str, where: str, policies: Policies) -> CondaOrder:
    """The output of `conda list --explicit`: one URL a line, with `#md5` or `#sha256:…`."""
    pins = []
    for line in text.splitlines():
        address, _, digest = line.strip().partition("#")
        if not address or address == EXPLICIT:
            continue
        kind, _, value = digest.rpartition(":")
        pins.append(_pin(address, {kind or "md5": value} if value else {}, where, policies))
    return CondaOrder(channels=_of_pins(pins), pins=tuple(pins))


def _pin(url: str, digests: Mapping[str, str], where: str, policies: Policies) -> Pin:
    """Checks where a file comes from; the channel is looked up as the operator has it, mirrors included."""
    plain = Pin(url=url)
    if "://" not in url or not PACKAGE.fullmatch(plain.file):
        raise failed(f"{where}: {url!r} is no address of a conda package")
    (channel,) = policies.channels.resolve(plain.channel, where)
    place = url.rsplit("/", 2)[1]
    return Pin(url=f"{channel}/{place}/{plain.file}", sha256=digests.get("sha256"), md5=digests.get("md5"))


def _of_pins(pins: Iterable[Pin]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(pin.channel for pin in pins))


def subdir() -> str:
    """What conda calls this machine: `linux-64`."""
    import platform

    system = {"Linux": "linux", "Darwin": "osx"}.get(platform.system(), platform.system().lower())
    machine = {"x86_64": "64", "AMD64": "64", "arm64": "arm64" if system == "osx" else "aarch64"}
    return f"{system}-{machine.get(platform.machine(), platform.machine())}"
