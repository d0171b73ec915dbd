"""What agents say of the outputs of a run, as it is kept on the run."""

from __future__ import annotations

from dataclasses import replace

from taskyard.wire import OutcomeKind, OutputsState, RunOutputs

from taskyard_server import lifecycle
from taskyard_server.errors import Conflict, Invalid, Stale
from taskyard_server.store.base import TaskRecord

MOST_SKIPPED = 100
LONGEST_TEXT = 1_000


def checked(outputs: RunOutputs) -> RunOutputs:
    """Returns the report with no more names than are kept. Raises Invalid for numbers that none can be."""
    if min(outputs.files, outputs.bytes, outputs.skipped_files, *(each.size for each in outputs.skipped), 0) < 0:
        raise Invalid("outputs: numbers of files and bytes are 0 or more")
    if not outputs.state.known:
        raise Invalid(f"outputs: {outputs.state} is none of {', '.join(state.value for state in OutputsState)}")
    skipped = tuple(
        replace(each, name=each.name[:LONGEST_TEXT], reason=each.reason[:LONGEST_TEXT])
        for each in outputs.skipped[:MOST_SKIPPED]
    )
    return replace(outputs, skipped=skipped)


def report(record: TaskRecord, run_id: str, outputs: RunOutputs, *, now: float) -> TaskRecord:
    """Notes how far the outputs of a run that has ended have come. Raises Conflict before its end, Stale for a run
    that was lost."""
    run = lifecycle.require_run(record, run_id).run
    if run.outcome is None:
        raise Conflict(f"run {run_id} has not ended: report its end first")
    if run.outcome.kind is OutcomeKind.LOST:
        raise Stale(f"run {run_id} was lost: nothing of it is kept")
    if run.outputs == outputs:
        return record
    entries = tuple(
        replace(entry, run=replace(run, outputs=outputs)) if entry.run.id == run_id else entry
        for entry in record.runs
    )
    record = replace(record, runs=entries, updated_at=now)
    if outputs.state is not OutputsState.KEPT:
        return record
    return lifecycle.tell(record, "outputs_kept", run=run.number, detail=_in_words(outputs), now=now)


def _in_words(outputs: RunOutputs) -> str:
    kept = f"{outputs.files} file{'s' * (outputs.files != 1)}, {outputs.bytes} bytes"
    return f"{kept}; {outputs.skipped_files} not kept" if outputs.skipped_files else kept
