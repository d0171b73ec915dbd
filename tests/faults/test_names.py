"""A name is one agent's: a second one is refused before it takes anything, and harms nothing of the first."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Faulty
from tests.support.agents import wait_until
from tests.support.relay import Relay
from tests.support.servers import ServerProcess

REFUSED = "give this agent another --name, or stop the other"
root_only = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="mounting needs root on Linux: run the tests as root"
)


def test_a_second_agent_of_a_name_is_refused_and_the_first_keeps_its_run(patient: Faulty) -> None:
    witness = patient.witness()

    with patient.agent():
        witness.wait_for_start()
        waiting = patient.witness()
        with patient.agent("--detached", name="tester") as second:
            code = second.wait()
        assert patient.task(waiting.task).run is None
        witness.ends_once(starts=1)

    assert (code, REFUSED in second.log) == (2, True)


def test_a_copy_of_an_agent_s_folder_on_the_same_machine_leaves_the_first_its_run(
    patient: Faulty, tmp_path: Path
) -> None:
    witness = patient.witness()

    with patient.agent() as first:
        witness.wait_for_start()
        shutil.copytree(first.cache / "agents", tmp_path / "copy" / "agents", copy_function=copied)
        with patient.agent(name="tester", cache=tmp_path / "copy", variables=first.own_token) as second:
            code = second.wait()
            shutil.rmtree(second.cache)  # what it holds is not ended with it
        witness.ends_once(starts=1)

    assert (code, REFUSED in second.log) == (2, True)


@root_only
def test_a_copy_of_an_agent_s_folder_on_another_machine_is_no_restart_of_the_first(
    patient: Faulty, tmp_path: Path
) -> None:
    witness = patient.witness()
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("11111111-2222-3333-4444-555555555555\n")

    with patient.agent() as first:
        witness.wait_for_start()
        shutil.copytree(first.cache / "agents", tmp_path / "copy" / "agents", copy_function=copied)
        copy = patient.agent(name="tester", cache=tmp_path / "copy", variables=first.own_token).on_machine(boot_id)
        with copy as second:
            code = second.wait()
            run = patient.run(witness.task)
            shutil.rmtree(second.cache)  # it is as if it were elsewhere: what it holds is not ended with it
        witness.ends_once(starts=1)

    assert (code, REFUSED in second.log, run.outcome) == (2, True, None)


def test_a_name_whose_agent_is_gone_is_waited_for(tmp_path: Path) -> None:
    with ServerProcess("--lease-seconds", "12") as server, Faulty(server, tmp_path / "witnesses") as yard:
        with yard.agent() as first:
            wait_until(lambda: yard.client.workers())
            first.kill()
        with yard.agent(name="tester") as second:
            yard.witness().ends_once(starts=1)

    assert "waiting" in second.log


def test_an_agent_whose_name_was_taken_behind_a_cut_takes_nothing_and_keeps_its_run(
    patient: Faulty, relay: Relay
) -> None:
    witness = patient.witness()

    with patient.agent(url=relay.url) as first:
        witness.wait_for_start()
        relay.cut()
        with patient.agent(name="tester") as second:
            wait_until(lambda: not patient.client.worker("tester").runs, what="the second agent's word")
            relay.mend()
            wait_until(lambda: REFUSED in first.log, what="refusal")
            witness.ends_once(starts=1)
            patient.witness().ends_once(starts=1)
            assert first.log.count("[task_claimed]") == 1
            second.stop()
        patient.witness().ends_once(starts=1)

    assert first.log.count("[task_claimed]") == 2


def copied(source: str, target: str) -> None:
    """Named pipes are made anew by whoever needs them."""
    if Path(source).is_file():
        shutil.copy2(source, target)
