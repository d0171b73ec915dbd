"""`[tool.uv.sources]` of a project: where dependencies come from, written into their lines for every manager."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from taskyard_agent.environments.request import failed

Table = Mapping[str, Any]
UVS_OWN = ("index", "workspace")
"""Kinds of source that a line cannot say."""


def with_sources(lines: Iterable[str], table: Table, where: str) -> tuple[str, ...]:
    """Returns the lines with the address or path that the project has for each. Raises RunFailed.

    https://docs.astral.sh/uv/concepts/projects/dependencies/#dependency-sources
    """
    known: dict[str, list[Table]] = {}
    for name, given in _sources(table).items():
        known[canonicalize_name(name)] = _applying(given)
    return tuple(line for given in lines for line in _placed(given, known, where))


def kinds_of(table: Table) -> set[str]:
    """Returns which of `git`, `url`, `path`, `index`, `workspace` the project's sources are."""
    found = (source.keys() for given in _sources(table).values() for source in _listed(given))
    return {kind for keys in found for kind in keys & {"git", "url", "path", *UVS_OWN}}


def _sources(table: Table) -> Table:
    sources: Table = table.get("tool", {}).get("uv", {}).get("sources", {})
    return sources


def _listed(given: Any) -> list[Table]:
    return given if isinstance(given, list) else [given]


def _applying(given: Any) -> list[Table]:
    """Those of extras and groups are for uv's own commands."""
    return [source for source in _listed(given) if not {"extra", "group", *UVS_OWN} & source.keys()]


def _placed(line: str, known: Mapping[str, list[Table]], where: str) -> Iterator[str]:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        yield line  # whoever installs it names it
        return
    sources = known.get(canonicalize_name(requirement.name), [])
    if not sources:
        yield line
    for source in sources:
        yield _line(requirement, source, where)


def _line(requirement: Requirement, source: Table, where: str) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    markers = [f"({marker})" for marker in (requirement.marker, source.get("marker")) if marker]
    if "path" in source:
        if markers:
            raise failed(
                f"{where}: {requirement.name} comes from a path, which is used wherever the task runs; take the "
                f"marker {' and '.join(markers)} away, or commit a uv.lock"
            )
        path = str(source["path"])
        return f"{path if path.startswith(('.', '/')) else f'./{path}'}{extras}"
    address = str(source["url"]) if "url" in source else _git(source)
    marker = f" ; {' and '.join(markers)}" if markers else ""
    return f"{requirement.name}{extras} @ {address}{marker}"


def _git(source: Table) -> str:
    url = str(source["git"]).removeprefix("git+")
    revision = next((f"@{source[key]}" for key in ("rev", "tag", "branch") if key in source), "")
    folder = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
    return f"git+{url}{revision}{folder}"
