"""The logs of runs: appended by their agent alone, read and followed by people."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anyio
from taskyard.wire import LogPosition, Run

from taskyard_server import lifecycle
from taskyard_server.auth import Actor
from taskyard_server.config import ServerConfig
from taskyard_server.disk_space import DiskSpace
from taskyard_server.errors import NotFound, Stale
from taskyard_server.recent import Recent
from taskyard_server.store.base import LogStore, Store, TaskRecord
from taskyard_server.succession import Succession

LOG_POLL_SECONDS = 2.0
"""How soon a reader here sees what was appended through another server of the store."""
TAIL_BLOCK_BYTES = 64 << 10
MAX_TAIL_BYTES = 8 << 20
MAX_KNOWN_WRITERS = 20_000


@dataclass(frozen=True, kw_only=True)
class LogSlice:
    """A stretch of a run's log."""

    data: bytes
    offset: int
    """Where `data` begins."""
    length: int
    """Bytes held."""
    complete: bool
    """Whether nothing can follow."""


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Who may append to a run's log, and how far; remembered until the run changes, or for a moment."""

    control_hash: str
    agent: str
    end: int | None
    """The length that was stated at the run's end."""
    looked_at: float


class RunLogs:
    """Takes, reads and follows the bytes of each run's log."""

    def __init__(self, store: Store, logs: LogStore, clock: Callable[[], float], config: ServerConfig) -> None:
        self._store = store
        self._logs = logs
        self._clock = clock
        self._succession = Succession(store, clock)
        self._cap = config.log_cap_bytes
        self._disk = DiskSpace(config.data, config.min_free_disk_bytes)
        self._news = _News()
        self._writers: Recent[str, _Writer] = Recent(MAX_KNOWN_WRITERS)
        self._deleted: Recent[str, bool] = Recent(MAX_KNOWN_WRITERS)
        """Runs whose log was dropped with their task: what is on its way must not make it again."""

    def tell(self, run_id: str) -> None:
        """Wakes those who follow this log: its run has changed."""
        self._writers.pop(run_id)
        self._news.tell(run_id)

    async def append(self, run_id: str, control_token: str, offset: int, data: bytes, actor: Actor) -> LogPosition:
        """Keeps the bytes and answers what is held. A past run's tail goes on its own log, up to its stated end.

        Raises Stale for a token that is not this run's, NotFound for a run whose task was deleted, Unavailable on
        a low disk, before anything is written.
        """
        writer = await self._check_writer(run_id, control_token, actor)
        self._disk.require_room("logs are refused")
        limit = self._cap if writer.end is None else min(self._cap, writer.end)
        length = await self._logs.append(run_id, offset, data, cap=limit)
        if run_id in self._deleted:
            await self._logs.delete(run_id)
            raise NotFound(f"the task of run {run_id} was deleted: stop sending its log")
        self._news.tell(run_id)
        if length >= self._cap > offset:
            await self._mark_capped(run_id)
        return LogPosition(offset=length, capped=length >= self._cap)

    async def length(self, run_id: str) -> int:
        """Bytes that are kept of the run's log."""
        return await self._logs.length(run_id)

    async def _check_writer(self, run_id: str, control_token: str, actor: Actor) -> _Writer:
        writer = self._writers.get(run_id)
        now = asyncio.get_running_loop().time()
        if writer is None or now - writer.looked_at > LOG_POLL_SECONDS:
            writer = await self._find_writer(run_id, now)
        mine = hmac.compare_digest(writer.control_hash, hash_of(control_token))
        if not mine or not await self._succession.is_same_agent(actor, writer.agent):
            raise Stale(f"run {run_id} has another control token or another agent: stop sending its log")
        return writer

    async def _find_writer(self, run_id: str, now: float) -> _Writer:
        entry = lifecycle.require_run(await self._store.task(lifecycle.task_of(run_id)), run_id)
        end = entry.run.log_bytes if entry.run.outcome is not None else None
        writer = _Writer(control_hash=entry.control_hash, agent=entry.agent, end=end, looked_at=now)
        self._writers[run_id] = writer
        return writer

    async def delete(self, run_id: str) -> None:
        """Drops the log of a run whose task was deleted."""
        self._deleted[run_id] = True
        self._writers.pop(run_id)
        await self._logs.delete(run_id)
        self._news.tell(run_id)

    async def _mark_capped(self, run_id: str) -> None:
        def marked(record: TaskRecord) -> TaskRecord:
            number = lifecycle.require_run(record, run_id).run.number
            if any(event.kind == "log_capped" and event.run == number for event in record.events):
                return record
            detail = f"the log reached {self._cap} bytes: the rest is dropped"
            return lifecycle.tell(record, "log_capped", run=number, detail=detail, now=self._clock())

        await self._store.update(lifecycle.task_of(run_id), marked)

    async def read(self, run_id: str, offset: int, limit: int) -> LogSlice:
        """At most `limit` bytes from `offset`. Raises NotFound."""
        run = await self._run(run_id)
        length = await self._logs.length(run_id)
        data = await self._logs.read(run_id, offset, limit) if offset < length else b""
        return LogSlice(data=data, offset=offset, length=length, complete=self._is_complete(run, length))

    async def tail(self, run_id: str, lines: int) -> LogSlice:
        """The last `lines` lines, at most MAX_TAIL_BYTES of them. Raises NotFound."""
        run = await self._run(run_id)
        length = await self._logs.length(run_id)
        data = await self._tail(run_id, length, lines)
        offset = length - len(data)
        return LogSlice(data=data, offset=offset, length=length, complete=self._is_complete(run, length))

    async def _tail(self, run_id: str, length: int, lines: int) -> bytes:
        """Reads backwards until the bytes hold the end of the line before the wanted ones."""
        begin, data = length, b""
        while begin > 0 and data.count(b"\n", 0, max(0, len(data) - 1)) < lines and len(data) < MAX_TAIL_BYTES:
            end, begin = begin, max(0, begin - TAIL_BLOCK_BYTES)
            data = await self._logs.read(run_id, begin, end - begin) + data
        return _last_lines(data, lines)

    async def wait(self, run_id: str, offset: int, timeout_seconds: float) -> bool:
        """Waits until there is something beyond `offset` or nothing can follow; False when neither came in time.

        Raises NotFound.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        with self._news.listening(run_id) as bell:
            while not await self._has_more(run_id, offset):
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return False
                with anyio.move_on_after(min(left, LOG_POLL_SECONDS)):
                    await bell.wait()
                bell.clear()
        return True

    async def forget(self, record: TaskRecord) -> None:
        """Drops the logs of all runs of an ended task."""
        for entry in record.runs:
            await self._logs.delete(entry.run.id)

    async def _has_more(self, run_id: str, offset: int) -> bool:
        length = await self._logs.length(run_id)
        return length > offset or self._is_complete(await self._run(run_id), length)

    def _is_complete(self, run: Run, length: int) -> bool:
        """A run that was lost has no stated length: what is there is what there is."""
        if run.outcome is None:
            return False
        return length >= min(run.log_bytes or 0, self._cap)

    async def _run(self, run_id: str) -> Run:
        return lifecycle.require_run(await self._store.task(lifecycle.task_of(run_id)), run_id).run


class _News:
    """Bells of those who follow a run's log."""

    def __init__(self) -> None:
        self._bells: dict[str, set[asyncio.Event]] = {}

    def tell(self, run_id: str) -> None:
        for bell in self._bells.get(run_id, ()):
            bell.set()

    @contextlib.contextmanager
    def listening(self, run_id: str) -> Iterator[asyncio.Event]:
        bell = asyncio.Event()
        self._bells.setdefault(run_id, set()).add(bell)
        try:
            yield bell
        finally:
            self._bells[run_id].discard(bell)
            if not self._bells[run_id]:
                del self._bells[run_id]


def hash_of(token: str) -> str:
    """What is kept of a run's token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _last_lines(data: bytes, lines: int) -> bytes:
    """Lines end at a line feed alone: a progress bar's carriage returns stay one line."""
    begin = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        begin = data.rfind(b"\n", 0, max(0, begin))
        if begin < 0:
            return data
    return data[begin + 1 :] if lines > 0 else b""
