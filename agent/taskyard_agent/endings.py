"""How a run ended: from what its keeper recorded, or did not, to an outcome."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from taskyard.wire import Outcome, OutcomeKind, Phase, Reason

from .held import Cause, ExitRecord

ENDED_BY_US = {
    Cause.CANCELLED: (OutcomeKind.CANCELLED, Reason.CANCELLED),
    Cause.TIMEOUT: (OutcomeKind.FAILED, Reason.TIMEOUT),
    Cause.EXCLUSIVE: (OutcomeKind.LOST, Reason.EXCLUSIVE),
    Cause.MEMORY: (OutcomeKind.FAILED, Reason.MEMORY),
    Cause.IDLE_GPU: (OutcomeKind.FAILED, Reason.IDLE_GPU),
    Cause.AGENT_STOPPED: (OutcomeKind.LOST, Reason.AGENT_STOPPED),
    Cause.NOT_STARTED: (OutcomeKind.FAILED, Reason.COMMAND),
}


def outcome_of(record: ExitRecord, spool: Path) -> Outcome:
    """The outcome of a command that ended while its keeper looked on; `spool` is the run's log."""
    if record.cause in ENDED_BY_US:
        kind, reason = ENDED_BY_US[record.cause]
    elif record.exit_code == 0:
        kind, reason = OutcomeKind.COMPLETED, Reason.EXIT
    else:
        kind, reason = OutcomeKind.FAILED, Reason.SIGNAL if record.signal else Reason.EXIT
    return Outcome(
        kind=kind,
        reason=reason,
        phase=Phase.RUNNING,
        exit_code=record.exit_code,
        signal=record.signal,
        message=record.message or _last_words(kind, record, spool),
    )


def stopped(cause: Cause, phase: Phase) -> Outcome:
    """The outcome of a run that was ended before its command was started."""
    kind, reason = ENDED_BY_US[cause]
    return Outcome(kind=kind, reason=reason, phase=phase, message="stopped before its process was started")


def lost_with_keeper(survivors: Sequence[int]) -> Outcome:
    """The outcome of a run whose keeper was killed; `survivors` could not be ended."""
    left = f"; these processes could not be ended: {' '.join(map(str, survivors))}" if survivors else ""
    return Outcome(
        kind=OutcomeKind.LOST,
        reason=Reason.KEEPER,
        phase=Phase.RUNNING,
        message=f"the process that held this run was killed; what was left of the task was ended{left}",
        infrastructure=True,
    )


def lost_with_machine() -> Outcome:
    """The outcome of a run that a restart of the machine ended."""
    return Outcome(
        kind=OutcomeKind.LOST,
        reason=Reason.REBOOT,
        phase=Phase.RUNNING,
        message="the machine restarted while the run was held",
        infrastructure=True,
    )


def _last_words(kind: OutcomeKind, record: ExitRecord, spool: Path) -> str:
    if kind is not OutcomeKind.FAILED:
        return ""
    end = f"ended by signal {record.signal}" if record.signal else f"exit code {record.exit_code}"
    error = last_exception(spool)
    return f"{end}: {error}" if error else end


LAST_LINE = re.compile(rb"^([A-Za-z_][\w.]*(?:: .*)?)$", re.MULTILINE)


def last_exception(spool: Path, window_bytes: int = 16384) -> str:
    """Returns the last line of the Python traceback at the end of a log, or an empty string."""
    if not spool.exists():
        return ""
    with spool.open("rb") as file:
        file.seek(max(0, spool.stat().st_size - window_bytes))
        tail = file.read()
    _, found, after = tail.rpartition(b"Traceback (most recent call last):")
    if not found:
        return ""
    lines = LAST_LINE.findall(after)
    return lines[0].decode(errors="replace")[:500] if lines else ""
