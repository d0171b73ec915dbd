"""What an operator does after a restore: adopts runs, gives them up, lets the store go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from taskyard.wire import RecoveryChoice, Task, TaskState

from taskyard_server import lifecycle, matching, specs
from taskyard_server.auth import Actor
from taskyard_server.claims import Claims
from taskyard_server.errors import Conflict, NotFound
from taskyard_server.queues import update_task
from taskyard_server.recovery import Recovery, Report
from taskyard_server.runs import Runs
from taskyard_server.store.base import QueueRecord, Store, TaskRecord, TokenRecord

logger = logging.getLogger(__name__)


class Adoption:
    """Carries out the operator's decisions."""

    def __init__(
        self,
        store: Store,
        recovery: Recovery,
        runs: Runs,
        claims: Claims,
        clock: Callable[[], float],
        timing: lifecycle.Timing,
    ) -> None:
        self._store = store
        self._recovery = recovery
        self._runs = runs
        self._claims = claims
        self._clock = clock
        self._timing = timing

    async def adopt(self, choice: RecoveryChoice, actor: Actor) -> None:
        """Makes runs that the copy does not know runs of their tasks. Raises NotFound, Conflict."""
        self._require_recovering()
        for run_id in self._chosen(choice):
            await self._adopt(self._recovery.report(run_id), actor)

    async def give_up(self, choice: RecoveryChoice, actor: Actor) -> None:
        """Lets agents end runs that the copy does not know, and loses those that no agent reports.

        Raises NotFound.
        """
        self._require_recovering()
        for run_id in self._chosen(choice):
            if run_id in self._recovery.undecided() or self._recovery.given_up(run_id):
                self._recovery.give_up(run_id)
            else:
                await self._lose(run_id, actor)
            logger.info(
                "run %s was given up by %s", run_id, actor.name, extra={"action": "run_given_up", "run": run_id}
            )

    async def resume(self, actor: Actor) -> None:
        """Hands tasks out again; every living run has a fresh lease. Raises Conflict while a run is undecided."""
        await self._recovery.resume()
        for record in await self._store.active():
            await self._grant(record.id)
        self._claims.look_again()
        logger.info("the store was resumed by %s", actor.name, extra={"action": "store_resumed"})

    def _require_recovering(self) -> None:
        if not self._recovery.recovering:
            raise Conflict("the store does not recover from a restore: there is nothing to decide")

    def _chosen(self, choice: RecoveryChoice) -> Sequence[str]:
        return self._recovery.undecided() if choice.all else choice.runs

    async def _adopt(self, report: Report, actor: Actor) -> None:
        run_id, task_id = report.run.id, lifecycle.task_of(report.run.id)

        def adopted(record: TaskRecord) -> TaskRecord:
            return lifecycle.adopt(
                record,
                report.record,
                started=report.started,
                by=actor.name,
                now=self._clock(),
                timing=self._timing,
            )

        await self._ensure_task(task_id, report)
        record = await update_task(self._store, task_id, adopted)
        self._recovery.adopted(run_id)
        logger.info("run %s was adopted by %s", run_id, actor.name, extra={"action": "run_adopted", "run": run_id})
        self._runs.tell(record)
        await self._runs.end_as_kept(report)

    async def _ensure_task(self, task_id: str, report: Report) -> None:
        """A task that is younger than the copy is made again from what its agent was given."""
        try:
            record = await self._store.task(task_id)
        except NotFound as error:
            if report.task is None or report.task.id != task_id:
                raise Conflict(
                    f"the copy does not know task {task_id}, and its agent is too old to send it: give the run up"
                    " and submit the task again"
                ) from error
            record = await self._made_again(report.task, report)
            await self._require_served(record, report)
            await self._store.add_tasks([record])
        else:
            await self._require_served(record, report)

    async def _require_served(self, record: TaskRecord, report: Report) -> None:
        """Raises Conflict for a run that a user's own agent reports of a task which it could not have claimed."""
        agent = await self._token(report.agent)
        if agent is None or not agent.own_queues or record.owner == agent.owner:
            return
        queue = await self._known_queue(record.queue)
        if queue is None or queue.owner != agent.owner:
            raise Conflict(
                f"run {report.run.id} is reported by the agent {agent.name!r} of a user who created neither its"
                " task nor the task's queue: give it up"
            )

    async def _token(self, token_id: str) -> TokenRecord | None:
        return next((token for token in await self._store.tokens() if token.id == token_id), None)

    async def _owner_of(self, task: Task, report: Report) -> str:
        """The one account of that name; a user's own agent makes tasks again for that user alone."""
        owners = {token.owner for token in await self._store.tokens() if token.name == task.created_by}
        agent = await self._token(report.agent)
        if agent is not None and agent.own_queues:
            owners &= {agent.owner}
        return owners.pop() if len(owners) == 1 else ""

    async def _made_again(self, task: Task, report: Report) -> TaskRecord:
        """As a draft, which its run then moves on. Its secret values are lost; the owner is known by name."""
        queue = await self._known_queue(task.queue_id)
        record = TaskRecord(
            id=task.id,
            spec=specs.checked(task.spec),
            state=TaskState.DRAFT,
            created_at=task.created_at,
            updated_at=self._clock(),
            owner=await self._owner_of(task, report),
            created_by=task.created_by,
            parent=task.parent,
            queue=queue.id if queue is not None else None,
        )
        return matching.shaped(lifecycle.tell(record, "created", now=task.created_at))

    async def _known_queue(self, queue_id: str | None) -> QueueRecord | None:
        if queue_id is None:
            return None
        try:
            return await self._store.queue(queue_id)
        except NotFound:
            return None

    async def _lose(self, run_id: str, actor: Actor) -> None:
        def lost(record: TaskRecord) -> TaskRecord:
            lifecycle.require_run(record, run_id)
            return lifecycle.give_up(record, run_id, by=actor.name, now=self._clock())

        self._runs.tell(await update_task(self._store, lifecycle.task_of(run_id), lost))

    async def _grant(self, task_id: str) -> None:
        def granted(record: TaskRecord) -> TaskRecord:
            return lifecycle.granted(record, now=self._clock(), timing=self._timing)

        try:
            await self._store.update(task_id, granted)
        except NotFound:
            pass  # deleted just now
