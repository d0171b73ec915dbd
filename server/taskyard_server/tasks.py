"""Tasks: created, read, changed, and sent on their way by people and by running tasks."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Protocol

from taskyard.wire import (
    CloneRequest,
    Entry,
    Explanation,
    MoveRequest,
    MoveTo,
    NewTask,
    RunDirective,
    StopRequest,
    Story,
    Task,
    TaskChanges,
    TaskEvent,
    TaskPage,
    TaskSpec,
    TaskState,
    TokenKind,
)

from taskyard_server import explanations, lifecycle, specs
from taskyard_server.auth import Actor
from taskyard_server.claims import Claims
from taskyard_server.disk_space import DiskSpace
from taskyard_server.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge
from taskyard_server.names import checked_id, is_id, normalised
from taskyard_server.pace import Pace
from taskyard_server.queue_names import find_queue, queue_names
from taskyard_server.store.base import BlobStore, QueueRecord, Store, TaskFilter, TaskRecord
from taskyard_server.variety import Variety
from taskyard_server.views import entry_view, task_view

logger = logging.getLogger(__name__)

MAX_BULK = 10_000
MAX_PAGE = 1000
MAX_EVENTS = 10_000
SHORTEST_PREFIX = 4
_CANDIDATES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class _Template:
    """What a new task is made from, besides what its creator says."""

    spec: TaskSpec
    secret_values: Mapping[str, str]


class DeletesLogs(Protocol):
    """What drops the log of a run whose task is deleted."""

    async def delete(self, run_id: str) -> None:
        """Nothing happens when there is none."""


class KeepsOutputs(Protocol):
    """What keeps files of runs."""

    def require_folder(self) -> object:
        """Raises Invalid where there is no place for them."""

    async def forget_task(self, task_id: str) -> None:
        """Drops what the runs of a deleted task keep."""


class Tasks:
    """The verbs of tasks. A run's token reads, creates, enqueues and stops, inside its task's project alone."""

    def __init__(
        self,
        store: Store,
        claims: Claims,
        logs: DeletesLogs,
        blobs: BlobStore,
        clock: Callable[[], float],
        disk: DiskSpace | None = None,
        artifacts: KeepsOutputs | None = None,
    ) -> None:
        self._store = store
        self._claims = claims
        self._logs = logs
        self._blobs = blobs
        self._clock = clock
        self._disk = disk
        self._artifacts = artifacts
        self._variety = Variety(store, clock)

    # --- Create

    async def create(self, new: NewTask, actor: Actor) -> Task:
        """Creates a draft, or a queued task when `queue` is given. A repeat with the same id is harmless.

        Raises Invalid, NotFound for a queue, Conflict for an id that another task has, Unavailable on a low disk.
        """
        return (await self.create_many((new,), actor))[0]

    async def create_many(self, new: Sequence[NewTask], actor: Actor) -> list[Task]:
        """Creates all or none, enqueued in the order given. Raises as `create`, TooLarge beyond MAX_BULK."""
        self._require_room_and_number(len(new))
        queues = {task.queue: await find_queue(self._store, task.queue) for task in new if task.queue is not None}
        pace, records = Pace(), []
        for task in new:
            records.append(self._drafted(task, queues.get(task.queue or ""), actor))
            await pace.step()
        await self._require_blobs(record.spec for record in records)
        for record in records:
            if record.queue is not None:
                (await self._variety.of(record.queue)).admit(record.shape)
        try:
            await self._store.add_tasks(records)
        except Conflict as error:
            records = await self._repeated(records, error)
        else:
            await self._announce_all(records)
        return await _views(records, await queue_names(self._store))

    def _require_room_and_number(self, number: int) -> None:
        if number > MAX_BULK:
            raise TooLarge(f"{number} tasks are too many at once, {MAX_BULK} are allowed: send them in portions")
        if self._disk is not None:
            self._disk.require_room("new tasks are refused")

    def _drafted(self, new: NewTask, queue: QueueRecord | None, actor: Actor) -> TaskRecord:
        spec = self._checked(_in_project(new.spec, actor))
        spec = replace(spec, secrets=tuple(dict.fromkeys((*spec.secrets, *new.secret_values))))
        specs.check_secrets(spec.secrets, new.secret_values)
        specs.check_total(spec, new.secret_values)
        if queue is not None:
            specs.check_queue(spec, queue)
        return lifecycle.create(
            spec,
            task_id=checked_id(new.id, "task"),
            owner=actor.owner,
            created_by=actor.name,
            parent=actor.task,
            queue=queue.id if queue is not None else None,
            secret_values=new.secret_values,
            now=self._clock(),
        )

    def _checked(self, spec: TaskSpec) -> TaskSpec:
        """Raises Invalid, also where its outputs could not be kept."""
        if spec.outputs and self._artifacts is not None:
            self._artifacts.require_folder()
        return specs.checked(spec)

    async def _require_blobs(self, wanted: Iterable[TaskSpec]) -> None:
        for digest in dict.fromkeys(digest for spec in wanted for digest in specs.blobs_of(spec)):
            if await self._blobs.size(digest) is None:
                raise Invalid(f"the code {digest} is not on the server: upload it to /blobs/{digest} first")

    async def _repeated(self, records: Sequence[TaskRecord], conflict: Conflict) -> list[TaskRecord]:
        """Answers a repeat with what it made before; anything else is the conflict that it is."""
        pace, existing = Pace(), []
        for record in records:
            try:
                existing.append(await self._store.task(record.id))
            except NotFound:
                raise conflict from None
            await pace.step()
        for old, new in zip(existing, records, strict=True):
            if (old.owner, old.spec, old.parent) != (new.owner, new.spec, new.parent):
                raise Conflict(f"the id {new.id} belongs to another task: draw a new one")
        return existing

    async def _announce_all(self, records: Iterable[TaskRecord]) -> None:
        pace = Pace()
        unwanted: set[tuple[str | None, str]] = set()
        for record in records:
            kind = (record.queue, record.shape)
            if kind not in unwanted and not self._claims.announce(record):
                unwanted.add(kind)  # a claim that comes later looks at the store by itself
            await pace.step()

    async def clone(self, task_id: str, request: CloneRequest, actor: Actor) -> Task:
        """Creates a task like that one, with changes; by default in its project. Raises as `create`.

        Secret values are taken along for their owner alone: a copy could print them.
        """
        return (await self.clone_many(task_id, (request,), actor))[0]

    async def clone_many(
        self, task_id: str, requests: Sequence[CloneRequest], actor: Actor
    ) -> builtins.list[Task]:
        """Creates all copies or none, enqueued in the order given. Raises as `clone`, TooLarge beyond MAX_BULK."""
        original = await self._allowed(task_id, actor)
        self._require_room_and_number(len(requests))
        pace, new = Pace(), []
        for request in requests:
            template = _template(original, request.changes, actor)
            values = dict(template.secret_values)
            new.append(NewTask(spec=template.spec, id=request.id, queue=request.queue, secret_values=values))
            await pace.step()
        return await self.create_many(new, actor)

    # --- Read

    async def get(self, task_id: str, actor: Actor) -> Task:
        """Raises NotFound, Forbidden. An agent reads what it could claim: it builds environments ahead of time."""
        record = await self._allowed(task_id, actor)
        queue = await self._queue_of(record)
        if actor.kind is TokenKind.AGENT and (queue is None or not actor.may_serve(queue)):
            raise Forbidden(f"an agent's token reads tasks in its queues alone; task {task_id} is in none of them")
        return task_view(record, queue.name if queue is not None else None)

    async def require_readable_run(self, run_id: str, actor: Actor) -> None:
        """Raises Forbidden, and NotFound for those whose rights depend on the task.

        An agent reads the runs that it claimed, and those of the tasks that it could claim.
        """
        if actor.kind in (TokenKind.ADMINISTRATOR, TokenKind.USER):
            return
        record = await self._allowed(lifecycle.task_of(run_id), actor)
        if actor.kind is not TokenKind.AGENT or actor.may_serve(await self._queue_of(record)):
            return
        if lifecycle.require_run(record, run_id).agent != actor.token:
            raise Forbidden(f"an agent's token reads its own runs and its queues' alone; {run_id} is another's")

    async def list(self, wanted: TaskFilter, *, before: str | None, limit: int, actor: Actor) -> TaskPage:
        """Newest first; the cursor is the last task of the page, which ends early where its tasks are large."""
        wanted = _confined(wanted, actor)
        limit = max(1, min(limit, MAX_PAGE))
        page = await self._store.page(wanted, before=before, limit=limit)
        names = await queue_names(self._store)
        views = await _views(page.records, names)
        return TaskPage(tasks=tuple(views), cursor=views[-1].id if page.more else None)

    async def resolve(self, ref: str, actor: Actor) -> Task:
        """Finds a task by id, unique prefix of an id or unique name. Raises NotFound, Conflict with candidates."""
        if is_id(ref):
            return await self.get(ref, actor)
        found = await self._with_prefix(ref, actor)
        found = found or await self._store.tasks(_confined(TaskFilter(name=normalised(ref)), actor), limit=20)
        if not found:
            raise NotFound(
                f"there is no task with the name, or an id that begins with, {ref!r}: see `taskyard ps`"
            )
        if len(found) > 1:
            raise Conflict(f"{ref!r} may be {_candidates(found)}: give more of the id")
        return await self._view(found[0])

    async def _with_prefix(self, ref: str, actor: Actor) -> Sequence[TaskRecord]:
        if len(ref) < SHORTEST_PREFIX or not set(ref) <= set("0123456789abcdef"):
            return []
        return await self._store.tasks(_confined(TaskFilter(id_prefix=ref), actor), limit=20)

    async def story(self, task_id: str, actor: Actor) -> Story:
        """Everything that happened to it. Raises NotFound, Forbidden."""
        record = await self._allowed(task_id, actor)
        runs = tuple(entry.run for entry in record.runs)
        return Story(task=await self._view(record), runs=runs, events=record.events)

    async def events(
        self, *, since: float | None, task: str | None, kind: str | None, limit: int, actor: Actor
    ) -> builtins.list[TaskEvent]:
        """Events since a time, oldest first; the first `limit` of them. Raises NotFound, Forbidden."""
        since, limit = since or 0.0, min(limit, MAX_EVENTS)
        if task is None:
            project = _confined(TaskFilter(), actor).project
            return await self._store.events(since=since, kind=kind, project=project, limit=limit)
        events = (await self._allowed(task, actor)).events
        wanted = (event for event in events if event.at >= since and kind in (None, event.kind))
        first = sorted(wanted, key=lambda event: event.at)[:limit]
        return [TaskEvent(task=task, event=event) for event in first]

    async def explain(self, task_id: str, actor: Actor) -> Explanation:
        """Says why the task waits, worker by worker. Raises NotFound, Forbidden."""
        record = await self._allowed(task_id, actor)
        position = await self._store.position(task_id)
        if record.state is not TaskState.QUEUED or record.queue is None or position is None:
            return explanations.of_others(record, self._clock())
        return await self._explained(record, await self._store.queue(record.queue), position)

    async def explain_new(self, new: NewTask, actor: Actor) -> Explanation:
        """Says who could take such a task, were it enqueued now; nothing is created. Raises as `create`."""
        if new.queue is None:
            raise Invalid("name the queue that the task would wait in")
        queue = await find_queue(self._store, new.queue)
        waiting = (await self._store.counts()).get(queue.id, {}).get(TaskState.QUEUED, 0)
        return await self._explained(self._drafted(new, queue, actor), queue, waiting)

    async def _explained(self, record: TaskRecord, queue: QueueRecord, position: int) -> Explanation:
        workers = [known.worker for known in await self._store.workers()]
        names = await queue_names(self._store)
        fronts = await self._store.fronts(list(names))
        return explanations.of_queued(
            record,
            queue,
            position,
            workers,
            now=self._clock(),
            fronts=fronts,
            names=names,
            rests=await self._store.rests(),
        )

    # --- Change

    async def change(self, task_id: str, changes: TaskChanges, actor: Actor) -> Task:
        """Edits a draft. Raises NotFound, Forbidden, Invalid, Conflict when it is no draft.

        An edit by another account drops the secret values that it does not give itself, unless it touches only
        what the code cannot see.
        """
        record = await self._allowed(task_id, actor, verb="change")

        def changed(record: TaskRecord) -> TaskRecord:
            given = changes.secret_values or {}
            if record.owner != actor.owner and _touched(changes) - _SECRETS_KEPT_BY:
                dropped = [name for name in record.secret_values if name not in given]
                record = lifecycle.drop_secrets(record, dropped, by=actor.name, now=self._clock())
            spec = self._checked(specs.changed(record.spec, changes))
            values = {**record.secret_values, **given}
            specs.check_secrets(spec.secrets, values)
            specs.check_total(spec, values)
            return lifecycle.change(record, spec, values, by=actor.name, now=self._clock())

        await self._require_blobs([changed(record).spec])
        after = await self._store.update(task_id, changed)
        return replace(await self._view(after), dropped_secrets=_dropped(record, after))

    async def enqueue(self, task_id: str, queue_ref: str, actor: Actor) -> Task:
        """Puts a draft at the end of a queue; a repeat is harmless. Raises NotFound, Forbidden, Conflict."""
        queue = await find_queue(self._store, queue_ref)
        return (await self._enqueue_all([task_id], queue, actor))[0]

    async def enqueue_many(self, queue_id: str, task_ids: Sequence[str], actor: Actor) -> builtins.list[Task]:
        """Puts drafts at the end of a queue in this order, all or none. Raises as `enqueue`, TooLarge."""
        return await self._enqueue_all(task_ids, await self._store.queue(queue_id), actor)

    async def _enqueue_all(self, task_ids: Sequence[str], queue: QueueRecord, actor: Actor) -> builtins.list[Task]:
        self._require_room_and_number(len(task_ids))
        kinds = await self._variety.of(queue.id)
        dropped: dict[str, tuple[str, ...]] = {}

        def enqueued(record: TaskRecord) -> TaskRecord:
            _require_allowed(record, actor, "enqueue")
            if record.owner != actor.owner and record.queue != queue.id:
                dropped[record.id] = tuple(record.secret_values)
                record = lifecycle.drop_secrets(record, dropped[record.id], by=actor.name, now=self._clock())
            specs.check_queue(record.spec, queue)
            kinds.admit(record.shape)
            return lifecycle.enqueue(record, queue.id, by=actor.name, now=self._clock())

        records = await self._store.update_all(task_ids, enqueued)
        await self._announce_all(records)
        views = await _views(records, {queue.id: queue.name})
        return [replace(view, dropped_secrets=dropped[view.id]) if view.id in dropped else view for view in views]

    async def dequeue(self, task_id: str, actor: Actor) -> Task:
        """Makes a queued or waiting task a draft again. Raises NotFound, Forbidden, Conflict."""
        return await self._update(task_id, actor, "dequeue", lifecycle.dequeue)

    async def stop(self, task_id: str, request: StopRequest, actor: Actor) -> Task:
        """Cancels the task, at once or through its agent; with `requeue` it goes back to its place.

        Raises NotFound, Forbidden, Conflict when it has ended otherwise.
        """
        cancel = partial(lifecycle.request_cancel, requeue=request.requeue)
        view = await self._update(task_id, actor, "stop", cancel)
        if view.state.active and view.run is not None:
            self._claims.notify_directive(RunDirective(run=view.run.id, cancel=True))
        return view

    async def retry(self, task_id: str, actor: Actor) -> Task:
        """Queues an ended task again, with fresh counters. Raises NotFound, Forbidden, Conflict."""
        if self._disk is not None:
            self._disk.require_room("retries are refused")
        record = await self._allowed(task_id, actor, verb="retry")
        if record.queue is not None:
            await self._store.queue(record.queue)
            (await self._variety.of(record.queue)).admit(record.shape)
        return await self._update(task_id, actor, "retry", lifecycle.retry)

    async def move(self, task_id: str, request: MoveRequest, actor: Actor) -> Entry:
        """Changes its place in its queue. Raises NotFound, Forbidden, Invalid, Conflict when it is not queued."""
        await self._allowed(task_id, actor, verb="move")
        position = await self._store.move_entry(task_id, _destination(request))
        return entry_view(await self._store.task(task_id), position)

    async def delete(self, task_id: str, actor: Actor) -> None:
        """Forgets a task that no worker holds, and its logs. Raises NotFound, Forbidden, Conflict."""
        record = await self._allowed(task_id, actor, verb="delete")
        await self._store.delete_task(task_id, _require_inactive)
        for entry in record.runs:
            await self._logs.delete(entry.run.id)
        if self._artifacts is not None:
            await self._artifacts.forget_task(task_id)
        logger.info(
            "task %s was deleted by %s", task_id, actor.name, extra={"action": "task_deleted", "task": task_id}
        )

    # --- Parts

    async def _update(self, task_id: str, actor: Actor, verb: str, event: Callable[..., TaskRecord]) -> Task:
        """Applies one of the lifecycle's events, called with the record, `by` and `now`."""

        def change(record: TaskRecord) -> TaskRecord:
            _require_allowed(record, actor, verb)
            return event(record, by=actor.name, now=self._clock())

        record = await self._store.update(task_id, change)
        self._claims.announce(record)
        return await self._view(record)

    async def _allowed(self, task_id: str, actor: Actor, verb: str = "read") -> TaskRecord:
        record = await self._store.task(task_id)
        _require_allowed(record, actor, verb)
        return record

    async def _view(self, record: TaskRecord) -> Task:
        queue = await self._queue_of(record)
        return task_view(record, queue.name if queue is not None else None)

    async def _queue_of(self, record: TaskRecord) -> QueueRecord | None:
        if record.queue is None:
            return None
        try:
            return await self._store.queue(record.queue)
        except NotFound:
            return None


async def _views(records: Iterable[TaskRecord], names: Mapping[str, str]) -> list[Task]:
    """What is shown of many tasks, given the names of the queues."""
    pace, views = Pace(), []
    for record in records:
        views.append(task_view(record, names.get(record.queue or "")))
        await pace.step()
    return views


_VERBS_OF_RUNS = frozenset({"read", "create", "enqueue", "stop"})


def _require_allowed(record: TaskRecord, actor: Actor, verb: str) -> None:
    if actor.kind is not TokenKind.RUN:
        return
    if record.spec.project != actor.project:
        raise Forbidden(f"this run's token is for the project {actor.project!r}; task {record.id} is in another")
    if verb not in _VERBS_OF_RUNS:
        raise Forbidden(f"a run's token may read, create, enqueue and stop tasks, not {verb} them")


def _in_project(spec: TaskSpec, actor: Actor) -> TaskSpec:
    if actor.kind is not TokenKind.RUN or actor.project is None:
        return spec
    if normalised(spec.project) not in ("", actor.project):
        raise Forbidden(f"this run's token creates tasks in the project {actor.project!r} alone")
    return replace(spec, project=actor.project)


def _confined(wanted: TaskFilter, actor: Actor) -> TaskFilter:
    if actor.kind is not TokenKind.RUN:
        return wanted
    if wanted.project not in (None, actor.project):
        raise Forbidden(f"this run's token is for the project {actor.project!r}")
    return replace(wanted, project=actor.project)


def _template(original: TaskRecord, changes: TaskChanges, actor: Actor) -> _Template:
    spec = specs.changed(original.spec, changes)
    own = original.owner == actor.owner
    values = {**(original.secret_values if own else {}), **(changes.secret_values or {})}
    missing = [name for name in spec.secrets if name not in values]
    if missing:
        raise Invalid(
            f"the secrets {', '.join(missing)} belong to {original.created_by}: give your own values for them"
        )
    return _Template(spec=spec, secret_values=values)


_SECRETS_KEPT_BY = frozenset({"name", "description", "tags"})
"""Changes by another account that leave a task its secret values: no code sees them. All others drop them."""


def _touched(changes: TaskChanges) -> set[str]:
    return {field.name for field in fields(changes) if getattr(changes, field.name) is not None}


def _dropped(before: TaskRecord, after: TaskRecord) -> tuple[str, ...]:
    return tuple(name for name in before.secret_values if name not in after.secret_values)


def _destination(request: MoveRequest) -> MoveTo | int:
    if request.to is not None and request.position is None:
        return request.to
    if request.to is None and request.position is not None and request.position >= 0:
        return request.position
    raise Invalid("give either `to` or `position`; positions count from 0, the next to be claimed")


def _require_inactive(record: TaskRecord) -> None:
    if record.state.active:
        raise Conflict(f"task {record.id} is {record.state}: stop it first")


def _candidates(found: Sequence[TaskRecord]) -> str:
    shown = [f"{record.id[:12]} ({record.spec.name or 'no name'})" for record in found[:_CANDIDATES_SHOWN]]
    return ", ".join(shown) + (" …" if len(found) > len(shown) else "")
