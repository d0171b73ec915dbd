"""How times, sizes, names and endings are shown."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys

import pytest
from taskyard import wire
from taskyard.cli import changes, guidance, output
from taskyard.cli.app import parse
from taskyard.cli.run import _words, exit_code
from taskyard.cli.story import picture
from taskyard.cli.tasks import _about, note
from taskyard.errors import UsageError
from taskyard.wire import OutcomeKind, Phase, PhaseTime, Reason, TaskState


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42, "42 s"),
        (190, "3m10s"),
        (7500, "2h05m"),
        (273600, "3d04h"),
    ],
)
def test_a_duration_is_as_exact_as_it_matters(seconds: float | None, shown: str) -> None:
    assert output.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (3_400_000, "3.4 MB"), (2e15, "2000.0 TB")]
)
def test_a_size_has_its_unit(count: float, shown: str) -> None:
    assert output.size(count) == shown


def test_names_cannot_command_the_terminal() -> None:
    assert output.clean("\x1b[2Jevil\nname\u202e\u0007 Größe 训练") == "�[2Jevil name�� Größe 训练"


def test_a_table_fits_a_narrow_terminal() -> None:
    rows = [("x" * 100, "y" * 100)]
    code = f"from taskyard.cli.output import print_table; print_table(('ONE', 'TWO'), {rows})"
    outer, inner = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=inner, env={**os.environ, "COLUMNS": "40"}, check=True)

    shown = os.read(outer, 4096).decode()
    os.close(inner)
    os.close(outer)

    lines = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert max(map(len, lines)) <= 40


def test_a_narrow_terminal_takes_nothing_from_an_id(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    made = output.table(("NAME", "ID", "NOTE"), [("x" * 60, "0123abcd", "y" * 60)])

    print(made)

    _, row = capfd.readouterr().out.splitlines()
    assert "  0123abcd  " in row
    assert len(row) == 30


def test_a_narrow_terminal_goes_without_the_columns_that_say_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ("NAME", "DESCRIPTION", "ID"), [("default", "", "0123abcd"), ("services", "", "4567cdef")]

    monkeypatch.setenv("COLUMNS", "20")
    print(output.table(*made))
    monkeypatch.setenv("COLUMNS", "80")
    print(output.table(*made))

    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert lines[:2] == [["NAME", "ID"], ["default", "0123abcd"]]
    assert lines[3] == ["NAME", "DESCRIPTION", "ID"]


def test_a_narrow_terminal_cuts_the_name_of_a_column_before_what_is_below_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "21")

    print(output.table(("NAME", "WAITING", "RUNNING"), [("default", "12", "0")]))

    assert [line.split() for line in capfd.readouterr().out.splitlines()] == [
        ["NAME", "WAIT…", "RUNN…"],
        ["default", "12", "0"],
    ]


def test_assignments_keep_everything_behind_the_first_sign() -> None:
    assert changes.assignments(["A=b=c", "B="], "--env") == {"A": "b=c", "B": ""}


@pytest.mark.parametrize("text", ["A", "=b", "A B=c"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        changes.assignments([text], "--env")


def test_an_ending_in_many_lines_is_told_by_its_first() -> None:
    outcome = wire.Outcome(
        kind=OutcomeKind.FAILED,
        reason=Reason.ENVIRONMENT,
        phase=Phase.ENVIRONMENT,
        message="requirements.txt:3: nosuchpackage==9\nuv ended with 1:\nno solution found",
    )

    assert _words(outcome) == "environment: requirements.txt:3: nosuchpackage==9"


def test_a_story_draws_each_phase_at_its_place() -> None:
    phases = [
        PhaseTime(phase=Phase.CLAIMED, started_at=100.0, seconds=5.0),
        PhaseTime(phase=Phase.RUNNING, started_at=105.0, seconds=None),
    ]

    first, second = picture(phases, now=110.0)

    assert first.endswith("  " + "█" * 15)
    assert second.endswith("  " + " " * 15 + "█" * 15 + " …")


def test_no_phases_are_no_picture() -> None:
    assert list(picture([], now=0.0)) == []


# --- endings


def ended(state: TaskState, reason: Reason, exit_code: int | None = None, signal: int | None = None) -> wire.Task:
    kind = OutcomeKind.COMPLETED if state is TaskState.COMPLETED else OutcomeKind.FAILED
    outcome = wire.Outcome(kind=kind, reason=reason, phase=Phase.RUNNING, exit_code=exit_code, signal=signal)
    run = wire.Run(id="t.1", task="t", number=1, worker="w", outcome=outcome)
    return wire.Task(id="t", spec=wire.TaskSpec(), state=state, created_at=0.0, updated_at=0.0, run=run)


ENDINGS = [
    (ended(TaskState.COMPLETED, Reason.EXIT, 0), 0, ""),
    (ended(TaskState.FAILED, Reason.EXIT, 3), 3, "exit 3"),
    (ended(TaskState.FAILED, Reason.SIGNAL, None, 9), 137, "signal 9"),
    (ended(TaskState.FAILED, Reason.TIMEOUT, None, 15), 124, "timeout"),
    (ended(TaskState.FAILED, Reason.MEMORY, None, 9), 137, "memory"),
    (ended(TaskState.CANCELLED, Reason.CANCELLED, None, 15), 130, ""),
    (ended(TaskState.FAILED, Reason.ENVIRONMENT), 125, "environment"),
    (ended(TaskState.FAILED, Reason.LEASE), 125, "lease"),
    (ended(TaskState.DRAFT, Reason.EXIT, 1), 130, ""),
]


@pytest.mark.parametrize(("task", "code", "word"), ENDINGS)
def test_an_ending_has_its_exit_code_and_its_word(task: wire.Task, code: int, word: str) -> None:
    assert task.run is not None
    assert exit_code(task.run.outcome, task) == code
    assert note(task) == word


def test_a_task_that_is_shown_says_all_that_it_asks_for() -> None:
    spec = wire.TaskSpec(
        resources=wire.Resources(gpus=2, memory_bytes=500 * 1024**2, requires={"site": "north"}),
        container=wire.Container(image="torch:2"),
        policy=wire.Policy(retries=3, timeout_seconds=7200, max_idle_gpu_seconds=600),
    )
    task = wire.Task(id="1" * 32, spec=spec, state=TaskState.DRAFT, created_at=0, updated_at=0)

    shown = dict(_about(task))

    assert shown["asks for"] == "2 GPUs, 500 MiB of memory, site=north"
    assert (shown["container"], shown["retries"]) == ("torch:2", 3)
    assert (shown["timeout"], shown["idle gpu"]) == ("2h00m", "10m00s")


@pytest.mark.parametrize("queue", [None, "long runs"])
@pytest.mark.parametrize("state", TaskState)
def test_what_to_type_next_can_be_typed(state: TaskState, queue: str | None) -> None:
    run = wire.Run(id="1.1", task="1", number=1, worker="w", log_bytes=5)
    task = wire.Task(
        id="1f3a" * 8, spec=wire.TaskSpec(), state=state, created_at=0, updated_at=0, queue=queue, run=run
    )

    lines = [line for line, _ in guidance.next_commands(task)]

    assert lines
    for line in lines:
        parse(shlex.split(line))


def test_a_failed_task_leads_to_its_log_and_to_the_next_attempt() -> None:
    task, _, _ = ENDINGS[1]

    assert [line for line, _ in guidance.next_commands(task)] == ["clone t --queue QUEUE"]
