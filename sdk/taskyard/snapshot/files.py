"""Which files go along that git does not track."""

from __future__ import annotations

from dataclasses import dataclass

from taskyard.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may go along that git does not track."""

    file_bytes: int = 10_000_000
    total_bytes: int = 100_000_000
    files: int = 5_000


@dataclass(frozen=True, kw_only=True)
class UntrackedFile:
    """One file that git does not track; `path` is relative to the root, with slashes."""

    path: str
    size: int


class SnapshotTooLarge(UsageError):
    """Too much beside the tracked files; `str(error)` names the largest folders and the line to ignore them."""
