"""What a script that waits for a run sees of its end."""

from __future__ import annotations

import pytest
from taskyard.exit_codes import exit_code
from taskyard.wire import Outcome, OutcomeKind, Phase, Reason


def outcome(kind: OutcomeKind, reason: Reason, **details: object) -> Outcome:
    return Outcome(kind=kind, reason=reason, phase=Phase.RUNNING, **details)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (outcome(OutcomeKind.COMPLETED, Reason.EXIT, exit_code=0), 0),
        (outcome(OutcomeKind.FAILED, Reason.EXIT, exit_code=7), 7),
        (outcome(OutcomeKind.FAILED, Reason.SIGNAL, signal=11), 139),
        (outcome(OutcomeKind.FAILED, Reason.TIMEOUT, signal=15), 124),
        (outcome(OutcomeKind.FAILED, Reason.TIMEOUT, exit_code=0), 124),
        (outcome(OutcomeKind.FAILED, Reason.IDLE_GPU, signal=15), 124),
        (outcome(OutcomeKind.FAILED, Reason.MEMORY, signal=9), 137),
        (outcome(OutcomeKind.FAILED, Reason.MEMORY, exit_code=1), 137),
        (outcome(OutcomeKind.CANCELLED, Reason.CANCELLED, signal=15), 130),
        (outcome(OutcomeKind.LOST, Reason.KEEPER), 125),
        (outcome(OutcomeKind.LOST, Reason.AGENT_STOPPED, signal=15), 125),
        (outcome(OutcomeKind.FAILED, Reason.DISK, infrastructure=True), 125),
        (outcome(OutcomeKind.FAILED, Reason.SIGNAL, signal=9, infrastructure=True), 125),
        (outcome(OutcomeKind.FAILED, Reason.ENVIRONMENT), 125),
        (outcome(OutcomeKind.FAILED, Reason.ENVIRONMENT, exit_code=2), 125),
        (None, 125),
    ],
)
def test_exit_codes_tell_scripts_how_a_run_ended(ended: Outcome | None, code: int) -> None:
    assert exit_code(ended) == code
