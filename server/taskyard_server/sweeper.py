"""What happens by itself: waiting tasks whose time has come, leases that ran out, silent workers, old data.

Time in which this server could not hear is nobody's silence. It is given back to the leases, and while most agents
are silent together, the fault is taken to lie between them and the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import anyio
from taskyard.log_lines import Outage
from taskyard.wire import Worker, WorkerState

from taskyard_server import lifecycle, specs, workers
from taskyard_server.artifacts.service import Artifacts
from taskyard_server.claims import Claims
from taskyard_server.config import ServerConfig
from taskyard_server.errors import Conflict, NotFound, Unavailable
from taskyard_server.queues import update_task
from taskyard_server.runs import SILENT_LEASES, Runs, timing_of
from taskyard_server.store.base import (
    LIVE_WORKER_STATES,
    BlobStore,
    Store,
    TaskFilter,
    TaskRecord,
    WorkerRecord,
)

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
GAP_SECONDS = 5.0
"""A longer pause between two signs of life is a gap in which nothing was heard."""
MAX_HOLD_SECONDS = 1800.0
"""The held breath ends here: machines that are all gone for half an hour are taken to be gone."""
FEWEST_AGENTS_FOR_HOLD = 3
AT_ONCE = 5_000
"""Due tasks looked at in one tick."""
HOUSEKEEPING_SECONDS = 60.0
HOUSEKEEPING_TASKS = 500
"""Tasks looked at in one round; the next round goes on from there."""
ANSWERS_KEPT_SECONDS = 86_400.0
GONE_WORKERS_KEPT_SECONDS = 7 * 86_400.0
_DAY = 86_400.0
_GONE = (WorkerState.STOPPED, WorkerState.LOST)


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """One instant on both clocks."""

    wall: float
    steady: float


class Sweeper:
    """Ticks once a second. All times come from the clocks that it is given."""

    def __init__(
        self,
        store: Store,
        claims: Claims,
        runs: Runs,
        blobs: BlobStore,
        clock: Callable[[], float],
        config: ServerConfig,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        artifacts: Artifacts | None = None,
    ) -> None:
        self._store = store
        self._claims = claims
        self._runs = runs
        self._clock = clock
        self._config = config
        self._timing = timing_of(config)
        self._monotonic = monotonic
        self._server_id = uuid.uuid4().hex
        self._last: _Moment | None = None
        self._held_since: float | None = None
        self._housekeeping = _Housekeeping(store, runs, blobs, config, artifacts)
        self._cleaned_at = float("-inf")
        self._cleaning: asyncio.Task[None] | None = None
        self._outage = Outage(logger, "the store is unavailable", "tick_unavailable")

    async def run(self) -> None:
        """Ticks for ever; a failed tick is a gap, which the next one gives back."""
        try:
            while True:
                await self._tick_safely()
                await anyio.sleep(TICK_SECONDS)
        finally:
            if self._cleaning is not None:
                self._cleaning.cancel()

    async def _tick_safely(self) -> None:
        try:
            await self.tick(self._clock())
        except Unavailable as error:
            self._outage.failed(error)
        except Exception:
            # The edge of the loop: without it one bad record would stop all leases.
            logger.exception("a tick failed", extra={"action": "tick_failed"})
        else:
            self._outage.over()

    async def tick(self, now: float) -> None:
        """One round of everything that is due at `now`. Raises Unavailable."""
        await self._give_back_gaps(now)
        known = await self._store.workers()
        if self._store.kind != "sqlite":  # of which there is one server
            self._claims.hear_workers(known)
            if await self._runs.recovery.refresh():
                self._claims.look_again()
        await self._runs.look_at_rests()
        recovering = self._runs.recovery.recovering
        holding = self._holds_breath([record.worker for record in known], now) or recovering
        await self._do_what_is_due(now, known, holding=holding)
        if not holding:
            await self._mark_silent(known, now)
        if not recovering and (now - self._cleaned_at >= HOUSEKEEPING_SECONDS or now < self._cleaned_at):
            self._cleaned_at = now
            self._begin_housekeeping(now)

    def _begin_housekeeping(self, now: float) -> None:
        """Beside the ticks: however long a round takes, leases are looked at every second."""
        if self._cleaning is None or self._cleaning.done():
            self._cleaning = asyncio.ensure_future(self._clean(now))

    async def _clean(self, now: float) -> None:
        try:
            await self._housekeeping.round(now)
        except Unavailable as error:
            logger.warning("the store is unavailable: %s", error, extra={"action": "housekeeping_unavailable"})
        except Exception:
            # The edge of the task: the next round begins all the same.
            logger.exception("housekeeping failed", extra={"action": "housekeeping_failed"})

    async def finish_housekeeping(self) -> None:
        """Waits for the round that is under way."""
        if self._cleaning is not None:
            await self._cleaning

    # --- Gaps

    async def _give_back_gaps(self, now: float) -> None:
        before = await self._store.sign_of_life(self._server_id, now)
        moment = _Moment(wall=now, steady=self._monotonic())
        deaf = _deaf_seconds(before, self._last, moment)
        self._last = moment
        if abs(deaf) <= GAP_SECONDS:
            return
        await self._store.shift_leases(deaf)
        self._runs.hearing_since = now
        logger.warning(
            "%.1f s in which nothing could be heard are given back to the leases",
            deaf,
            extra={"action": "leases_shifted", "seconds": deaf},
        )

    # --- The held breath

    def _holds_breath(self, known: Iterable[Worker], now: float) -> bool:
        """Whether more than half of the live agents, of at least three, are silent together."""
        silences = list(self._silences(known, now).values())
        silent = [seconds for seconds in silences if seconds > self._config.lease_seconds * SILENT_LEASES]
        together = len(silences) >= FEWEST_AGENTS_FOR_HOLD and 2 * len(silent) > len(silences)
        if not together:
            self._end_hold()
            return False
        if self._held_since is None:
            self._held_since = now
            logger.warning(
                "%d of %d agents fell silent together: leases hold still",
                len(silent),
                len(silences),
                extra={"action": "hold_begins"},
            )
        return now - self._held_since <= MAX_HOLD_SECONDS

    def _end_hold(self) -> None:
        if self._held_since is not None:
            logger.info("the agents are back: leases run again", extra={"action": "hold_ends"})
        self._held_since = None

    def _silences(self, known: Iterable[Worker], now: float) -> dict[tuple[str, str], float]:
        """Agent → seconds since it was last heard, as far as the server could hear."""
        silences: dict[tuple[str, str], float] = {}
        for worker in known:
            if worker.state in LIVE_WORKER_STATES:
                agent = (worker.host, worker.agent)
                seconds = now - max(worker.last_seen_at, self._runs.hearing_since)
                silences[agent] = min(seconds, silences.get(agent, seconds))
        return silences

    # --- What is due

    async def _do_what_is_due(self, now: float, known: Iterable[WorkerRecord], *, holding: bool) -> None:
        present = {record.worker.name: record.worker for record in known}

        def due(record: TaskRecord) -> TaskRecord:
            if record.reserved_for is not None or (holding and record.state.active):
                return record
            return lifecycle.on_due(record, now=now, timing=self._timing)

        for task_id in await self._store.due(now, limit=AT_ONCE):
            try:
                record = await update_task(self._store, task_id, due)
                await self._runs.count_lost(record, now)
                await self._runs.note_end(record)
                if record.reserved_for is not None:
                    await self._runs.check_reservation(record, present)
            except NotFound:
                continue
            self._runs.tell(record)

    async def _mark_silent(self, known: Sequence[WorkerRecord], now: float) -> None:
        for record in known:
            worker = record.worker
            heard_at = max(worker.last_seen_at, self._runs.hearing_since)
            if worker.state in LIVE_WORKER_STATES and now - heard_at > self._config.lease_seconds:
                await self._mark_lost(worker)
            elif workers.outlived(worker):
                with contextlib.suppress(NotFound):
                    await self._store.delete_worker(worker.name)

    async def _mark_lost(self, worker: Worker) -> None:
        def lost(record: WorkerRecord | None) -> WorkerRecord:
            return workers.lost(record, last_seen_at=worker.last_seen_at)

        try:
            await self._store.save_worker(worker.name, lost)
        except Conflict:
            return  # somebody deleted it
        logger.warning(
            "worker %s fell silent", worker.name, extra={"action": "worker_lost", "worker": worker.name}
        )


def _deaf_seconds(before: float | None, last: _Moment | None, now: _Moment) -> float:
    """How far the leases must be moved: a restart, a late tick, a failed store, a clock that was set.

    Forward, the last sign of life of any server counts, so that of several one gives the time back. Backward only
    this process's own clocks can tell: the signs of others may be ahead by their clocks alone.
    """
    if last is not None:
        jump = (now.wall - last.wall) - (now.steady - last.steady)
        if jump < -GAP_SECONDS:
            return jump
    return max(0.0, now.wall - before) if before is not None else 0.0


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """A walk through all tasks, newest first."""

    began_at: float
    used: frozenset[str] = frozenset()
    """Digests of the blobs of the tasks seen so far."""
    cursor: str | None = None


class _Housekeeping:
    """Forgets what is older than its retention, walking through all tasks a portion at a time."""

    def __init__(
        self, store: Store, runs: Runs, blobs: BlobStore, config: ServerConfig, artifacts: Artifacts | None
    ) -> None:
        self._store = store
        self._runs = runs
        self._blobs = blobs
        self._artifacts = artifacts
        self._config = config
        self._walk: _Walk | None = None

    async def round(self, now: float) -> None:
        """One portion. Raises Unavailable."""
        await self._store.forget_answers(now - ANSWERS_KEPT_SECONDS)
        await self._runs.forget_samples(now - self._config.sample_retention_days * _DAY)
        await self._forget_gone_workers(now)
        if self._artifacts is not None:
            await self._artifacts.clean(now)
        self._walk = await self._further(self._walk or _Walk(began_at=now), now)

    async def _further(self, walk: _Walk, now: float) -> _Walk | None:
        """The walk after one more portion; None at its end."""
        try:
            page = await self._store.page(TaskFilter(), before=walk.cursor, limit=HOUSEKEEPING_TASKS)
        except NotFound:
            return None  # somebody deleted the task of the cursor: begin again
        kept = [record for record in page.records if not await self._forget_old(record, now)]
        used = walk.used.union(*(specs.blobs_of(record.spec) for record in kept))
        if page.more:
            return replace(walk, used=used, cursor=kept[-1].id if kept else walk.cursor)
        await self._forget_blobs(used, walk.began_at)
        return None

    async def _forget_blobs(self, used: frozenset[str], began_at: float) -> None:
        """Tasks that were made during the walk were not seen by it; what they are made of was asked for since."""
        number = await self._blobs.forget_unused(used, began_at - self._config.blob_retention_days * _DAY)
        if number:
            logger.info("%d uploads that no task uses are forgotten", number, extra={"action": "blobs_expired"})

    async def _forget_gone_workers(self, now: float) -> None:
        """A worker that comes back later registers anew."""
        for worker in [record.worker for record in await self._store.workers()]:
            if worker.state in _GONE and now - worker.last_seen_at > GONE_WORKERS_KEPT_SECONDS:
                with contextlib.suppress(NotFound):
                    await self._store.delete_worker(worker.name)

    async def _forget_old(self, record: TaskRecord, now: float) -> bool:
        """Returns whether the task itself is gone."""
        if not record.state.terminal:
            return False
        age_days = (now - record.updated_at) / _DAY
        expired = age_days > self._config.task_retention_days
        if expired:
            try:
                await self._store.delete_task(record.id, _require_unchanged(record))
            except (Conflict, NotFound):
                return False
            if self._artifacts is not None:
                await self._artifacts.forget_task(record.id)
            logger.info("task %s is forgotten", record.id, extra={"action": "task_expired", "task": record.id})
        if expired or age_days > self._config.log_retention_days:
            await self._runs.forget_logs(record)
        return expired


def _require_unchanged(seen: TaskRecord) -> Callable[[TaskRecord], None]:
    def check(record: TaskRecord) -> None:
        if record.updated_at != seen.updated_at or not record.state.terminal:
            raise Conflict(f"task {record.id} is in use again")

    return check
