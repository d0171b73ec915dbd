"""Masks secrets in a stream of bytes, across chunk boundaries and in the forms that programs print them in.

Standard library alone: the keeper masks before the spool.
"""

from __future__ import annotations

import binascii
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

MASK = b"***"
MINIMUM_LENGTH = 6
"""Shorter values are no secrets worth the name, and masking them would tear holes into every log."""

KEPT_EXPRESSIONS = 32

NAMES = ("*_TOKEN", "*_SECRET", "*_PASSWORD", "*_KEY")
"""Variables whose values are masked unless other patterns are given."""

UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Masker:
    """Replaces secret values by `***`. The result does not depend on how the stream was cut into chunks.

    Text without secrets is the rule, and looking for each value by itself is 15 times faster there than one
    expression for all (320 forms: 430,000 lines a second); only the values that do occur become an expression.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._held = b""
        self._patterns: list[bytes] = []
        self._longest = 0
        self._first_bytes: frozenset[int] = frozenset()
        self._expressions: dict[tuple[bytes, ...], re.Pattern[bytes]] = {}
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Masks further values from here on."""
        self._patterns = sorted({form for value in values for form in secret_forms(value)}.union(self._patterns))
        self._longest = max(map(len, self._patterns), default=0)
        self._first_bytes = frozenset(pattern[0] for pattern in self._patterns)

    def feed(self, chunk: bytes) -> bytes:
        """Takes the next bytes; returns what can be written. Holds back only what may begin a secret."""
        if not self._patterns:
            return chunk
        data = self._held + chunk
        masked, end = self._mask(data)
        self._held = data[end:]
        return masked

    def finish(self) -> bytes:
        """Returns what was held back: the stream has ended."""
        rest, self._held = self._held, b""
        return self.mask_all(rest)

    def mask_all(self, text: bytes) -> bytes:
        """Masks a whole text by itself."""
        expression = self._expression_for(text)
        return expression.sub(MASK, text) if expression else text

    def _mask(self, data: bytes) -> tuple[bytes, int]:
        """Returns the masked text, and where in `data` begins what more bytes may still make a secret of."""
        undecided = self._undecided_from(data, 0)
        expression = self._expression_for(data)
        if expression is None:
            return data[:undecided], undecided
        pieces: list[bytes] = []
        done = 0
        for match in expression.finditer(data):
            start, end = match.span()
            if start >= undecided:
                break
            pieces += (data[done:start], MASK)
            done = end
            if undecided < end:
                undecided = self._undecided_from(data, end)
        pieces.append(data[done:undecided])
        return b"".join(pieces), undecided

    def _expression_for(self, data: bytes) -> re.Pattern[bytes] | None:
        """What finds the longest of the values that occur in `data`; None when none does."""
        found = tuple(pattern for pattern in self._patterns if pattern in data)
        if found and found not in self._expressions:
            if len(self._expressions) >= KEPT_EXPRESSIONS:
                self._expressions.clear()
            longest_first = sorted(found, key=len, reverse=True)
            self._expressions[found] = re.compile(b"|".join(map(re.escape, longest_first)))
        return self._expressions.get(found)

    def _undecided_from(self, data: bytes, start: int) -> int:
        """The first place from which the rest of `data` is the beginning, and not the whole, of a secret."""
        for place in range(max(start, len(data) - self._longest + 1), len(data)):
            if data[place] in self._first_bytes and self._begins_a_pattern(data[place:]):
                return place
        return len(data)

    def _begins_a_pattern(self, text: bytes) -> bool:
        following = bisect_right(self._patterns, text)
        return following < len(self._patterns) and self._patterns[following].startswith(text)


def secret_forms(value: str) -> Iterator[bytes]:
    """The value, its lines, and each in the forms in which programs print it."""
    for text in {value, value.strip(), *map(str.strip, value.splitlines())}:
        if len(text) >= MINIMUM_LENGTH:
            yield from _printed_forms(text)


def _printed_forms(text: str) -> Iterator[bytes]:
    raw = text.encode("utf-8", "surrogateescape")
    yield raw
    yield from _base64_forms(raw)
    yield from _url_forms(raw)
    yield json.dumps(text)[1:-1].encode()
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")


def _base64_forms(raw: bytes) -> Iterator[bytes]:
    """The characters that the value alone decides, at each of its three possible places in a triple of bytes."""
    for shift in range(3):
        encoded = binascii.b2a_base64(bytes(shift) + raw, newline=False)
        first = (shift * 8 + 5) // 6
        last = (shift + len(raw)) * 8 // 6
        form = encoded[first:last]
        yield form
        yield form.translate(bytes.maketrans(b"+/", b"-_"))


def _url_forms(raw: bytes) -> Iterator[bytes]:
    for safe in (UNRESERVED, UNRESERVED | frozenset(b"/")):
        for escape in ("%%%02X", "%%%02x"):
            quoted = "".join(chr(byte) if byte in safe else escape % byte for byte in raw)
            yield quoted.encode()
            yield quoted.replace("%20", "+").encode()
