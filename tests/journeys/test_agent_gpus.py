"""Agents on GPUs of a machine with a fake driver: C10, C11, C15."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import Policy, Reason, Resources, Task, TaskState

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


def test_a_variable_that_an_older_server_took_shows_no_other_gpu(yard: Yard, driver: dict[str, str]) -> None:
    draft = yard.python(SHOW, queue=None, gpus=1, env={"WANTED": nvml.uuid(TWO)})
    renamed = """UPDATE tasks SET body = CAST(replace(body, '"WANTED"', '"CUDA_VISIBLE_DEVICES"') AS BLOB)"""
    with contextlib.closing(sqlite3.connect(yard.server.data / "control.db")) as store, store:
        store.execute(f"{renamed} WHERE id = ?", (draft.id,))

    with agent_on(ONE, yard, driver):
        task = yard.client.enqueue(draft.id, "default")
        yard.wait_for_end(task)

    assert list(yard.task(task).spec.env) == ["CUDA_VISIBLE_DEVICES"]
    assert yard.text(task) == f"{nvml.uuid(ONE)} PCI_BUS_ID\n"


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


# --- Many tasks on one agent: C11


FOUR = tuple(range(FIRST, FIRST + 4))
MARKS = """
import os, sys, time
def mark(word):
    with open(sys.argv[1], "a") as marks:
        print(time.monotonic(), word, os.environ["TASKYARD_TASK"], os.environ["CUDA_VISIBLE_DEVICES"], file=marks)
mark("begin"); time.sleep(float(sys.argv[2])); mark("end")
"""


def marking(yard: Yard, marks: Path, seconds: float, **options: Any) -> Task:
    return yard.submit(sys.executable, "-c", MARKS, str(marks), str(seconds), **options)


def together(marks: Path) -> list[dict[str, list[str]]]:
    """After each begin and end: which tasks run, each with its GPUs, by the tasks' own account."""
    running: dict[str, list[str]] = {}
    after = []
    lines = [line.split(maxsplit=3) for line in marks.read_text().splitlines()]
    for _, word, task, *shown in sorted(lines, key=lambda line: float(line[0])):
        running = {other: gpus for other, gpus in running.items() if other != task}
        if word == "begin":
            running[task] = shown[0].split(",") if shown else []
        after.append(running)
    return after


def test_tasks_are_packed_on_disjoint_gpus_of_one_agent(
    yard: Yard, driver: dict[str, str], tmp_path: Path
) -> None:
    drawn = random.Random(11)
    marks = tmp_path / "marks"
    wanted = [drawn.choice([0, 1, 1, 2, 3]) for _ in range(19)] + [4]
    tasks = [marking(yard, marks, drawn.uniform(0.05, 0.3), gpus=gpus) for gpus in wanted]

    with agent_on(f"{FIRST}-{FIRST + 3}", yard, driver):
        ended = yard.wait_for_end(*tasks, seconds=120)

    assert {task.state for task in ended} == {TaskState.COMPLETED}
    given = {task: gpus for running in together(marks) for task, gpus in running.items()}
    assert [len(given[task.id]) for task in tasks] == wanted
    for running in together(marks):
        held = [gpu for gpus in running.values() for gpu in gpus]
        assert len(set(held)) == len(held)
    assert max(map(len, together(marks))) > 1


def test_a_task_without_a_number_has_the_whole_agent_to_itself(
    yard: Yard, driver: dict[str, str], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    tasks = [marking(yard, marks, 0.3, gpus=gpus) for gpus in (1, None, 1, None)]

    with agent_on(f"{ONE},{TWO}", yard, driver):
        yard.wait_for_end(*tasks)

    whole = {tasks[1].id, tasks[3].id}
    assert all(len(running) == 1 for running in together(marks) if whole & running.keys())


def test_each_task_gets_the_gpus_of_its_queue(yard: Yard, driver: dict[str, str], tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    numbers = {"one": "1", "two": "1-2", "four": "4"}
    tasks = {name: marking(yard, marks, 0.3, queue=yard.queue(name)) for name in numbers}
    queues = [f"{name}={number}" for name, number in numbers.items()]

    with agent_on(f"{FIRST}-{FIRST + 3}", yard, driver, "--dynamic-gpus", "--queue", *queues):
        yard.wait_for_end(*tasks.values())

    given = {task: gpus for running in together(marks) for task, gpus in running.items()}
    assert {name: len(given[task.id]) for name, task in tasks.items()} == {"one": 1, "two": 2, "four": 4}
    for running in together(marks):
        assert len({gpu for gpus in running.values() for gpu in gpus}) == sum(map(len, running.values()))


@pytest.mark.parametrize(
    ("queues", "told"),
    [
        (("some=1", "bare"), "--dynamic-gpus: 'bare' has no number of GPUs"),
        (("some=2-1",), "write the smaller number first"),
        (("default=3",), "--queue default=3: each task would need 3 GPUs, this agent has 2"),
    ],
)
def test_queues_whose_numbers_cannot_be_followed_are_refused(
    yard: Yard, driver: dict[str, str], queues: tuple[str, ...], told: str
) -> None:
    with agent_on(f"{ONE},{TWO}", yard, driver, "--dynamic-gpus", "--queue", *queues) as agent:
        assert agent.wait() == 2

    assert told in agent.log


def test_a_number_behind_a_queues_name_is_part_of_it_unless_gpus_go_by_queue(yard: Yard) -> None:
    with yard.agent("--queue", "training=2") as agent:
        assert agent.wait() == 2

    assert "no queue 'training=2'" in agent.log
    assert "to give GPUs by queue, add --dynamic-gpus" in agent.log


def test_tasks_share_one_gpu_where_the_operator_allows_it(
    yard: Yard, driver: dict[str, str], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    part = Resources(gpu_memory_bytes=30 << 30)
    tasks = [marking(yard, marks, 0.5, resources=part) for _ in range(4)]
    tasks.append(marking(yard, marks, 0.5, gpus=1))

    with agent_on(ONE, yard, driver, "--share-gpus"):
        ended = yard.wait_for_end(*tasks)

    assert {task.state for task in ended} == {TaskState.COMPLETED}
    assert max(map(len, together(marks))) == 2
    assert all(len(running) == 1 for running in together(marks) if tasks[-1].id in running)


def test_a_new_daemon_leaves_each_run_its_gpus(yard: Yard, driver: dict[str, str]) -> None:
    source = f"{SHOW}; import time; time.sleep(600)"
    tasks = [yard.python(source, gpus=1, policy=Policy(grace_seconds=0.3)) for _ in range(2)]

    with agent_on(f"{FIRST}-{FIRST + 2}", yard, driver) as agent:
        for task in tasks:
            yard.wait_for_output(task, "PCI_BUS_ID")
        agent.restart()
        wait_until(lambda: agent.log.count("took run") == 2)
        after = yard.python(SHOW, gpus=1)
        yard.wait_for_end(after)
        for task in tasks:
            yard.client.stop_task(task.id)
        yard.wait_for_end(*tasks)

    shown = {yard.text(task).split()[0] for task in (*tasks, after)}
    assert shown == {nvml.uuid(index) for index in FOUR[:3]}


# --- What a new daemon finds


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that a run waits for before its checkout, where the agent has `hooks` beside it."""
    hook = tmp_path / "hooks" / "before-checkout"
    hook.parent.mkdir(mode=0o755)
    hook.write_text(f"#!/bin/sh\nwhile [ ! -e '{tmp_path}/gate' ]; do sleep 0.05; done\n")
    hook.chmod(0o755)
    return tmp_path / "gate"


def test_runs_whose_gpus_are_not_the_agents_any_more_end_properly(yard: Yard, driver: dict[str, str]) -> None:
    source = "import time; print('ready'); time.sleep(600)"
    tasks = [yard.python(source, gpus=1, policy=Policy(grace_seconds=0.3)) for _ in range(2)]

    with agent_on(f"{ONE},{TWO}", yard, driver) as agent:
        for task in tasks:
            yard.wait_for_output(task, "ready")
        agent.restart("--gpus", str(ONE))
        wait_until(lambda: agent.log.count("took run") == 2)
        for task in tasks:
            yard.client.stop_task(task.id)
        ended = yard.wait_for_end(*tasks)

    assert [task.state for task in ended] == [TaskState.CANCELLED] * 2


def test_a_run_that_was_not_begun_gets_another_gpu_where_its_own_is_not_the_agents_any_more(
    yard: Yard, driver: dict[str, str], gate: Path
) -> None:
    hooks = ("--hooks", str(gate.parent / "hooks"))
    task = yard.python(SHOW, gpus=1)

    with agent_on(TWO, yard, driver, *hooks) as agent:
        wait_until(lambda: yard.task(task).run is not None and agent.runs)
        agent.restart("--gpus", str(ONE), *hooks)
        gate.touch()
        yard.wait_for_end(task)

    assert len(yard.runs(task)) == 1
    assert yard.text(task).split()[0] == nvml.uuid(ONE)


def test_a_run_for_which_there_is_no_room_any_more_is_the_machines_failure(
    yard: Yard, driver: dict[str, str], gate: Path
) -> None:
    hooks = ("--hooks", str(gate.parent / "hooks"))
    task = yard.python(SHOW, gpus=2)

    with agent_on(f"{ONE},{TWO}", yard, driver, *hooks) as agent:
        wait_until(lambda: yard.task(task).run is not None and agent.runs)
        agent.restart("--gpus", str(ONE), *hooks)
        wait_until(lambda: yard.runs(task)[0].outcome is not None)
        yard.client.stop_task(task.id)

    outcome = yard.runs(task)[0].outcome
    assert outcome is not None
    assert (outcome.infrastructure, outcome.reason) == (True, Reason.INTERNAL)
    assert "no room for it: 2 GPUs are wanted, 1 are free" in outcome.message
    gate.touch()


def test_a_task_run_here_and_now_gets_the_gpus_that_it_asks_for(
    yard: Yard, driver: dict[str, str], tmp_path: Path
) -> None:
    task = yard.python(SHOW, gpus=1, queue=yard.queue("nobody serves it"))
    person = Person(tmp_path, **driver).log_in(yard.server)

    done = person.types("agent", "execute", "--gpus", f"{ONE}-{TWO}", "--id", task.id)

    assert done.stdout.endswith(f"{nvml.uuid(ONE)} PCI_BUS_ID\n"), done.stderr
