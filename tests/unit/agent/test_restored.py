"""What an agent keeps of ended runs, and when it tells a server that was restored from a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from taskyard.wire import (
    BeatAnswer,
    Claim,
    Command,
    KeptRun,
    Outcome,
    OutcomeKind,
    Phase,
    Reason,
    Run,
    Task,
    TaskSpec,
    TaskState,
)
from taskyard_agent import journal as journal_module
from taskyard_agent.journal import Journal, RunProgress
from taskyard_agent.restored import Restored

COMPLETED = Outcome(kind=OutcomeKind.COMPLETED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=0)


def claimed(journal: Journal, number: int) -> str:
    task = f"{number:032x}"
    run = Run(id=f"{task}.1", task=task, number=1, worker="w", claimed_at=1.0)
    spec = TaskSpec(command=Command(target="train.py"))
    claim = Claim(
        run=run,
        task=Task(id=task, spec=spec, state=TaskState.PREPARING, created_at=1.0, updated_at=1.0),
        secrets={},
        lease_seconds=60.0,
    )
    journal.save_run(claim, journal.draw_claim())
    return run.id


def ended(journal: Journal, number: int, at: float) -> str:
    run = claimed(journal, number)
    journal.save_progress(run, RunProgress(started=True, outcome=COMPLETED, log_bytes=5))
    journal.remember_end(run, at)
    journal.close_run(run)
    return run


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path, "w")
    made.open()
    return made


def answer(generation: int, copied_at: float | None = None) -> BeatAnswer:
    return BeatAnswer(server_time=1.0, lease_seconds=60.0, generation=generation, copied_at=copied_at)


def test_an_end_is_kept_beyond_the_runs_folder_and_a_restart(journal: Journal, tmp_path: Path) -> None:
    early, late = ended(journal, 1, 10.0), ended(journal, 2, 20.0)
    living = claimed(journal, 3)
    journal.close()

    again = Journal(tmp_path, "w")
    again.open()

    kept = again.kept_runs(15.0)
    assert [(run.run.id, run.outcome, run.ended_at) for run in kept] == [
        (living, None, None),
        (late, COMPLETED, 20.0),
    ]
    assert early in {run.run.id for run in again.kept_runs(5.0)}
    assert all(run.started for run in kept if run.outcome)
    again.close()


def test_only_the_newest_ends_are_kept(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MOST_ENDED", 3)

    for number in range(10):
        ended(journal, number, float(number))

    assert len(journal.kept_runs(0.0)) == 3


def test_a_server_that_was_not_restored_is_told_nothing(journal: Journal) -> None:
    ended(journal, 1, 10.0)
    asked: list[str] = []
    restored = Restored(kept=journal.kept_runs, on_restore=lambda: asked.append("offsets"))

    for generation in (0, 1, 1, 0, 1):
        assert not restored.learn(answer(generation))

    assert restored.portion() == ()
    assert asked == []


def test_a_restored_server_is_told_once_for_the_logs_and_again_and_again_for_the_runs(journal: Journal) -> None:
    ended(journal, 1, 10.0)
    asked: list[str] = []
    restored = Restored(kept=journal.kept_runs, on_restore=lambda: asked.append("offsets"))
    restored.learn(answer(1))

    assert restored.learn(answer(500, copied_at=5.0))
    assert not restored.learn(answer(500, copied_at=5.0))

    assert asked == ["offsets"]
    assert len(restored.portion()) == len(restored.portion()) == 1
    restored.learn(answer(500))
    assert restored.portion() == ()


def test_what_is_too_much_for_one_beat_is_told_in_portions(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {ended(journal, number, 10.0) for number in range(7)}
    monkeypatch.setattr("taskyard_agent.restored.PORTION_BYTES", 2500)
    restored = Restored(kept=journal.kept_runs, on_restore=lambda: None)
    restored.learn(answer(500, copied_at=5.0))

    told: list[KeptRun] = []
    portions = 0
    while {run.run.id for run in told} != runs and portions < 10:
        told += restored.portion()
        portions += 1

    assert 1 < portions < 8
    assert len(told) == 7
