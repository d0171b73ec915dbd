"""Checks of what runs say of their artifacts: names that every system takes, manifests that add up."""

from __future__ import annotations

import re
from collections.abc import Iterable

from taskyard.wire import PART_BYTES, ArtifactFile, NewArtifact

from taskyard_server.errors import Invalid, TooLarge
from taskyard_server.names import has_unprintable

MOST_ARTIFACTS = 100
"""Of one request."""
MOST_DIGESTS = 1_000
LONGEST_PATH = 1_000
"""Bytes of a name, as UTF-8."""
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.ASCII)


def check(new: NewArtifact) -> None:
    """Raises Invalid for what no artifact can be."""
    check_path(new.name)
    if not _KIND.fullmatch(new.kind):
        raise Invalid(f"the kind {new.kind!r} of an artifact is a word of lower-case letters")
    if not new.files:
        raise Invalid(f"the artifact {new.name!r} holds no file")
    if len({file.path for file in new.files}) < len(new.files):
        raise Invalid(f"the artifact {new.name!r} names a file twice")
    for file in new.files:
        _check_file(file)


def check_path(path: str) -> None:
    """Raises Invalid unless it is relative, without `..`, and of characters that every system takes."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or has_unprintable(path):
        raise Invalid(f"{path!r} names no artifact: give a relative path with slashes, without control characters")
    if len(path.encode()) > LONGEST_PATH:
        raise Invalid(f"the name {path[:80]!r}… has more than {LONGEST_PATH} bytes")


def check_digests(digests: Iterable[str]) -> None:
    """Raises Invalid for one that is no SHA-256."""
    for digest in digests:
        if not _DIGEST.fullmatch(digest):
            raise Invalid(f"{digest!r} is not a SHA-256, which is 64 lower-case hexadecimal digits")


def require_few(number: int, most: int, what: str) -> None:
    """Raises TooLarge."""
    if number > most:
        raise TooLarge(f"{number} {what} are too many at once, {most} are allowed: send them in portions")


def part_sizes(file: ArtifactFile) -> list[int]:
    """How many bytes each part of a checked file has."""
    last = file.size - PART_BYTES * (len(file.parts) - 1)
    return [*[PART_BYTES] * (len(file.parts) - 1), last] if file.parts else []


def _check_file(file: ArtifactFile) -> None:
    check_path(file.path)
    check_digests((file.sha256, *file.parts))
    if file.size < 0 or len(file.parts) != -(-file.size // PART_BYTES):
        raise Invalid(
            f"{file.path!r}: {len(file.parts)} parts of {PART_BYTES} bytes do not make {file.size} bytes"
        )
    if len(file.parts) == 1 and file.parts[0] != file.sha256:
        raise Invalid(f"{file.path!r}: the digest of its only part is not its own")
