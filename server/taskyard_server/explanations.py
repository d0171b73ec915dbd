"""Why a task waits, worker by worker, in words: pure."""

from __future__ import annotations

from collections.abc import Sequence

from taskyard.wire import Explanation, TaskState, Worker, WorkerState, WorkerVerdict

from taskyard_server import matching
from taskyard_server.matching import Offer
from taskyard_server.store.base import Candidate, QueueRecord, TaskRecord

MOST_VERDICTS = 200
SILENT_SECONDS = 30.0
"""Three beats missed: worth a word."""
_AWAY = {
    WorkerState.LOST: "its machine fell silent",
    WorkerState.DRAINING: "its agent is draining: it takes nothing more",
}


def of_queued(
    record: TaskRecord, queue: QueueRecord, position: int, workers: Sequence[Worker], now: float
) -> Explanation:
    """Explains a task in a queue with `position` others before it. Workers that were stopped do not count."""
    present = [worker for worker in workers if worker.state is not WorkerState.STOPPED]
    verdicts = [_verdict(record, queue.name, worker, now) for worker in present]
    watching = [verdict for verdict, worker in zip(verdicts, present, strict=True) if queue.name in worker.queues]
    return Explanation(
        task=record.id,
        state=record.state,
        summary=_summary(queue, position, watching),
        position=position,
        workers=tuple(sorted(verdicts, key=lambda verdict: verdict not in watching))[:MOST_VERDICTS],
    )


def _summary(queue: QueueRecord, position: int, watching: Sequence[WorkerVerdict]) -> str:
    if queue.paused:
        return f"queue {queue.name!r} is paused: resume it with `taskyard queue resume {queue.name!r}`"
    if not watching:
        start = f"`taskyard agent daemon --queue {queue.name!r}`"
        return f"no worker watches queue {queue.name!r}: start one with {start}"
    able = [verdict for verdict in watching if verdict.fits]
    if not able:
        reasons = "; ".join(f"{verdict.worker}: {verdict.reason}" for verdict in watching[:3])
        return f"none of the {len(watching)} workers of queue {queue.name!r} can take it ({reasons})"
    ahead = "it is the next" if position == 0 else f"{position} stand before it"
    if any(verdict.reason == _IDLE for verdict in able):
        return f"{ahead} in queue {queue.name!r}; a worker is idle and takes it as soon as it asks"
    return f"{ahead} in queue {queue.name!r}; its {len(able)} fitting workers are busy"


_IDLE = "idle"


def _verdict(record: TaskRecord, queue: str, worker: Worker, now: float) -> WorkerVerdict:
    reason = _obstacle(record, queue, worker)
    if reason is not None:
        return WorkerVerdict(worker=worker.name, fits=False, reason=reason)
    words = f"busy with {worker.runs[0].partition('.')[0]}" if worker.runs else _IDLE
    silent = now - worker.last_seen_at
    if silent > SILENT_SECONDS:
        words = f"{words}, and not heard of for {silent:.0f} s"
    return WorkerVerdict(worker=worker.name, fits=True, reason=words)


def _obstacle(record: TaskRecord, queue: str, worker: Worker) -> str | None:
    if queue not in worker.queues:
        watched = ", ".join(worker.queues) or "none"
        return f"does not watch queue {queue!r} (it watches {watched})"
    if worker.state in _AWAY:
        return _AWAY[worker.state]
    if worker.paused_reason or worker.state is WorkerState.PAUSED:
        return f"paused: {worker.paused_reason or 'by its agent'}"
    whole = Offer(worker=worker.name, free=worker.total, total=worker.total)
    return matching.misfit(Candidate(resources=record.spec.resources, avoid=record.avoid), whole)


def of_others(record: TaskRecord, now: float) -> Explanation:
    """Explains a task that stands in no queue."""
    return Explanation(task=record.id, state=record.state, summary=_words(record, now))


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
