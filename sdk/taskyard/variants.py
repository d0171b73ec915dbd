"""Variants of one task: a grid of parameters, and names that say what differs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskyard.errors import UsageError
from taskyard.rewriting import Given, given, typed
from taskyard.wire import as_text

MOST_VARIANTS = 1000
LONGEST_NAME = 200
LONGEST_VALUE = 40
_OPENING, _CLOSING = "[{(", "]})"
_ASSIGNMENT = re.compile(r" -{0,2}[A-Za-z_+~][\w./+~-]*=\S*$| \(copy\)$")


@dataclass(frozen=True)
class Axis:
    """One parameter of a grid, and its values."""

    name: str
    values: tuple[Given, ...]


def read_grid(texts: Iterable[str]) -> tuple[Axis, ...]:
    """Read each `NAME=VALUE,VALUE…` of `--grid`, its values typed as `--set` types them. Raises UsageError."""
    return _checked([_axis(text) for text in texts])


def grid_of(values: Mapping[str, Sequence[Any]]) -> tuple[Axis, ...]:
    """Take a grid as a program gives it: name → values. Raises UsageError."""
    return _checked([Axis(name, tuple(map(given, each))) for name, each in values.items()])


def refuse_set_twice(axes: Sequence[Axis], parameters: Iterable[str]) -> None:
    """Raise UsageError where a parameter of the grid has a value besides."""
    both = {_short(axis.name) for axis in axes} & set(map(_short, parameters))
    if both:
        raise UsageError(f"{min(both)} has a value by --set and several by --grid; leave one of them out")


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, Given]]:
    """Yield the parameters of each variant; the last axis changes fastest."""
    names = [axis.name for axis in axes]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip(names, values, strict=True))


def in_words(axes: Sequence[Axis]) -> str:
    """Return how many variants there are and of what: `4: lr 0.1 0.01 × opt adam sgd`."""
    parts = (" ".join([_short(axis.name), *map(_text, axis.values)]) for axis in axes)
    return f"{math.prod(len(axis.values) for axis in axes)}: {' × '.join(parts)}"


def names(base: str, variants: Sequence[Mapping[str, Given]]) -> list[str]:
    """Name each variant by what differs; where long values were cut, a number keeps them apart."""
    found: list[str] = []
    for variant in variants:
        name = name_of(base, {key: _text(value) for key, value in variant.items()})
        same = sum(1 for other in found if other == name or other.startswith(f"{name} #"))
        found.append(f"{name[: LONGEST_NAME - 8]} #{same + 1}" if same else name)
    return found


def name_of(base: str, differs: Mapping[str, str], *, copy: bool = True) -> str:
    """Name a copy of `base` by what differs from it; what an earlier name said of the same is replaced.

    `train lr=0.1` with `{"lr": "0.01"}` is `train lr=0.01`; where nothing differs it is `train lr=0.1 (copy)`,
    unless no `copy` is made.
    """
    words, rest = {}, base
    while match := _ASSIGNMENT.search(rest):
        key, equals, value = match[0].strip().partition("=")
        if equals:
            words[key] = value
        rest = rest[: match.start()]
    ordered = dict(reversed(words.items()))
    ordered |= {_short(key): _cut(value) for key, value in differs.items()}
    said = " ".join(f"{key}={value}" if value else key for key, value in ordered.items())
    if copy and not differs:
        said = f"{said} (copy)".strip()
    name = f"{rest} {said}".strip()
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _axis(text: str) -> Axis:
    name, equals, values = text.partition("=")
    if not (equals and name and values):
        raise UsageError(f"--grid {text}: write it as NAME=VALUE,VALUE, like lr=0.1,0.01")
    found = _parts(values)
    if not all(found):
        raise UsageError(f'--grid {text}: a value is missing between two commas; the empty text is written ""')
    return Axis(name, tuple(map(typed, found)))


def _parts(text: str) -> list[str]:
    """Cut at the commas that stand outside of brackets and quotes."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for letter in text:
        if letter == "," and not depth and not quoted:
            parts.append("")
            continue
        if letter == '"' and not escaped:
            quoted = not quoted
        elif not quoted:
            depth = max(0, depth + (letter in _OPENING) - (letter in _CLOSING))
        escaped = letter == "\\" and not escaped
        parts[-1] += letter
    return [part.strip() for part in parts]


def _checked(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    for number, axis in enumerate(axes):
        if any(_short(other.name) == _short(axis.name) for other in axes[:number]):
            raise UsageError(f"--grid names {axis.name} twice; give all of its values at once")
        texts = [_text(value) for value in axis.values]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise UsageError(f"--grid {axis.name}: {twice} stands there twice")
        if not texts:
            raise UsageError(f"--grid {axis.name}: it has no values")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_VARIANTS:
        raise UsageError(f"--grid makes {count} variants; at most {MOST_VARIANTS} are submitted at once")
    return tuple(axes)


def _text(value: Given) -> str:
    return as_text(value.value) if value.text is None else value.text


def _short(name: str) -> str:
    return name.removeprefix("Args/").lstrip("-")


def _cut(value: str) -> str:
    """One word of at most `LONGEST_VALUE` letters, without what no name may hold."""
    word = "".join("_" if letter.isspace() or not letter.isprintable() else letter for letter in value)
    return word if len(word) <= LONGEST_VALUE else f"{word[: LONGEST_VALUE - 1]}…"
