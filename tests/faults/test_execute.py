"""`agent execute` is killed, or loses the server at its very end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import OutcomeKind, Policy, Reason
from taskyard_agent.keeper.processes import marked

from tests.faults.conftest import Faulty
from tests.faults.witness import Witness
from tests.support.agents import AgentProcess, end_leftovers, wait_until
from tests.support.relay import Relay


@pytest.fixture
def agent(patient: Faulty) -> Iterator[AgentProcess]:
    """The folder of a machine on which no daemon runs yet."""
    with contextlib.ExitStack() as stack:
        agent = patient.agent()
        stack.push(agent)
        yield agent


@contextlib.contextmanager
def executing(agent: AgentProcess, witness: Witness) -> Iterator[subprocess.Popen[bytes]]:
    """An execute of that task, whose command has begun."""
    with agent.execute(witness.task.id, stdout=subprocess.PIPE) as process:
        try:
            witness.wait_for_start()
            yield process
        finally:
            process.kill()
            end_leftovers(f"{witness.task.id}.1")


def executes(agent: AgentProcess) -> list[Path]:
    """The folders of executes."""
    return [path for path in (agent.cache / "executes").glob("*/*/*") if path.is_dir()]


def test_what_a_killed_execute_left_is_ended_before_its_task_runs_again(
    patient: Faulty, agent: AgentProcess
) -> None:
    witness = patient.witness()

    with executing(agent, witness) as process:
        process.kill()
        with agent:
            witness.wait_for_start(2)
            assert not marked(f"{witness.task.id}.1")
            witness.ends_once(runs=2, starts=2)
            assert executes(agent) == []

    first = patient.runs(witness.task)[0].outcome
    assert first is not None
    assert (first.kind, first.reason) == (OutcomeKind.LOST, Reason.AGENT_STOPPED)


def test_a_daemon_s_own_runs_do_not_wait_for_the_end_of_what_a_killed_execute_left(
    patient: Faulty, agent: AgentProcess
) -> None:
    own = patient.witness()
    with agent:
        own.wait_for_start()
        witness = patient.witness(queue=None, policy=Policy(grace_seconds=60), stubborn=True)
        with executing(agent, witness) as process:
            process.kill()
            agent.restart()
            waiting = patient.witness(lines=1)
            own.ends_once(starts=1)
            assert marked(f"{witness.task.id}.1")
            assert patient.task(waiting.task).run is None
            witness.let_go()
            waiting.ends_once(starts=1)


def test_what_ended_after_its_execute_was_killed_keeps_its_true_end(patient: Faulty, agent: AgentProcess) -> None:
    witness = patient.witness()

    with executing(agent, witness) as process:
        process.kill()
        witness.let_go()
        wait_until(lambda: not marked(f"{witness.task.id}.1"))
        with agent:
            witness.ends_once(starts=1)


def test_a_closed_terminal_ends_what_was_executed_there(patient: Faulty, agent: AgentProcess) -> None:
    witness = patient.witness()

    with executing(agent, witness) as process:
        process.send_signal(signal.SIGHUP)
        process.wait(30)

        assert not marked(f"{witness.task.id}.1")
        assert executes(agent) == []


def test_a_server_that_is_gone_at_the_end_costs_no_exit_code(
    patient: Faulty, relay: Relay, tmp_path: Path
) -> None:
    agent = patient.agent(url=relay.url, folder=tmp_path / "agent")
    task = patient.submit("sh", "-c", "exit 7", queue=None)

    with agent.execute(task.id, stdout=subprocess.DEVNULL) as process:
        snag = relay.hold(b'"stopped"')
        assert snag.caught.wait(30)
        patient.server.kill()
        snag.loosen()

        assert process.wait(30) == 7


def test_a_reader_that_is_gone_ends_no_run(patient: Faulty, agent: AgentProcess) -> None:
    witness = patient.witness(lines=3)
    ours, theirs = os.pipe()
    os.close(ours)

    with agent.execute(witness.task.id, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        witness.ends_once(starts=1)
        _, said = process.communicate(timeout=30)

    assert (process.returncode, b"Traceback" in said) == (0, False)
