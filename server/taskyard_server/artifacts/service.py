"""Artifacts of runs: their agent sends parts and names them; those who may read the task read them.

A digest gives no right: an account may name what it has sent itself, and learns of nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from taskyard.wire import (
    PART_BYTES,
    Artifact,
    ArtifactFile,
    ArtifactLimits,
    MissingParts,
    MissingRequest,
    NewArtifact,
    NewArtifacts,
    Run,
    RunArtifacts,
    RunOutputs,
)

from taskyard_server import lifecycle, run_outputs
from taskyard_server.artifacts import manifests
from taskyard_server.auth import Actor
from taskyard_server.config import ServerConfig
from taskyard_server.disk_space import DiskSpace
from taskyard_server.errors import Conflict, Invalid, NotFound, Stale, TooLarge
from taskyard_server.run_logs import hash_of
from taskyard_server.store.artifacts import ArtifactRecord, ArtifactStore, PartStore
from taskyard_server.store.base import Store, TaskRecord
from taskyard_server.succession import Succession

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
UNUSED_SECONDS = 86_400.0
"""A part that nothing names is kept this long after its last use."""
PREFIXES_AT_ONCE = 8
"""Folders of parts, of 256, looked at in one round of housekeeping."""
NO_FOLDER = (
    "this server keeps no outputs: its operator has to start each server of the store with --artifacts FOLDER, a"
    " folder that all of them see; until then leave --output out"
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """One file of an artifact, to be read in stretches."""

    file: ArtifactFile
    parts: PartStore

    async def stretch(self, begin: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `begin` up to `end`. Raises NotFound."""
        while begin < end:
            part, offset = divmod(begin, PART_BYTES)
            wanted = min(READ_BYTES, end - begin, PART_BYTES - offset)
            chunk = await self.parts.read(self.file.parts[part], offset, wanted)
            if not chunk:
                raise NotFound(f"the part {self.file.parts[part]} is shorter than it was")
            yield chunk
            begin += len(chunk)


class Artifacts:
    """The verbs of artifacts."""

    def __init__(
        self,
        store: Store,
        references: ArtifactStore,
        parts: PartStore | None,
        clock: Callable[[], float],
        config: ServerConfig,
    ) -> None:
        self._store = store
        self._references = references
        self._parts = parts
        self._clock = clock
        self._succession = Succession(store, clock)
        self._disk = DiskSpace(config.artifacts_folder, config.min_free_disk_bytes)
        self._prefix = 0
        self.limits = None
        if parts is not None:
            self.limits = ArtifactLimits(
                file_bytes=config.max_output_file_bytes,
                run_bytes=config.max_output_bytes,
                run_files=config.max_output_files,
            )

    def require_folder(self) -> PartStore:
        """Raises Invalid, with what the operator has to set, where there is no place for outputs."""
        if self._parts is None:
            raise Invalid(NO_FOLDER)
        return self._parts

    # --- What agents send

    async def missing(self, request: MissingRequest, control_token: str, actor: Actor) -> MissingParts:
        """Which parts the run cannot name yet. Raises Stale, NotFound, Invalid, TooLarge."""
        manifests.require_few(len(request.digests), manifests.MOST_DIGESTS, "digests")
        manifests.check_digests(request.digests)
        account = (await self._own(request.run, control_token, actor)).owner
        parts, wanted = self.require_folder(), tuple(dict.fromkeys(request.digests))
        sent = await self._references.sent_by(account, wanted)
        # The parts of others are not even looked for.
        held = {digest for digest in sent if await parts.size(digest) is not None}
        return MissingParts(digests=tuple(digest for digest in wanted if digest not in held))

    async def put(
        self, digest: str, chunks: AsyncIterator[bytes], run_id: str, control_token: str, actor: Actor
    ) -> None:
        """Keeps a part that the run will name. Raises Stale, NotFound, Invalid, TooLarge, Unavailable."""
        account = (await self._own(run_id, control_token, actor)).owner
        parts = self.require_folder()
        self._disk.require_room("outputs are refused")
        await parts.put(digest, chunks, limit=PART_BYTES)
        await self._references.note_sent(digest, account, self._clock())

    async def attach(self, run_id: str, new: NewArtifacts, control_token: str, actor: Actor) -> RunArtifacts:
        """Names what was sent. Raises Conflict while parts are missing, TooLarge beyond a limit, as `missing`."""
        manifests.require_few(len(new.artifacts), manifests.MOST_ARTIFACTS, "artifacts")
        for each in new.artifacts:
            manifests.check(each)
        record = await self._own(run_id, control_token, actor)
        await self._check_limits(run_id, new.artifacts)
        await self._check_parts(new.artifacts, record.owner)
        records = [self._record(each, run_id, record) for each in new.artifacts]
        await self._references.attach(records)
        return RunArtifacts(artifacts=tuple(kept.artifact for kept in records))

    async def report(self, run_id: str, outputs: RunOutputs, control_token: str, actor: Actor) -> Run:
        """How far the outputs have come; the last word is `kept`. Raises as `missing`, Conflict before its end."""
        await self._own(run_id, control_token, actor)
        checked = run_outputs.checked(outputs)

        def reported(record: TaskRecord) -> TaskRecord:
            return run_outputs.report(record, run_id, checked, now=self._clock())

        record = await self._store.update(lifecycle.task_of(run_id), reported)
        return lifecycle.require_run(record, run_id).run

    async def _own(self, run_id: str, control_token: str, actor: Actor) -> TaskRecord:
        """The run's task, where the caller is the agent that has, or had, the run."""
        record = await self._store.task(lifecycle.task_of(run_id))
        entry = lifecycle.own_run(record, run_id, hash_of(control_token))
        if not await self._succession.is_same_agent(actor, entry.agent):
            raise Stale(f"run {run_id} was claimed by another agent: send nothing of it")
        return record

    async def _check_limits(self, run_id: str, new: Iterable[NewArtifact]) -> None:
        limits = self.limits
        if limits is None:
            raise Invalid(NO_FOLDER)
        files = [file for each in new for file in each.files]
        kept = await self._references.totals(run_id, besides={each.name for each in new})
        largest = max((file.size for file in files), default=0)
        if largest > limits.file_bytes:
            raise TooLarge(f"a file of {largest} bytes is over the limit of {limits.file_bytes}")
        if kept.files + len(files) > limits.run_files:
            raise TooLarge(f"run {run_id} would keep more than {limits.run_files} files")
        if kept.bytes + sum(file.size for file in files) > limits.run_bytes:
            raise TooLarge(f"run {run_id} would keep more than {limits.run_bytes} bytes")

    async def _check_parts(self, new: Iterable[NewArtifact], account: str) -> None:
        """Sizes as the manifest says. Asking for them is a use: they stay until they are named.

        Parts of other accounts are not looked for: nothing tells them from those that are nowhere.
        """
        parts = self.require_folder()
        files = [file for each in new for file in each.files]
        sent = await self._references.sent_by(account, {digest for file in files for digest in file.parts})
        for file in files:
            for digest, size in zip(file.parts, manifests.part_sizes(file), strict=True):
                if digest not in sent or await parts.size(digest) != size:
                    raise Conflict(f"a part of {file.path!r} was not sent: ask which are missing, and send them")

    def _record(self, new: NewArtifact, run_id: str, task: TaskRecord) -> ArtifactRecord:
        made = Artifact(
            run=run_id,
            name=new.name,
            kind=new.kind,
            size=sum(file.size for file in new.files),
            created_at=self._clock(),
            files=new.files,
        )
        return ArtifactRecord(artifact=made, task=task.id, account=task.owner)

    # --- What people read

    async def of_run(self, run: Run) -> RunArtifacts:
        """What the run keeps, by name, and whether more is on its way."""
        records = await self._references.artifacts(run.id)
        return RunArtifacts(artifacts=tuple(record.artifact for record in records), outputs=run.outputs)

    async def content(self, run_id: str, name: str, path: str | None) -> Content:
        """One file of an artifact; its only one where `path` is None. Raises NotFound, Invalid."""
        artifact = (await self._references.artifact(run_id, name)).artifact
        found = [file for file in artifact.files if path in (None, file.path)]
        if not found:
            raise NotFound(f"the artifact {name!r} holds no file {path!r}")
        if len(found) > 1:
            raise Invalid(f"the artifact {name!r} holds {len(found)} files: name one with `file`")
        parts = self.require_folder()
        for digest in found[0].parts:
            if await parts.size(digest) is None:
                raise NotFound(
                    f"the part {digest} of {name!r} is not in the artifacts folder: was it restored without?"
                )
        return Content(file=found[0], parts=parts)

    # --- Housekeeping

    async def forget_task(self, task_id: str) -> None:
        """Drops what the runs of a deleted task keep; the bytes go a day later."""
        await self._references.forget_task(task_id)

    async def clean(self, now: float) -> None:
        """One round: forgets parts that nothing names any more, a portion of the folder at a time."""
        before = now - UNUSED_SECONDS
        await self._references.forget_unused(before, now)
        if self._parts is None:
            return
        removed = 0
        for _ in range(PREFIXES_AT_ONCE):
            old = await self._parts.old(f"{self._prefix:02x}", before)
            self._prefix = (self._prefix + 1) % 256
            named = await self._references.referenced(old) if old else set()
            removed += await self._parts.forget([digest for digest in old if digest not in named], before)
        if removed:
            logger.info("%d parts that nothing names are forgotten", removed, extra={"action": "parts_expired"})
