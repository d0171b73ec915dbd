"""What a run is given, and what is kept of it: C06, C08, C12, C15, C19, I07, I08, K11."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from taskyard.wire import (
    Code,
    Command,
    CommandKind,
    Environment,
    NewTask,
    OutcomeKind,
    Phase,
    Policy,
    Reason,
    RequirementsKind,
    TaskSpec,
    TaskState,
    WorkerState,
)

from tests.support.agents import wait_until
from tests.support.yard import Yard


def test_a_task_sees_its_variables_and_nothing_secret_of_the_agent(yard: Yard) -> None:
    source = "import os; print(os.environ['COLOUR'], 'TASKYARD_LOCAL_DIR' in os.environ, 'HISTFILE' in os.environ)"
    task = yard.python(source, env={"COLOUR": "green"})

    with yard.agent(variables={"HISTFILE": "x"}):
        yard.wait_for_end(task)

    assert yard.text(task) == "green False False\n"


def test_pass_env_lets_a_task_see_more(yard: Yard) -> None:
    task = yard.python("import os; print(os.environ['MLFLOW_URI'])")

    with yard.agent("--pass-env", "MLFLOW_*", variables={"MLFLOW_URI": "there"}):
        yard.wait_for_end(task)

    assert yard.text(task) == "there\n"


def test_a_secret_reaches_the_task_and_is_masked_in_its_log(yard: Yard) -> None:
    command = Command(kind=CommandKind.EXECUTABLE, target="sh", args=("-c", "echo key=$API_KEY; echo ${#API_KEY}"))
    spec = TaskSpec(command=command, environment=Environment(manager="inherit"))  # type: ignore[arg-type]
    new = NewTask(spec=spec, queue="default", secret_values={"API_KEY": "s3cr3t-value"})
    task = yard.client.create_task(new)

    with yard.agent() as agent:
        yard.wait_for_end(task)

    assert yard.text(task) == "key=***\n12\n"
    assert "s3cr3t-value" not in agent.log
    assert "s3cr3t-value" not in str(yard.client.task(task.id))


def test_a_failure_says_exit_code_phase_and_the_last_exception(yard: Yard) -> None:
    task = yard.python("import sys; raise ValueError('bad learning rate')")

    with yard.agent():
        yard.wait_for_end(task)
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert (outcome.kind, outcome.reason, outcome.phase) == (OutcomeKind.FAILED, Reason.EXIT, Phase.RUNNING)
    assert outcome.message == "exit code 1: ValueError: bad learning rate"


def test_a_command_that_ends_by_a_signal_says_which(yard: Yard) -> None:
    task = yard.python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")

    with yard.agent():
        yard.wait_for_end(task)
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert (outcome.reason, outcome.signal) == (Reason.SIGNAL, signal.SIGSEGV)


def test_an_executable_that_is_not_there_is_named(yard: Yard) -> None:
    task = yard.submit("no-such-program")

    with yard.agent():
        yard.wait_for_end(task)
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert outcome.reason is Reason.COMMAND
    assert "'no-such-program'" in outcome.message


def test_a_bad_requirement_fails_in_the_environment_with_the_resolvers_words(yard: Yard) -> None:
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("no-such-package-zzz==1.0",))
    task = yard.python("print('never')", environment=wanted)

    with yard.agent():
        yard.wait_for_end(task, seconds=120)
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert outcome.phase is Phase.ENVIRONMENT
    assert "no-such-package-zzz" in outcome.message


def test_every_phase_of_a_run_is_timed_in_order(yard: Yard) -> None:
    task = yard.submit("true")

    with yard.agent():
        yard.wait_for_end(task)
    phases = yard.run(task).phases

    assert [time.phase for time in phases] == [phase for phase in Phase if phase is not Phase.CONTAINER]
    assert all(time.seconds is not None for time in phases)


def test_the_story_tells_from_created_to_the_end(yard: Yard) -> None:
    task = yard.submit("true")

    with yard.agent():
        yard.wait_for_end(task)
    kinds = [event.kind for event in yard.client.story(task.id).events]

    assert kinds[:3] == ["created", "enqueued", "claimed"]
    assert kinds.index("claimed") < kinds.index("started") < len(kinds) - 1


def test_a_cancel_reaches_the_process_as_sigterm(yard: Yard) -> None:
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told to end'), sys.exit(0)))\n"
        "print('ready')\n"
        "time.sleep(60)"
    )
    task = yard.python(source)

    with yard.agent():
        yard.wait_for_output(task, "ready")
        yard.client.stop_task(task.id)
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.CANCELLED
    assert "told to end" in yard.text(task)


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(yard: Yard) -> None:
    source = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    task = yard.python(source, policy=Policy(grace_seconds=0.3))

    with yard.agent():
        yard.wait_for_output(task, "ready")
        yard.client.stop_task(task.id)
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.CANCELLED


def test_a_stopped_task_can_go_back_to_its_queue(yard: Yard) -> None:
    task = yard.python("import time; print('ready'); time.sleep(60)", policy=Policy(grace_seconds=0.3))

    with yard.agent() as agent:
        yard.wait_for_output(task, "ready")
        agent.signal(signal.SIGTERM)
        yard.client.stop_task(task.id, requeue=True)
        assert agent.wait() == 0

    assert yard.task(task).state is TaskState.QUEUED


def test_a_timeout_ends_the_command_and_says_so(yard: Yard) -> None:
    task = yard.submit("sleep", "60", policy=Policy(timeout_seconds=0.3, grace_seconds=0.3))

    with yard.agent():
        yard.wait_for_end(task)
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert outcome.reason is Reason.TIMEOUT


def test_a_failed_task_is_retried_as_often_as_it_asks_for(yard: Yard, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    task = yard.submit("sh", "-c", f"test -e {flag} || {{ touch {flag}; exit 3; }}", policy=Policy(retries=2))

    with yard.agent():
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.COMPLETED
    assert ended.retries_used == 1


def test_a_failed_task_runs_again_when_a_person_retries_it(yard: Yard, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    task = yard.submit("test", "-e", str(flag))

    with yard.agent():
        yard.wait_for_end(task)
        flag.touch()
        yard.client.retry_task(task.id)
        wait_until(lambda: yard.task(task).run_count == 2)
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.COMPLETED


def test_a_run_of_some_seconds_is_measured_too(yard: Yard) -> None:
    with yard.agent():
        wait_until(yard.client.workers, what="a worker")
        task = yard.python("import time; time.sleep(5)")
        yard.wait_for_end(task)

    assert "memory_bytes" in {series.name for series in yard.client.run_metrics(yard.run(task).id)}


def test_the_worker_and_the_run_are_measured(yard: Yard) -> None:
    task = yard.python("import time; x = bytearray(50_000_000); time.sleep(60)", policy=Policy(grace_seconds=0.3))

    with yard.agent(name="measured"):
        yard.wait_for_state(task, TaskState.RUNNING)
        wait_until(lambda: yard.client.run_metrics(yard.run(task).id), seconds=40, what="measurements of the run")
        names = {series.name for series in yard.client.worker_metrics("measured")}
        memory = [s for s in yard.client.run_metrics(yard.run(task).id) if s.name == "memory_bytes"]
        yard.client.stop_task(task.id)
        yard.wait_for_end(task)

    assert {"cpu_percent", "memory_bytes", "disk_percent"} <= names
    assert memory[0].points[-1].maximum > 50_000_000


def test_draining_waits_for_the_run_and_takes_nothing_more(yard: Yard) -> None:
    running = yard.python("import time; print('ready'); time.sleep(1); print('done')")
    waiting = yard.submit("true")

    with yard.agent(name="leaver") as agent:
        yard.wait_for_output(running, "ready")
        assert agent.stop() == 0

    assert yard.task(running).state is TaskState.COMPLETED
    assert yard.task(waiting).state is TaskState.QUEUED
    assert yard.client.worker("leaver").state is WorkerState.STOPPED


def test_the_second_signal_gives_the_run_back_with_grace(yard: Yard) -> None:
    task = yard.python("import time; print('ready'); time.sleep(60)", policy=Policy(grace_seconds=0.5))

    with yard.agent() as agent:
        yard.wait_for_output(task, "ready")
        agent.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in agent.log)
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0

    assert yard.task(task).state is TaskState.QUEUED
    assert yard.runs(task)[0].outcome.reason is Reason.AGENT_STOPPED  # type: ignore[union-attr]


def test_an_agent_handed_over_leaves_its_run_to_the_next_daemon(yard: Yard) -> None:
    task = yard.python("import time\nfor i in range(20): print(i); time.sleep(0.1)")

    with yard.agent() as agent:
        yard.wait_for_output(task, "3")
        agent.signal(signal.SIGUSR1)
        assert agent.wait() == 0
        agent.start()
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.COMPLETED
    assert ended.run_count == 1
    assert yard.text(task) == "".join(f"{number}\n" for number in range(20))


@pytest.mark.parametrize("kind", [CommandKind.MODULE, CommandKind.EXECUTABLE])
def test_modules_and_executables_run_too(yard: Yard, kind: CommandKind) -> None:
    target = "this" if kind is CommandKind.MODULE else sys.executable
    args = () if kind is CommandKind.MODULE else ("-m", "this")
    spec = TaskSpec(
        command=Command(kind=kind, target=target, args=args),
        environment=Environment(manager="inherit"),  # type: ignore[arg-type]
        code=Code(),
    )
    task = yard.client.create_task(NewTask(spec=spec, queue="default"))

    with yard.agent():
        yard.wait_for_end(task)

    assert "Beautiful is better than ugly" in yard.text(task)
