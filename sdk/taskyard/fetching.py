"""Fetches files of artifacts into a folder: whole or not at all, their digests checked, none outside of it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from taskyard.errors import TaskyardError, UsageError
from taskyard.wire import Artifact, ArtifactFile

if TYPE_CHECKING:
    from taskyard.client import Client

READ_BYTES = 1 << 20
_STRANGE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
"""What Windows takes in no name; a colon there names a drive, or a stream beside the file."""
_STRANGE_ON_ANY = re.compile(r"[\x00-\x1f\x7f\\]")
_DEVICES = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file, and where it goes."""

    artifact: Artifact
    file: ArtifactFile
    target: Path

    @property
    def partial(self) -> Path:
        """Where it arrives; a later attempt goes on with it."""
        return self.target.with_name(f".{self.target.name[:100]}.{self.file.sha256[:12]}.part")


def wanted(artifacts: Iterable[Artifact], folder: Path, *, windows: bool = os.name == "nt") -> list[Wanted]:
    """Where each file of these goes below the folder. Raises UsageError for a name that would not stay in it."""
    found = []
    for artifact in artifacts:
        for file in artifact.files:
            path = artifact.name if len(artifact.files) == 1 else f"{artifact.name}/{file.path}"
            target = folder.joinpath(*checked_parts(path, windows=windows))
            found.append(Wanted(artifact=artifact, file=file, target=target))
    return found


def checked_parts(path: str, *, windows: bool = False) -> list[str]:
    """The parts of a path that stays below any folder. Raises UsageError for every other one."""
    parts = path.split("/")
    strange = _STRANGE if windows else _STRANGE_ON_ANY
    for part in parts:
        device = windows and (_DEVICES.fullmatch(part) or part != part.rstrip(". "))
        if part in ("", ".", "..") or strange.search(part) or device:
            raise UsageError(
                f"the artifact {path!r} has a name that is not taken here: fetch the others by their names"
            )
    return parts


def is_there(one: Wanted) -> bool:
    """Whether the target holds exactly this file."""
    try:
        if one.target.is_symlink() or one.target.stat().st_size != one.file.size:
            return False
        with one.target.open("rb") as held:
            return _digest(held).hexdigest() == one.file.sha256
    except OSError:
        return False


def fetch(client: Client, one: Wanted, folder: Path, advance: Callable[[int], None]) -> None:
    """Brings one file to its target, going on with what an earlier attempt left. Raises TaskyardError, OSError."""
    _make_folders(folder, one.target)
    for _ in range(2):
        if _arrived(client, one, advance):
            os.replace(one.partial, one.target)
            return
        one.partial.unlink(missing_ok=True)
        advance(-one.file.size)
    raise TaskyardError(f"{one.artifact.name!r} arrived damaged twice: is the server's disk failing?")


def _make_folders(folder: Path, target: Path) -> None:
    """Makes the folders on the way. Raises UsageError where a link on it leads out of the folder."""
    top = folder.resolve()
    for place in reversed([target.parent, *target.parent.parents]):
        if place.is_relative_to(folder) and not place.exists():
            place.mkdir()
        if place.is_relative_to(folder) and not place.resolve().is_relative_to(top):
            raise UsageError(f"{place} is a link out of {folder}: remove it, or name another folder with -o")


def _arrived(client: Client, one: Wanted, advance: Callable[[int], None]) -> bool:
    """Fetches what is missing; whether the whole has its digest."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(one.partial, flags, 0o666), "r+b") as file:
        have = file.seek(0, os.SEEK_END)
        if have > one.file.size:
            file.truncate(0)
            have = file.seek(0)
        advance(have)
        if have < one.file.size:
            client.read_artifact(one.artifact.run, one.artifact.name, one.file, file, advance=advance)
        file.seek(0)
        return _digest(file).hexdigest() == one.file.sha256


def _digest(file: BinaryIO) -> hashlib._Hash:
    found = hashlib.sha256()
    while chunk := file.read(READ_BYTES):
        found.update(chunk)
    return found
