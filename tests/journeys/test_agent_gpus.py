"""Agents on GPUs of a machine with a fake driver: C10, C15."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import Policy, TaskState

from tests.support import nvml
from tests.support.agents import AgentProcess, wait_until
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

pytestmark = pytest.mark.skipif(nvml.compiler() is None, reason="builds a fake driver with a C compiler")

THERE = 64
FIRST = (os.getpid() % 15 + 1) * 4
"""Locks of GPUs are the whole machine's, so suites that run side by side use GPUs of their own."""
ONE, TWO = FIRST, FIRST + 1
SHOW = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['CUDA_DEVICE_ORDER'])"


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with ServerProcess() as server, Yard(server) as yard:
        yield yard


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return nvml.install(tmp_path_factory.mktemp("driver"), gpus=THERE)


def agent_on(gpus: object, yard: Yard, driver: dict[str, str], *flags: str, **options: Any) -> AgentProcess:
    return yard.agent("--gpus", str(gpus), *flags, variables=driver, **options)


def test_two_agents_show_their_tasks_disjoint_gpus(yard: Yard, driver: dict[str, str]) -> None:
    tasks = [yard.python(SHOW, queue=yard.queue(f"gpu {index}"), gpus=1) for index in (ONE, TWO)]

    with (
        agent_on(ONE, yard, driver, "--queue", f"gpu {ONE}", name="first"),
        agent_on(nvml.uuid(TWO), yard, driver, "--queue", f"gpu {TWO}", name="second"),
    ):
        yard.wait_for_end(*tasks)

    shown = [yard.text(task) for task in tasks]
    assert shown == [f"{nvml.uuid(index)} PCI_BUS_ID\n" for index in (ONE, TWO)]


def test_a_worker_is_named_by_its_gpus(yard: Yard, driver: dict[str, str], tmp_path: Path) -> None:
    person = Person(tmp_path, **driver).log_in(yard.server)
    daemon = person.starts("agent", "daemon", "--gpus", f"{ONE},{TWO}", log=tmp_path / "log")

    wait_until(lambda: b"serving" in (tmp_path / "log").read_bytes())
    daemon.send_signal(signal.SIGTERM)

    assert daemon.wait(30) == 0
    name = f"{socket.gethostname()}:gpu{ONE},{TWO}"
    assert f"worker {name}, server {yard.server.url}" in (tmp_path / "log").read_text().splitlines()[0]


def test_an_agent_that_is_told_nothing_takes_every_gpu(yard: Yard, tmp_path: Path) -> None:
    driver = nvml.install(tmp_path, gpus=2)
    person = Person(tmp_path / "person", **driver).log_in(yard.server)
    daemon = person.starts("agent", "daemon", log=tmp_path / "log")

    wait_until(lambda: b"serving" in (tmp_path / "log").read_bytes())
    daemon.send_signal(signal.SIGTERM)

    assert daemon.wait(30) == 0
    assert f"worker {socket.gethostname()}:gpu0,1," in (tmp_path / "log").read_text()


def test_a_task_that_wants_no_gpu_sees_none(yard: Yard, driver: dict[str, str]) -> None:
    task = yard.python(SHOW, gpus=0)

    with agent_on(ONE, yard, driver):
        yard.wait_for_end(task)

    assert yard.text(task) == " PCI_BUS_ID\n"


def test_a_gpu_of_another_agent_is_refused(yard: Yard, driver: dict[str, str]) -> None:
    with agent_on(f"{ONE},{TWO}", yard, driver, name="holder") as holder:
        wait_until(lambda: "serving" in holder.log)
        with agent_on(TWO, yard, driver, name="latecomer") as latecomer:
            code = latecomer.wait()

    assert code == 2
    assert f"GPU {TWO} ({nvml.uuid(TWO)}) is held by holder" in latecomer.log
    assert "choose other GPUs with --gpus" in latecomer.log


def test_a_gpu_that_is_not_there_is_refused(yard: Yard, driver: dict[str, str]) -> None:
    with agent_on(THERE, yard, driver) as agent:
        code = agent.wait()

    assert code == 2
    assert f"{THERE} is not a GPU of this machine" in agent.log


def test_a_gpu_is_free_for_the_next_agent_once_its_run_has_ended(yard: Yard, driver: dict[str, str]) -> None:
    task = yard.python("import time; print('ready'); time.sleep(60)", gpus=1, policy=Policy(grace_seconds=0.3))
    with agent_on(ONE, yard, driver, name="killed") as killed:
        yard.wait_for_output(task, "ready")
        killed.restart()
        wait_until(lambda: "carrying on" in killed.log)
        yard.client.stop_task(task.id)
        yard.wait_for_state(task, TaskState.CANCELLED)

    with agent_on(ONE, yard, driver, name="next") as agent:
        after = yard.python(SHOW, gpus=1)
        (ended,) = yard.wait_for_end(after)

    assert ended.state is TaskState.COMPLETED, agent.log


def test_the_worker_and_the_run_have_series_of_their_gpus(yard: Yard, driver: dict[str, str]) -> None:
    task = yard.python("import time; time.sleep(60)", gpus=1, policy=Policy(grace_seconds=0.3))
    wanted = {f"{name}:{TWO}" for name in ("gpu_percent", "gpu_memory_bytes", "gpu_celsius")}

    with agent_on(TWO, yard, driver, name="measured"):
        yard.wait_for_state(task, TaskState.RUNNING)
        run = yard.run(task).id
        wait_until(lambda: wanted <= {series.name for series in yard.client.run_metrics(run)}, seconds=40)
        series = [
            series for series in yard.client.worker_metrics("measured") if series.name == f"gpu_celsius:{TWO}"
        ]
        yard.client.stop_task(task.id)
        yard.wait_for_end(task)

    assert [point.maximum for point in series[0].points][-1] == 40.0 + TWO
