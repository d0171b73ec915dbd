"""The pack that carries a snapshot commit, and the diff that people read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Pack

from .git import Git

DIFF_BYTES = 256 * 1024
DIFF_CUT = "\n[cut here: the whole change is in the snapshot]\n"
READABLE = ("-r", "-p", "-M", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How many files differ from the checked-out commit."""

    new: int = 0
    modified: int = 0
    deleted: int = 0
    renamed: int = 0


def missing_on(git: Git, remote: str, head: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the remote lacks `head`, and the latest commits it has below it, as it was when last asked."""
    listed = git.lines("rev-list", "--boundary", head, "--not", f"--remotes={remote}")
    if not listed:
        return False, (head,)
    held = [line[1:] for line in listed if line.startswith("-")]
    if len(held) > 1:
        held = git.lines("merge-base", "--independent", *held)
    return True, tuple(sorted(held))


def write(git: Git, folder: Path, *, commit: str, head: str | None, needs: Sequence[str]) -> tuple[Pack, Path]:
    """Writes what a repository lacks that holds `needs`. Without them: this commit and `head`, and no history."""
    revisions = [commit, *(f"^{need}" for need in needs)]
    if head and not needs:
        revisions.append(f"--shallow {head}")
    path = folder / "snapshot.pack"
    order = "".join(f"{revision}\n" for revision in sorted(revisions, key=lambda word: not word.startswith("--")))
    # Looking for deltas among all files takes seconds each time, and saves little of source code.
    window = () if needs else ("--window=0",)
    with path.open("wb") as stream:
        git.run(
            *("pack-objects", "--revs", "--thin", "--stdout", "--delta-base-offset", "-q", *window),
            stdin=order.encode(),
            stdout=stream,
        )
    return Pack(commit=commit, blob=digest(path), size=path.stat().st_size, needs=tuple(needs)), path


def diff(git: Git, head: str | None, commit: str) -> str:
    """What the snapshot changes, for people; binary files are named. At most 256 KiB."""
    if head is None or head == commit:
        return ""
    data = git.head(DIFF_BYTES + 1, "diff-tree", *READABLE, head, commit)
    if len(data) <= DIFF_BYTES:
        return _text(data)
    return _text(data[: DIFF_BYTES - 1024]) + DIFF_CUT


def changes(git: Git, head: str | None, commit: str) -> Changes:
    """Counts what the snapshot changes."""
    if head is None or head == commit:
        return Changes()
    words = git.paths("diff-tree", "-r", "-M", "--name-status", "-z", head, commit)
    states: list[str] = []
    while words:
        state = words.pop(0)[0]
        del words[: 2 if state in "RC" else 1]
        states.append(state)
    counted = {state: states.count(state) for state in set(states)}
    return Changes(
        new=counted.get("A", 0) + counted.get("C", 0),
        modified=counted.get("M", 0) + counted.get("T", 0),
        deleted=counted.get("D", 0),
        renamed=counted.get("R", 0),
    )


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def _text(data: bytes) -> str:
    # A replacement character takes three bytes: text in another encoding could grow over the limit.
    text = data.decode(errors="replace").replace("\0", "\ufffd")
    encoded = text.encode()
    return text if len(encoded) <= DIFF_BYTES else encoded[: DIFF_BYTES - 1024].decode(errors="ignore") + DIFF_CUT
