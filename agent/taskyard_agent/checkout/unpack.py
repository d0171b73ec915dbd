"""Unpacks the archive of a folder: a program of its own, so that what an archive takes is not the daemon's.

Run as `python -I -S unpack.py ARCHIVE TARGET BYTES FILES` within limits; it prints its answer as JSON: why the
archive is refused, or what the machine refused. Standard library alone.
"""

from __future__ import annotations

import errno
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

SHOWN_CHARACTERS = 200
"""Of a name in a message: it may have any length."""


class Refused(Exception):
    """The archive could reach outside its folder, or is none."""


def main() -> None:
    """Unpack as the arguments say."""
    file, target, limit, files = sys.argv[1:]
    answer: dict[str, object] = {}
    try:
        unpack(file, target, int(limit), int(files))
    except Refused as refusal:
        answer = {"refused": str(refusal)}
    except (tarfile.TarError, EOFError) as error:
        answer = {"refused": str(error)}
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        answer = {"errno": error.errno, "error": error.strerror} if error.errno else {"refused": str(error)}
    sys.stdout.write(json.dumps(answer))


def unpack(file: str, target: str, limit: int, files: int) -> None:
    """Unpack into an empty folder. Raises Refused for what could reach outside it or fill the disk."""
    with tarfile.open(file, "r:gz") as tar:
        members = list(_checked(tar, limit, files))
        _check_nothing_behind_links(members)
        # Links come last: nothing is ever written through one.
        for member in sorted(members, key=tarfile.TarInfo.issym):
            tar.extract(member, target, filter="data")


def _checked(tar: tarfile.TarFile, limit: int, files: int) -> Iterator[tarfile.TarInfo]:
    seen: set[str] = set()
    size = 0
    for count, member in enumerate(tar, start=1):
        size += member.size
        if count > files or size > limit:
            raise Refused(f"it unpacks to more than {limit} bytes or {files} files")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or ".git" in {part.lower() for part in path.parts}:
            raise Refused(f"{_shown(member)} is no path for it")
        if not (member.isreg() or member.isdir() or member.issym()):
            raise Refused(f"{_shown(member)} is neither a file nor a link")
        if str(path) in seen:
            raise Refused(f"{_shown(member)} stands in it twice")
        seen.add(str(path))
        yield member


def _check_nothing_behind_links(members: Sequence[tarfile.TarInfo]) -> None:
    links = {PurePosixPath(member.name) for member in members if member.issym()}
    for member in members:
        if not links.isdisjoint(PurePosixPath(member.name).parents):
            raise Refused(f"{_shown(member)} lies behind a link")


def _shown(member: tarfile.TarInfo) -> str:
    return repr(member.name[:SHOWN_CHARACTERS])


if __name__ == "__main__":
    main()
