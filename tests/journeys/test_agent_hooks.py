"""The operator's programs around tasks."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from taskyard.wire import NewTask, OutcomeKind, Phase, Reason, TaskSpec, TaskState

from tests.support.agents import wait_until
from tests.support.yard import Yard


def hook(folder: Path, name: str, script: str) -> Path:
    """Writes a hook; returns its file."""
    folder.mkdir(mode=0o755, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    return tmp_path / "hooks"


def test_hooks_are_run_in_their_order_and_told_what_for(yard: Yard, hooks: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    for name in ("start", "before-checkout", "before-run", "after-run", "stop"):
        hook(hooks, name, f'echo "$TASKYARD_HOOK $TASKYARD_WORKER $TASKYARD_RUN $TASKYARD_OUTCOME" >>{lines}')
    task = yard.submit("sh", "-c", f"echo task >>{lines}")

    with yard.agent("--hooks", str(hooks)) as agent:
        yard.wait_for_end(task)
        agent.stop()
    run = yard.run(task).id

    assert [line.split() for line in lines.read_text().splitlines()] == [
        ["start", "tester"],
        ["before-checkout", "tester", run],
        ["before-run", "tester", run],
        ["task"],
        ["after-run", "tester", run, "completed"],
        ["stop", "tester"],
    ]


def test_hooks_stand_beside_the_users_configuration(yard: Yard, tmp_path: Path) -> None:
    """Where nothing else is said."""
    (tmp_path / "config" / "taskyard").mkdir(parents=True)
    hook(tmp_path / "config" / "taskyard" / "hooks", "before-run", "echo from the hook")
    task = yard.submit("true")

    with yard.agent(folder=tmp_path):
        yard.wait_for_end(task)

    assert b"from the hook\n" in yard.client.read_log(yard.run(task).id, offset=0).data


@pytest.mark.parametrize(
    ("name", "phase"), [("before-checkout", Phase.CHECKOUT), ("before-run", Phase.ENVIRONMENT)]
)
def test_a_failing_hook_before_a_run_is_the_machines_fault(
    yard: Yard, hooks: Path, name: str, phase: Phase
) -> None:
    hook(hooks, name, "echo checking; echo scratch disk is missing; exit 3")
    task = yard.submit("true")

    with yard.agent("--hooks", str(hooks)):
        wait_until(lambda: yard.task(task).run_count and yard.runs(task)[0].outcome)
    outcome = yard.runs(task)[0].outcome

    assert outcome is not None
    assert (outcome.reason, outcome.phase, outcome.infrastructure) == (Reason.HOOK, phase, True)
    assert outcome.message == f"the hook {name!r} failed, exit code 3: scratch disk is missing"


def test_a_failing_hook_after_a_run_is_told_and_changes_nothing(yard: Yard, hooks: Path) -> None:
    hook(hooks, "after-run", "echo cannot archive; exit 1")
    task = yard.submit("true")

    with yard.agent("--hooks", str(hooks)):
        (task,) = yard.wait_for_end(task)
    notes = [event.detail for event in yard.client.story(task.id).events if event.kind == "note"]

    assert task.state is TaskState.COMPLETED
    assert notes == ["the hook 'after-run' failed, exit code 1: cannot archive"]
    assert "cannot archive\n" in yard.text(task)


def test_the_hook_after_a_failed_run_learns_its_outcome(yard: Yard, hooks: Path) -> None:
    hook(hooks, "after-run", 'echo "it was $TASKYARD_OUTCOME"')
    task = yard.submit("false")

    with yard.agent("--hooks", str(hooks)):
        yard.wait_for_end(task)

    assert yard.text(task) == "it was failed\n"


def test_an_agent_whose_start_hook_fails_does_not_start(yard: Yard, hooks: Path) -> None:
    hook(hooks, "start", "echo no driver; exit 1")

    with yard.agent("--hooks", str(hooks)) as agent:
        assert agent.wait() == 1
        assert "the agent does not start: the hook 'start' failed, exit code 1: no driver" in agent.log


def test_a_hook_that_takes_too_long_is_ended(yard: Yard, hooks: Path) -> None:
    hook(hooks, "before-run", "sleep 100")
    task = yard.submit("true")

    with yard.agent("--hooks", str(hooks), "--hook-timeout", "1s"):
        wait_until(lambda: yard.task(task).run_count and yard.runs(task)[0].outcome)
    outcome = yard.runs(task)[0].outcome

    assert outcome is not None
    assert outcome.message == "the hook 'before-run' took more than 1 s and was ended"


def test_a_cancelled_run_does_not_wait_for_its_hook(yard: Yard, hooks: Path, tmp_path: Path) -> None:
    hook(hooks, "before-run", f"touch {tmp_path}/began; sleep 100")
    task = yard.submit("true")

    with yard.agent("--hooks", str(hooks)):
        wait_until((tmp_path / "began").exists)
        yard.client.stop_task(task.id)
        yard.wait_for_end(task)
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert outcome.kind is OutcomeKind.CANCELLED


@pytest.mark.parametrize("loose", ["folder", "file"])
def test_a_hook_that_others_may_change_is_refused(yard: Yard, hooks: Path, loose: str) -> None:
    file = hook(hooks, "start", "true")
    (hooks if loose == "folder" else file).chmod(0o777)

    with yard.agent("--hooks", str(hooks)) as agent:
        assert agent.wait() == 1
        assert "others may change" in agent.log
        assert "chmod go-w" in agent.log


def test_a_hook_sees_neither_secrets_nor_the_agents_token(yard: Yard, hooks: Path, tmp_path: Path) -> None:
    for name in ("before-checkout", "before-run", "after-run"):
        hook(hooks, name, f"env >>{tmp_path}/seen")
    spec: TaskSpec = yard.submit("true", queue=None).spec
    new = NewTask(spec=spec, queue="default", secret_values={"API_KEY": "s3cr3t-value"})
    task = yard.client.create_task(new)

    with yard.agent("--hooks", str(hooks)) as agent:
        token = agent._token
        yard.wait_for_end(task)
    seen = (tmp_path / "seen").read_text()

    assert f"TASKYARD_RUN={yard.run(task).id}" in seen
    assert "s3cr3t-value" not in seen
    assert token not in seen
    assert "TASKYARD_TOKEN" not in seen


def test_a_daemon_that_hands_over_does_not_run_its_stop_hook(yard: Yard, hooks: Path, tmp_path: Path) -> None:
    hook(hooks, "stop", f"touch {tmp_path}/stopped")

    with yard.agent("--hooks", str(hooks)) as agent:
        wait_until(lambda: yard.client.workers())
        agent.signal(signal.SIGUSR1)
        agent.wait()

    assert not (tmp_path / "stopped").exists()
