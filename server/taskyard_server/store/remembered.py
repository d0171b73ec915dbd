"""Records that every claim asks for, kept in memory by the only process that writes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from taskyard_server.recent import Recent

R = TypeVar("R")
T = TypeVar("T")

_MOST = 10_000


class Remembered(Generic[R]):
    """What was last looked up by name; None stands for `there is none`. Used in the event loop's thread alone."""

    def __init__(self) -> None:
        self._known: Recent[str, R | None] = Recent(_MOST)

    def get(self, name: str, look_up: Callable[[], R | None]) -> R | None:
        """Returns what is known of `name`, else what `look_up` finds."""
        if name not in self._known:
            self._known[name] = look_up()
        return self._known[name]

    async def forgetting(self, write: Awaitable[T], name: str | None = None) -> T:
        """Waits for a write, and forgets `name`, or all, once it is done; also when its caller is cancelled."""
        return await asyncio.shield(self._write_and_forget(write, name))

    async def _write_and_forget(self, write: Awaitable[T], name: str | None) -> T:
        try:
            return await write
        finally:
            if name is None:
                self._known.clear()
            else:
                self._known.pop(name)
