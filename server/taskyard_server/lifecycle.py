"""The life of a task: one table of legal moves, and for every event a pure function from record to record.

Nothing here reads a clock, a store or a setting; the services pass these functions to `Store.update`, which may
call them more than once. A function that finds nothing to do returns the record it was given.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from taskyard.wire import (
    ClaimRequest,
    Event,
    FinishRequest,
    OnLost,
    Outcome,
    OutcomeKind,
    Phase,
    PhaseTime,
    Reason,
    Run,
    RunReport,
    StartRequest,
    TaskSpec,
    TaskState,
)

from taskyard_server import matching
from taskyard_server.errors import Conflict, NotFound, Stale
from taskyard_server.store.base import RestRecord, RunRecord, TaskRecord

MAX_LOSSES = 3
"""Runs of a task that may be lost after their start; the third fails it."""
MAX_UNSTARTED = 5
"""Claims of a task that may end without a start; the fifth fails it."""
MAX_INFRASTRUCTURE_FAILURES = 3
"""Failures of machines that no probe confirms and that a task survives by going elsewhere; the third fails it."""
AVOID_SECONDS = (5.0, 60.0, 120.0)
"""How long a requeued task stays away from the workers that failed it; then better there than never. Where it has
no other worker it is never tried three times within a minute."""
RESERVATION_SECONDS = 10.0
"""How long a worker is kept for a task before somebody looks whether it is still there."""
MAX_RETRY_DELAY_SECONDS = 3600.0
FIRST_EVENTS, LAST_EVENTS = 50, 450
"""Of a longer story the first and the last events are kept."""
SHORT_ID = 8
MAX_DETAIL, MAX_MESSAGE, MAX_NOTES = 1000, 10_000, 20
"""Characters of an event's detail and of an outcome's message; notes taken from one beat."""

MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.DRAFT: frozenset({TaskState.QUEUED, TaskState.PREPARING, TaskState.CANCELLED}),
    TaskState.WAITING: frozenset(
        {TaskState.QUEUED, TaskState.DRAFT, TaskState.CANCELLED, TaskState.PREPARING, TaskState.RUNNING}
    ),
    TaskState.QUEUED: frozenset(
        {TaskState.DRAFT, TaskState.CANCELLED, TaskState.PREPARING, TaskState.RUNNING, TaskState.FAILED}
    ),
    TaskState.PREPARING: frozenset(
        {
            TaskState.RUNNING,
            TaskState.QUEUED,
            TaskState.WAITING,
            TaskState.COMPLETED,
            TaskState.FAILED,
            TaskState.CANCELLED,
        }
    ),
    TaskState.RUNNING: frozenset(
        {TaskState.QUEUED, TaskState.WAITING, TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.COMPLETED: frozenset({TaskState.QUEUED}),
    TaskState.FAILED: frozenset({TaskState.QUEUED}),
    TaskState.CANCELLED: frozenset({TaskState.QUEUED}),
}
"""The legal moves. From queued or waiting to running goes a run that comes back, from queued to failed what has
waited too long for a host or a machine; out of a terminal state goes `retry` alone, never a report."""

_ADVICE: Mapping[TaskState, str] = {
    TaskState.DRAFT: "enqueue it first",
    TaskState.WAITING: "dequeue it to edit it, or stop it",
    TaskState.QUEUED: "dequeue it to edit it, or stop it",
    TaskState.PREPARING: "stop it first, or wait for its end",
    TaskState.RUNNING: "stop it first, or wait for its end",
    TaskState.COMPLETED: "it has ended: retry it to run it again, or clone it to change it",
    TaskState.FAILED: "it has ended: retry it to run it again, or clone it to change it",
    TaskState.CANCELLED: "it has ended: retry it to run it again, or clone it to change it",
}
_PHASES = tuple(Phase)
_RETURNING = (Reason.LEASE, Reason.UNCONFIRMED)
"""Why the server itself gave a run up: it may still be alive, and then it may come back."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long the server waits for whom, in seconds."""

    lease_seconds: float = 60.0
    confirm_seconds: float = 30.0
    """From a claim to its first beat."""
    lost_after_seconds: float = 300.0
    """From the last beat to the verdict `lost`; the lease is its first part."""


# --- What people do


def create(
    spec: TaskSpec,
    *,
    task_id: str,
    owner: str,
    created_by: str,
    now: float,
    parent: str | None = None,
    queue: str | None = None,
    secret_values: Mapping[str, str] | None = None,
) -> TaskRecord:
    """Returns a new draft, or a queued task when `queue` (an id) is given."""
    record = TaskRecord(
        id=task_id,
        spec=spec,
        state=TaskState.DRAFT,
        created_at=now,
        updated_at=now,
        owner=owner,
        created_by=created_by,
        parent=parent,
        secret_values=dict(secret_values or {}),
    )
    record = _tell(matching.shaped(record), "created", now, by=created_by)
    return record if queue is None else enqueue(record, queue, by=created_by, now=now)


def change(
    record: TaskRecord, spec: TaskSpec, secret_values: Mapping[str, str], *, by: str, now: float
) -> TaskRecord:
    """Replaces what a draft asks for. Raises Conflict for anything but a draft."""
    if record.state is not TaskState.DRAFT:
        raise Conflict(
            f"task {record.id} is {record.state} and only a draft can be edited: {_ADVICE[record.state]}"
        )
    changed = replace(record, spec=spec, secret_values=dict(secret_values), **_FRESH_COUNTERS)
    return _tell(matching.shaped(changed), "changed", now, by=by)


def drop_secrets(record: TaskRecord, names: Collection[str], *, by: str, now: float) -> TaskRecord:
    """Removes these secrets, names and values: another account changed what reads them, or where."""
    if not names:
        return record
    spec = replace(record.spec, secrets=tuple(name for name in record.spec.secrets if name not in names))
    values = {name: value for name, value in record.secret_values.items() if name not in names}
    detail = f"{', '.join(names)}: their values are given to what their owner enqueued alone"
    return _tell(replace(record, spec=spec, secret_values=values), "secrets_dropped", now, by=by, detail=detail)


def enqueue(record: TaskRecord, queue: str, *, by: str, now: float) -> TaskRecord:
    """Puts a draft or a waiting task at the end of a queue; a repeat changes nothing."""
    if record.state is TaskState.QUEUED and record.queue == queue:
        return record
    if record.state not in (TaskState.DRAFT, TaskState.WAITING):
        raise _illegal(record, TaskState.QUEUED)
    moved = _move(
        record, TaskState.QUEUED, queue=queue, rank=None, queued_at=now, due_at=None, unavailable_since=None
    )
    return _tell(moved, "enqueued", now, by=by)


def dequeue(record: TaskRecord, *, by: str, now: float) -> TaskRecord:
    """Takes a queued or waiting task out of its queue: it is a draft again."""
    if record.state is TaskState.DRAFT:
        return record
    moved = _move(record, TaskState.DRAFT, queue=None, rank=None, queued_at=None, due_at=None)
    return _tell(moved, "dequeued", now, by=by)


def retry(record: TaskRecord, *, by: str, now: float) -> TaskRecord:
    """Puts an ended task at the end of its queue, with all counters at zero."""
    if not record.state.terminal:
        raise Conflict(f"task {record.id} is {record.state}; only an ended task can be retried")
    if record.queue is None:
        raise Conflict(f"task {record.id} has no queue to go back to: clone it into one")
    moved = _move(record, TaskState.QUEUED, rank=None, queued_at=now, due_at=None, **_FRESH_COUNTERS)
    return _tell(matching.shaped(moved), "retried", now, by=by)


def leave_queue(record: TaskRecord, queue: str, *, by: str, now: float) -> TaskRecord:
    """Forgets a queue that is being deleted: what waits in it is a draft again, what runs goes on."""
    if record.queue != queue:
        return record
    if record.state in (TaskState.QUEUED, TaskState.WAITING):
        return dequeue(record, by=by, now=now)
    return _tell(without_queue(record), "queue_deleted", now, by=by)


def without_queue(record: TaskRecord) -> TaskRecord:
    """The record as one whose queue is gone, with the place that it held there."""
    return replace(record, queue=None, rank=None)


def request_cancel(record: TaskRecord, *, requeue: bool, by: str, now: float) -> TaskRecord:
    """Ends a task that no worker holds at once; asks for the end of the run of one that is held.

    With `requeue` it is put back into its queue. A plain stop after one with `requeue` holds, not the reverse.
    Raises Conflict for a task that ended otherwise.
    """
    if record.state.active:
        return _request_end_of_run(record, requeue=requeue, by=by, now=now)
    if requeue and not record.state.terminal:
        return _put_back(record, by=by, now=now)
    if record.state is TaskState.CANCELLED and not requeue:
        return record
    if record.state.terminal:
        raise Conflict(f"task {record.id} is {record.state}: {_ADVICE[record.state]}")
    return _end(record, TaskState.CANCELLED, now=now, by=by)


def _request_end_of_run(record: TaskRecord, *, requeue: bool, by: str, now: float) -> TaskRecord:
    run = record.runs[-1].run
    asked = run.cancel_requested_at is not None
    wanted = requeue and (run.requeue_on_cancel or not asked)
    if asked and wanted == run.requeue_on_cancel:
        return record
    changed = replace(run, cancel_requested_at=run.cancel_requested_at or now, requeue_on_cancel=wanted)
    detail = "put it back into its queue" if wanted else ""
    return _tell(_with_run(record, changed), "cancel_requested", now, run=run.number, by=by, detail=detail)


def _put_back(record: TaskRecord, *, by: str, now: float) -> TaskRecord:
    if record.state is TaskState.QUEUED:
        return record
    if record.queue is None:
        raise Conflict(f"task {record.id} is {record.state} and in no queue: enqueue it")
    return _requeue(record, now=now, by=by, detail="put back")


# --- What agents report


def claim(record: TaskRecord, request: ClaimRequest, *, agent: str, now: float, timing: Timing) -> TaskRecord:
    """Gives the task to a worker: run n+1, which must be confirmed within `timing.confirm_seconds`.

    A draft can be claimed too, by name (`agent execute`).
    """
    number = record.runs[-1].run.number + 1 if record.runs else 1
    run = Run(
        id=f"{record.id}.{number}",
        task=record.id,
        number=number,
        worker=request.worker or request.agent,
        claimed_at=now,
        phases=(PhaseTime(phase=Phase.CLAIMED, started_at=now),),
    )
    entry = RunRecord(
        run=run,
        agent=agent,
        boot_id=request.boot_id,
        request_id=request.request_id,
        control_hash=request.control_hash,
        report_hash=request.report_hash,
    )
    moved = _move(record, TaskState.PREPARING, runs=(*record.runs, entry), due_at=now + timing.confirm_seconds)
    return _tell(moved, "claimed", now, run=number, detail=run.worker)


def beat(record: TaskRecord, report: RunReport, *, control_hash: str, now: float, timing: Timing) -> TaskRecord:
    """Renews the lease and takes what the agent says of the run; the first beat confirms the claim.

    Revives a run that comes back before a successor is claimed. A beat that is overtaken by its run's end
    changes nothing. Raises Stale.
    """
    if _has_reported_end(own_run(record, report.id, control_hash)):
        return record
    record = _living(record, report.id, now=now, timing=timing)
    before = record.runs[-1].run
    after = replace(
        before,
        confirmed_at=before.confirmed_at if before.confirmed_at is not None else now,
        unresponsive=False,
        phase=_later(before.phase, report.phase),
        phases=_merged(before.phases, report.phases),
        gpus=report.gpus or before.gpus,
    )
    record = replace(_with_run(record, after), due_at=now + timing.lease_seconds)
    return _tell_beat(record, before, after, report.notes, now)


def _began(record: TaskRecord, run: Run, now: float) -> float:
    """When the run's phase began, as its agent says; between the last event and the beat that told it."""
    told = [time.started_at for time in run.phases if time.phase is run.phase]
    return min(now, max([*told, record.events[-1].at])) if told else now


def _tell_beat(record: TaskRecord, before: Run, after: Run, notes: tuple[str, ...], now: float) -> TaskRecord:
    if before.confirmed_at is None:
        record = _tell(record, "confirmed", now, run=after.number)
    if before.unresponsive:
        record = _tell(record, "responsive", now, run=after.number)
    if after.phase is not before.phase:
        record = _tell(record, "phase", _began(record, after, now), run=after.number, detail=after.phase.value)
    return _tell_notes(record, after.number, notes, now)


def _tell_notes(record: TaskRecord, run: int, notes: tuple[str, ...], now: float) -> TaskRecord:
    for note in notes[:MAX_NOTES]:
        if not _was_noted(record, run, note):
            record = _tell(record, "note", now, run=run, detail=note)
    return record


def _was_noted(record: TaskRecord, run: int, note: str) -> bool:
    """A repeated beat repeats its notes."""
    last = next((event for event in reversed(record.events) if event.kind == "note" and event.run == run), None)
    return last is not None and last.detail == note[:MAX_DETAIL]


def start(
    record: TaskRecord, run_id: str, request: StartRequest, *, control_hash: str, now: float, timing: Timing
) -> TaskRecord:
    """Allows user code to start. Raises Stale when the run is over or superseded.

    A repeat is harmless: it comes from an agent that has started nothing yet, and what it says last is so.
    """
    if _has_reported_end(own_run(record, run_id, control_hash)):
        raise Stale(f"run {run_id} has ended: do not start it")
    record = _living(record, run_id, now=now, timing=timing)
    run = record.runs[-1].run
    started = replace(
        run,
        phase=_later(run.phase, Phase.RUNNING),
        confirmed_at=run.confirmed_at if run.confirmed_at is not None else now,
        started_at=run.started_at if run.started_at is not None else now,
        unresponsive=False,
        phases=_merged(run.phases, request.phases),
        gpus=request.gpus or run.gpus,
        command_line=request.command_line,
        parameters=request.parameters,
        python=request.python,
        packages=request.packages,
        environment_key=request.environment_key,
        environment_reused=request.environment_reused,
        image_digest=request.image_digest,
        output_offset=request.output_offset,
    )
    if record.state is TaskState.RUNNING:
        return record if started == run else _with_run(record, started)
    moved = _move(
        _with_run(record, started),
        TaskState.RUNNING,
        due_at=now + timing.lease_seconds,
        unavailable_since=None,
        machine_failures=0,
    )
    return _tell(moved, "started", now, run=run.number)


def finish(
    record: TaskRecord,
    run_id: str,
    request: FinishRequest,
    *,
    control_hash: str,
    now: float,
    timing: Timing,
    rest: RestRecord | None = None,
) -> TaskRecord:
    """Ends the run as it really ended and decides what becomes of the task. The first report stays.

    `rest` is that of the host that the outcome names as its target.

    A run that was given up and comes back ended, before a successor is claimed, counts as it ended.
    Raises Stale when the run was superseded.
    """
    entry = own_run(record, run_id, control_hash)
    if _has_reported_end(entry):
        return record if entry.run.log_bytes is not None else _with_log_end(record, run_id, request.log_bytes)
    record = _living(record, run_id, now=now, timing=timing)
    run = record.runs[-1].run
    phases = _merged(run.phases, request.phases)
    ended = replace(
        run,
        phases=phases,
        phase=_later(run.phase, request.outcome.phase),
        log_bytes=request.log_bytes,
        outputs=request.outputs if request.outcome.kind is not OutcomeKind.LOST else None,
    )
    outcome = replace(request.outcome, message=request.outcome.message[:MAX_MESSAGE])
    record = _tell_notes(_with_run(record, ended), run.number, request.notes, now)
    return _close(record, outcome, now, rest)


def _with_log_end(record: TaskRecord, run_id: str, log_bytes: int) -> TaskRecord:
    """The server declared the end itself (a reboot); only the agent knows how long the log is."""
    runs = tuple(
        replace(entry, run=replace(entry.run, log_bytes=log_bytes)) if entry.run.id == run_id else entry
        for entry in record.runs
    )
    return replace(record, runs=runs)


def adopt(
    record: TaskRecord, entry: RunRecord, *, started: bool, by: str, now: float, timing: Timing
) -> TaskRecord:
    """Takes up a run that a restored copy does not know and its agent reports; a repeat changes nothing.

    What the copy says of the task is the past: the run was claimed legally, so no table of moves is asked. A run
    that the copy believes alive was followed by this one. Raises Conflict where the copy knows a later run.
    """
    if find_run(record, entry.run.id) is not None:
        return record
    if record.runs and record.runs[-1].run.number >= entry.run.number:
        raise Conflict(f"task {record.id} had a later run than {entry.run.id}: give this one up")
    if record.state.active:
        record = _with_lost_end(record, now)
    adopted = replace(
        record,
        state=TaskState.RUNNING if started else TaskState.PREPARING,
        runs=(*record.runs, entry),
        due_at=now + timing.lease_seconds,
        reserved_for=None,
    )
    detail = f"its agent on {entry.run.worker} reports it, the restored copy does not know it"
    return _tell(matching.shaped(adopted), "adopted", now, run=entry.run.number, by=by, detail=detail)


def _with_lost_end(record: TaskRecord, now: float) -> TaskRecord:
    run = record.runs[-1].run
    outcome = Outcome(
        kind=OutcomeKind.LOST, reason=Reason.LEASE, phase=run.phase, message="its end is not in the restored copy"
    )
    ended = replace(run, outcome=outcome, ended_at=now, unresponsive=False)
    return _tell(_with_run(record, ended), outcome.kind.value, now, run=run.number, detail=_summary(outcome))


def give_up(record: TaskRecord, run_id: str, *, by: str, now: float) -> TaskRecord:
    """Ends a run of which a restored store hears nothing, as if its lease had run out."""
    if not record.state.active or record.runs[-1].run.id != run_id:
        return record
    return _lose(record, Reason.LEASE, f"given up by {by} after a restore", now)


def granted(record: TaskRecord, *, now: float, timing: Timing) -> TaskRecord:
    """A fresh lease: a recovery, in which none ages, has ended."""
    if not record.state.active:
        return record
    confirmed = record.runs[-1].run.confirmed_at is not None
    return replace(record, due_at=now + (timing.lease_seconds if confirmed else timing.confirm_seconds))


def reboot(record: TaskRecord, run_id: str, *, now: float) -> TaskRecord:
    """Gives a run up for good: its machine restarted, so nothing of it is left."""
    if not record.state.active or record.runs[-1].run.id != run_id:
        return record
    return _lose(record, Reason.REBOOT, "the machine restarted", now)


def own_run(record: TaskRecord, run_id: str, control_hash: str) -> RunRecord:
    """Finds the run, current or past, whose control token this is. Raises Stale."""
    entry = find_run(record, run_id)
    if entry is None or not hmac.compare_digest(entry.control_hash.encode(), control_hash.encode()):
        raise Stale(f"run {run_id} does not exist or has another control token: stop its process")
    return entry


def could_not_reach(record: TaskRecord, worker: str, *, since: float) -> bool:
    """Whether its last run ended later than `since`, because a host could not be reached from that worker."""
    run = record.runs[-1].run if record.runs and record.target else None
    if run is None or run.outcome is None or run.worker != worker or run.ended_at is None:
        return False
    return run.outcome.infrastructure and record.unavailable_since is not None and run.ended_at > since


def had_its_hosts(outcome: Outcome) -> bool:
    """Whether a run failed at something that comes only once its code was there."""
    beyond = outcome.phase in (Phase.ENVIRONMENT, Phase.RUNNING) or outcome.reason is Reason.CHECKOUT
    return outcome.kind is OutcomeKind.FAILED and beyond and not outcome.infrastructure


def find_run(record: TaskRecord, run_id: str) -> RunRecord | None:
    """The run of that id, current or past."""
    return next((entry for entry in record.runs if entry.run.id == run_id), None)


def require_run(record: TaskRecord, run_id: str) -> RunRecord:
    """The run of that id, current or past. Raises NotFound."""
    entry = find_run(record, run_id)
    if entry is None:
        raise NotFound(f"task {record.id} has no run {run_id}; it has {len(record.runs)}")
    return entry


def task_of(run_id: str) -> str:
    """The id of a run's task: a run is `<task>.<number>`."""
    return run_id.rpartition(".")[0] or run_id


# --- What the server notices


def on_due(record: TaskRecord, *, now: float, timing: Timing) -> TaskRecord:
    """What happens when `due_at` has come; nothing before."""
    if record.due_at is None or record.due_at > now:
        return record
    if record.state is TaskState.WAITING:
        return _requeue(record, now=now, detail="its time has come")
    if record.state is TaskState.QUEUED and record.target and _gives_up(record, now):
        return _give_up(record, now)
    if record.state is TaskState.QUEUED and record.avoid:
        return _stop_avoiding(record, now)
    if record.state.active:
        return _on_silence(record, now, timing)
    return replace(record, due_at=None)


def _stop_avoiding(record: TaskRecord, now: float) -> TaskRecord:
    freed = matching.shaped(replace(record, avoid=(), due_at=_gives_up_at(record) if record.target else None))
    return _tell(freed, "unrestricted", now, detail="no other worker took it: any worker may try again")


def _on_silence(record: TaskRecord, now: float, timing: Timing) -> TaskRecord:
    run = record.runs[-1].run
    if run.confirmed_at is None:
        return _lose(record, Reason.UNCONFIRMED, f"worker {run.worker} never confirmed the claim", now)
    if run.unresponsive:
        silent = f"nothing was heard of worker {run.worker} for {timing.lost_after_seconds:.0f} s"
        return _lose(record, Reason.LEASE, silent, now)
    due_at = now + max(0.0, timing.lost_after_seconds - timing.lease_seconds)
    waiting = replace(_with_run(record, replace(run, unresponsive=True)), due_at=due_at)
    return _tell(waiting, "unresponsive", now, run=run.number, detail=run.worker)


# --- Workers that are kept for a task


def reserve(record: TaskRecord, worker: str, *, after_seconds: float, now: float) -> TaskRecord:
    """Keeps a worker for a queued task that waited for `after_seconds`; nothing before, nor a second one."""
    waits = record.state is TaskState.QUEUED and record.reserved_for is None and record.queued_at is not None
    if not waits or now - (record.queued_at or now) < after_seconds:
        return record
    kept = matching.shaped(replace(record, reserved_for=worker, due_at=now + RESERVATION_SECONDS))
    return _tell(kept, "reserved", now, detail=f"worker {worker} is kept for it until enough of it is free")


def keep(record: TaskRecord, worker: str, *, now: float) -> TaskRecord:
    """Lets a worker be kept for the task for another while."""
    return replace(record, due_at=now + RESERVATION_SECONDS) if record.reserved_for == worker else record


def release(record: TaskRecord, worker: str, *, reason: str, now: float) -> TaskRecord:
    """Keeps that worker no longer."""
    if record.reserved_for != worker:
        return record
    freed = matching.shaped(replace(record, reserved_for=None, due_at=None))
    return _tell(freed, "released", now, detail=f"worker {worker} is not kept for it any more: {reason}")


# --- How a run ends, and what becomes of its task


def _lose(record: TaskRecord, reason: Reason, message: str, now: float) -> TaskRecord:
    phase = record.runs[-1].run.phase
    return _close(record, Outcome(kind=OutcomeKind.LOST, reason=reason, phase=phase, message=message), now)


def _close(record: TaskRecord, outcome: Outcome, now: float, rest: RestRecord | None = None) -> TaskRecord:
    run = replace(record.runs[-1].run, outcome=outcome, ended_at=now, unresponsive=False)
    told = _tell(_with_run(record, run), outcome.kind.value, now, run=run.number, detail=_summary(outcome))
    verdict = _verdict(run, outcome)
    return _unreachable(told, rest, now) if verdict is _failed and rest is not None else verdict(told, now)


def _summary(outcome: Outcome) -> str:
    """The reason in words: `exit 3`, `signal 9`, `lease: nothing was heard …`."""
    number = outcome.signal if outcome.signal is not None else outcome.exit_code
    head = outcome.why.value if number is None or outcome.exact else f"{outcome.reason.value} {number}"
    return f"{head}: {outcome.message}" if outcome.message else head


def _verdict(run: Run, outcome: Outcome) -> Callable[[TaskRecord, float], TaskRecord]:
    if outcome.kind is OutcomeKind.COMPLETED:
        return _completed
    if run.cancel_requested_at is not None:
        return _stopped
    if outcome.reason is Reason.AGENT_STOPPED:
        return _interrupted
    if outcome.kind is OutcomeKind.LOST:
        return _lost_after_start if run.started_at is not None else _never_started
    if outcome.kind is OutcomeKind.CANCELLED:
        return _stopped
    return _machine_failed if outcome.infrastructure and not outcome.target else _failed


def _completed(record: TaskRecord, now: float) -> TaskRecord:
    return _end(record, TaskState.COMPLETED, now=now)


def _stopped(record: TaskRecord, now: float) -> TaskRecord:
    """Somebody asked for the end. A process that failed by itself before stays failed, without another try."""
    run = record.runs[-1].run
    if run.requeue_on_cancel:
        return _requeue(record, now=now, detail="stopped to be put back")
    failed = run.outcome is not None and run.outcome.kind is OutcomeKind.FAILED
    return _end(record, TaskState.FAILED if failed else TaskState.CANCELLED, now=now)


def _lost_after_start(record: TaskRecord, now: float) -> TaskRecord:
    record = replace(record, losses=record.losses + 1)
    if record.losses >= MAX_LOSSES:
        return _end(record, TaskState.FAILED, now=now, detail=f"lost {record.losses} times")
    return _as_on_lost_says(record, now)


def _interrupted(record: TaskRecord, now: float) -> TaskRecord:
    """The agent was told to end its runs, or its machine was taken back: treated as lost, and not charged."""
    outcome = record.runs[-1].run.outcome
    preempted = outcome is not None and outcome.why is Reason.PREEMPTED
    return _as_on_lost_says(record, now, "its run was preempted" if preempted else "its run was lost")


def _as_on_lost_says(record: TaskRecord, now: float, why: str = "its run was lost") -> TaskRecord:
    on_lost = record.spec.policy.on_lost
    if on_lost is OnLost.FAIL:
        return _end(record, TaskState.FAILED, now=now, detail="on_lost is fail")
    if on_lost is OnLost.WAIT:
        waiting = _move(record, TaskState.WAITING, due_at=None)
        return _tell(
            waiting,
            "waiting",
            now,
            detail=f"{why}, and on_lost is wait: `{_way_back(record)}`, stop it, or let its run come back",
        )
    return _requeue(record, now=now, detail=why)


def _never_started(record: TaskRecord, now: float) -> TaskRecord:
    """No user code ran, so handing it out again is safe whatever `on_lost` says."""
    record = replace(record, unstarted=record.unstarted + 1)
    if record.unstarted >= MAX_UNSTARTED:
        detail = f"claimed {record.unstarted} times without ever starting"
        return _end(record, TaskState.FAILED, now=now, detail=detail)
    return _requeue(record, now=now, detail="its run never started")


def _unreachable(record: TaskRecord, rest: RestRecord, now: float) -> TaskRecord:
    """It goes back to its place, where it waits for the host with all that need it. No retry is charged.

    A task that has waited behind others of the host does not begin to count only now.
    """
    since = record.unavailable_since or max(record.queued_at or now, rest.since)
    record = matching.shaped(replace(record, target=rest.target, unavailable_since=since))
    if _gives_up(record, now):
        return _give_up(record, now)
    worker, seconds = record.runs[-1].run.worker, max(0.0, rest.until - now)
    detail = f"{rest.target} cannot be reached from worker {worker}, which tries again in {seconds:.0f} s"
    return _requeue(record, now=now, detail=detail, due_at=_gives_up_at(record))


def _machine_failed(record: TaskRecord, now: float) -> TaskRecord:
    run = record.runs[-1].run
    confirmed = run.outcome is not None and run.outcome.confirmed
    worker, failures = run.worker, record.machine_failures
    record = replace(
        record,
        machine_failures=failures + 1,
        infrastructure_failures=record.infrastructure_failures + (not confirmed),
        unavailable_since=record.unavailable_since or now,
        avoid=record.avoid if worker in record.avoid else (*record.avoid, worker),
    )
    if not confirmed and record.infrastructure_failures >= MAX_INFRASTRUCTURE_FAILURES:
        detail = f"{record.infrastructure_failures} machines failed it"
        return _end(record, TaskState.FAILED, now=now, detail=detail)
    if _gives_up(record, now):
        return _give_up(record, now)
    seconds = AVOID_SECONDS[min(failures, len(AVOID_SECONDS) - 1)]
    detail = f"avoiding worker {worker} for {seconds:.0f} s"
    return _requeue(matching.shaped(record), now=now, detail=detail, due_at=now + seconds)


def _gives_up_at(record: TaskRecord) -> float | None:
    since = record.unavailable_since
    return None if since is None else since + record.spec.policy.give_up_after_seconds


def _gives_up(record: TaskRecord, now: float) -> bool:
    at = _gives_up_at(record)
    return at is not None and now >= at


def _give_up(record: TaskRecord, now: float) -> TaskRecord:
    """Ends it with its last run's own words; the state's line says how long it has waited."""
    what = f"{record.target} could not be reached" if record.target else "its machines were out of order"
    seconds = now - (record.unavailable_since or now)
    return _end(record, TaskState.FAILED, now=now, detail=f"{what} for {seconds:.0f} s (--give-up-after)")


def _failed(record: TaskRecord, now: float) -> TaskRecord:
    policy = record.spec.policy
    if record.retries_used >= policy.retries or record.queue is None:
        return _end(record, TaskState.FAILED, now=now)
    delay = min(MAX_RETRY_DELAY_SECONDS, policy.retry_delay_seconds * 2.0 ** min(record.retries_used, 60))
    record = replace(record, retries_used=record.retries_used + 1)
    attempt = f"retry {record.retries_used} of {policy.retries}"
    if delay <= 0:
        return _requeue(record, now=now, detail=attempt)
    waiting = _move(record, TaskState.WAITING, due_at=now + delay)
    return _tell(waiting, "waiting", now, detail=f"{attempt} in {delay:.0f} s")


def _requeue(
    record: TaskRecord, *, now: float, detail: str, by: str = "", due_at: float | None = None
) -> TaskRecord:
    """Back to its place: the rank stays. A task without a queue waits until a user names one, or executes it."""
    if record.queue is None:
        waiting = record if record.state is TaskState.WAITING else _move(record, TaskState.WAITING)
        next_step = f"`{_way_back(record)}`, or `taskyard agent execute --id {record.id}` on its machine"
        return _tell(
            replace(waiting, due_at=None), "waiting", now, detail=f"{detail}, and it has no queue: {next_step}"
        )
    moved = _move(record, TaskState.QUEUED, queued_at=now, due_at=due_at)
    return _tell(moved, "requeued", now, by=by, detail=detail)


def _way_back(record: TaskRecord) -> str:
    """What to type to put it into a queue."""
    return f"taskyard enqueue --queue QUEUE {record.id[:SHORT_ID]}"


def _end(record: TaskRecord, state: TaskState, *, now: float, by: str = "", detail: str = "") -> TaskRecord:
    """The last state; the queue stays, so that a retry finds it, the place does not."""
    moved = replace(_move(record, state, rank=None, due_at=None), updated_at=now)
    told_by_outcome = bool(moved.events) and moved.events[-1].kind == state.value
    return moved if told_by_outcome and not detail else _tell(moved, state.value, now, by=by, detail=detail)


# --- How a run comes back


def _living(record: TaskRecord, run_id: str, *, now: float, timing: Timing) -> TaskRecord:
    """The record with that run as its living one, revived where that is possible. Raises Stale."""
    if not record.runs or record.runs[-1].run.id != run_id:
        raise Stale(f"run {run_id} was given up and a successor was claimed: stop its process")
    if record.state.active:
        return record
    if not can_return(record):
        raise Stale(f"run {run_id} is over, its task is {record.state}: stop its process")
    return _revive(record, now, timing)


def can_return(record: TaskRecord) -> bool:
    """Whether the last run was given up by the server alone, and nothing was decided since."""
    if record.state not in (TaskState.QUEUED, TaskState.WAITING) or not record.runs:
        return False
    outcome = record.runs[-1].run.outcome
    if outcome is None or outcome.kind is not OutcomeKind.LOST or outcome.reason not in _RETURNING:
        return False
    return not _was_dequeued_since(record, record.runs[-1].run.number)


def _was_dequeued_since(record: TaskRecord, run: int) -> bool:
    """A task that was a draft in between may have been edited: its old run is not the same work any more."""
    for event in reversed(record.events):
        if event.kind == "dequeued":
            return True
        if event.kind == OutcomeKind.LOST.value and event.run == run:
            return False
    return False


def _revive(record: TaskRecord, now: float, timing: Timing) -> TaskRecord:
    """One step: the entry leaves the queue, the run lives, and its loss was none."""
    run = record.runs[-1].run
    started = run.started_at is not None
    living = replace(run, outcome=None, ended_at=None, log_bytes=None, unresponsive=False)
    moved = _move(
        _with_run(record, living),
        TaskState.RUNNING if started else TaskState.PREPARING,
        due_at=now + timing.lease_seconds,
        losses=max(0, record.losses - 1) if started else record.losses,
        unstarted=record.unstarted if started else max(0, record.unstarted - 1),
    )
    return _tell(moved, "revived", now, run=run.number, detail=run.worker)


def _has_reported_end(entry: RunRecord) -> bool:
    """Whether the run's end is a fact, not the server's guess."""
    outcome = entry.run.outcome
    return outcome is not None and not (outcome.kind is OutcomeKind.LOST and outcome.reason in _RETURNING)


# --- Parts


def _move(record: TaskRecord, to: TaskState, **changes: Any) -> TaskRecord:
    if to not in MOVES[record.state]:
        raise _illegal(record, to)
    if record.reserved_for is not None:
        record = matching.shaped(replace(record, reserved_for=None))
    return replace(record, state=to, **changes)


def _illegal(record: TaskRecord, to: TaskState) -> Conflict:
    return Conflict(f"task {record.id} is {record.state} and cannot become {to}: {_ADVICE[record.state]}")


_FRESH_COUNTERS: Mapping[str, Any] = {
    **dict.fromkeys(("retries_used", "losses", "unstarted", "infrastructure_failures", "machine_failures"), 0),
    "avoid": (),
    "unavailable_since": None,
    "target": "",
}


def _with_run(record: TaskRecord, run: Run) -> TaskRecord:
    return replace(record, runs=(*record.runs[:-1], replace(record.runs[-1], run=run)))


def _later(one: Phase, other: Phase) -> Phase:
    """Reports may arrive out of order; a phase never goes back, and one of a newer agent comes before all."""
    return max(one, other, key=lambda phase: _PHASES.index(phase) if phase.known else -1)


def _merged(held: tuple[PhaseTime, ...], reported: tuple[PhaseTime, ...]) -> tuple[PhaseTime, ...]:
    """The agent's times over the server's, in the order of the phases; a finished time is never reopened."""
    times = {time.phase: time for time in held}
    for time in reported:
        if time.phase not in times or times[time.phase].seconds is None or time.seconds is not None:
            times[time.phase] = time
    unknown = (phase for phase in times if not phase.known)
    return tuple(times[phase] for phase in (*_PHASES, *unknown) if phase in times)


def _tell(
    record: TaskRecord, kind: str, now: float, *, run: int | None = None, by: str = "", detail: str = ""
) -> TaskRecord:
    """Adds a line to the story and stamps the record; the middle of a long story is dropped."""
    events = (*record.events, Event(at=now, kind=kind, run=run, by=by, detail=detail[:MAX_DETAIL]))
    if len(events) > FIRST_EVENTS + LAST_EVENTS:
        events = events[:FIRST_EVENTS] + events[-LAST_EVENTS:]
    return replace(record, events=events, updated_at=now)


def tell(
    record: TaskRecord, kind: str, *, run: int | None = None, by: str = "", detail: str = "", now: float
) -> TaskRecord:
    """Adds a line to the story that changes nothing else."""
    return _tell(record, kind, now, run=run, by=by, detail=detail)
