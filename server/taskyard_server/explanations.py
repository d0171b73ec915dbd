"""Why a task waits, worker by worker, in words: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from taskyard.wire import Explanation, TaskState, Worker, WorkerState, WorkerVerdict

from taskyard_server import matching
from taskyard_server.matching import Offer
from taskyard_server.queue_names import named
from taskyard_server.store.base import Front, QueueRecord, RestRecord, TaskRecord

MOST_VERDICTS = 200
SILENT_SECONDS = 30.0
"""Three beats missed: worth a word."""
SHORT_ID = 8
MOST_RUNS = 4
_AWAY = {
    WorkerState.LOST: "its machine fell silent",
    WorkerState.DRAINING: "its agent is draining: it takes nothing more",
    WorkerState.STOPPED: "its agent was stopped",
}


def of_queued(
    record: TaskRecord,
    queue: QueueRecord,
    position: int,
    workers: Sequence[Worker],
    *,
    now: float,
    names: Mapping[str, str],
    fronts: Iterable[Front] = (),
    rests: Iterable[RestRecord] = (),
) -> Explanation:
    """Explains a task in a queue with `position` others before it. Workers that were stopped do not count, nor the
    places of single tasks in services mode. `names` are those of all queues by id, `fronts` theirs: they tell of
    reservations. `rests` are all hosts that rest."""
    present = [worker for worker in workers if worker.state is not WorkerState.STOPPED and worker.parent is None]
    kept = {front.candidate.reserved_for: front for front in fronts if front.candidate.reserved_for is not None}
    waits = [rest for rest in rests if rest.target in record.candidate.targets]
    verdicts = [
        _verdict(record, queue, worker, kept.get(worker.name), names, now, waits=waits) for worker in present
    ]
    watching = [verdict for verdict in verdicts if verdict.watches]
    able = [worker for worker in present if queue.id in worker.queues]
    return Explanation(
        task=record.id,
        state=record.state,
        summary=_summary(record, queue, position, watching, able, _why_it_waits(record, waits, able, now)),
        position=position,
        workers=tuple(sorted(verdicts, key=lambda verdict: not verdict.watches))[:MOST_VERDICTS],
    )


def obstacle(
    record: TaskRecord,
    queue: QueueRecord,
    worker: Worker,
    names: Mapping[str, str],
    resting: frozenset[str] = frozenset(),
    *,
    now: float,
) -> str | None:
    """Why the worker would not take the task even with nothing else to do; None when it would.

    `names` are those of the queues by id, `resting` the hosts that the worker waits for.
    """
    if queue.id not in worker.queues:
        watched = ", ".join(named(worker.queues, names)) or "none"
        return f"does not watch queue {queue.name!r} (it watches {watched})"
    if worker.state in _AWAY:
        return _AWAY[worker.state]
    if worker.drain_requested:
        return "somebody told it to drain: it takes nothing more"
    if worker.paused_reason or worker.state is WorkerState.PAUSED:
        return f"paused: {worker.paused_reason or 'by its agent'}"
    return matching.misfit(record.candidate, replace(_offer(queue, worker, now).whole, resting=resting), queue.id)


def _offer(queue: QueueRecord, worker: Worker, now: float) -> Offer:
    return Offer(
        worker=worker.name,
        free=worker.free,
        total=worker.total,
        labels=worker.labels,
        given_gpus=matching.given_gpus([queue], worker.queue_gpus),
        runs=worker.runs,
        left_seconds=None if worker.ends_at is None else worker.ends_at - now,
        takes_endless=worker.takes_endless,
    )


# --- The summary


def _summary(
    record: TaskRecord,
    queue: QueueRecord,
    position: int,
    watching: Sequence[WorkerVerdict],
    workers: Sequence[Worker],
    waits: str | None,
) -> str:
    if queue.paused:
        return f"queue {queue.name!r} is paused: resume it with `taskyard queue resume {queue.name!r}`"
    if not watching:
        start = f"`taskyard agent daemon --queue {queue.name!r}`"
        return f"no worker watches queue {queue.name!r}: start one with {start}"
    able = [verdict for verdict in watching if verdict.fits]
    if not able and waits is not None:
        return waits
    if not able:
        reasons = "; ".join(f"{verdict.worker}: {verdict.reason}" for verdict in watching[:3])
        nobody = _nobody_has(record, queue, workers)
        none = f"none of the {len(watching)} workers" if len(watching) > 1 else "the only worker"
        negation = "can" if len(watching) > 1 else "cannot"
        return nobody or f"{none} of queue {queue.name!r} {negation} take it ({reasons})"
    if record.reserved_for in [verdict.worker for verdict in able]:
        return f"worker {record.reserved_for} is kept for it, and takes it when enough of its runs have ended"
    ahead = "it is the next" if position == 0 else f"{position} stand{'s' * (position == 1)} before it"
    if any(verdict.reason == _IDLE for verdict in able):
        return f"{ahead} in queue {queue.name!r}; a worker is idle and takes it as soon as it asks"
    busy = f"all {len(able)} workers that fit are busy" if len(able) > 1 else "the only worker that fits is busy"
    return f"{ahead} in queue {queue.name!r}; {busy}"


def _why_it_waits(
    record: TaskRecord, rests: Iterable[RestRecord], workers: Iterable[Worker], now: float
) -> str | None:
    """Which host it waits for; None where it does not."""
    for rest in rests:
        bound = [worker.name for worker in workers if rest.binds(worker.name, now)]
        if bound:
            tries = f"{rest.failures} time{'s' * (rest.failures != 1)} in {now - rest.since:.0f} s"
            patience = record.spec.policy.give_up_after_seconds
            return (
                f"it waits for {rest.target}, which could not be reached {tries} ({rest.detail}); tried again in "
                f"{rest.until - now:.0f} s, and given up after {patience / 60:g} min (--give-up-after)"
            )
    return None


def _nobody_has(record: TaskRecord, queue: QueueRecord, workers: Sequence[Worker]) -> str | None:
    """What no worker of the queue has, and who comes nearest; None when they lack different things."""
    resources, where = record.spec.resources, f"no worker that watches queue {queue.name!r}"
    if resources.worker is not None and resources.worker not in [worker.name for worker in workers]:
        return f"{where} is named {resources.worker!r}, which it is for: start that one, or let any take it"
    for name, value in sorted(resources.requires.items()):
        values = {worker.labels[name] for worker in workers if name in worker.labels}
        if value not in values:
            return f"{where} has the label {name}={value}; {_others(name, values)}"
    largest = max(worker.total.gpus for worker in workers)
    if (resources.gpus or 0) > largest:
        return f"{where} has {resources.gpus} GPUs; the largest has {largest}"
    for name, amount in sorted(resources.custom.items()):
        most = max(worker.total.custom.get(name, 0.0) for worker in workers)
        if amount > most:
            return f"{where} has {amount:g} of {name}; the largest has {most:g}"
    return None


def _others(name: str, values: Collection[str]) -> str:
    return f"there is {', '.join(f'{name}={value}' for value in sorted(values))}" if values else f"none has {name}"


# --- Workers


_IDLE = "idle"


def _verdict(
    record: TaskRecord,
    queue: QueueRecord,
    worker: Worker,
    kept_for: Front | None,
    names: Mapping[str, str],
    now: float,
    *,
    waits: Iterable[RestRecord],
) -> WorkerVerdict:
    resting = frozenset(rest.target for rest in waits if rest.binds(worker.name, now))
    reason = obstacle(record, queue, worker, names, resting, now=now)
    if reason is not None:
        return WorkerVerdict(worker=worker.name, fits=False, reason=reason, watches=queue.id in worker.queues)
    words = _occupation(record, queue, worker, kept_for, now)
    silent = now - worker.last_seen_at
    if silent > SILENT_SECONDS:
        words = f"{words}, and not heard of for {silent:.0f} s"
    return WorkerVerdict(worker=worker.name, fits=True, reason=words)


def _occupation(record: TaskRecord, queue: QueueRecord, worker: Worker, kept_for: Front | None, now: float) -> str:
    """What keeps a worker that could take the task from doing so now."""
    if not worker.runs and kept_for is None:
        return _IDLE
    words = [f"busy with {_tasks_of(worker)}"] if worker.runs else []
    if record.reserved_for == worker.name:
        words.append("kept for this task")
    elif kept_for is not None:
        words.append("kept for a larger task that has waited too long")
    lacking = matching.misfit(record.candidate, _offer(queue, worker, now), queue.id)
    if lacking is not None and worker.total.slots > 1:
        words.append(lacking)
    return "; ".join(words)


def _tasks_of(worker: Worker) -> str:
    named = ", ".join(run.partition(".")[0][:SHORT_ID] for run in worker.runs[:MOST_RUNS])
    more = len(worker.runs) - MOST_RUNS
    return f"{named} and {more} more" if more > 0 else named


# --- Tasks in no queue


def of_others(record: TaskRecord, now: float) -> Explanation:
    """Explains a task that stands in no queue."""
    return Explanation(task=record.id, state=record.state, summary=_words(record, now))


def while_recovering(found: Explanation) -> Explanation:
    """Say first what keeps every task waiting after a restore, whatever else does."""
    first = (
        "the server recovers from a restore and hands nothing out until an operator types `taskyard server resume`"
    )
    return replace(found, summary=f"{first}; after that: {found.summary}")


def _words(record: TaskRecord, now: float) -> str:
    if record.state is TaskState.DRAFT:
        return "it is a draft: enqueue it to run it"
    if record.state is TaskState.WAITING:
        return _words_of_waiting(record, now)
    run = record.runs[-1].run if record.runs else None
    if record.state.active and run is not None:
        silent = ", which has fallen silent" if run.unresponsive else ""
        return f"worker {run.worker}{silent} has it: run {run.number}, phase {run.phase}"
    last = record.events[-1] if record.events else None
    why = f": {last.detail}" if last is not None and last.detail else ""
    return f"it is {record.state}{why}"


def _words_of_waiting(record: TaskRecord, now: float) -> str:
    why = next((event.detail for event in reversed(record.events) if event.kind == "waiting"), "it waits")
    if record.due_at is None:
        return why
    return f"{why}; it is queued again in {max(0.0, record.due_at - now):.0f} s"
