"""Queues: made, found, described, paused and removed; and what stands in them."""

from __future__ import annotations

import builtins
import contextlib
import heapq
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from taskyard.wire import (
    DEFAULT_QUEUES,
    SERVICES_QUEUE,
    EntryPage,
    NewQueue,
    Queue,
    QueueChanges,
    QueueKind,
    TaskState,
    TokenKind,
    Worker,
)

from taskyard_server import lifecycle
from taskyard_server.auth import Actor
from taskyard_server.claims import Claims
from taskyard_server.errors import Conflict, Invalid, NotFound
from taskyard_server.names import checked_id, checked_name, normalised
from taskyard_server.queue_names import find_queue
from taskyard_server.specs import MAX_DESCRIPTION
from taskyard_server.store.base import Change, QueueRecord, Store, TaskFilter, TaskRecord
from taskyard_server.views import entry_view
from taskyard_server.workers import SERVING_STATES

logger = logging.getLogger(__name__)

MOST_ACTIVE = 20_000
"""Running tasks whose times are looked at for an estimate."""
RECENT_RUNS = 20
"""How many ended runs of a queue an estimate is made from."""
WOKEN_AT_ONCE = 500
_BOUND_TO_A_QUEUE = (TaskState.QUEUED, TaskState.WAITING, TaskState.PREPARING, TaskState.RUNNING)
_PORTION = 500


class Queues:
    """The verbs of queues."""

    def __init__(self, store: Store, claims: Claims, clock: Callable[[], float]) -> None:
        self._store = store
        self._claims = claims
        self._clock = clock

    async def ensure_defaults(self) -> None:
        """Creates the queues that exist from the start. The one named `services` is always of that kind, also if
        it was made before queues had kinds."""
        for name in DEFAULT_QUEUES:
            kind = QueueKind.SERVICES if name == SERVICES_QUEUE else QueueKind.TASKS
            existing = await self._store.queue_named(name)
            if existing is not None and existing.kind is not kind and name == SERVICES_QUEUE:
                await self._store.update_queue(existing.id, partial(replace, kind=kind))
            if existing is None:
                record = QueueRecord(
                    id=checked_id(None, "queue"),
                    name=name,
                    description="",
                    paused=False,
                    created_at=self._clock(),
                    kind=kind,
                )
                try:
                    await self._store.add_queue(record)
                except Conflict:
                    pass  # another server process was faster

    async def create(self, new: NewQueue, actor: Actor) -> Queue:
        """A repeat with the same id is harmless. Raises Invalid, Conflict when the name is taken."""
        record = QueueRecord(
            id=checked_id(new.id, "queue"),
            name=_checked_queue_name(new.name),
            description=_checked_description(new.description),
            paused=False,
            created_at=self._clock(),
            kind=new.kind,
            owner=actor.owner if _is_personal(actor) else "",
            owner_name=actor.name if _is_personal(actor) else "",
        )
        try:
            await self._store.add_queue(record)
        except Conflict:
            return await self._repeated(new, record)
        logger.info(
            "queue %s was created by %s",
            record.name,
            actor.name,
            extra={"action": "queue_created", "queue": record.id},
        )
        return _view(record)

    async def _repeated(self, new: NewQueue, record: QueueRecord) -> Queue:
        if new.id is not None:
            try:
                existing = await self._store.queue(new.id)
            except NotFound:
                pass
            else:
                if replace(existing, paused=False, created_at=record.created_at) == record:
                    return await self.get(existing.id)
                raise Conflict(f"the id {new.id} belongs to the queue {existing.name!r}: draw another")
        raise Conflict(f"a queue named {record.name!r} exists: use it, or choose another name")

    async def list(self, name: str | None = None) -> list[Queue]:
        """All queues by name, or those of that very name, with lengths, workers and estimates."""
        records = await self._store.queues()
        if name is not None:
            records = [record for record in records if record.name == normalised(name)]
        return await self._described(records)

    async def get(self, queue_id: str) -> Queue:
        """Raises NotFound."""
        return (await self._described([await self._store.queue(queue_id)]))[0]

    async def find(self, ref: str) -> QueueRecord:
        """Finds a queue by id or name. Raises NotFound naming the nearest ones."""
        return await find_queue(self._store, ref)

    async def change(self, queue_id: str, changes: QueueChanges, actor: Actor) -> Queue:
        """Renames, describes, pauses or resumes. Raises NotFound, Invalid, Conflict when the name is taken."""
        given: dict[str, object] = {}
        if changes.name is not None:
            given["name"] = _checked_queue_name(changes.name)
        if changes.description is not None:
            given["description"] = _checked_description(changes.description)
        if changes.paused is not None:
            given["paused"] = changes.paused
        await self._store.update_queue(queue_id, lambda record: replace(record, **given))  # type: ignore[arg-type]
        logger.info(
            "queue %s was changed by %s: %s",
            queue_id,
            actor.name,
            ", ".join(given),
            extra={"action": "queue_changed", "queue": queue_id},
        )
        if changes.paused is False:
            await self._wake_all(queue_id)
        return await self.get(queue_id)

    async def _wake_all(self, queue_id: str) -> None:
        """What stood in a paused queue can be claimed now: one claim is woken for each entry."""
        for record in await self._store.entries(queue_id, limit=WOKEN_AT_ONCE):
            self._claims.announce(record)

    async def delete(self, queue_id: str, force: bool, actor: Actor) -> None:
        """Removes a queue. Raises NotFound, Conflict while tasks wait in it or run from it.

        With `force` its waiting tasks become drafts; running ones go on, and wait for a queue if they come back.
        """
        record = await self._store.queue(queue_id)
        bound = await self._store.tasks(TaskFilter(queue=queue_id, states=_BOUND_TO_A_QUEUE), limit=1)
        if bound and not force:
            raise Conflict(
                f"queue {record.name!r} still has tasks that wait or run: "
                "move or stop them, or delete by force (--force)"
            )
        leave = partial(lifecycle.leave_queue, queue=queue_id, by=actor.name, now=self._clock())
        if force:
            await self._detach(queue_id, leave)
        await self._store.delete_queue(queue_id, force=leave if force else None)
        await self._detach(queue_id, leave)
        logger.info(
            "queue %s was deleted by %s",
            record.name,
            actor.name,
            extra={"action": "queue_deleted", "queue": queue_id},
        )

    async def _detach(self, queue_id: str, leave: Callable[[TaskRecord], TaskRecord]) -> None:
        """Tasks that run or wait for a time are no entries; they would come back to a queue that is gone."""
        bound = TaskFilter(queue=queue_id, states=_BOUND_TO_A_QUEUE)
        while records := await self._store.tasks(bound, limit=_PORTION):
            for record in records:
                with contextlib.suppress(NotFound):  # somebody deletes it at the same time
                    await self._store.update(record.id, leave)

    async def entries(self, queue_id: str, offset: int, limit: int) -> EntryPage:
        """A stretch of the queue in the order of claiming. Raises NotFound."""
        await self._store.queue(queue_id)
        records = await self._store.entries(queue_id, offset=offset, limit=limit)
        total = (await self._store.counts()).get(queue_id, {}).get(TaskState.QUEUED, 0)
        views = tuple(entry_view(record, offset + place) for place, record in enumerate(records))
        return EntryPage(entries=views, total=max(total, offset + len(views)) if views else total)

    async def _described(self, records: Sequence[QueueRecord]) -> builtins.list[Queue]:
        counts = await self._store.counts()
        workers = [record.worker for record in await self._store.workers()]
        active = TaskFilter(states=(TaskState.PREPARING, TaskState.RUNNING))
        started = {run.id: run.claimed_at for run in await self._store.latest_runs(active, limit=MOST_ACTIVE)}
        return [await self._with_load(record, counts.get(record.id, {}), workers, started) for record in records]

    async def _with_load(
        self,
        record: QueueRecord,
        counts: Mapping[TaskState, int],
        workers: Iterable[Worker],
        started: Mapping[str, float],
    ) -> Queue:
        waiting = counts.get(TaskState.QUEUED, 0)
        watching = [worker for worker in workers if serves(worker, record.id)]
        held = [self._clock() - started[run] for worker in watching for run in worker.runs if run in started]
        estimate = estimated_wait(
            waiting=waiting,
            idle_workers=0 if waiting else sum(map(_free_places, watching)),  # what waits fits nothing free
            busy_seconds=held,
            run_seconds=await self._recent_run_seconds(record.id) if waiting or held else [],
        )
        return replace(
            _view(record),
            waiting=waiting,
            running=counts.get(TaskState.PREPARING, 0) + counts.get(TaskState.RUNNING, 0),
            workers=tuple(worker.name for worker in watching),
            estimated_wait_seconds=None if record.paused else estimate,
        )

    async def _recent_run_seconds(self, queue_id: str) -> builtins.list[float]:
        ended = TaskFilter(queue=queue_id, states=(TaskState.COMPLETED, TaskState.FAILED))
        runs = await self._store.latest_runs(ended, limit=RECENT_RUNS)
        return [run.ended_at - run.claimed_at for run in runs if run.ended_at is not None and run.started_at]


def serves(worker: Worker, queue: str) -> bool:
    """Whether the worker takes tasks of the queue (id); the place of one running task takes none."""
    return worker.state in SERVING_STATES and queue in worker.queues and worker.parent is None


def _free_places(worker: Worker) -> int:
    """How many tasks it could take just now, if each takes a GPU where there are any."""
    alone_on_gpus = worker.total.gpus and not worker.total.gpu_memory_bytes
    return max(0, min(worker.free.slots, worker.free.gpus) if alone_on_gpus else worker.free.slots)


def estimated_wait(
    *, waiting: int, idle_workers: int, busy_seconds: Sequence[float], run_seconds: Sequence[float]
) -> float | None:
    """Seconds until a task that is enqueued now is claimed, if all runs last as the recent ones did.

    None where nothing serves the queue, or no run has ended that could be learned from.
    """
    if not idle_workers and not busy_seconds:
        return None
    if idle_workers > waiting:
        return 0.0
    if not run_seconds:
        return None
    usual = sum(run_seconds) / len(run_seconds)
    free_in = [0.0] * idle_workers + [max(0.0, usual - seconds) for seconds in busy_seconds]
    rounds, rest = divmod(waiting, len(free_in))
    heapq.heapify(free_in)
    for _ in range(rest):
        heapq.heapreplace(free_in, free_in[0] + usual)
    return free_in[0] + rounds * usual


async def update_task(store: Store, task_id: str, change: Change) -> TaskRecord:
    """As `Store.update`; a task whose queue is gone is changed as one that has none, never stuck in it.

    Raises NotFound when the task itself is gone, and what `change` raises.
    """
    try:
        return await store.update(task_id, change)
    except NotFound:
        gone = (await store.task(task_id)).queue
        if gone is None or await _exists(store, gone):
            raise

    def changed(record: TaskRecord) -> TaskRecord:
        return change(lifecycle.without_queue(record) if record.queue == gone else record)

    return await store.update(task_id, changed)


async def _exists(store: Store, queue_id: str) -> bool:
    try:
        await store.queue(queue_id)
    except NotFound:
        return False
    return True


def _checked_queue_name(name: str) -> str:
    return checked_name(name, "the queue", required=True)


def _checked_description(description: str) -> str:
    if len(description) > MAX_DESCRIPTION:
        raise Invalid(f"the description has {len(description)} characters, {MAX_DESCRIPTION} are allowed")
    return description


def _view(record: QueueRecord) -> Queue:
    return Queue(
        id=record.id,
        name=record.name,
        description=record.description,
        kind=record.kind,
        paused=record.paused,
        created_at=record.created_at,
        owner=record.owner_name,
    )


def _is_personal(actor: Actor) -> bool:
    """Whether a queue that it creates is its account's, so that agents of that account may serve it."""
    return actor.kind is TokenKind.USER or actor.own_queues
