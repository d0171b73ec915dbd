"""Bytes on their way from one side to the other: bounded, ordered, harmless to send again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MOST_BYTES = 256 << 10
"""Waits for the reader; beyond that the writer waits."""
PIECE_BYTES = 64 << 10


class Channel:
    """One writer appends at offsets, one reader takes from offsets; its next read drops what it was given."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0
        self._news = asyncio.Event()

    @property
    def end(self) -> int:
        """How many bytes were ever taken."""
        return self._start + len(self._data)

    def ring(self) -> None:
        """Wakes both sides."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def append(self, offset: int, data: bytes, seconds: float, *, give_up: Callable[[], bool]) -> int:
        """Takes what is new of the bytes that begin at `offset`, as far as there is room, and returns the end.

        Waits for room at most so many seconds. Bytes ahead of the end are not taken.
        """
        deadline = _now() + seconds
        while offset <= self.end < offset + len(data) and not give_up():
            room = MOST_BYTES - len(self._data)
            if room > 0:
                begin = self.end - offset
                self._data += data[begin : begin + room]
                self.ring()
            elif not await self._wait(deadline):
                break
        return self.end

    async def read(self, offset: int, seconds: float, *, wake: Callable[[], bool]) -> tuple[int, bytes]:
        """Returns where it begins and a piece of what stands there; waits for it, or until `wake` says so.

        What lies before `offset` has arrived, and is dropped.
        """
        self._drop(offset)
        deadline = _now() + seconds
        while self.end <= offset and not wake() and await self._wait(deadline):
            pass
        begin = min(max(offset, self._start), self.end)
        return begin, bytes(self._data[begin - self._start :][:PIECE_BYTES])

    def _drop(self, offset: int) -> None:
        arrived = min(offset, self.end) - self._start
        if arrived > 0:
            del self._data[:arrived]
            self._start += arrived
            self.ring()

    async def _wait(self, deadline: float) -> bool:
        """Waits for news; False once the time is over."""
        seconds = deadline - _now()
        if seconds <= 0:
            return False
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
