"""Runs: how agents take work, report on it and are answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from weakref import WeakValueDictionary

from taskyard.wire import (
    Beat,
    BeatAnswer,
    Claim,
    ClaimRequest,
    FinishRequest,
    GpuRange,
    KeptRun,
    LogPosition,
    Obstacle,
    Outcome,
    QueueKind,
    Run,
    RunDirective,
    RunReport,
    Sample,
    StartRequest,
    Task,
    TaskState,
    Worker,
    WorkerDirective,
    WorkerReport,
    WorkerState,
)

from taskyard_server import explanations, lifecycle, matching, run_outputs, specs, workers
from taskyard_server.auth import Actor
from taskyard_server.claims import Claims, Waiter
from taskyard_server.config import ServerConfig
from taskyard_server.errors import ClaimedByAnother, Conflict, Forbidden, Invalid, NotFound, Stale, Unavailable
from taskyard_server.instruments import Instruments
from taskyard_server.matching import Offer
from taskyard_server.queue_names import by_queue_id, known_queues, named, queue_names, report_by_ids
from taskyard_server.queues import update_task
from taskyard_server.recovery import Recovery, Report, report_of
from taskyard_server.reservations import LOOK_AGAIN_SECONDS, Reservations, Taken
from taskyard_server.rests import FIRST_SECONDS, Rests
from taskyard_server.run_logs import LogSlice, RunLogs, hash_of
from taskyard_server.store.base import (
    LIVE_WORKER_STATES,
    Change,
    LogStore,
    QueueRecord,
    RestRecord,
    RunRecord,
    SampleStore,
    Store,
    TaskRecord,
    WorkerRecord,
)
from taskyard_server.succession import Succession
from taskyard_server.targets import target_of
from taskyard_server.terminals import Terminals
from taskyard_server.views import task_view

__all__ = ["Gone", "LogSlice", "Runs", "timing_of"]

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 25.0
MAX_SAMPLES = 10_000
SILENT_LEASES = 0.5
"""An agent that was not heard for so long, three beats, is silent: see the held breath of `sweeper`."""
TAKING_NOTHING = (WorkerState.PAUSED, WorkerState.DRAINING, WorkerState.STOPPED)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)

Gone = Callable[[], Awaitable[bool]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Seeker:
    """A claim with what was looked up for it."""

    request: ClaimRequest
    actor: Actor
    gone: Gone
    offer: Offer
    queues: dict[str, QueueRecord]
    """By id, in the order in which they are tried."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Runs:
    """Hands out runs, takes reports on them, keeps their logs."""

    def __init__(
        self,
        store: Store,
        claims: Claims,
        logs: LogStore,
        samples: SampleStore,
        clock: Callable[[], float],
        config: ServerConfig,
        recovery: Recovery | None = None,
        instruments: Instruments | None = None,
        terminals: Terminals | None = None,
    ) -> None:
        self._store = store
        self.recovery = recovery or Recovery(store, clock)
        self._terminals = terminals
        self._log_claims = config.log_claims
        self._instruments = instruments or Instruments()
        self._claims = claims
        self.logs = self._logs = RunLogs(store, logs, clock, config)
        self._samples = samples
        self._clock = clock
        self._succession = Succession(store, clock)
        self._timing = timing_of(config)
        self._reservations = Reservations(store, clock, config.reserve_after_seconds)
        self._rests = Rests(store, clock)
        self.hearing_since = float("-inf")
        """The end of the last gap in which this server could not hear: before it, silence proves nothing."""
        self._repeats: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- Claims

    async def claim(self, request: ClaimRequest, actor: Actor, gone: Gone) -> Claim:
        """Takes the first fitting task, waiting for one; see the design's protocol, step 1.

        Answers without a run when none came in time, a directive ended the wait, or the client is gone.
        Raises Invalid, Forbidden for a queue that the token does not list, Conflict.
        """
        _check_claim(request)
        worker = await self._worker_of(request)
        queues = await self._open_queues(request, worker, actor)
        seeker = _Seeker(
            request=request,
            actor=actor,
            gone=gone,
            offer=_offer(
                request, queues.values(), await by_queue_id(self._store, request.queue_gpus), now=self._clock()
            ),
            queues=queues,
            lock=self._repeats.setdefault(request.request_id, asyncio.Lock()),
        )
        if worker is not None and not workers.may_claim_as(worker, request):
            return await self._claim_under_taken_name(seeker, worker)
        if request.task is not None:
            return await self._claim_by_name(seeker, request.task)
        with self._claims.park(seeker.offer, queues, request_id=request.request_id, runs=request.runs) as waiter:
            found = await self._seek(seeker, waiter)
        return found or await self._taken_by_earlier(seeker) or await self._empty(seeker)

    async def _worker_of(self, request: ClaimRequest) -> WorkerRecord | None:
        return None if request.worker is None else await self._known(request.worker)

    async def _known(self, worker: str) -> WorkerRecord | None:
        try:
            return await self._store.worker(worker)
        except NotFound:
            return None

    async def _open_queues(
        self, request: ClaimRequest, worker: WorkerRecord | None, actor: Actor
    ) -> dict[str, QueueRecord]:
        """By id. Queues that do not exist (any more) are passed over, and a paused worker is given none.

        Raises Forbidden for a queue that the token does not list.
        """
        if request.worker is None:
            return {}
        queues = {queue.id: queue for queue in (await known_queues(self._store, request.queues)).values()}
        refused = [queue.name for queue in queues.values() if not actor.may_serve(queue)]
        if refused:
            raise Forbidden(
                f"this agent's token is for {await self._queues_of(actor)}, not for {', '.join(refused)}; an"
                " administrator can issue another: taskyard invite agent --queue QUEUE"
            )
        if self.recovery.recovering:
            return {}  # the claim waits, and is answered when the store goes on
        return queues if worker is None or workers.may_take(worker) else {}

    async def _queues_of(self, actor: Actor) -> str:
        listed = ", ".join(named(actor.queues, await queue_names(self._store)))
        return listed or "queues that its account created"

    async def _claim_under_taken_name(self, seeker: _Seeker, worker: WorkerRecord) -> Claim:
        """Nothing new; the run that an earlier claim took stays its agent's. Raises Conflict."""
        earlier = await self._claimed_before(seeker)
        if earlier is None:
            raise Conflict(workers.taken_message(worker.worker, self._clock()))
        return earlier

    async def _seek(self, seeker: _Seeker, waiter: Waiter) -> Claim | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(0.0, seeker.request.wait_seconds), MAX_WAIT_SECONDS)
        while not waiter.ended and not self._has_word(seeker):
            if await seeker.gone():
                return None
            found, held_back = await self._look(seeker, waiter)
            if found is not None:
                return found
            seconds = deadline - loop.time()
            rung = await waiter.rung(min(seconds, LOOK_AGAIN_SECONDS) if held_back else seconds)
            if not rung and loop.time() >= deadline:
                return None
        return None

    async def _taken_by_earlier(self, seeker: _Seeker) -> Claim | None:
        """What the request took before, though this repeat of it was sent away: nobody may think that it took
        nothing."""
        async with seeker.lock:
            return await self._claimed_before(seeker)

    def _has_word(self, seeker: _Seeker) -> bool:
        told = self._claims.untold(seeker.request.runs)
        return bool(told) or self._claims.summoned(seeker.offer.worker)

    async def _look(self, seeker: _Seeker, waiter: Waiter) -> tuple[Claim | None, bool]:
        """One look at the store; also whether the worker was held back. Repeats of one request look one after the
        other, and find the same run.

        They are rare: the store refuses them a second run, so only who gets none looks for an earlier one.
        """
        async with seeker.lock:
            try:
                taken = await self._take_first(seeker, waiter) if seeker.queues else Taken()
            except Conflict:
                earlier = await self._claimed_before(seeker)
                if earlier is None:
                    raise
                return earlier, False
            record = taken.record
            if record is None:
                return await self._claimed_before(seeker), taken.held_back
        self._instruments.claimed()
        return self._handed_out(record, record.runs[-1], seeker.queues.get(record.queue or "")), False

    async def _take_first(self, seeker: _Seeker, waiter: Waiter) -> Taken:
        offer = replace(seeker.offer, resting=self._rests.binding(seeker.offer.worker))
        async with self._claims.look(waiter) as look:
            taken = await self._reservations.take(
                tuple(seeker.queues), offer, lambda record: self._given(record, seeker)
            )
            if taken.record is not None and not taken.record.state.active:
                taken = Taken(held_back=True)
            look.found, look.held_back = taken.record, taken.held_back
        if taken.record is not None:
            await self._rests.tried(taken.record.candidate.targets, seeker.offer.worker)
        return taken

    async def _claim_by_name(self, seeker: _Seeker, task_id: str) -> Claim:
        """`agent execute`: this task and no other, at once. Raises NotFound, Conflict when it does not fit.

        One that has ended, or runs, is answered with an obstacle where the agent asks for that.
        """
        async with seeker.lock:
            earlier = await self._claimed_before(seeker)
            if earlier is not None:
                return earlier
            if self.recovery.recovering:
                raise Unavailable(
                    "the server was restored from a copy: nothing is handed out until its operator types"
                    " `taskyard server resume`"
                )
            await self._require_allowed_queue(task_id, seeker.actor)
            try:
                record = await self._store.update(task_id, lambda record: self._given_by_name(record, seeker))
            except Conflict:
                obstacle = await self._obstacle(task_id) if seeker.request.names_obstacle else None
                if obstacle is None:
                    raise
                return Claim(obstacle=obstacle)
        self._instruments.claimed()
        return self._handed_out(record, record.runs[-1], await self._queue_of(record))

    async def _obstacle(self, task_id: str) -> Obstacle | None:
        """Why a task cannot be taken anywhere just now; None where it is only not for this worker."""
        record = await self._store.task(task_id)
        if not (record.state.active or record.state.terminal):
            return None
        unresponsive = record.state.active and record.runs[-1].run.unresponsive
        detail = explanations.of_others(record, self._clock()).summary
        return Obstacle(state=record.state, detail=detail, unresponsive=unresponsive)

    async def _claimed_before(self, seeker: _Seeker) -> Claim | None:
        record = await self._store.run_of_request(seeker.request.request_id)
        if record is None:
            return None
        entry = next(run for run in record.runs if run.request_id == seeker.request.request_id)
        same = await self._succession.is_same_agent(seeker.actor, entry.agent)
        if not same or (entry.agent != seeker.actor.token and entry.control_hash != seeker.request.control_hash):
            raise Conflict("this request_id was used by another agent: draw a new one")
        return self._handed_out(record, entry, await self._queue_of(record))

    def _given(self, record: TaskRecord, seeker: _Seeker) -> TaskRecord:
        """Run n+1; not at once where the last one could not reach its host from there, as another server knows."""
        if lifecycle.could_not_reach(record, seeker.offer.worker, since=self._clock() - FIRST_SECONDS):
            return record
        return lifecycle.claim(
            record, seeker.request, agent=seeker.actor.token, now=self._clock(), timing=self._timing
        )

    async def _require_allowed_queue(self, task_id: str, actor: Actor) -> None:
        record = await self._store.task(task_id)
        own = actor.own_queues and record.owner == actor.owner
        if not own and not actor.may_serve(await self._queue_of(record)):
            raise Forbidden(
                f"this agent's token is for {await self._queues_of(actor)}; task {task_id} is in none of them"
            )

    def _given_by_name(self, record: TaskRecord, seeker: _Seeker) -> TaskRecord:
        reason = matching.misfit(record.candidate, seeker.offer, record.queue)
        if reason is not None:
            raise Conflict(f"task {record.id} cannot run here: {reason}")
        return self._given(_with_way_back(record, seeker.queues.values()), seeker)

    async def _queue_of(self, record: TaskRecord) -> QueueRecord | None:
        if record.queue is None:
            return None
        try:
            return await self._store.queue(record.queue)
        except NotFound:
            return None

    def _handed_out(self, record: TaskRecord, entry: RunRecord, queue: QueueRecord | None) -> Claim:
        logger.log(
            logging.INFO if self._log_claims else logging.DEBUG,
            "worker %s claimed task %s",
            entry.run.worker,
            record.id,
            extra={"action": "task_claimed", "task": record.id, "run": entry.run.id},
        )
        return Claim(
            run=entry.run,
            task=_task_for_agent(record, queue),
            secrets=record.secret_values,
            lease_seconds=self._timing.lease_seconds,
        )

    async def _empty(self, seeker: _Seeker) -> Claim:
        """With the word that waits, unless nobody hears it: then it is the next claim's."""
        if await seeker.gone():
            return Claim(lease_seconds=self._timing.lease_seconds)
        directives = self._claims.take_directives(seeker.request.runs)
        beat = self._claims.take_summons(seeker.offer.worker)
        return Claim(lease_seconds=self._timing.lease_seconds, directives=directives, beat=beat)

    async def check_reservation(self, record: TaskRecord, workers: Mapping[str, Worker]) -> None:
        """See `Reservations.check`. Raises NotFound when the task is gone."""
        self.tell(await self._reservations.check(record, workers, self._clock()))

    # --- Beats

    async def beat(self, beat: Beat, actor: Actor) -> BeatAnswer:
        """Renews the leases of the agent's runs, keeps what it says, and answers with what it must do.

        Raises Invalid for a worker's name that is none.
        """
        for report in beat.workers:
            workers.check_name(report.name)
        if not self.recovery.recovering:  # then what the machine ran before is not what the copy says
            await self._give_up_after_reboot(beat, actor)
        if self.recovery.recovering:
            for kept in beat.kept:
                await self._hear_kept(kept, actor)
        directives = await asyncio.gather(*(self._beat_of(report, beat, actor) for report in beat.runs))
        told = await asyncio.gather(*(self._save_worker(report, beat, actor) for report in beat.workers))
        to_tell = tuple(directive for directive in directives if directive is not None)
        foreign = {f"run:{one.run}" for one in to_tell if one.stale}
        foreign |= {f"worker:{one.worker}" for one in told if one.taken_seconds is not None}
        await self._samples.add(_own_samples(beat, foreign=foreign))
        return BeatAnswer(
            server_time=self._clock(),
            lease_seconds=self._timing.lease_seconds,
            runs=to_tell,
            workers=tuple(told),
            generation=self.recovery.generation.number,
            copied_at=self.recovery.generation.copied_at if self.recovery.recovering else None,
        )

    async def _beat_of(self, report: RunReport, beat: Beat, actor: Actor) -> RunDirective | None:
        def renewed(record: TaskRecord, agent: str) -> TaskRecord:
            control_hash = _own(record, report.id, report.control_token, agent)
            return lifecycle.beat(
                record, report, control_hash=control_hash, now=self._clock(), timing=self._timing
            )

        try:
            record = await self._update_own(report.id, renewed, actor)
        except (Stale, NotFound, Forbidden) as error:
            if await self._is_unknown(report.id):
                self.recovery.note_beat(report, beat, hash_of(report.control_token), actor)
                return RunDirective(run=report.id, stale=True) if self.recovery.given_up(report.id) else None
            logger.info("%s", error, extra={"action": "run_stale", "run": report.id})
            return RunDirective(run=report.id, stale=True)
        self.recovery.hear(report.id)
        entry = lifecycle.require_run(record, report.id)
        cancel = entry.run.outcome is None and entry.run.cancel_requested_at is not None
        terminals = self._terminals.of_run(report.id) if self._terminals else ()
        return RunDirective(run=report.id, cancel=cancel, terminals=terminals) if cancel or terminals else None

    async def _give_up_after_reboot(self, beat: Beat, actor: Actor) -> None:
        """A machine that restarted holds nothing of what it ran before; nobody has to wait for a lease.

        Runs that the agent names in the beat are its own to report: they may have ended before.
        """
        for report in beat.workers:
            known = await self._known(report.name)
            if known is None or not workers.has_rebooted(known, beat):
                continue
            if self._taken_seconds(known, beat) is None:
                await self._give_up_runs_before(known, beat, actor)

    async def _give_up_runs_before(self, known: WorkerRecord, beat: Beat, actor: Actor) -> None:
        before = (known.worker.name, known.worker.boot_id, actor.token)
        named = {report.id for report in beat.runs}
        for record in await self._store.active():
            entry = record.runs[-1]
            if (entry.run.worker, entry.boot_id, entry.agent) == before and entry.run.id not in named:
                await self._lose_by_reboot(record.id, entry.run.id)

    def _taken_seconds(self, known: WorkerRecord | None, beat: Beat) -> float | None:
        """How long a worker's name stays another agent's unless that is heard again; None: the beat may have it.

        A copy of an agent's folder looks like a restart of its machine, until the one that was there falls silent.
        """
        if known is None or known.worker.state not in LIVE_WORKER_STATES or workers.speaks_again(known, beat):
            return None
        now = self._clock()
        heard_at = min(now, max(known.worker.last_seen_at, self.hearing_since))
        left = heard_at + self._timing.lease_seconds * SILENT_LEASES - now
        return left if left > 0 else None

    async def _lose_by_reboot(self, task_id: str, run_id: str) -> None:
        now = self._clock()
        record = await update_task(self._store, task_id, lambda record: lifecycle.reboot(record, run_id, now=now))
        await self.count_lost(record, now)
        self.tell(record)

    async def _save_worker(self, report: WorkerReport, beat: Beat, actor: Actor) -> WorkerDirective:
        report = await report_by_ids(self._store, report)
        took_nothing, taken_seconds = False, None

        def reported(known: WorkerRecord | None) -> WorkerRecord:
            nonlocal took_nothing, taken_seconds
            taken_seconds = self._taken_seconds(known, beat)
            if known is not None and taken_seconds is not None:
                return known
            took_nothing = known is not None and not workers.may_take(known)
            return workers.reported(known, report, beat, token=actor.token, now=self._clock())

        record = await self._store.save_worker(report.name, reported)
        if taken_seconds is not None:
            return self._refusal(record, taken_seconds)
        if took_nothing and workers.may_take(record):
            self._claims.summon(report.name)  # a claim that was faster than this beat waits for nothing
        if report.state in TAKING_NOTHING:
            self._claims.worker_takes_nothing(report.name)
        else:
            self._claims.worker_offers(report.name, report.free)
        if not report.queues and report.state is WorkerState.STOPPED:
            await self._store.delete_worker(report.name)  # it was there for one run, which has ended
        return WorkerDirective(
            worker=report.name,
            paused=bool(record.held),
            reason=record.held,
            drain=record.worker.drain_requested,
            probe=record.probe,
        )

    def _refusal(self, record: WorkerRecord, taken_seconds: float) -> WorkerDirective:
        """Keeps the agent from claiming, be it of a version that knows of a pause alone."""
        reason = workers.taken_message(record.worker, self._clock())
        logger.warning("%s", reason, extra={"action": "worker_refused", "worker": record.worker.name})
        return WorkerDirective(
            worker=record.worker.name,
            paused=True,
            reason=reason,
            taken_seconds=taken_seconds,
            heard_at=record.worker.last_seen_at,
        )

    # --- Start and finish

    async def start(self, run_id: str, request: StartRequest, actor: Actor) -> Run:
        """Allows user code to start. Raises Stale when it must not, NotFound, Forbidden."""

        def started(record: TaskRecord, agent: str) -> TaskRecord:
            control_hash = _own(record, run_id, request.control_token, agent)
            return lifecycle.start(
                record, run_id, request, control_hash=control_hash, now=self._clock(), timing=self._timing
            )

        try:
            record = await self._update_own(run_id, started, actor)
        except (Stale, NotFound):
            if await self._is_unknown(run_id):
                self.recovery.require_decided(run_id)
            raise
        run = lifecycle.require_run(record, run_id).run
        await self._reached(record, run)
        return run

    async def _update_own(
        self, run_id: str, change: Callable[[TaskRecord, str], TaskRecord], actor: Actor
    ) -> TaskRecord:
        """Changes the run's task as the agent (its token) that claimed the run."""
        task_id = lifecycle.task_of(run_id)
        return await self._by_agent(
            actor, lambda agent: self._store.update(task_id, lambda record: change(record, agent))
        )

    async def _by_agent(self, actor: Actor, act: Callable[[str], Awaitable[T]]) -> T:
        """Acts by the caller's token, or by that of which it is a later one of the same agent."""
        try:
            return await act(actor.token)
        except ClaimedByAnother as error:
            claimed_by = error.agent
            if not await self._succession.is_same_agent(actor, claimed_by):
                raise
        return await act(claimed_by)

    async def finish(self, run_id: str, request: FinishRequest, actor: Actor) -> Run:
        """Ends the run; a repeat is answered with the first end. Raises Stale, NotFound, Forbidden, Invalid."""
        if request.log_bytes < 0:
            raise Invalid("log_bytes is a length: 0 or more")
        if request.outputs is not None:
            request = replace(request, outputs=run_outputs.checked(request.outputs))

        def finished(record: TaskRecord, agent: str) -> TaskRecord:
            control_hash = _own(record, run_id, request.control_token, agent)
            return lifecycle.finish(
                record,
                run_id,
                request,
                control_hash=control_hash,
                now=self._clock(),
                timing=self._timing,
                rest=rest,
            )

        try:
            rest = await self._rest_after(run_id, request, actor)
            run = await self._by_agent(
                actor, lambda agent: self._end(run_id, lambda record: finished(record, agent))
            )
        except (Stale, NotFound):
            if await self._is_unknown(run_id):
                self.recovery.note_end(run_id, request.outcome, hash_of(request.control_token), actor)
                self.recovery.require_decided(run_id)
            raise
        self.recovery.hear(run_id)
        return run

    async def _end(self, run_id: str, finished: Change) -> Run:
        """Writes the end, counts it where it is news, and lets all know."""
        before: list[TaskRecord] = []

        def noted(record: TaskRecord) -> TaskRecord:
            before[:] = [record]
            return finished(record)

        record = await update_task(self._store, lifecycle.task_of(run_id), noted)
        run = lifecycle.require_run(record, run_id).run
        if run.outcome is not None and lifecycle.require_run(before[0], run_id).run.outcome != run.outcome:
            await self._count(run, run.outcome)
        if run.outcome is not None and lifecycle.had_its_hosts(run.outcome):
            await self._reached(record, run)
        await self.note_end(record)
        self.tell(record)
        if self._terminals and run.outcome is not None:
            await self._terminals.run_ended(run_id)
        return run

    async def _rest_after(self, run_id: str, request: FinishRequest, actor: Actor) -> RestRecord | None:
        """Lets the host rest that the run could not reach; None where its outcome names none."""
        if not request.outcome.infrastructure:
            return None
        record = await self._store.task(lifecycle.task_of(run_id))
        entry = lifecycle.own_run(record, run_id, hash_of(request.control_token))
        if not await self._succession.is_same_agent(actor, entry.agent):
            raise ClaimedByAnother(run_id, entry.agent)
        target = target_of(request.outcome, record.spec)
        run = lifecycle.require_run(record, run_id).run
        if not target or run.outcome is not None:
            return None
        detail = request.outcome.message.partition("\n")[0]
        return await self._rests.failed(
            target, run.worker, claimed_at=run.claimed_at, detail=detail, witness=not actor.own_queues
        )

    async def _reached(self, record: TaskRecord, run: Run) -> None:
        """The run came to its command, or failed at something else: the hosts that it needs were there."""
        if await self._rests.reached(record.candidate.targets, run.worker):
            await self._claims.hear_all()

    async def note_end(self, record: TaskRecord) -> None:
        """The task behind one that has given up tries its host soon."""
        if record.state is TaskState.FAILED and record.target and record.unavailable_since is not None:
            await self._rests.hurry(record.target)

    async def look_at_rests(self) -> None:
        """Learns which hosts rest by now, and wakes the claims that may take something more."""
        if await self._rests.look():
            await self._claims.hear_all()

    async def _count(self, run: Run, outcome: Outcome) -> None:
        self._instruments.ended(outcome.kind.value)

        def counted(known: WorkerRecord | None) -> WorkerRecord:
            if known is None:
                raise NotFound(f"worker {run.worker} never reported")
            return workers.counted(known, outcome)

        with contextlib.suppress(NotFound):
            record = await self._store.save_worker(run.worker, counted)
            if record.probe and outcome.infrastructure:
                logger.warning(
                    "worker %s is paused: %s",
                    run.worker,
                    record.held,
                    extra={"action": "worker_paused", "worker": run.worker},
                )

    async def count_lost(self, record: TaskRecord, now: float) -> None:
        """Counts the run that was given up at that very moment, if there is one, among those that ended."""
        run = record.runs[-1].run if record.runs else None
        if run is not None and run.outcome is not None and run.ended_at == now:
            await self._count(run, run.outcome)

    def tell(self, record: TaskRecord) -> None:
        """Word of a change of a task's runs: to its readers, to the agent, and to whoever may claim it now."""
        for entry in record.runs[-1:]:
            if entry.run.outcome is not None:
                self._claims.run_ended(entry.run.id)
            self._logs.tell(entry.run.id)
        self._claims.announce(record)

    # --- After a restore

    async def _is_unknown(self, run_id: str) -> bool:
        """Whether the store was restored, and the run is younger than the copy."""
        if not self.recovery.recovering:
            return False
        try:
            return lifecycle.find_run(await self._store.task(lifecycle.task_of(run_id)), run_id) is None
        except NotFound:
            return True

    async def _hear_kept(self, kept: KeptRun, actor: Actor) -> None:
        """What an agent's journal holds of a run: notes it where the copy lacks it, ends it where the copy lacks
        its end."""
        if await self._is_unknown(kept.run.id):
            self.recovery.note(report_of(kept, hash_of(kept.control_token), actor, now=self._clock()))
            return
        self.recovery.hear(kept.run.id)
        with contextlib.suppress(Stale, NotFound, Forbidden, Conflict):
            await self.end_as_kept(report_of(kept, hash_of(kept.control_token), actor, now=self._clock()))

    async def end_as_kept(self, report: Report) -> None:
        """Ends a run whose end the lost store had acknowledged; of its log there is what the copy has.

        Nothing for one that lives, or whose agent reports the end by itself. Raises Stale, Forbidden.
        """
        outcome, run_id = report.outcome, report.run.id
        if outcome is None or report.ended_at is None:
            return
        kept = await self._logs.length(run_id)
        note = f"it ended after the copy that the server was restored from, which has {kept} bytes of its log"
        request = FinishRequest(
            control_token="", outcome=outcome, log_bytes=kept, phases=report.phases, notes=(note,)
        )

        def finished(record: TaskRecord) -> TaskRecord:
            if lifecycle.own_run(record, run_id, report.control_hash).agent != report.agent:
                raise Forbidden(f"run {run_id} was claimed by another agent")
            return lifecycle.finish(
                record, run_id, request, control_hash=report.control_hash, now=self._clock(), timing=self._timing
            )

        await self._end(run_id, finished)

    async def get(self, run_id: str) -> Run:
        """Raises NotFound."""
        return lifecycle.require_run(await self._store.task(lifecycle.task_of(run_id)), run_id).run

    # --- Logs

    async def append_log(
        self, run_id: str, control_token: str, offset: int, data: bytes, actor: Actor
    ) -> LogPosition:
        """See `RunLogs.append`."""
        try:
            return await self._logs.append(run_id, control_token, offset, data, actor)
        except NotFound:
            if await self._is_unknown(run_id):
                self.recovery.require_decided(run_id)
            raise

    async def read_log(self, run_id: str, offset: int, limit: int) -> LogSlice:
        """See `RunLogs.read`."""
        return await self._logs.read(run_id, offset, limit)

    async def tail_log(self, run_id: str, lines: int) -> LogSlice:
        """See `RunLogs.tail`."""
        return await self._logs.tail(run_id, lines)

    async def wait_for_log(self, run_id: str, offset: int, timeout_seconds: float) -> bool:
        """See `RunLogs.wait`."""
        return await self._logs.wait(run_id, offset, timeout_seconds)

    # --- Retention

    async def forget_logs(self, record: TaskRecord) -> None:
        """Drops the logs of all runs of an ended task."""
        await self._logs.forget(record)

    async def forget_samples(self, before: float) -> None:
        """Drops measurements older than `before`."""
        await self._samples.forget(before)


def timing_of(config: ServerConfig) -> lifecycle.Timing:
    """The three times that the lifecycle goes by."""
    return lifecycle.Timing(
        lease_seconds=config.lease_seconds,
        confirm_seconds=config.confirm_seconds,
        lost_after_seconds=config.lost_after_seconds,
    )


def _check_claim(request: ClaimRequest) -> None:
    if not request.request_id or len(request.request_id) > 200:
        raise Invalid("request_id must have 1 to 200 characters: draw one per claim")
    if request.worker is None:
        return
    if not (_HASH.fullmatch(request.control_hash) and _HASH.fullmatch(request.report_hash)):
        raise Invalid("control_hash and report_hash must be SHA-256 digests in lower-case hexadecimal digits")


def _offer(
    request: ClaimRequest, queues: Iterable[QueueRecord], queue_gpus: Mapping[str, GpuRange], *, now: float
) -> Offer:
    return Offer(
        worker=request.worker or request.agent,
        free=request.free,
        total=request.total,
        labels=request.labels,
        given_gpus=matching.given_gpus(queues, queue_gpus),
        runs=request.runs,
        left_seconds=None if request.ends_at is None else request.ends_at - now,
        takes_endless=request.takes_endless,
    )


def _with_way_back(record: TaskRecord, queues: Iterable[QueueRecord]) -> TaskRecord:
    """Gives a task without a queue the first of these, to go back to when its run is lost. Raises Forbidden.

    The agents of another user's queue would be given its secrets without its owner's consent.
    """
    queue = next(iter(queues), None)
    if record.queue is not None or queue is None:
        return record
    if queue.owner not in ("", record.owner):
        raise Forbidden(f"queue {queue.name!r} is another user's: task {record.id} cannot go back to it")
    specs.check_queue(record.spec, queue)
    return replace(record, queue=queue.id)


def _task_for_agent(record: TaskRecord, queue: QueueRecord | None) -> Task:
    """The task; one of a services queue that says no number of GPUs gets none, and its agent is told so."""
    view = task_view(record, queue.name if queue is not None else None)
    resources = view.spec.resources
    if queue is None or queue.kind is not QueueKind.SERVICES or resources.gpus is not None:
        return view
    return replace(view, spec=replace(view.spec, resources=replace(resources, gpus=0)))


def _own(record: TaskRecord, run_id: str, control_token: str, agent: str) -> str:
    """The hash, if the agent (its token) claimed the run. Raises NotFound, Stale, ClaimedByAnother."""
    control_hash = hash_of(control_token)
    entry = lifecycle.own_run(record, run_id, control_hash)
    if entry.agent != agent:
        raise ClaimedByAnother(run_id, entry.agent)
    return control_hash


def _own_samples(beat: Beat, *, foreign: set[str]) -> list[Sample]:
    """An agent measures its own workers and runs, but for those `foreign` ones."""
    named = {f"worker:{report.name}" for report in beat.workers} | {f"run:{report.id}" for report in beat.runs}
    own = named - foreign
    return [sample for sample in beat.samples if sample.subject in own][:MAX_SAMPLES]
