"""What is kept of artifacts beside their bytes: which run names which parts, and which account sent them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from taskyard.wire import Artifact

LOOKED_AT = 500
"""Parts that were sent and may have no reference, looked at by one call of `forget_unused`."""


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord:
    """An artifact, with what only the server may see."""

    artifact: Artifact
    task: str
    account: str
    """Whose task it is: it alone may name these parts again without sending them."""

    @property
    def parts(self) -> frozenset[str]:
        """Digests of all its parts."""
        return frozenset(digest for file in self.artifact.files for digest in file.parts)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a run keeps."""

    files: int
    bytes: int


class ArtifactStore(Protocol):
    """References to parts. Every acknowledged write is durable. Every verb raises Unavailable as `base.Store`."""

    async def note_sent(self, digest: str, account: str, now: float) -> None:
        """The account has sent this part; a repeat renews the time."""

    async def sent_by(self, account: str, digests: Collection[str]) -> set[str]:
        """Which of these the account has sent, or names in an artifact that is still kept."""

    async def attach(self, records: Sequence[ArtifactRecord]) -> None:
        """Keeps each record whole in place of the one with its run and name. Raises Conflict where an account has
        not sent a part that it names, NotFound where the task is gone: then none of them is kept."""

    async def artifacts(self, run_id: str) -> list[ArtifactRecord]:
        """All of a run, by name."""

    async def artifact(self, run_id: str, name: str) -> ArtifactRecord:
        """Raises NotFound."""

    async def totals(self, run_id: str, *, besides: Collection[str]) -> Totals:
        """What the run keeps under other names than these."""

    async def referenced(self, digests: Collection[str]) -> set[str]:
        """Which of these parts an artifact names, or an account has sent not long ago."""

    async def forget_task(self, task_id: str) -> None:
        """Drops the artifacts of all runs of a task; nothing happens when there are none."""

    async def forget_unused(self, before: float, now: float) -> int:
        """Forgets who sent a part before that time, unless an artifact of the account names it; also artifacts
        whose task is gone. Looks at the LOOKED_AT oldest at most; returns how many are forgotten."""

    async def folder_id(self, own: str | None) -> str | None:
        """Which folder holds the parts: `own` where none was ever named, else the one that was named first. With
        None it only looks."""


class PartStore(Protocol):
    """The bytes of parts under their SHA-256. Durable once answered."""

    async def put(self, digest: str, chunks: AsyncIterator[bytes], *, limit: int) -> int:
        """Stores a part and returns its size, having read all of it even where it is held. Raises Invalid when the
        bytes do not have that digest, TooLarge beyond `limit`."""

    async def size(self, digest: str) -> int | None:
        """None when it is not held. Asking is a use."""

    async def read(self, digest: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`; empty at the end. Raises NotFound."""

    async def old(self, prefix: str, before: float) -> list[str]:
        """Those whose digest begins with these two digits and that nothing has used since `before`."""

    async def forget(self, digests: Collection[str], before: float) -> int:
        """Forgets those of them that nothing has used since `before`; returns how many. A use at the same time
        keeps the part, or does not find it."""
