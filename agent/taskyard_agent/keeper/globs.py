"""Patterns of output files, matched in a time that grows with their length alone, whatever a task writes in them.

Standard library alone: the keeper uses it too.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from collections.abc import Iterable, Sequence

ANY_FOLDERS = "**"
NEVER = frozenset((".git", "__pycache__"))
"""Folders of which nothing is ever an output."""


class Patterns:
    """Patterns of paths below one folder, with slashes: `*` and `?` stop at a slash, `**` does not.

    A pattern that names a folder stands for all that it holds.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.texts = tuple(patterns)
        self._split = [_split(text) for text in self.texts]

    def start(self) -> Place:
        """The folder itself."""
        return Place(self._split, [_reached(pattern, {0}) for pattern in self._split])

    def match(self, path: str) -> bool:
        """Whether one of them matches the relative path of a file."""
        place = self.start()
        for part in path.split("/"):
            if part in NEVER:
                return False
            place = place.below(part)
        return place.matched

    def unmatched(self, paths: Sequence[str]) -> list[str]:
        """The patterns that match none of these paths."""
        alone = [(text, Patterns((text,))) for text in self.texts]
        return [text for text, pattern in alone if not any(map(pattern.match, paths))]


class Place:
    """How far each pattern has come on the way to some file or folder."""

    def __init__(self, patterns: list[list[str]], states: list[set[int]]) -> None:
        self._patterns = patterns
        self._states = states

    @property
    def matched(self) -> bool:
        """Whether a pattern names this, or a folder above it."""
        return any(len(pattern) in state for pattern, state in zip(self._patterns, self._states, strict=True))

    @property
    def open(self) -> bool:
        """Whether there can be a match at or below it."""
        return any(self._states)

    def below(self, name: str) -> Place:
        """The same for one entry of this folder."""
        pairs = zip(self._patterns, self._states, strict=True)
        return Place(self._patterns, [_further(pattern, state, name) for pattern, state in pairs])


def _split(pattern: str) -> list[str]:
    return [part for part in pattern.split("/") if part not in ("", ".")]


def _reached(pattern: list[str], state: set[int]) -> set[int]:
    """`**` stands for no folder, too."""
    reached = set(state)
    for number in sorted(state):
        while number < len(pattern) and pattern[number] == ANY_FOLDERS:
            number += 1
            reached.add(number)
    return reached


def _further(pattern: list[str], state: set[int], name: str) -> set[int]:
    if len(pattern) in state:
        return {len(pattern)}
    further = set()
    for number in state:
        if pattern[number] == ANY_FOLDERS:
            further.add(number)
        elif _fits(name, pattern[number]):
            further.add(number + 1)
    return _reached(pattern, further)


def _fits(name: str, pattern: str) -> bool:
    """Whether one part of a path fits one part of a pattern; goes back to the last star alone."""
    signs = _signs(pattern)
    at = sign = 0
    star, retry = -1, 0
    while at < len(name):
        if sign < len(signs) and signs[sign] == "*":
            star, retry, sign = sign, at, sign + 1
        elif sign < len(signs) and _takes(signs[sign], name[at]):
            at, sign = at + 1, sign + 1
        elif star >= 0:
            retry += 1
            at, sign = retry, star + 1
        else:
            return False
    return all(left == "*" for left in signs[sign:])


def _signs(pattern: str) -> list[str]:
    """Letters, `*`, `?`, and sets of letters like `[a-z]` whole."""
    signs, at = [], 0
    while at < len(pattern):
        end = pattern.find("]", at + 2) if pattern[at] == "[" else -1
        signs.append(pattern[at : end + 1] if end > 0 else pattern[at])
        at += len(signs[-1])
    return signs


def _takes(sign: str, letter: str) -> bool:
    if sign == "?":
        return True
    if len(sign) == 1:
        return sign == letter
    inside = sign[1:-1]
    negated = inside[:1] in ("!", "^")
    return _is_in(letter, inside[1:] if negated else inside) is not negated


def _is_in(letter: str, letters: str) -> bool:
    at = 0
    while at < len(letters):
        if letters[at + 1 : at + 2] == "-" and at + 2 < len(letters):
            if letters[at] <= letter <= letters[at + 2]:
                return True
            at += 3
        else:
            if letters[at] == letter:
                return True
            at += 1
    return False


def stamp_file(tree: str) -> str:
    """The file beside a tree whose time of change is that of the command's start."""
    return os.path.join(os.path.dirname(tree), "started")
