"""Texts and numbers from commands, drivers and tools, made such that every store and every terminal takes them."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from taskyard.wire import Sample

T = TypeVar("T")

LONGEST = 4000
"""Characters of one text; a command may end with a line of megabytes."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_UNFIT = ("Cc", "Cs")
_REPLACEMENT = "\ufffd"


def clean(text: str, longest: int = LONGEST) -> str:
    """Returns the text without escape sequences, NUL, other control characters and halves of surrogate pairs.

    Line ends and tabs stay. What is too long loses its middle: how it begins and how it ends both tell something.
    """
    if not text.isprintable():
        text = _ESCAPES.sub("", text).replace("\r\n", "\n")
        text = "".join(_fit(char) for char in text)
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]} … {text[len(text) - half :]}"


def cleaned(record: T) -> T:
    """Returns the record with every text in it clean, however deep it stands."""
    return _cleaned(record)  # type: ignore[no-any-return]


def storable(text: str) -> str:
    """Returns the text with only that replaced which no server takes: for what must otherwise stay as it is."""
    return text.replace("\0", _REPLACEMENT).encode(errors="replace").decode()


def finite(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the measurements that are numbers."""
    return [sample for sample in samples if math.isfinite(sample.value) and math.isfinite(sample.at)]


def _cleaned(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        return clean(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _cleaned(getattr(value, name)) for name in names})
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_cleaned(item) for item in value)
    return value


def _fit(char: str) -> str:
    return char if char in "\n\t" or unicodedata.category(char) not in _UNFIT else _REPLACEMENT
