"""Looks for files below a folder that a task could change, and opens them, without following a link out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from taskyard_agent.keeper.globs import NEVER, Patterns, Place

DEEPEST = 64
"""Folders in folders; each is an open file while it is looked through."""
MOST_LINKS = 16
LONGEST_NAME = 1_000
"""Bytes of a path that the server takes."""
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They make a name look like another one; the server refuses them."""
_KINDS = {
    stat.S_IFIFO: "it is a named pipe",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}


class Unfit(Exception):
    """This cannot be an output; `str(error)` is the reason, for people."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A regular file."""

    name: str
    """Relative to the working folder."""
    place: tuple[str, ...]
    """Its path below the tree, links followed."""
    size: int
    identity: tuple[int, int, int]
    """Device, inode and time of change: it is still the file that was found."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A file, or something else, that a pattern matches and that cannot be kept."""

    name: str
    reason: str
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class OutputFolder:
    """A run's tree after its command has ended."""

    root: Path
    work: tuple[str, ...]
    """The working folder below it."""
    since: int
    """Nothing that was there before this time (nanoseconds, of the file system's clock) is an output."""
    users: Collection[int]
    """Whose files can be outputs."""

    def find(self, patterns: Patterns) -> Iterator[Found | Refused]:
        """Everything that a pattern matches and that the run made or changed, by name."""
        try:
            with self._opened(self.work) as folder:
                yield from self._below(folder, (), patterns.start())
        except OSError as error:
            yield Refused(name="/".join(self.work) or ".", reason=_reason(error))

    def open(self, found: Found) -> int:
        """A descriptor of the file, which is the one that was found. Raises Unfit."""
        try:
            with self._opened(found.place[:-1]) as folder:
                file = os.open(found.place[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            raise Unfit(_reason(error)) from error
        now = os.fstat(file)
        if not stat.S_ISREG(now.st_mode) or _identity(now) != found.identity or now.st_size != found.size:
            os.close(file)
            raise Unfit("it was changed after the command had ended")
        return file

    # --- Looking

    def _below(self, folder: int, path: tuple[str, ...], place: Place) -> Iterator[Found | Refused]:
        for entry in sorted(os.listdir(folder)):
            here = place.below(entry)
            if entry in NEVER or not here.open:
                continue
            name = "/".join((*path, entry))
            try:
                yield from self._entry(folder, entry, (*path, entry), here)
            except FileNotFoundError:
                continue  # gone
            except OSError as error:
                yield Refused(name=_shown(name), reason=_reason(error))
            except Unfit as error:
                if here.matched:
                    yield Refused(name=_shown(name), reason=str(error))

    def _entry(self, folder: int, entry: str, path: tuple[str, ...], here: Place) -> Iterator[Found | Refused]:
        seen = os.stat(entry, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(seen.st_mode):
            if len(path) >= DEEPEST:
                raise Unfit(f"it lies more than {DEEPEST} folders deep")
            with _folder(entry, folder) as inside:
                yield from self._below(inside, path, here)
        elif here.matched:
            yield from self._file((*self.work, *path), seen, "/".join(path))

    def _file(self, place: tuple[str, ...], seen: os.stat_result, name: str) -> Iterator[Found | Refused]:
        changed_at = seen.st_ctime_ns
        if stat.S_ISLNK(seen.st_mode):
            place, seen = self._followed(place)
            changed_at = max(changed_at, seen.st_ctime_ns)
        if changed_at < self.since:
            return
        if not stat.S_ISREG(seen.st_mode):
            raise Unfit(_KINDS.get(stat.S_IFMT(seen.st_mode), "it is no file"))
        if seen.st_uid not in self.users:
            raise Unfit("it belongs to another user")
        _check_name(name)
        yield Found(name=name, place=place, size=seen.st_size, identity=_identity(seen))

    # --- Links

    def _followed(self, place: tuple[str, ...]) -> tuple[tuple[str, ...], os.stat_result]:
        """Where a link leads inside the tree, and to what. Raises Unfit."""
        way, waiting, links = list[str](), list(reversed(place)), 0
        while waiting:
            part = waiting.pop()
            if part == ".." and not way:
                raise Unfit(LEAVES)
            if part == "..":
                way.pop()
            elif part in ("", "."):
                continue
            elif stat.S_ISLNK(self._seen((*way, part)).st_mode):
                links += 1
                way, further = self._entered(way, self._target((*way, part)))
                waiting.extend(reversed(further))
            else:
                way.append(part)
            if links > MOST_LINKS:
                raise Unfit("it is a link that leads to too many links")
        seen = self._seen(tuple(way)) if way else None
        if seen is None or stat.S_ISDIR(seen.st_mode):
            raise Unfit("it is a link to a folder: name the folder itself")
        return tuple(way), seen

    def _entered(self, way: list[str], target: str) -> tuple[list[str], list[str]]:
        """From where a link's target goes on, and its parts. Raises Unfit where that is outside of the tree."""
        if not target.startswith("/"):
            return way, target.split("/")
        root = os.fspath(self.root)
        if target != root and not target.startswith(f"{root}/"):
            raise Unfit(LEAVES)
        return [], target[len(root) :].split("/")

    def _target(self, place: tuple[str, ...]) -> str:
        with self._opened(place[:-1]) as folder:
            return os.readlink(place[-1], dir_fd=folder)

    def _seen(self, place: tuple[str, ...]) -> os.stat_result:
        try:
            with self._opened(place[:-1]) as folder:
                return os.stat(place[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            raise Unfit("it is a link to nothing") from error

    @contextlib.contextmanager
    def _opened(self, place: tuple[str, ...]) -> Iterator[int]:
        """A folder of the tree, entered part by part: none of them is a link. Raises OSError."""
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(_folder(os.fspath(self.root), None))
            for part in place:
                folder = stack.enter_context(_folder(part, folder))
            yield folder


LEAVES = "it is a link that leads out of the code"


@contextlib.contextmanager
def _folder(name: str, at: int | None) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity(seen: os.stat_result) -> tuple[int, int, int]:
    return seen.st_dev, seen.st_ino, seen.st_ctime_ns


def _check_name(name: str) -> None:
    """Raises Unfit for a name that the server refuses: not every system can have such a file."""
    if _shown(name) != name or "\\" in name:
        raise Unfit("its name holds characters that not every system takes")
    if len(name.encode()) > LONGEST_NAME:
        raise Unfit(f"its name has more than {LONGEST_NAME} bytes")


def _shown(name: str) -> str:
    """The name as one line of text that no terminal obeys."""
    return "".join(sign if _harmless(sign) else f"\\x{ord(sign):02x}" for sign in name)


def _harmless(sign: str) -> bool:
    return unicodedata.category(sign) not in _UNPRINTABLE and sign not in _DIRECTION


def _reason(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a link stands on the way to it"
    return f"it cannot be read: {error.strerror or error}"
