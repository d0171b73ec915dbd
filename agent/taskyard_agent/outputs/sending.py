"""Sends the outputs of one run: asks which parts are missing, sends those, names the files, says what is kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from taskyard.client import Client
from taskyard.errors import TaskyardError
from taskyard.wire import PART_BYTES, ArtifactFile, NewArtifact, OutputsState, RunOutputs

from taskyard_agent.answers import Act, Conversation, Route
from taskyard_agent.outputs.folder import Found, OutputFolder, Refused, Unfit
from taskyard_agent.outputs.plan import REPORTED, OutputPlan, folder_of, skipped_output

T = TypeVar("T")

FILES_AT_ONCE = 50
"""Each is an open file."""
MOST_PARTS = 200
"""Of one round of question, parts and names, unless one file has more."""
ASKED_AT_ONCE = 1_000
PARTS_AT_ONCE = 4
"""Sent at the same time for one run."""
READ_BYTES = 1 << 20
ROUNDS = 5
"""How often the server may say that a part is missing that it has just taken."""


class Gone(Exception):
    """The server does not want them: the run is another agent's, or its task was deleted."""


class Halted(Exception):
    """The agent ends."""


class ShortFile(Exception):
    """A file that is being sent has become shorter."""


@dataclass(frozen=True)
class FileStretch:
    """A stretch of an open file, as the body of a request. The descriptor is the caller's."""

    descriptor: int
    begin: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Its bytes. Raises ShortFile."""
        at, end = self.begin, self.begin + self.size
        while at < end:
            chunk = os.pread(self.descriptor, min(READ_BYTES, end - at), at)
            if not chunk:
                raise ShortFile
            at += len(chunk)
            yield chunk


class _NotTaken(Exception):
    """The server refuses what was sent; `str(error)` is its reason."""


@dataclass(frozen=True)
class _Ready:
    """A file that is open, with its manifest."""

    found: Found
    descriptor: int
    manifest: ArtifactFile


@dataclass(kw_only=True)
class Sending:
    """The outputs of one run on their way."""

    client: Client
    run: str
    control_token: str
    directory: Path
    users: Collection[int]
    halted: threading.Event
    moved: Callable[[], None]
    """Called with each part that has arrived."""
    kept: list[Found] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def all(self, plan: OutputPlan) -> RunOutputs:
        """Sends all that is planned and reports it. Raises Gone, Halted."""
        folder = folder_of(self.directory, self.users)
        if folder is not None:
            for batch in _batches(plan.files):
                self._send(folder, batch)
        refused = (*plan.skipped, *self.refused)
        outputs = RunOutputs(
            state=OutputsState.KEPT,
            files=len(self.kept),
            bytes=sum(found.size for found in self.kept),
            skipped=tuple(map(skipped_output, refused[:REPORTED])),
            skipped_files=plan.skipped_files + len(self.refused),
        )
        with contextlib.suppress(_NotTaken):
            self._until_taken(
                lambda: self.client.report_outputs(
                    self.run, outputs, control_token=self.control_token, patience_seconds=0.0
                )
            )
        return outputs

    def _send(self, folder: OutputFolder, batch: list[Found]) -> None:
        with contextlib.ExitStack() as opened:
            ready = [file for found in batch if (file := self._ready(folder, found, opened)) is not None]
            if not ready:
                return
            try:
                self._bring(ready)
            except _NotTaken as error:
                if len(ready) == 1:
                    self._refuse(ready[0].found, str(error))
                    return
            else:
                self.kept += [file.found for file in ready]
                return
        for found in batch:  # one of them is at fault
            self._send(folder, [found])

    def _ready(self, folder: OutputFolder, found: Found, opened: contextlib.ExitStack) -> _Ready | None:
        try:
            descriptor = folder.open(found)
            opened.callback(os.close, descriptor)
            return _Ready(found, descriptor, self._manifest(found, descriptor))
        except Unfit as error:
            self._refuse(found, str(error))
            return None

    def _refuse(self, found: Found, reason: str) -> None:
        if found.name not in {refused.name for refused in self.refused}:
            self.refused.append(Refused(name=found.name, reason=reason, size=found.size))

    def _manifest(self, found: Found, descriptor: int) -> ArtifactFile:
        """Digests of the parts and of the whole. Raises Unfit."""
        whole, parts = hashlib.sha256(), []
        for begin in range(0, found.size, PART_BYTES):
            part = hashlib.sha256()
            for chunk in self._chunks(found, descriptor, begin):
                part.update(chunk)
                if found.size > PART_BYTES:
                    whole.update(chunk)
            parts.append(part.hexdigest())
        sha256 = parts[0] if len(parts) == 1 else whole.hexdigest()
        name = found.name.rpartition("/")[2]
        return ArtifactFile(path=name, size=found.size, sha256=sha256, parts=tuple(parts))

    def _chunks(self, found: Found, descriptor: int, begin: int) -> Iterator[bytes]:
        end = min(begin + PART_BYTES, found.size)
        while begin < end:
            if self.halted.is_set():
                raise Halted
            try:
                chunk = os.pread(descriptor, min(READ_BYTES, end - begin), begin)
            except OSError as error:
                raise Unfit(f"it cannot be read: {error.strerror or error}") from error
            if not chunk:
                raise Unfit("it was changed after the command had ended")
            begin += len(chunk)
            self.moved()
            yield chunk

    # --- Requests

    def _bring(self, ready: list[_Ready]) -> None:
        """Sends what is missing and names the files. Raises _NotTaken, Gone, Halted."""
        new = tuple(NewArtifact(name=file.found.name, files=(file.manifest,)) for file in ready)
        places = {digest: (file, number) for file in ready for number, digest in enumerate(file.manifest.parts)}
        for _ in range(ROUNDS):
            self._send_parts([places[digest] for digest in self._missing(list(places))])
            if self._until_taken(lambda: self._name(new)):
                return
        raise _NotTaken("the server loses what it is sent")

    def _missing(self, digests: list[str]) -> list[str]:
        found: list[str] = []
        for first in range(0, len(digests), ASKED_AT_ONCE):
            ask = partial(self._ask_for_missing, digests[first : first + ASKED_AT_ONCE])
            found += self._until_taken(ask) or []
        return found

    def _ask_for_missing(self, digests: list[str]) -> list[str]:
        return self.client.missing_parts(self.run, digests, control_token=self.control_token, patience_seconds=0.0)

    def _send_parts(self, jobs: list[tuple[_Ready, int]]) -> None:
        """Some at once; returns when none is being sent any more. Raises what the first that failed raises."""
        waiting, failures = deque(jobs), list[Exception]()

        def send() -> None:
            while not failures:
                try:
                    job = waiting.popleft()
                except IndexError:
                    return
                try:
                    self._send_part(*job)
                except (_NotTaken, Gone, Halted, OSError) as error:
                    failures.append(error)

        count = min(PARTS_AT_ONCE, len(jobs))
        threads = [threading.Thread(target=send, name=f"part-{self.run}", daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _name(self, new: tuple[NewArtifact, ...]) -> bool:
        self.client.attach_artifacts(self.run, new, control_token=self.control_token, patience_seconds=0.0)
        self.moved()
        return True

    def _send_part(self, file: _Ready, number: int) -> None:
        digest, begin = file.manifest.parts[number], number * PART_BYTES
        stretch = FileStretch(file.descriptor, begin, min(PART_BYTES, file.manifest.size - begin))
        try:
            self._until_taken(
                lambda: self.client.put_part(
                    digest, stretch, run=self.run, control_token=self.control_token, patience_seconds=0.0
                )
            )
        except ShortFile as error:
            raise _NotTaken("it was changed after the command had ended") from error
        self.moved()

    def _until_taken(self, ask: Callable[[], T]) -> T | None:
        """The answer, however long it takes; None where the server lacks a part."""
        conversation = Conversation(Route.OUTPUTS, self.run)
        while not self.halted.is_set():
            try:
                return ask()
            except TaskyardError as error:
                act = conversation.heed(error)
                if act is Act.DISCARD:
                    raise Gone(str(error)) from error
                if act is Act.SHRINK:
                    raise _NotTaken(str(error)) from error
                if act is Act.SEND_AGAIN:
                    return None
            self.halted.wait(conversation.pause)
        raise Halted


def _batches(files: Collection[Found]) -> Iterator[list[Found]]:
    """Some files at a time, as many as have few parts together."""
    batch: list[Found] = []
    parts = 0
    for found in files:
        more = found.size // PART_BYTES + 1
        if batch and (len(batch) >= FILES_AT_ONCE or parts + more > MOST_PARTS):
            yield batch
            batch, parts = [], 0
        batch.append(found)
        parts += more
    if batch:
        yield batch
