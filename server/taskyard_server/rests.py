"""Hosts that rest: after a failure their tasks wait, longer each time, and then one of them tries first.

A worker that cannot reach a host takes none of its tasks meanwhile; once a second worker cannot,
no worker does. A user's own agents speak for themselves alone.
The records are the store's, so that they hold for every server on it; each server remembers them, and looks again
with every tick of its sweeper.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from taskyard_server.store.base import RestRecord, Store

logger = logging.getLogger(__name__)

FIRST_SECONDS, LONGEST_SECONDS = 5.0, 300.0
"""How long a host rests after its first failure, doubled for each further one, and at most."""
TRIAL_SECONDS = 120.0
"""How long the others wait for the task that tries whether the host can be reached again."""
FORGOTTEN_AFTER_SECONDS = 3600.0
"""After the end of a rest that no task was there to try."""
MAX_DETAIL = 500


class Rests:
    """The hosts that rest, as this server knows them."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, RestRecord] = {}
        self._looked_at = float("-inf")

    def binding(self, worker: str) -> frozenset[str]:
        """The hosts of whose tasks the worker takes none now."""
        if not self._known:
            return frozenset()
        now = self._clock()
        return frozenset(rest.target for rest in self._known.values() if rest.binds(worker, now))

    async def failed(
        self, target: str, worker: str, *, claimed_at: float, detail: str, witness: bool = True
    ) -> RestRecord:
        """Lets a host rest that a run claimed at `claimed_at` could not reach; `witness`: see `RestRecord`."""
        now = self._clock()
        failure = partial(
            after_failure,
            target=target,
            worker=worker,
            witness=witness,
            claimed_at=claimed_at,
            detail=detail[:MAX_DETAIL],
            now=now,
        )
        rest = self._known[target] = await self._store.save_rest(target, failure)
        logger.warning(
            "worker %s cannot reach %s, whose tasks wait for %.0f s: %s",
            worker,
            target,
            max(0.0, rest.until - now),
            rest.detail,
            extra={"action": "target_rests", "target": target, "worker": worker},
        )
        return rest

    async def hurry(self, target: str) -> None:
        """Lets the next task try soon: the one that tried so far has given up."""
        until = self._clock() + FIRST_SECONDS
        if target in self._known:
            await self._change(target, lambda rest: replace(rest, until=min(rest.until, until)))

    async def tried(self, targets: Collection[str], worker: str) -> None:
        """Lets the others wait while a task that a worker has claimed just now tries these hosts."""
        until = self._clock() + TRIAL_SECONDS
        for target in self._known.keys() & set(targets):
            if self._known[target].concerns(worker):
                await self._change(target, lambda rest: replace(rest, until=max(rest.until, until)))

    async def reached(self, targets: Collection[str], worker: str) -> bool:
        """Notes that a worker reached these hosts; returns whether a rest has ended for any."""
        known = self._known.keys() & set(targets)
        for target in known:
            rest = await self._change(target, partial(after_success, worker=worker))
            if not rest.workers:
                del self._known[target]
                await self._store.delete_rest(target)
            logger.info(
                "worker %s reached %s again", worker, target, extra={"action": "target_reached", "target": target}
            )
        return bool(known)

    async def look(self) -> bool:
        """Learns what other servers have written. Returns whether a rest has ended since the last look."""
        before, self._looked_at = self._looked_at, self._clock()
        resting = {target for target, rest in self._known.items() if rest.until > before}
        found = await self._store.rests()
        old = [rest.target for rest in found if self._looked_at - rest.until > FORGOTTEN_AFTER_SECONDS]
        for target in old:
            await self._store.delete_rest(target)
        self._known = {rest.target: rest for rest in found if rest.target not in old}
        return bool(resting - {target for target, rest in self._known.items() if rest.until > self._looked_at})

    async def _change(self, target: str, change: Callable[[RestRecord], RestRecord]) -> RestRecord:
        """Changes a record that another server may have deleted meanwhile: then it begins as it was known here."""
        known = self._known[target]
        self._known[target] = await self._store.save_rest(target, lambda rest: change(rest or known))
        return self._known[target]


def after_failure(
    rest: RestRecord | None,
    *,
    target: str,
    worker: str,
    claimed_at: float,
    detail: str,
    now: float,
    witness: bool = True,
) -> RestRecord:
    """The record after one more failure. A run that was claimed before the last one does not make it longer.

    Where no task tried for a long time, nothing is known of that time: it begins again.
    """
    if rest is None or now - rest.until > LONGEST_SECONDS:
        rest = RestRecord(target=target, since=now, failed_at=now, until=now, failures=0)
    if worker not in rest.workers:
        rest = replace(rest, workers=tuple(sorted({*rest.workers, worker})))
    if witness and worker not in rest.witnesses:
        rest = replace(rest, witnesses=tuple(sorted({*rest.witnesses, worker})), reached=False)
    if rest.failures and claimed_at < rest.failed_at:
        return rest
    seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(rest.failures, 30))
    return replace(rest, failed_at=now, until=now + seconds, failures=rest.failures + 1, detail=detail)


def after_success(rest: RestRecord, *, worker: str) -> RestRecord:
    """The record once a worker has reached the host; one of no worker can be forgotten."""
    others, witnesses = (tuple(one for one in names if one != worker) for names in (rest.workers, rest.witnesses))
    return replace(rest, workers=others, witnesses=witnesses, reached=True)
