"""Logs in files: one thread writes what waits, and flushes it in one round before it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from taskyard_server.disk import flush
from taskyard_server.errors import StartRefused, Unavailable
from taskyard_server.logs.segments import Segments
from taskyard_server.recent import Recent
from taskyard_server.store.rounds import Answer, Rounds

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 64 << 20
_ROUND = 1024
_FLUSHERS = 8
_REMEMBERED = 10_000


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What a request did so far: the length that it will answer, and what must be flushed before."""

    length: int
    unflushed: frozenset[Path]


@dataclass(frozen=True, kw_only=True)
class _Request:
    segments: Segments
    write: Callable[[Segments], _Written]
    appends: bool


class FileLogs:
    """See `base.LogStore`; a log is a row of segment files below `folder`."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._rounds: Rounds[_Request] = Rounds(self._round, name="log writer", limit=_ROUND)
        self._flushers = ThreadPoolExecutor(_FLUSHERS, thread_name_prefix="log flusher")
        self._durable: Recent[str, int] = Recent(_REMEMBERED)
        """Run → bytes known to be on the disk. What an earlier process wrote is flushed before it counts."""
        self._debts: dict[str, int] = {}
        """Run → bytes beyond which its files hold what was never flushed, and could not be taken away."""
        self._suspect: set[str] = set()
        """Runs of which what an earlier process wrote could not be flushed."""

    async def open(self) -> None:
        """Raises StartRefused when the folder cannot be made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StartRefused(
                f"{self._folder} cannot be made ({error.strerror}): give the server's user the right to its parent"
            ) from error
        self._rounds.start()

    async def close(self) -> None:
        """Finishes what was taken."""
        await asyncio.to_thread(self._rounds.stop)
        self._flushers.shutdown()

    async def append(self, run_id: str, offset: int, data: bytes, *, cap: int) -> int:
        return await self._ask(run_id, lambda segments: self._append(segments, offset, data, cap), appends=True)

    async def read(self, run_id: str, offset: int, limit: int) -> bytes:
        return await asyncio.to_thread(self._segments(run_id).read, offset, limit)

    async def length(self, run_id: str) -> int:
        return await asyncio.to_thread(self._segments(run_id).length)

    async def delete(self, run_id: str) -> None:
        await self._ask(run_id, self._delete, appends=False)

    def _segments(self, run_id: str) -> Segments:
        return Segments.of(self._folder, run_id, self._segment_bytes)

    async def _ask(self, run_id: str, write: Callable[[Segments], _Written], *, appends: bool) -> int:
        request = _Request(segments=self._segments(run_id), write=write, appends=appends)
        return cast(int, await self._rounds.ask(request))

    def _append(self, segments: Segments, offset: int, data: bytes, cap: int) -> _Written:
        held = segments.length()
        new = data[held - offset :][: max(cap - held, 0)] if offset <= held else b""
        unflushed = segments.append(held, new) if new else set()
        return _Written(length=held + len(new), unflushed=frozenset(unflushed))

    def _delete(self, segments: Segments) -> _Written:
        segments.truncate(0)
        return _Written(length=0, unflushed=frozenset({segments.folder}))

    def _round(self, requests: Sequence[_Request]) -> list[Answer]:
        failures = self._secure({request.segments for request in requests if request.appends})
        written = [_write(request, failures) for request in requests]
        unflushable = self._flush(frozenset().union(*(one.unflushed for one in written)))
        for request, one in zip(requests, written, strict=True):
            for path in one.unflushed & unflushable.keys():
                failures[request.segments.run_id] = unflushable[path]
        for segments in {request.segments for request in requests if request.segments.run_id in failures}:
            self._take_back(segments)
        return [
            self._settle(request.segments, one.length, failures.get(request.segments.run_id))
            for request, one in zip(requests, written, strict=True)
        ]

    def _secure(self, logs: set[Segments]) -> dict[str, OSError]:
        """Brings all that a log holds to the disk before anything is added: then only what is new can fail.

        Returns those where it cannot be done.
        """
        failures: dict[str, OSError] = {}
        unknown: dict[Segments, list[Path]] = {}
        for segments in logs:
            if segments.run_id in self._durable:
                continue
            try:
                self._repair(segments)
            except OSError as error:
                failures[segments.run_id] = error
                continue
            paths = segments.paths()
            unknown[segments] = [segments.folder, *paths] if paths else []
        errors = self._flush(frozenset(path for paths in unknown.values() for path in paths))
        for segments, paths in unknown.items():
            failed = [errors[path] for path in paths if path in errors]
            if failed:
                self._suspect.add(segments.run_id)
                failures[segments.run_id] = failed[0]
            else:
                self._suspect.discard(segments.run_id)
                self._durable[segments.run_id] = segments.length()
        return failures

    def _repair(self, segments: Segments) -> None:
        """Takes away, or writes again, what a flush failed to bring to the disk. Raises OSError."""
        if segments.run_id in self._debts:
            segments.truncate(self._debts[segments.run_id])
            del self._debts[segments.run_id]
        if segments.run_id in self._suspect:
            segments.rewrite()

    def _flush(self, paths: frozenset[Path]) -> dict[Path, OSError]:
        # Side by side, because a disk serves all flushes that wait for it at once.
        errors = zip(paths, self._flushers.map(_flush, paths), strict=True)
        return {path: error for path, error in errors if error is not None}

    def _settle(self, segments: Segments, length: int, error: OSError | None) -> Answer:
        if error is None:
            self._durable[segments.run_id] = length
            return Answer(value=length)
        logger.error(
            "cannot write the log of run %s: %s",
            segments.run_id,
            error,
            extra={"action": "log_unwritable", "run": segments.run_id},
        )
        return Answer(error=_unavailable(segments.run_id, error))

    def _take_back(self, segments: Segments) -> None:
        """After a failed flush the kernel takes pages for clean that never reached the disk: they must go."""
        durable = self._durable.pop(segments.run_id)
        if durable is None:
            return
        try:
            segments.truncate(durable)
        except OSError:
            self._debts[segments.run_id] = durable  # before the next append


def _write(request: _Request, failures: dict[str, OSError]) -> _Written:
    if request.segments.run_id in failures:
        return _Written(length=0, unflushed=frozenset())
    try:
        return request.write(request.segments)
    except OSError as error:
        failures[request.segments.run_id] = error
        return _Written(length=0, unflushed=frozenset())


def _flush(path: Path) -> OSError | None:
    try:
        flush(path)
    except FileNotFoundError:
        return None  # deleted in the same round
    except OSError as error:
        return error
    return None


def _unavailable(run_id: str, error: OSError) -> Unavailable:
    refusal = Unavailable(
        f"the log of run {run_id} cannot be written ({error.strerror}): free space on the server's disk; the agent"
        " keeps what is not held and sends it again"
    )
    refusal.__cause__ = error
    return refusal
