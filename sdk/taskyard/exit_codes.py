"""With which code a program ends that waited for a run: `run --wait` and `agent execute` alike."""

from __future__ import annotations

import signal

from taskyard.wire import Outcome, OutcomeKind, Reason

TIMEOUT = 124
TASKYARD = 125
CANCELLED = 130
OF_SIGNALS = 128
"""Added to a signal's number, as shells do."""
KILLED = OF_SIGNALS + getattr(signal, "SIGKILL", 9)  # Windows has a name for few signals
_LIMITS = {Reason.TIMEOUT: TIMEOUT, Reason.IDLE_GPU: TIMEOUT, Reason.MEMORY: KILLED}
"""Whatever the command still did when its limit ended it: it may even have ended well."""


def exit_code(outcome: Outcome | None) -> int:
    """The command's own code, or what else became of it.

    128 + signal; 124 for its limits of time; 137, the kernel's way, for its limit of memory; 130 where it was
    cancelled; 125 where Taskyard or the machine failed it, or it could not even be started.
    """
    if outcome is None or outcome.kind is OutcomeKind.LOST or outcome.infrastructure:
        return TASKYARD
    if outcome.kind is OutcomeKind.CANCELLED:
        return CANCELLED
    if outcome.reason in _LIMITS:
        return _LIMITS[outcome.reason]
    if outcome.reason is Reason.SIGNAL and outcome.signal is not None:
        return OF_SIGNALS + outcome.signal
    if outcome.reason is Reason.EXIT and outcome.exit_code is not None:
        return outcome.exit_code
    return TASKYARD
