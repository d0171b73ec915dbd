"""How often one caller may ask, and how much may wait for it at the same time."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from taskyard_server.errors import TooMany

_COME_BACK_SECONDS = 5


class RateLimited(TooMany):
    """Over the rate; says when to come back."""

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class RateLimit:
    """So many requests per key, such as `600/minute`; an empty rate is no limit."""

    def __init__(self, rate: str) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._limit = parse(rate) if rate else None

    async def take(self, key: str) -> None:
        """Counts one request; raises RateLimited when it is one too many."""
        if self._limit is None or await self._limiter.hit(self._limit, key):
            return
        window = await self._limiter.get_window_stats(self._limit, key)
        seconds = max(1, math.ceil(window.reset_time - time.time()))
        raise RateLimited(f"more than {self._limit}; come back in {seconds} s", seconds)


class Places:
    """Bounds what waits at the same time for one key, such as the parked claims of a token."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._taken: Counter[str] = Counter()

    def require(self, key: str) -> None:
        """Raises RateLimited when no place is free."""
        if self._taken.get(key, 0) >= self._most:
            raise RateLimited(
                f"this token has {self._most} {self._what} already: end some, or use another token",
                _COME_BACK_SECONDS,
            )

    @contextlib.contextmanager
    def taken(self, key: str) -> Iterator[None]:
        """Takes a place for as long as the context lasts."""
        self._taken[key] += 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
