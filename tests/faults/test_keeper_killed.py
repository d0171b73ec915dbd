"""kill -9 of the keeper: everything of the run ends, the run is lost, its task runs again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from taskyard.errors import Stale
from taskyard.wire import FinishRequest, Outcome, OutcomeKind, Phase, Reason, StartRequest
from taskyard_agent.keeper.processes import marked

from tests.faults.conftest import Faulty
from tests.support.agents import AgentProcess, wait_until


def kill_keeper(agent: AgentProcess) -> None:
    (keeper,) = agent.keepers()
    os.kill(keeper, signal.SIGKILL)


def test_a_run_whose_keeper_is_killed_is_lost_and_its_task_runs_again(patient: Faulty) -> None:
    witness = patient.witness()

    with patient.agent() as agent:
        witness.wait_for_start()
        kill_keeper(agent)
        witness.wait_for_start(2)
        witness.ends_once(runs=2, starts=2)

    first = patient.runs(witness.task)[0].outcome
    assert first is not None
    assert (first.kind, first.reason) == (OutcomeKind.LOST, Reason.KEEPER)


def test_everything_that_the_command_started_ends_with_its_keeper(patient: Faulty, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    hidden = f"import os, time; os.setsid(); open({str(go_on)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    program = (
        f"import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {hidden!r}]); time.sleep(600)"
    )
    once = f"import os\nif not os.path.exists({str(go_on)!r}):\n    exec({program!r})"
    task = patient.python(once)

    with patient.agent() as agent:
        wait_until(lambda: go_on.exists() and go_on.read_text())
        run = patient.run(task)
        kill_keeper(agent)
        patient.wait_for_end(task)

    assert not marked(run.id)


def test_a_keeper_and_its_daemon_killed_together_lose_the_run_once(patient: Faulty) -> None:
    witness = patient.witness()

    with patient.agent() as agent:
        witness.wait_for_start()
        agent.kill()
        kill_keeper(agent)
        agent.start()
        witness.wait_for_start(2)
        witness.ends_once(runs=2, starts=2)


def test_the_lost_runs_token_is_fenced_out(patient: Faulty) -> None:
    witness = patient.witness()

    with patient.agent() as agent:
        witness.wait_for_start()
        token = agent.control_token()
        run = patient.run(witness.task)
        kill_keeper(agent)
        witness.wait_for_start(2)

        with agent.client() as client:
            outcome = Outcome(kind=OutcomeKind.COMPLETED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=0)
            with pytest.raises(Stale):
                client.start_run(run.id, StartRequest(control_token=token))
            finish = FinishRequest(control_token=token, outcome=outcome, log_bytes=0)
            client.finish_run(run.id, finish)
        witness.ends_once(runs=2, starts=2)

    assert patient.runs(witness.task)[0].outcome.reason is Reason.KEEPER  # type: ignore[union-attr]
