"""How often one caller may ask."""

from __future__ import annotations

import math
import time

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from taskyard_server.errors import TooMany


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
