"""What differs between two tasks: what they ask for, their parameters, their code, and what was installed."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from taskyard.wire import Run, Task, TaskSpec, to_json, typed_parameters

SECTIONS = ("task", "parameters", "command", "code", "environment", "packages")
"""In the order of their weight for a reader, but `task`, which names the two."""
_NO_WISH = ("interface", "typed", "written", "size")
"""Fields that follow from others."""
_SECTION_OF = {"command": "command", "code": "code", "environment": "environment"}
_FILE = re.compile(r"^diff --git a/(?P<path>.*) b/.*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not the same; None where one side has it not."""

    section: str
    name: str
    a: Any
    b: Any


def differences(a: Task, b: Task) -> list[Difference]:
    """Return what differs between two tasks and their latest runs, section by section."""
    found = [*spec_differences(a.spec, b.spec), *_of("packages", _installed(a.run), _installed(b.run))]
    return sorted(found, key=lambda one: SECTIONS.index(one.section))


def spec_differences(a: TaskSpec, b: TaskSpec) -> list[Difference]:
    """Return what differs between what two tasks ask for."""
    found = list(_of("parameters", _parameters(a), _parameters(b)))
    fields_a, fields_b = _fields(a), _fields(b)
    for section in dict.fromkeys((*fields_a, *fields_b)):
        found += _of(section, fields_a.get(section, {}), fields_b.get(section, {}))
    return sorted(found, key=lambda one: SECTIONS.index(one.section))


def misspelt(a: TaskSpec, b: TaskSpec) -> Iterator[tuple[str, str]]:
    """Yield each parameter that only `b` has, with the name in `a` that may have been meant."""
    old, new = _parameters(a), _parameters(b)
    for name in sorted(set(new) - set(old)):
        near = difflib.get_close_matches(name, [each for each in old if each in new], n=1, cutoff=0.75)
        if near:
            yield name, near[0]


def change_of_changes(a: TaskSpec, b: TaskSpec) -> Iterator[str]:
    """Yield lines that say how the uncommitted changes of two tasks differ, file by file, as a unified diff."""
    files_a, files_b = _files(a.code.diff), _files(b.code.diff)
    for path in sorted({*files_a, *files_b}):
        old, new = files_a.get(path, ""), files_b.get(path, "")
        if old != new:
            yield from difflib.unified_diff(
                old.splitlines(), new.splitlines(), f"A's changes to {path}", f"B's changes to {path}", lineterm=""
            )


def _of(section: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for name in sorted({*a, *b}):
        old, new = a.get(name), b.get(name)
        if old != new:
            yield Difference(section=section, name=name, a=old, b=new)


def _parameters(spec: TaskSpec) -> dict[str, Any]:
    """Name → value; those of the command line by their names alone."""
    return {
        name if section == "Args" else f"{section}/{name}": value
        for section, values in typed_parameters(spec).items()
        for name, value in values.items()
    }


def _fields(spec: TaskSpec) -> dict[str, dict[str, Any]]:
    """Section → field of the interface → value; what says nothing is left out."""
    record = to_json(spec)
    del record["parameters"], record["values"]
    record["code"]["changes"] = sorted(_files(record["code"].pop("diff")))
    found: dict[str, dict[str, Any]] = {}
    for name, value in record.items():
        section = _SECTION_OF.get(name, "task")
        for path, leaf in _leaves(name, value):
            found.setdefault(section, {})[path.removeprefix(f"{section}.")] = leaf
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name not in _NO_WISH:
                yield from _leaves(f"{path}.{name}", item)
    elif value not in (None, "", []):
        yield path, value


def _files(diff: str) -> dict[str, str]:
    """Path → its part of a diff."""
    starts = [*(match.start() for match in _FILE.finditer(diff)), len(diff)]
    parts = [diff[start:end] for start, end in itertools.pairwise(starts)]
    return {match["path"]: part for part in parts if (match := _FILE.match(part))}


def _installed(run: Run | None) -> dict[str, str]:
    if run is None:
        return {}
    pairs = (package.partition("==") for package in run.packages)
    python = {"python": run.python} if run.python else {}
    return {**{name.lower(): version for name, _, version in pairs}, **python}
