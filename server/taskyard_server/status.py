"""What an operator sees of the server at a glance: see `StoreStatus`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from taskyard.wire import StoreStatus

from taskyard_server.census import Counting
from taskyard_server.recovery import Recovery


class Status:
    """Puts together what recovery, census and disk know."""

    def __init__(
        self,
        recovery: Recovery,
        counting: Counting,
        sizes: Callable[[], Awaitable[dict[str, int]]],
        clock: Callable[[], float],
    ) -> None:
        self._recovery = recovery
        self._counting = counting
        self._sizes = sizes
        self._clock = clock
        self._started_at = clock()

    async def read(self, version: str) -> StoreStatus:
        """Raises Unavailable."""
        shown = replace(
            await self._recovery.status(version),
            uptime_seconds=self._clock() - self._started_at,
            sizes=await self._sizes(),
        )
        census = await self._counting.latest()
        if census is None:
            return shown
        return replace(
            shown,
            queues=census.number_of_queues,
            tasks={state.value: number for state, number in census.tasks.items()},
            workers={state.value: number for state, number in census.workers.items()},
        )
