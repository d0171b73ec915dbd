"""The code as it stands in a folder, captured without touching the folder or its repository."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from taskyard.errors import UsageError
from taskyard.wire import Code

from . import archive, pack
from .commit import Stage
from .files import Limits, Selection, SnapshotTooLarge, UntrackedFile, included, select, tracked_among
from .repository import Repository, find

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
    """Temporary folder of this snapshot alone."""
    memory: Path | None = None

    def close(self) -> None:
        """Removes the temporary files."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def uploaded(self) -> None:
        """Remembers that untracked files of this folder were uploaded once: no longer a `first_upload`."""
        if self.memory is None or not self.summary.untracked:
            return
        with contextlib.suppress(OSError):  # where nothing can be written a person is asked once more
            self.memory.mkdir(parents=True, exist_ok=True)
            _mark(self.memory, self.root).touch()

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
    script: str | None = None,
) -> Snapshot:
    """Captures the code that `folder` belongs to. `include` names files or globs relative to `folder`.

    `script`, relative to `folder`, must be part of what is captured.
    `memory` is a folder of the user's in which it is remembered whose untracked files were uploaded before.
    Raises UsageError, and SnapshotTooLarge where files are too many or too big.
    """
    folder = _existing(folder)
    order = _Order(
        folder=folder, include=tuple(include), ship_code=ship_code, limits=limits or Limits(), script=script
    )
    scratch = Path(tempfile.mkdtemp(prefix="taskyard-snapshot-"))
    try:
        repository = find(folder)
        captured = _of_folder(order, scratch) if repository is None else _of_repository(repository, order, scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    first = memory is not None and bool(captured.summary.untracked) and not _mark(memory, captured.root).exists()
    summary = dataclasses.replace(captured.summary, first_upload=first)
    return dataclasses.replace(captured, summary=summary, memory=memory)


@dataclass(frozen=True, kw_only=True)
class _Order:
    folder: Path
    include: tuple[str, ...]
    ship_code: bool
    limits: Limits
    script: str | None


def _of_repository(repository: Repository, order: _Order, scratch: Path) -> Snapshot:
    root, head, remote = repository.root, repository.head, repository.remote
    stage = Stage(repository, scratch)
    stage.open()
    lacking, needs = True, tuple[str, ...]()
    if remote is not None and head is not None and not order.ship_code:
        lacking, needs = pack.missing_on(stage.git, remote.name, head)
    by_hand = included(root, order.folder, order.include)
    by_hand = sorted(set(by_hand) - tracked_among(stage.git, by_hand))
    submodules = stage.submodules_to_ship(all_of_them=not needs)
    chosen = select(stage.git, root, by_hand=by_hand, limits=order.limits, submodules=submodules)
    commit = stage.write(chosen.paths, submodules)
    _check_script(order, root, stage.holds)
    blobs: dict[str, Path] = {}
    shipped = None
    if lacking or commit != head:
        shipped, path = pack.write(stage.git, scratch, commit=commit, head=head, needs=needs)
        blobs[shipped.blob] = path
    changed = pack.changes(stage.git, head, commit)
    code = Code(
        repository=remote.url if remote else None,
        branch=repository.branch,
        commit=head,
        pack=shipped,
        diff=pack.diff(stage.git, head, commit),
        working_dir=order.folder.relative_to(root).as_posix(),
        empty_submodules=tuple(stage.empty_submodules()),
    )
    summary = Summary(
        **_summary(code, chosen, blobs),
        new=changed.new,
        modified=changed.modified,
        deleted=changed.deleted,
        renamed=changed.renamed,
        whole=shipped is not None and not needs,
    )
    return Snapshot(code=code, blobs=blobs, summary=summary, root=root, scratch=scratch)


def _of_folder(order: _Order, scratch: Path) -> Snapshot:
    folder = order.folder
    by_hand = included(folder, folder, order.include)
    chosen = select(archive.rules(folder, scratch), folder, by_hand=by_hand, limits=order.limits)
    _check_script(order, folder, set(chosen.paths).__contains__)
    path = archive.write(folder, chosen.paths, scratch / "folder.tar.gz")
    code = Code(archive=pack.digest(path))
    blobs = {pack.digest(path): path}
    summary = Summary(**_summary(code, chosen, blobs), new=len(chosen.files), whole=True)
    return Snapshot(code=code, blobs=blobs, summary=summary, root=folder, scratch=scratch)


def _check_script(order: _Order, root: Path, holds: Callable[[str], bool]) -> None:
    """Raises UsageError where the agent would not find the script."""
    if order.script is None:
        return
    script = Path(os.path.normpath(order.folder / order.script))
    if not (script.is_relative_to(root) and script.resolve().is_relative_to(root)):
        raise UsageError(
            f"{script} lies outside {root}, whose code is what the agent gets; "
            "move it there, or start from its own folder"
        )
    if not holds(script.relative_to(root).as_posix()):
        raise UsageError(
            f"{order.script} is not among the files that are sent: .gitignore or .taskyardignore leaves it out, "
            f"or it looks secret; send it with: --include {shlex.quote(order.script)}"
        )


def _summary(code: Code, chosen: Selection, blobs: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "repository": code.repository,
        "branch": code.branch,
        "commit": code.commit,
        "untracked": chosen.files,
        "left_out": chosen.left_out,
        "included": chosen.included,
        "upload_bytes": sum(path.stat().st_size for path in blobs.values()),
    }


def _existing(folder: Path) -> Path:
    try:
        found = folder.resolve(strict=True)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from error
    if not found.is_dir():
        raise UsageError(f"{folder} is not a folder")
    return found


def _mark(memory: Path, root: Path) -> Path:
    return memory / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
