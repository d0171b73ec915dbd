"""How a run ended: from what its keeper recorded, or did not, to an outcome."""

from __future__ import annotations

import dataclasses
import errno
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from taskyard.wire import FinishRequest, Outcome, OutcomeKind, Phase, Reason

from .containers import Ended
from .held import Cause, ExitRecord

ENDED_BY_US = {
    Cause.CANCELLED: (OutcomeKind.CANCELLED, Reason.CANCELLED),
    Cause.TIMEOUT: (OutcomeKind.FAILED, Reason.TIMEOUT),
    Cause.EXCLUSIVE: (OutcomeKind.LOST, Reason.EXCLUSIVE),
    Cause.MEMORY: (OutcomeKind.FAILED, Reason.MEMORY),
    Cause.IDLE_GPU: (OutcomeKind.FAILED, Reason.IDLE_GPU),
    Cause.AGENT_STOPPED: (OutcomeKind.LOST, Reason.AGENT_STOPPED),
    Cause.PREEMPTED: (OutcomeKind.LOST, Reason.AGENT_STOPPED),
    Cause.TIME_LIMIT: (OutcomeKind.FAILED, Reason.TIMEOUT),
    Cause.NOT_STARTED: (OutcomeKind.FAILED, Reason.COMMAND),
}
EXACT = {Cause.PREEMPTED: Reason.PREEMPTED, Cause.TIME_LIMIT: Reason.TIME_LIMIT}
"""Words that servers of before do not know; beside them stand those above, which have the same effect."""


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
        exact=EXACT.get(record.cause),
    )


def outcome_in_container(record: ExitRecord, ended: Ended | None, spool: Path) -> Outcome:
    """The outcome of a container. Its keeper's record is that of the process that was attached to it."""
    if record.cause is not Cause.EXIT:
        return outcome_of(record, spool)
    if ended is not None and ended.running:
        return lost_with_keeper(())
    if record.signal == signal.SIGHUP:
        return lost_with_engine()
    if ended is None:
        return outcome_of(record, spool)
    if not ended.started:
        return _not_started(ended.error)
    if record.signal is not None:
        return lost_with_keeper(())
    if ended.out_of_memory and record.exit_code:
        return _out_of_memory(record)
    if _named_nothing(record, spool):
        message = f"no such executable in the image: {_tail(spool, 300).splitlines()[-1]}"
        return Outcome(kind=OutcomeKind.FAILED, reason=Reason.COMMAND, phase=Phase.RUNNING, message=message)
    return outcome_of(_with_signal(record), spool)


def _not_started(error: str) -> Outcome:
    reason, hint, ours = Reason.CONTAINER, "", True
    if "exec format error" in error:
        reason, hint, ours = Reason.IMAGE, "the image is for another processor than this machine's", False
    elif "executable file not found" in error or "no such file or directory" in error:
        reason, hint, ours = Reason.COMMAND, "the image has no such executable", False
    elif "device driver" in error or "nvidia" in error.lower():
        hint = "the engine cannot give GPUs to containers; install the NVIDIA Container Toolkit"
    message = f"the container could not be started: {error}" + (f" ({hint})" if hint else "")
    return Outcome(
        kind=OutcomeKind.FAILED, reason=reason, phase=Phase.RUNNING, message=message, infrastructure=ours
    )


def _out_of_memory(record: ExitRecord) -> Outcome:
    return Outcome(
        kind=OutcomeKind.FAILED,
        reason=Reason.MEMORY,
        phase=Phase.RUNNING,
        exit_code=record.exit_code,
        message="the container used more memory than it was given; ask for more with --memory",
    )


def _named_nothing(record: ExitRecord, spool: Path) -> bool:
    """Whether the shell, or the first process, said that there is nothing of the command's name."""
    last = _tail(spool, 300).rstrip().rpartition("\n")[2]
    return record.exit_code in (126, 127) and re.match(r"sh: .*exec: |.*\[FATAL tini", last) is not None


def _with_signal(record: ExitRecord) -> ExitRecord:
    """An engine adds 128 to the signal that ended a container, as shells do."""
    number = (record.exit_code or 0) - 128
    if number in set(signal.Signals):
        return dataclasses.replace(record, exit_code=None, signal=number)
    return record


def stopped(cause: Cause, phase: Phase) -> Outcome:
    """The outcome of a run that was ended before its command was started."""
    if cause is Cause.TIME_LIMIT:  # the batch job's: none of its time was the command's
        cause = Cause.PREEMPTED
    kind, reason = ENDED_BY_US[cause]
    message = "stopped before its process was started"
    return Outcome(kind=kind, reason=reason, phase=phase, message=message, exact=EXACT.get(cause))


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


def lost_with_engine() -> Outcome:
    """The outcome of a container that its engine took along when it was stopped or restarted."""
    return Outcome(
        kind=OutcomeKind.LOST,
        reason=Reason.CONTAINER,
        phase=Phase.RUNNING,
        message="the container engine was stopped or restarted, and ended the container with it; Docker's "
        "live-restore keeps containers alive",
        infrastructure=True,
    )


def beyond_capacity(message: str) -> Outcome:
    """The outcome of a run that was claimed but occupies more than its worker has free."""
    return Outcome(
        kind=OutcomeKind.FAILED,
        reason=Reason.INTERNAL,
        phase=Phase.CLAIMED,
        message=f"its worker has no room for it: {message}",
        infrastructure=True,
    )


OF_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the operating system that no task can be blamed for."""


def failed_inside(error: Exception, phase: Phase) -> Outcome:
    """The outcome of a run on whose way the agent itself failed. Only what no task can cause is the machine's."""
    return Outcome(
        kind=OutcomeKind.FAILED,
        reason=Reason.INTERNAL,
        phase=phase,
        message=f"the agent failed, please report it: {type(error).__name__}: {error}",
        infrastructure=isinstance(error, OSError) and error.errno in OF_MACHINE,
    )


def shorter_and_shorter(request: FinishRequest) -> tuple[FinishRequest, ...]:
    """The report of an end, then without its texts, then with kind, reason and exit code alone."""
    outcome = dataclasses.replace(request.outcome, message="")
    bare = Outcome(
        kind=outcome.kind,
        reason=outcome.reason,
        phase=outcome.phase,
        exit_code=outcome.exit_code,
        infrastructure=outcome.infrastructure,
        confirmed=outcome.confirmed,
        exact=outcome.exact,
    )
    kept = dataclasses.replace(request.outputs, skipped=()) if request.outputs is not None else None
    without_texts = dataclasses.replace(request, outcome=outcome, notes=(), outputs=kept)
    return (request, without_texts, dataclasses.replace(without_texts, outcome=bare, phases=()))


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


LAST_LINE = re.compile(r"^([A-Za-z_][\w.]*(?:: .*)?)$", re.MULTILINE)


def last_exception(spool: Path, window_bytes: int = 16384) -> str:
    """Returns the last line of the Python traceback at the end of a log, or an empty string."""
    _, found, after = _tail(spool, window_bytes).rpartition("Traceback (most recent call last):")
    if not found:
        return ""
    lines = LAST_LINE.findall(after)
    return lines[0][:500] if lines else ""


def _tail(spool: Path, window_bytes: int) -> str:
    if not spool.exists():
        return ""
    with spool.open("rb") as file:
        file.seek(max(0, spool.stat().st_size - window_bytes))
        return file.read().decode(errors="replace")
