"""Live logs: one reader for each log that is followed, whose pieces all its followers are sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
from sse_starlette import ServerSentEvent
from taskyard.log_lines import Outage
from taskyard.wire import LogChunk, Run

from taskyard_server.errors import NotFound, ServerError
from taskyard_server.runs import Runs
from taskyard_server.schemas import adapter

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 << 10
"""Small, because each follower that reads slowly holds one in memory."""
_PIECES_KEPT = 8
_LOOK_SECONDS = 30.0
_AGAIN_SECONDS = 1.0
_CHUNK, _RUN = adapter(LogChunk), adapter(Run)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What stands in the log from an offset on."""

    event: bytes
    """As it is sent; empty where nothing has come yet."""
    end: int
    """The offset behind it."""
    last: bool = False
    """Whether nothing follows."""


class LogFeeds:
    """The logs that are followed just now."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._feeds: dict[str, LogFeed] = {}

    @contextlib.contextmanager
    def follow(self, run_id: str) -> Iterator[LogFeed]:
        """The feed of a run's log, which ends with its last follower."""
        feed = self._feeds.get(run_id)
        if feed is None:
            feed = self._feeds[run_id] = LogFeed(self._runs, run_id)
            feed.start()
        feed.followers += 1
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                feed.stop()
                del self._feeds[run_id]

    def close(self) -> None:
        """Wakes all followers: the server is stopping."""
        for feed in self._feeds.values():
            feed.ring()


class LogFeed:
    """Reads one log for all that follow it."""

    def __init__(self, runs: Runs, run_id: str) -> None:
        self.followers = 0
        self.news = asyncio.Event()
        """Set once something may have come since it was taken; then another takes its place."""
        self._runs = runs
        self._run_id = run_id
        self._pieces: OrderedDict[int, asyncio.Task[Piece]] = OrderedDict()
        self._watching: asyncio.Task[None] | None = None
        self._outage = Outage(logger, f"cannot follow the log of {run_id}", "log_unreadable")

    def start(self) -> None:
        """Begins to watch the log."""
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name=f"log of {self._run_id}")

    def stop(self) -> None:
        """Watches no more."""
        for task in [self._watching, *self._pieces.values()]:
            if task is not None:
                task.cancel()

    def ring(self) -> None:
        """Wakes the followers; what was read when nothing was there is read again."""
        for offset, task in list(self._pieces.items()):
            if not task.done() or not task.result().event:
                del self._pieces[offset]
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def piece(self, offset: int) -> Piece:
        """What stands there, read once for all who ask. Raises NotFound, Unavailable."""
        task = self._pieces.get(offset)
        if task is None:
            task = self._pieces[offset] = asyncio.get_running_loop().create_task(self._read(offset))
            task.add_done_callback(lambda done: self._drop_failed(offset, done))
            while len(self._pieces) > _PIECES_KEPT:
                self._pieces.popitem(last=False)
        return await asyncio.shield(task)

    def _drop_failed(self, offset: int, done: asyncio.Task[Piece]) -> None:
        if (done.cancelled() or done.exception() is not None) and self._pieces.get(offset) is done:
            del self._pieces[offset]

    async def _read(self, offset: int) -> Piece:
        part = await self._runs.read_log(self._run_id, offset, PIECE_BYTES)
        end = part.offset + len(part.data)
        if part.data:
            chunk = LogChunk(offset=part.offset, data=base64.b64encode(part.data).decode())
            return Piece(event=_event("log", _CHUNK.dump_json(chunk), end), end=end)
        if part.complete:
            run = await self._runs.get(self._run_id)
            return Piece(event=_event("end", _RUN.dump_json(run), end), end=end, last=True)
        return Piece(event=b"", end=end)

    async def _watch(self) -> None:
        while True:
            try:
                length = (await self._runs.read_log(self._run_id, 0, 0)).length
                self.ring()
                await self._runs.wait_for_log(self._run_id, length, _LOOK_SECONDS)
            except NotFound:
                self.ring()  # each follower finds that out by itself
                return
            except ServerError as error:
                self._outage.failed(error)
                self.ring()
                await anyio.sleep(_AGAIN_SECONDS)


def _event(kind: str, data: bytes, end: int) -> bytes:
    return ServerSentEvent(data.decode(), event=kind, id=str(end)).encode()
