"""What a person asks of a worker by flag or keyword, and what the run gets: C10, C17, I03, K03, K04, K12."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard import Task
from taskyard.wire import Capacity, Policy, Reason, Resources, TaskState, WorkerCounters

from tests.support import nvml
from tests.support.agents import AgentProcess, wait_until
from tests.support.person import Person
from tests.support.yard import Yard

GB = 1024**3
GPU = (os.getpid() % 15 + 1) * 4
"""Locks of GPUs are the whole machine's, so suites that run side by side use GPUs of their own."""
NORTH = ("--slots", "2", "--memory", "1GB", "--resources", "LICENSE=2", "--label", "site=north")
SHORT_GRACE = Policy(grace_seconds=0.3)


@pytest.fixture
def person(yard: Yard, tmp_path: Path) -> Person:
    person = Person(tmp_path / "person").log_in(yard.server)
    (person.work / "train.py").touch()
    return person


@pytest.fixture
def north(yard: Yard) -> Iterator[AgentProcess]:
    with yard.agent(*NORTH, name="north") as agent:
        wait_until(lambda: [worker.name for worker in yard.client.workers()] == ["north"], what="the worker")
        yield agent


def submitted(person: Person, *flags: str, command: tuple[str, ...]) -> str:
    """Types `run`; returns the task's id."""
    done = person.types("run", "--manager", "inherit", *flags, "--", *command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def free(yard: Yard) -> Capacity:
    return yard.client.worker("north").free


# --- Flags of `taskyard run`


@pytest.mark.usefixtures("north")
def test_what_the_flags_ask_for_is_taken_of_the_worker_while_it_runs(
    yard: Yard, person: Person, tmp_path: Path
) -> None:
    asked = ("--memory", "256MB", "--resource", "LICENSE=1", "--require", "site=north", "--on-worker", "north")
    wait = f"while [ ! -e '{tmp_path / 'go on'}' ]; do sleep 0.05; done"

    task = yard.client.task(submitted(person, *asked, command=("sh", "-c", wait)))
    wait_until(lambda: free(yard).slots == 1, what="a slot taken")
    during = free(yard)
    (tmp_path / "go on").touch()
    (ended,) = yard.wait_for_end(task)

    assert task.spec.resources == Resources(
        memory_bytes=GB // 4, custom={"LICENSE": 1.0}, requires={"site": "north"}, worker="north"
    )
    assert (during.memory_bytes, during.custom) == (GB * 3 // 4, {"LICENSE": 1.0})
    assert ended.state is TaskState.COMPLETED
    wait_until(lambda: free(yard) == Capacity(slots=2, memory_bytes=GB, custom={"LICENSE": 2.0}))


@pytest.mark.usefixtures("north")
def test_a_run_is_held_to_the_memory_of_its_flag(yard: Yard, person: Person) -> None:
    hog = "import time; held = b'x' * (200 << 20); time.sleep(60)"

    task = yard.client.task(submitted(person, "--memory", "0.1", command=("python", "-c", hog)))
    (ended,) = yard.wait_for_end(task)

    assert ended.run is not None
    assert ended.run.outcome is not None
    assert ended.run.outcome.reason is Reason.MEMORY


@pytest.mark.usefixtures("north")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--memory", "8GB"), "needs 8 GiB of memory, the worker has 1 GiB"),
        (("--resource", "LICENSE=3"), "has 3 of LICENSE; the largest has 2"),
        (("--require", "site=south"), "has the label site=south; there is site=north"),
        (("--on-worker", "south"), "is named 'south', which it is for"),
        (("--gpus", "2"), "has 2 GPUs; the largest has 0"),
        (("--gpu-memory", "10GB"), "asks for a part of a GPU, and the worker shares none among tasks"),
    ],
)
def test_explain_says_what_nobody_has_and_what_would_do(
    yard: Yard, person: Person, flags: tuple[str, ...], said: str
) -> None:
    task = submitted(person, *flags, command=("true",))

    explained = person.types("explain", task)

    assert said in explained.stdout.splitlines()[0]
    assert yard.client.task(task).state is TaskState.QUEUED


@pytest.mark.skipif(nvml.compiler() is None, reason="builds a fake driver with a C compiler")
def test_two_tasks_share_a_gpu_by_its_flag_and_a_third_waits_for_room(
    yard: Yard, person: Person, tmp_path: Path
) -> None:
    (tmp_path / "driver").mkdir()
    driver = nvml.install(tmp_path / "driver", gpus=64)
    show = f"echo $CUDA_VISIBLE_DEVICES; while [ ! -e '{tmp_path / 'go on'}' ]; do sleep 0.05; done"
    ids = [submitted(person, "--gpu-memory", "30GB", command=("sh", "-c", show)) for _ in range(3)]
    tasks = [yard.client.task(task) for task in ids]

    with yard.agent("--share-gpus", "--gpus", str(GPU), variables=driver):
        for task in tasks[:2]:
            yard.wait_for_output(task, nvml.uuid(GPU))
        third = yard.client.explain(tasks[2].id).workers[0].reason
        (tmp_path / "go on").touch()
        ended = yard.wait_for_end(*tasks)

    assert third.endswith("needs 30 GiB of one GPU, at most 20 GiB of one is free")
    assert [task.state for task in ended] == [TaskState.COMPLETED] * 3


# --- Keywords of `Task`


@pytest.fixture
def program(yard: Yard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder from which a Python program of the administrator's creates tasks."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TASKYARD_SERVER", yard.server.url)
    monkeypatch.setenv("TASKYARD_TOKEN", yard.server.admin_token)
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "train.py").touch()
    return tmp_path / "program"


@pytest.mark.usefixtures("north")
def test_a_task_made_changed_and_cloned_by_keywords_runs_with_what_they_say(yard: Yard, program: Path) -> None:
    made = Task.create(
        executable="true",
        folder=program,
        manager="inherit",
        memory="8GB",
        resources={"LICENSE": 1},
        gpus=3,
        torch_backend="cu126",
    )
    made.set(memory="256MB", gpus=0, require={"site": "north"}, timeout="10m")
    cloned = made.clone(on_worker="north", torch_backend="cpu", resources={"LICENSE": 2}, queue="default")

    cloned.wait(60)

    asked = Resources(gpus=0, memory_bytes=GB // 4, custom={"LICENSE": 1.0}, requires={"site": "north"})
    assert made.reload().record.spec.resources == asked
    assert made.record.spec.policy.timeout_seconds == 600
    assert cloned.record.spec.resources.custom == {"LICENSE": 2.0}
    assert cloned.record.spec.resources.worker == "north"
    builds = [task.record.spec.environment.torch_backend for task in (made, cloned)]
    assert builds == ["cu126", "cpu"]
    assert cloned.status is TaskState.COMPLETED
    assert yard.client.worker("north").completed == 1


# --- Counters


def test_the_counters_of_a_worker_are_exact_under_a_known_load(
    yard: Yard, person: Person, north: AgentProcess
) -> None:
    yard.wait_for_end(*[yard.submit("true") for _ in range(3)])
    again = Policy(retries=1, retry_delay_seconds=600)
    yard.wait_for_state(yard.submit("false", policy=again), TaskState.WAITING)
    licensed = Resources(custom={"LICENSE": 2})
    holder = yard.submit("sh", "-c", "echo ready; exec sleep 600", resources=licensed, policy=SHORT_GRACE)
    yard.wait_for_output(holder, "ready")
    for resources in (licensed, licensed, Resources(worker="south"), Resources(memory_bytes=2 * GB)):
        yard.submit("true", resources=resources)

    shown = json.loads(person.types("worker", "show", "north", "--json").stdout)["counters"]

    assert WorkerCounters(**shown) == WorkerCounters(executing=1, executed=4, constrained=2, waiting=1)
    yard.client.stop_task(holder.id)
    wait_until(lambda: yard.client.worker("north").counters == WorkerCounters(executed=7, waiting=1))
