"""Many tasks at once on one agent, and never more than it has: C24, C25, K02, K03, I03."""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path

import pytest
from taskyard.wire import Policy, Resources, Task, TaskState, Worker, WorkerState

from tests.support.agents import wait_until
from tests.support.yard import Yard

FOREVER = ("sh", "-c", "echo ready; exec sleep 600")
SHORT_GRACE = Policy(grace_seconds=0.3)
MARK = """
import os, sys, time
def mark(word):
    line = f"{time.monotonic()} {word} {sys.argv[1]} {os.environ['CUDA_VISIBLE_DEVICES'] or '-'}\\n"
    with open(sys.argv[2], "a") as marks: marks.write(line)
mark("begin"); time.sleep(float(sys.argv[3])); mark("end")
"""
"""Leaves a line at its begin and one at its end."""


def marking(yard: Yard, marks: Path, name: str, seconds: float, **options: object) -> Task:
    return yard.submit(sys.executable, "-c", MARK, name, str(marks), str(seconds), name=name, **options)  # type: ignore[arg-type]


def steps(marks: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """(begin or end, task, its GPUs), in the order in which it happened."""
    lines = sorted((line.split() for line in marks.read_text().splitlines()), key=lambda line: float(line[0]))
    return [(word, name, () if gpus == "-" else tuple(gpus.split(","))) for _, word, name, gpus in lines]


def running_together(marks: Path) -> list[dict[str, tuple[str, ...]]]:
    """After each step: which tasks run, each with its GPUs."""
    running: dict[str, tuple[str, ...]] = {}
    after = []
    for word, name, gpus in steps(marks):
        running = {**running, name: gpus} if word == "begin" else {k: v for k, v in running.items() if k != name}
        after.append(running)
    return after


def worker(yard: Yard, name: str = "tester") -> Worker:
    return yard.client.worker(name)


# --- Slots


def test_three_tasks_run_at_once_on_three_slots(yard: Yard, tmp_path: Path) -> None:
    tasks = [marking(yard, tmp_path / "marks", name, 2) for name in ("a", "b", "c", "d")]

    with yard.agent("--slots", "3"):
        yard.wait_for_end(*tasks)

    assert max(map(len, running_together(tmp_path / "marks"))) == 3


def test_a_task_that_comes_when_a_slot_is_free_does_not_wait_for_another(yard: Yard) -> None:
    with yard.agent("--slots", "2"):
        long = yard.submit(*FOREVER, policy=SHORT_GRACE)
        yard.wait_for_state(long, TaskState.RUNNING)

        yard.wait_for_end(*[yard.submit("true") for _ in range(3)])

        assert yard.task(long).state is TaskState.RUNNING
        yard.client.stop_task(long.id)
        yard.wait_for_end(long)


def test_a_cancel_reaches_one_of_several_runs_and_frees_its_slot(yard: Yard) -> None:
    with yard.agent("--slots", "3"):
        tasks = [yard.submit(*FOREVER, policy=SHORT_GRACE) for _ in range(3)]
        for task in tasks:
            yard.wait_for_output(task, "ready")
        yard.client.stop_task(tasks[1].id)

        (stopped,) = yard.wait_for_end(tasks[1])
        yard.wait_for_end(yard.submit("true"))

        assert stopped.state is TaskState.CANCELLED
        assert [yard.task(task).state for task in (tasks[0], tasks[2])] == [TaskState.RUNNING] * 2
        for task in tasks:
            yard.client.stop_task(task.id)
        yard.wait_for_end(*tasks)


def test_a_drain_takes_nothing_more_though_a_slot_is_free(yard: Yard, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with yard.agent("--slots", "2") as agent:
        first = yard.submit("sh", "-c", f"echo ready; while [ ! -e '{go_on}' ]; do sleep 0.05; done")
        yard.wait_for_output(first, "ready")
        agent.signal(signal.SIGTERM)
        wait_until(lambda: worker(yard).state is WorkerState.DRAINING)

        late = yard.submit("true")
        go_on.touch()

        assert agent.wait() == 0
        assert yard.task(first).state is TaskState.COMPLETED
        assert yard.task(late).state is TaskState.QUEUED


def test_a_new_daemon_carries_all_runs_on_and_fills_what_is_free(yard: Yard) -> None:
    with yard.agent("--slots", "3") as agent:
        tasks = [yard.submit(*FOREVER, policy=SHORT_GRACE) for _ in range(2)]
        for task in tasks:
            yard.wait_for_output(task, "ready")
        agent.restart()
        wait_until(lambda: agent.log.count("took run") == 2)

        yard.wait_for_end(yard.submit("true"))

        wait_until(lambda: worker(yard).free.slots == 1)  # with the beat that follows
        assert [len(yard.runs(task)) for task in tasks] == [1, 1]
        for task in tasks:
            yard.client.stop_task(task.id)
        yard.wait_for_end(*tasks)


def test_a_daemon_with_fewer_slots_carries_what_its_predecessor_left(yard: Yard) -> None:
    with yard.agent("--slots", "2") as agent:
        tasks = [yard.submit(*FOREVER, policy=SHORT_GRACE) for _ in range(2)]
        for task in tasks:
            yard.wait_for_output(task, "ready")
        agent.restart("--slots", "1")
        wait_until(lambda: agent.log.count("took run") == 2)
        for task in tasks:
            yard.client.stop_task(task.id)

        ended = yard.wait_for_end(*tasks)
        last = yard.wait_for_end(yard.submit("true"))

    assert [task.state for task in (*ended, *last)] == [TaskState.CANCELLED] * 2 + [TaskState.COMPLETED]


# --- Services mode


def test_services_are_places_of_their_own_beside_the_worker_that_holds_them(yard: Yard) -> None:
    tasks = [yard.submit(*FOREVER, queue="services", policy=SHORT_GRACE) for _ in range(5)]

    with yard.agent("--services-mode", name="host:services"):
        for task in tasks:
            yard.wait_for_output(task, "ready")
        wait_until(lambda: len(yard.client.workers()) == 6, what="five places beside the worker")
        places = [place for place in yard.client.workers() if place.parent == "host:services"]
        holders = {yard.run(task).worker for task in tasks}
        for task in tasks:
            yard.client.stop_task(task.id)
        yard.wait_for_end(*tasks)
        wait_until(lambda: len(yard.client.workers()) == 1, what="no place of a run that has ended")

    assert {place.name for place in places} == {f"host:services:{task.id}" for task in tasks}
    assert {(place.state, place.total.slots, place.free.slots) for place in places} == {(WorkerState.BUSY, 1, 0)}
    assert holders == {"host:services"}


@pytest.mark.parametrize("given", [("--services-mode", "2"), "2"])
def test_services_mode_takes_as_many_as_it_was_told(yard: Yard, tmp_path: Path, given: object) -> None:
    tasks = [marking(yard, tmp_path / "marks", name, 2.0, queue="services") for name in "abcd"]
    flags = given if isinstance(given, tuple) else ()
    variables = {"TASKYARD_SERVICES_MODE": given} if isinstance(given, str) else {}

    with yard.agent(*flags, variables=variables):
        yard.wait_for_end(*tasks)

    assert max(map(len, running_together(tmp_path / "marks"))) == 2


@pytest.mark.parametrize("other", [("--slots", "2"), ("--gpus", "0"), ("--dynamic-gpus",)])
def test_services_mode_excludes_what_is_for_other_work(yard: Yard, other: tuple[str, ...]) -> None:
    with yard.agent("--services-mode", *other) as agent:
        assert agent.wait() == 2

    assert f"--services-mode (flag --services-mode) and {other[0]}" in agent.log


# --- Amounts, labels, memory


def test_twenty_random_tasks_never_occupy_more_than_there_is(yard: Yard, tmp_path: Path) -> None:
    drawn = random.Random(7)
    asked = {f"t{number}": drawn.choice([0.25, 0.5, 1.0]) for number in range(20)}
    wanted = {name: Resources(custom={"LICENSE": amount}) for name, amount in asked.items()}
    tasks = [
        marking(yard, tmp_path / "marks", name, drawn.uniform(0.05, 0.3), resources=resources)
        for name, resources in wanted.items()
    ]

    with yard.agent("--slots", "4", "--resources", "GPU=2,LICENSE=1"):
        ended = yard.wait_for_end(*tasks, seconds=120)

    together = running_together(tmp_path / "marks")
    assert {task.state for task in ended} == {TaskState.COMPLETED}
    assert max(sum(asked[name] for name in running) for running in together) <= 1.0
    assert max(map(len, together)) > 1


def test_a_task_goes_to_the_worker_that_has_its_labels(yard: Yard) -> None:
    task = yard.submit("true", resources=Resources(requires={"site": "north"}))

    with yard.agent("--label", "site=south", name="south"), yard.agent("--label", "site=north", name="north"):
        yard.wait_for_end(task)
        labels = worker(yard, "north").labels

    assert yard.run(task).worker == "north"
    assert labels.keys() == {"host", "arch", "site"}


def test_a_task_that_is_pinned_waits_for_its_worker(yard: Yard) -> None:
    with yard.agent(name="other"), yard.agent(name="wanted"):
        tasks = [yard.submit("true", resources=Resources(worker="wanted")) for _ in range(3)]
        yard.wait_for_end(*tasks)

    assert {yard.run(task).worker for task in tasks} == {"wanted"}


def test_a_task_that_asks_for_more_memory_than_is_free_waits(yard: Yard, tmp_path: Path) -> None:
    sizes = {"a": 700 << 20, "b": 700 << 20, "c": 100 << 20}
    tasks = [
        marking(yard, tmp_path / "marks", name, 0.5, resources=Resources(memory_bytes=size))
        for name, size in sizes.items()
    ]

    with yard.agent("--slots", "3", "--memory", "1GB"):
        yard.wait_for_end(*tasks)

    together = running_together(tmp_path / "marks")
    assert not any({"a", "b"} <= running.keys() for running in together)


def test_more_memory_than_the_machine_has_is_refused(yard: Yard) -> None:
    with yard.agent("--memory", "1000TB") as agent:
        assert agent.wait() == 2

    assert "this machine, or its container, has" in agent.log
