"""Which files go along that git does not track: chosen and measured before a byte of them is read."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from taskyard.errors import UsageError

from .git import Git, GitFailed

IGNORE_FILE = ".taskyardignore"
SECRET_NAMES = (
    *(".env*", "*.env", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".htpasswd", ".git-credentials"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *("credentials", "credentials.*", "*credentials.json", "client_secret*.json", "service[-_]account*.json"),
    *("secrets", "secrets.*", "kaggle.json", ".vault-token", "*.token"),
)
SECRET_FOLDERS = (".ssh", ".aws", ".gnupg", ".kube", ".azure", ".docker")


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


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What goes along beside the tracked files, and what does not."""

    files: tuple[UntrackedFile, ...]
    """Largest first."""
    left_out: tuple[str, ...]
    """They look like secrets, and nobody included them by hand."""
    included: tuple[str, ...]
    """They go along only because somebody included them by hand."""

    @property
    def paths(self) -> list[str]:
        """The files that go along."""
        return [file.path for file in self.files]


class SnapshotTooLarge(UsageError):
    """Too much beside the tracked files; `str(error)` names the largest folders and the line to ignore them."""


def select(
    git: Git, root: Path, *, by_hand: Sequence[str], limits: Limits, submodules: Sequence[str] = ()
) -> Selection:
    """Chooses among the files below `root` that git does not track, those in `submodules` too.

    Raises SnapshotTooLarge.
    """
    found = list(untracked(git, root))
    for folder in submodules:
        found.extend(_in_repository(root, folder, "--others", "--exclude-standard"))
    wanted = set(by_hand)
    left_out = sorted(path for path in found if looks_secret(path) and path not in wanted)
    chosen = {*found, *wanted}.difference(left_out)
    files = tuple(sorted(_measured(root, chosen), key=lambda file: (-file.size, file.path)))
    _check(files, limits)
    unasked = {path for path in found if not looks_secret(path)}
    return Selection(files=files, left_out=tuple(left_out), included=tuple(sorted(wanted - unasked)))


def _measured(root: Path, paths: Iterable[str]) -> Iterator[UntrackedFile]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a temporary file that is gone by now
            yield UntrackedFile(path=path, size=(root / path).lstat().st_size)


def untracked(git: Git, root: Path) -> Iterator[str]:
    """Every file that git neither tracks nor ignores, all of the repositories within this one among them."""
    for path in git.paths("ls-files", "-z", "--others", "--exclude-standard", *_own_rules(root)):
        if path.endswith("/"):
            yield from _all_in_repository(root, path)
        else:
            yield path


def _all_in_repository(root: Path, folder: str) -> Iterator[str]:
    try:
        yield from _in_repository(root, folder, "--cached", "--others", "--exclude-standard")
    except GitFailed as error:
        rule = shlex.quote(f"/{folder}")
        raise UsageError(f"{error}; leave it out here with: echo {rule} >> {IGNORE_FILE}") from error


def tracked_in(root: Path, folder: str) -> Iterator[str]:
    """The tracked files, relative to `root`, of the repository in `folder`, which ends with a slash."""
    return _in_repository(root, folder, "--cached")


def _in_repository(root: Path, folder: str, *kinds: str) -> Iterator[str]:
    rules = _own_rules(root) if "--others" in kinds else ()
    for path in dict.fromkeys(Git(cwd=root / folder).paths("ls-files", "-z", *kinds, *rules)):
        inner = root / folder / path
        if inner.is_dir() and not inner.is_symlink():
            if (inner / ".git").exists():
                yield from _in_repository(root, f"{folder}{path.rstrip('/')}/", *kinds)
        elif os.path.lexists(inner):
            yield f"{folder}{path}"


def included(root: Path, folder: Path, patterns: Iterable[str]) -> list[str]:
    """The files that `patterns` (relative to `folder`) name, relative to `root`. Raises UsageError for none."""
    paths: dict[str, None] = {}
    for pattern in patterns:
        found = list(_matching(folder, pattern))
        if not found:
            raise UsageError(f"--include {pattern}: no such file in {folder}")
        paths |= {_relative(root, path, pattern): None for path in found}
    return list(paths)


def looks_secret(path: str) -> bool:
    """Whether the name is one that keys and passwords are kept under."""
    parts = PurePosixPath(path.lower()).parts
    return any(fnmatch(parts[-1], name) for name in SECRET_NAMES) or not set(SECRET_FOLDERS).isdisjoint(parts[:-1])


def readable_size(size: int) -> str:
    """`3.4 MB`, in powers of 1000."""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"


def _own_rules(root: Path) -> tuple[str, ...]:
    return (f"--exclude-from={root / IGNORE_FILE}",) if (root / IGNORE_FILE).is_file() else ()


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    named = folder / pattern
    found = [named] if os.path.lexists(named) else _glob(folder, pattern)
    for path in found:
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)
        else:
            yield path


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except (NotImplementedError, ValueError) as error:
        raise UsageError(f"--include {pattern}: {error}; write it relative to {folder}") from error


def _below(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".git"]
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        yield from (Path(base) / name for name in (*links, *names))


def _relative(root: Path, path: Path, pattern: str) -> str:
    absolute = Path(os.path.normpath(path.absolute()))
    inside = Path(os.path.realpath(absolute.parent)) / absolute.name
    try:
        relative = inside.relative_to(os.path.realpath(root))
    except ValueError as error:
        raise UsageError(f"--include {pattern}: {path} lies outside {root}; copy or link it into it") from error
    if ".git" in relative.parts:
        raise UsageError(f"--include {pattern}: git's own files cannot go along")
    return relative.as_posix()


# --- Too much --------------------------------------------------------------------------------------------


def _check(files: Sequence[UntrackedFile], limits: Limits) -> None:
    total = sum(file.size for file in files)
    big = [file for file in files if file.size > limits.file_bytes]
    if big:
        raise _too_large(f"{big[0].path} has {readable_size(big[0].size)}", big, limits)
    if total > limits.total_bytes or len(files) > limits.files:
        raise _too_large(f"{len(files)} files have {readable_size(total)} together", files, limits)


def _too_large(what: str, files: Sequence[UntrackedFile], limits: Limits) -> SnapshotTooLarge:
    places = _largest_places(files)
    listed = "".join(f"\n  {place}  {readable_size(size)} in {count} files" for place, size, count in places)
    ignored = "".join(f"\n  echo {shlex.quote('/' + place)} >> {IGNORE_FILE}" for place, _, _ in places[:3])
    return SnapshotTooLarge(
        f"too much to send beside the tracked files: {what} (limits: {readable_size(limits.file_bytes)} a file, "
        f"{readable_size(limits.total_bytes)} and {limits.files} files together). Largest:{listed}\n"
        f"Keep data where the machine can read it and leave it out here with:{ignored}"
    )


def _largest_places(files: Sequence[UntrackedFile]) -> list[tuple[str, int, int]]:
    """The heaviest folders or files: (place, bytes, files)."""
    by_top: dict[str, list[UntrackedFile]] = {}
    for file in files:
        by_top.setdefault(file.path.split("/")[0], []).append(file)
    places = [(_common_place(group), sum(f.size for f in group), len(group)) for group in by_top.values()]
    return sorted(places, key=lambda place: (-place[1], -place[2]))[:5]


def _common_place(files: Sequence[UntrackedFile]) -> str:
    if len(files) == 1:
        return files[0].path
    return os.path.commonpath([PurePosixPath(file.path).parent for file in files]).replace(os.sep, "/") + "/"


def tracked_among(git: Git, paths: Sequence[str]) -> set[str]:
    """Those of `paths` that git tracks."""
    try:
        return set(git.paths("ls-files", "-z", "--cached", "--", *paths)) if paths else set()
    except GitFailed:
        return set()
