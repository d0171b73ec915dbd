from pathlib import Path

import pytest
from taskyard.wire import Phase, PhaseTime
from taskyard_agent.clock import ServerClock
from taskyard_agent.endings import last_exception
from taskyard_agent.phases import PhaseLog


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", ""),
        ("all is well\n", ""),
        (
            'Traceback (most recent call last):\n  File "a.py", line 1\n    f()\nValueError: bad lr\n',
            "ValueError: bad lr",
        ),
        ("Traceback (most recent call last):\n  ...\nKeyboardInterrupt\n", "KeyboardInterrupt"),
        (
            "Traceback (most recent call last):\n  x\nKeyError: 1\n\nDuring handling …\n\n"
            "Traceback (most recent call last):\n  y\npkg.mod.MyError: second\n",
            "pkg.mod.MyError: second",
        ),
    ],
)
def test_the_last_exception_of_a_log_is_found(tmp_path: Path, log: str, expected: str) -> None:
    spool = tmp_path / "output.log"
    spool.write_text(log)

    assert last_exception(spool) == expected


def test_entering_a_phase_ends_the_one_before() -> None:
    phases = PhaseLog(ServerClock(), (PhaseTime(phase=Phase.CLAIMED, started_at=0.0),))

    phases.enter(Phase.CHECKOUT)

    assert phases.current is Phase.CHECKOUT
    assert [time.seconds is None for time in phases.times] == [False, True]


def test_closing_ends_the_last_phase() -> None:
    phases = PhaseLog(ServerClock(), (PhaseTime(phase=Phase.CLAIMED, started_at=0.0),))

    assert all(time.seconds is not None for time in phases.close())
