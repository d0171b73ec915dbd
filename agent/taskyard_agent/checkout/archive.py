"""Unpacking the archive of a folder without git."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from taskyard_agent.errors import RunFailed

from .failure import refused
from .settings import CheckoutSettings

RATIO = 200
RATIO_FROM_BYTES = 10_000_000
"""Below this an archive may unpack to any multiple of itself."""


def unpack(file: Path, target: Path, settings: CheckoutSettings) -> None:
    """Unpacks into an empty folder. Raises RunFailed for whatever could reach outside it or fill the disk."""
    if not hasattr(tarfile, "data_filter"):
        raise refused(
            "this Python cannot unpack archives safely", "update the agent's Python to its latest release"
        )
    limit = min(settings.archive_bytes, max(RATIO_FROM_BYTES, file.stat().st_size * RATIO))
    try:
        with tarfile.open(file, "r:gz") as tar:
            members = list(_checked(tar, limit, settings.archive_files))
            _check_nothing_behind_links(members)
            # Links come last: nothing is ever written through one.
            for member in sorted(members, key=tarfile.TarInfo.issym):
                tar.extract(member, target, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _bad(str(error)) from error


def _checked(tar: tarfile.TarFile, limit: int, files: int) -> Iterator[tarfile.TarInfo]:
    seen: set[str] = set()
    size = 0
    for count, member in enumerate(tar, start=1):
        size += member.size
        if count > files or size > limit:
            raise _bad(f"it unpacks to more than {limit} bytes or {files} files")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or ".git" in {part.lower() for part in path.parts}:
            raise _bad(f"{member.name!r} is no path for it")
        if not (member.isreg() or member.isdir() or member.issym()):
            raise _bad(f"{member.name!r} is neither a file nor a link")
        if str(path) in seen:
            raise _bad(f"{member.name!r} stands in it twice")
        seen.add(str(path))
        yield member


def _check_nothing_behind_links(members: Sequence[tarfile.TarInfo]) -> None:
    links = {PurePosixPath(member.name) for member in members if member.issym()}
    for member in members:
        if not links.isdisjoint(PurePosixPath(member.name).parents):
            raise _bad(f"{member.name!r} lies behind a link")


def _bad(what: str) -> RunFailed:
    return refused(f"the code's archive is refused: {what}", "submit the folder again with `taskyard run`")
