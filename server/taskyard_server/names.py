"""Names and ids that people and clients choose."""

from __future__ import annotations

import re
import unicodedata
import uuid

from taskyard_server.errors import Invalid

MAX_NAME = 200
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, halves of surrogate pairs, line and paragraph separators."""
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They make a name look like another one."""


def normalised(name: str) -> str:
    """The one form in which a name is kept and compared: NFC, without space at its ends."""
    return unicodedata.normalize("NFC", name).strip()


def checked_name(name: str, what: str, *, required: bool = False, longest: int = MAX_NAME) -> str:
    """Returns the name as it is kept. Any Unicode with spaces is fine; raises Invalid for the rest."""
    name = normalised(name)
    if required and not name:
        raise Invalid(f"{what} needs a name")
    if len(name) > longest:
        raise Invalid(f"{what}: {len(name)} characters are too many, {longest} are allowed")
    if has_unprintable(name):
        raise Invalid(f"{what} {name!r} holds control characters: leave them out")
    return name


def has_unprintable(text: str) -> bool:
    """Whether the text holds what would not show, or would show something else."""
    return any(unicodedata.category(letter) in _UNPRINTABLE or letter in _DIRECTION for letter in text)


def checked_id(wanted: str | None, what: str) -> str:
    """Returns the id that the client chose, or a new one. Raises Invalid."""
    if wanted is None:
        return uuid.uuid4().hex
    if not _ID.fullmatch(wanted):
        raise Invalid(f"{what} id {wanted!r} must be 32 lower-case hexadecimal digits, or left out")
    return wanted


def is_id(ref: str) -> bool:
    """Whether this could be an id."""
    return bool(_ID.fullmatch(ref))
