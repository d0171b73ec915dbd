import pytest
from taskyard.wire import Outcome, OutcomeKind, Phase, Reason
from taskyard_agent.execute import exit_code


def outcome(kind: OutcomeKind, reason: Reason, **details: object) -> Outcome:
    return Outcome(kind=kind, reason=reason, phase=Phase.RUNNING, **details)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (outcome(OutcomeKind.COMPLETED, Reason.EXIT, exit_code=0), 0),
        (outcome(OutcomeKind.FAILED, Reason.EXIT, exit_code=7), 7),
        (outcome(OutcomeKind.FAILED, Reason.SIGNAL, signal=11), 139),
        (outcome(OutcomeKind.FAILED, Reason.TIMEOUT, signal=15), 124),
        (outcome(OutcomeKind.CANCELLED, Reason.CANCELLED, signal=15), 130),
        (outcome(OutcomeKind.LOST, Reason.KEEPER), 125),
        (outcome(OutcomeKind.FAILED, Reason.DISK, infrastructure=True), 125),
        (outcome(OutcomeKind.FAILED, Reason.ENVIRONMENT), 125),
        (None, 125),
    ],
)
def test_exit_codes_tell_scripts_how_a_run_ended(ended: Outcome | None, code: int) -> None:
    assert exit_code(ended) == code
