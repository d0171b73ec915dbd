"""What [tool.uv] of a project or a script decides about an installation, for uv's own configuration file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard.requirements.uv_tables import FOLLOWED

from taskyard_agent.environments.addresses import check_url
from taskyard_agent.environments.indexes import IndexPolicy, refusal
from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import inside

Table = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class UvSettings:
    """Settings of [tool.uv] that decide what is installed; every address in them is vetted."""

    options: Mapping[str, Any] = field(default_factory=dict)
    default_index: str | None = None
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    wheel_folders: tuple[Path, ...] = ()
    no_index: bool = False
    index_strategy: str | None = None


NONE_OF_UV = UvSettings()


def read_uv_settings(table: Table, file: Path, where: str, *, tree: Path, policy: IndexPolicy) -> UvSettings:
    """Reads the [tool.uv] of `table`, which stands in `file`. Raises RunFailed naming `where`."""
    uv: Table = table.get("tool", {}).get("uv", {})
    options = {name: uv[name] for name in FOLLOWED if uv.get(name) not in (None, [], {}, False)}
    for text in _texts(options):
        _check_address(text, where)
    return UvSettings(options=options, **_places(uv, file, where, tree, policy))


def _places(uv: Table, file: Path, where: str, tree: Path, policy: IndexPolicy) -> dict[str, Any]:
    indexes = uv.get("index", [])
    for index in indexes:
        _vetted(str(index.get("url", "")), where, policy)
    searched = [index for index in indexes if not index.get("explicit")]
    defaults = [str(index["url"]) for index in searched if index.get("default")]
    default = next(iter(defaults), None) or uv.get("index-url")
    further = [str(index["url"]) for index in searched if not index.get("default")]
    links = [str(link) for link in uv.get("find-links", [])]
    folders = [inside(tree, file.parent / link, where) for link in links if "://" not in link]
    return {
        "default_index": _vetted(str(default), where, policy) if default else None,
        "extra_indexes": tuple(_vetted(url, where, policy) for url in (*further, *uv.get("extra-index-url", []))),
        "find_links": tuple(_vetted(link, where, policy) for link in links if "://" in link),
        "wheel_folders": tuple(folders),
        "no_index": bool(uv.get("no-index")),
        "index_strategy": uv.get("index-strategy") or ("first-index" if indexes else None),
    }


def _vetted(address: str, where: str, policy: IndexPolicy) -> str:
    accepted = policy.accept(address)
    if accepted is None or "${" in accepted:
        raise failed(refusal(where, address))
    return accepted


def _check_address(text: str, where: str) -> None:
    """A place that an option names is fetched as it stands: a branch would not be pinned, a path not be hashed."""
    _, found, address = text.partition("@")
    if "://" not in text or not found:
        return
    address = address.strip().partition(" ")[0]
    if address.startswith("git+"):
        raise failed(f"{where}: {text!r} in [tool.uv] is not followed; take it from git in [tool.uv.sources]")
    check_url(address, where)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def as_toml(table: Table) -> str:
    """Returns a table as a TOML file, each value on one line."""
    return "".join(f"{json.dumps(str(name))} = {_value(value)}\n" for name, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_value(part)}" for name, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value))
