"""The code as it stands in a folder, captured without touching the folder or its repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from taskyard.wire import Code

from .files import Limits, SnapshotTooLarge, UntrackedFile

__all__ = ["Limits", "Snapshot", "SnapshotTooLarge", "Summary", "UntrackedFile", "capture"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was captured, for the plan that a person reads."""

    repository: str | None
    branch: str | None
    commit: str | None
    new: int = 0
    modified: int = 0
    deleted: int = 0
    renamed: int = 0
    untracked: tuple[UntrackedFile, ...] = ()
    """Untracked files that go along, largest first; they count as new, too."""
    left_out: tuple[str, ...] = ()
    """Files that look like secrets: they stay here unless included by name."""
    included: tuple[str, ...] = ()
    """Files that go along only because they were included by hand."""
    upload_bytes: int = 0
    """Size of what must be uploaded."""
    whole: bool = False
    """Whether the whole tree is uploaded, since others cannot reach the repository or `ship_code` was given."""
    first_upload: bool = False
    """Whether untracked files of this folder go to the server for the first time."""

    @property
    def untracked_bytes(self) -> int:
        """Size of the untracked files together."""
        return sum(file.size for file in self.untracked)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The captured code, and the temporary files to upload; a context manager that removes them."""

    code: Code
    blobs: Mapping[str, Path]
    """SHA-256 → temporary file to upload, unless the server has it."""
    summary: Summary
    root: Path
    """Top of the repository, or the folder itself where there is none."""
    scratch: Path

    def close(self) -> None:
        """Removes the temporary files."""
        raise NotImplementedError

    def uploaded(self) -> None:
        """Remembers that the untracked files of this folder were uploaded once: no longer a `first_upload`."""
        raise NotImplementedError

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def capture(
    folder: Path,
    *,
    include: Sequence[str] = (),
    ship_code: bool = False,
    limits: Limits | None = None,
    memory: Path | None = None,
) -> Snapshot:
    """Captures the code that `folder` belongs to. `include` names files or globs relative to `folder`.

    `memory` is a folder of the user's in which it is remembered whose untracked files were uploaded before.
    Raises UsageError, and SnapshotTooLarge where files are too many or too big.
    """
    raise NotImplementedError
