"""A pool of agents: what it keeps running, what it passes on, and what becomes of runs without it: I01, K07."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import TaskState
from taskyard_agent.life.running import RunningAgent, on_this_machine

from tests.faults.conftest import Faulty
from tests.support import nvml
from tests.support.agents import AgentProcess, wait_until
from tests.support.person import Person

FIRST = (os.getpid() % 15 + 1) * 4


def members(pool: AgentProcess) -> dict[str, RunningAgent]:
    """The agents that the server knows, by name."""
    found = on_this_machine(pool.folder / "cache").values()
    return {agent.name: agent for agent in found if ":" in agent.name and agent.known}


def started(pool: AgentProcess, number: int = 2) -> dict[str, RunningAgent]:
    wait_until(lambda: len(members(pool)) == number, what=f"{number} agents")
    return members(pool)


def ended(pool: AgentProcess) -> bool:
    return not on_this_machine(pool.folder / "cache")


def pool_of(yard: Faulty, number: int, *flags: str, **options: Any) -> AgentProcess:
    return yard.agent("--workers", str(number), *flags, **options)


def test_a_pool_runs_as_many_tasks_at_once_as_it_has_workers(patient: Faulty) -> None:
    with pool_of(patient, 2) as pool:
        started(pool)
        witnesses = [patient.witness(), patient.witness()]
        for witness in witnesses:
            witness.wait_for_start()
        workers = {patient.run(witness.task).worker for witness in witnesses}
        for witness in witnesses:
            witness.ends_once(starts=1)

        assert workers == {"tester:1", "tester:2"}
        assert pool.stop() == 0
        assert ended(pool)


def test_a_worker_that_was_killed_comes_back_and_its_run_is_unharmed(patient: Faulty) -> None:
    with pool_of(patient, 2) as pool:
        started(pool)
        witness = patient.witness()
        witness.wait_for_start()
        worker = patient.run(witness.task).worker
        wait_until(lambda: worker in members(pool), what=f"the record of {worker}")
        killed = members(pool)[worker]
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: killed.name in members(pool) and members(pool)[killed.name].pid != killed.pid)
        witness.ends_once(starts=1)

        assert pool.stop() == 0


def test_a_worker_that_dies_again_and_again_comes_back_ever_more_slowly(patient: Faulty) -> None:
    with pool_of(patient, 1) as pool:
        for pause in ("1", "2", "4"):
            (member,) = started(pool, 1).values()
            os.kill(member.pid, signal.SIGKILL)
            wait_until(lambda pause=pause: f"ended with -9; it starts again in {pause} s" in pool.log)


def test_a_worker_that_hangs_is_replaced_and_its_run_is_unharmed(patient: Faulty, tmp_path: Path) -> None:
    impatient = {"NOTIFY_SOCKET": str(tmp_path / "nobody listens"), "WATCHDOG_USEC": "4000000"}
    with pool_of(patient, 1, variables=impatient) as pool:
        (hung,) = started(pool, 1).values()
        witness = patient.witness()
        witness.wait_for_start()
        os.kill(hung.pid, signal.SIGSTOP)
        wait_until(lambda: "has given no sign of life for 4 s: it is killed" in pool.log)
        wait_until(lambda: any(agent.pid != hung.pid for agent in members(pool).values()))
        witness.ends_once(starts=1)

        assert pool.stop() == 0


def test_a_pool_that_was_killed_leaves_its_runs_to_the_next(patient: Faulty) -> None:
    with pool_of(patient, 2) as pool:
        before = started(pool)
        witness = patient.witness()
        witness.wait_for_start()
        pool.kill()
        wait_until(lambda: ended(pool), what="the hand-over of its agents")
        pool.start()
        after = started(pool)
        witness.ends_once(starts=1)

        assert {agent.pid for agent in before.values()}.isdisjoint(agent.pid for agent in after.values())
        assert pool.stop() == 0


def test_a_new_pool_does_not_trip_over_the_agents_of_the_killed_one(patient: Faulty) -> None:
    with pool_of(patient, 2) as pool:
        started(pool)
        witness = patient.witness()
        witness.wait_for_start()
        pool.restart()
        started(pool)
        witness.ends_once(starts=1)

        assert "starts again" not in pool.log


def test_the_drain_of_a_pool_waits_for_every_run(patient: Faulty) -> None:
    with pool_of(patient, 2) as pool:
        started(pool)
        witness = patient.witness()
        witness.wait_for_start()
        pool.signal(signal.SIGTERM)
        wait_until(lambda: len(members(pool)) == 1, what="the end of the idle one")
        witness.ends_once(starts=1)

        assert pool.wait() == 0


def test_a_pool_whose_agents_are_drained_from_afar_ends(patient: Faulty, tmp_path: Path) -> None:
    person = Person(tmp_path).log_in(patient.server)
    with pool_of(patient, 2) as pool:
        started(pool)
        by_the_pools_name = person.types("worker", "drain", "tester")
        by_pattern = person.types("worker", "drain", "tester:*", "--json")

        assert by_the_pools_name.returncode == 2
        assert "tester:1, tester:2" in by_the_pools_name.stderr
        assert [worker["name"] for worker in json.loads(by_pattern.stdout)] == ["tester:1", "tester:2"]
        assert pool.wait() == 0
        assert "starts again" not in pool.log


def test_a_second_signal_cancels_what_the_pool_runs(patient: Faulty) -> None:
    with pool_of(patient, 1) as pool:
        started(pool, 1)
        witness = patient.witness()
        witness.wait_for_start()
        pool.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in pool.log)
        pool.signal(signal.SIGTERM)

        assert pool.wait() == 0
        wait_until(lambda: patient.task(witness.task).state is TaskState.QUEUED)


def test_a_pool_hands_all_its_runs_over(patient: Faulty) -> None:
    with pool_of(patient, 2) as pool:
        started(pool)
        witness = patient.witness()
        witness.wait_for_start()
        pool.signal(signal.SIGUSR1)
        code = pool.wait()
        pool.start()
        witness.ends_once(starts=1)

        assert code == 0


def test_an_agent_of_a_pool_starts_anew_at_the_end_of_its_lifetime(patient: Faulty) -> None:
    with pool_of(patient, 1, "--lifetime", "3s", "--lifetime-restart") as pool:
        (before,) = started(pool, 1).values()
        witness = patient.witness()
        wait_until(lambda: pool.log.count("its lifetime is over") >= 1)
        witness.ends_once(starts=1)
        wait_until(lambda: pool.log.count("worker tester:1, server") >= 2)
        (after,) = started(pool, 1).values()

        assert before.pid == after.pid
        assert "starts again" not in pool.log


def test_a_pool_whose_agents_are_refused_ends_with_their_words(patient: Faulty) -> None:
    with pool_of(
        patient, 2, "--queue", "no-such-queue", variables={"TASKYARD_TOKEN": plain_token(patient)}
    ) as pool:
        assert pool.wait() == 2
        assert "no-such-queue" in pool.log
        assert ended(pool)


def plain_token(yard: Faulty) -> str:
    """One whose agents create no queues."""
    return yard.server.issue("agent", name="plain")


@pytest.mark.skipif(nvml.compiler() is None, reason="builds a fake driver with a C compiler")
def test_the_gpus_are_split_among_the_workers(patient: Faulty, tmp_path: Path) -> None:
    driver = nvml.install(tmp_path, gpus=64)
    wanted = ",".join(str(FIRST + index) for index in range(3))

    with pool_of(patient, 2, "--gpus", wanted, variables=driver) as pool:
        started(pool)
        gpus = {worker.name: [gpu.index for gpu in worker.gpus] for worker in patient.client.workers()}

        assert gpus == {"tester:1": [FIRST], "tester:2": [FIRST + 1, FIRST + 2]}
        assert pool.stop() == 0


def test_what_a_machine_has_once_is_given_out_once_by_a_pool(patient: Faulty) -> None:
    with pool_of(patient, 2, "--resources", "LICENSE=1", "--memory", "1GB") as pool:
        started(pool)
        given = {worker.name: worker.total for worker in patient.client.workers()}

        assert sorted(total.custom["LICENSE"] for total in given.values()) == [0, 1]
        assert [total.memory_bytes for total in given.values()] == [512 << 20, 512 << 20]
        assert pool.stop() == 0
