"""Three agents on one machine share its caches and its GPUs, while one of them is killed again and again: C20."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import (
    Code,
    Command,
    Environment,
    Gpu,
    NewTask,
    RequirementsKind,
    Resources,
    Run,
    Task,
    TaskSpec,
    TaskState,
)
from taskyard_agent import gpus
from taskyard_agent.checkout.lock import try_lock
from taskyard_agent.environments.cache import Cache
from taskyard_agent.keeper import processes

from tests.support import nvml
from tests.support.agents import AgentProcess, wait_until
from tests.support.repositories import Repository
from tests.support.servers import PATIENT, ServerProcess
from tests.support.wheels import package_index
from tests.support.yard import Yard

pytestmark = pytest.mark.skipif(nvml.compiler() is None, reason="builds a fake driver with a C compiler")

TASKS = 36
THERE = 64
FIRST = (os.getpid() % 15 + 1) * 4
"""Locks of GPUs are the whole machine's, so suites that run side by side use GPUs of their own."""
MINE = range(FIRST, FIRST + 4)
QUEUES = ("small", "large")
PACKAGES = ("speck_of_dust", "grain_of_sand")
LATE = "drop_of_rain"
"""Needed only when the killing has begun, so that its build may be hit."""
QUIET_SECONDS = (0.2, 1.5)
KILL_SECONDS = 40.0
"""After that the tasks may end in peace: a slow machine starts a daemon more slowly than the next kill comes."""
END_SECONDS = 150.0

WORK = """
import importlib, json, os, random, sys, time
package, marks = sys.argv[1:]
begun = time.monotonic()
with open(os.path.join(marks, "begun"), "a") as file:
    file.write(os.environ["TASKYARD_RUN"] + "\\n")
version = importlib.import_module(package).version
time.sleep(random.uniform(0.1, 0.5))
mark = {"run": os.environ["TASKYARD_RUN"], "gpus": os.environ["CUDA_VISIBLE_DEVICES"].split(","),
        "begun": begun, "ended": time.monotonic()}
with open(os.path.join(marks, "ended"), "a") as file:
    file.write(json.dumps(mark) + "\\n")
print(package, version)
"""


class Machine:
    """One machine: its agents' shared folder, its GPUs, and what the tasks wrote down of themselves."""

    def __init__(self, yard: Yard, folder: Path, variables: dict[str, str]) -> None:
        self.yard = yard
        self.cache = folder / "cache"
        self.marks = folder / "marks"
        self.marks.mkdir()
        self._folder = folder
        self._variables = variables
        self._code = self._publish()

    def agent(self, name: str, devices: list[int], *flags: str, folder: Path | None = None) -> AgentProcess:
        """One of the agents, not started yet."""
        return self.yard.agent(
            *("--gpus", ",".join(map(str, devices)), *flags),
            name=name,
            folder=folder or self._folder / f"agent {name}",
            cache=self.cache,
            variables=self._variables,
        )

    def submit(self, package: str, queue: str) -> Task:
        """A task that takes one GPU and needs the repository and an environment."""
        spec = TaskSpec(
            command=Command(target="work.py", args=(package, str(self.marks))),
            code=self._code,
            environment=Environment(requirements=RequirementsKind.PACKAGES, packages=(f"{package}==1.0",)),
            resources=Resources(gpus=1),
        )
        return self.yard.client.create_task(NewTask(spec=spec, queue=queue))

    @property
    def begun(self) -> list[str]:
        """The runs whose command began, as often as it began."""
        file = self.marks / "begun"
        return file.read_text().split() if file.exists() else []

    @property
    def ended(self) -> list[dict[str, Any]]:
        """What the commands that came to their end wrote down."""
        return [json.loads(line) for line in (self.marks / "ended").read_text().splitlines()]

    @property
    def markers(self) -> dict[str, float]:
        """Each finished environment, and when it was built."""
        return {kept.key: kept.created_at for kept in Cache(self.cache / "environments").entries()}

    def _publish(self) -> Code:
        repository = Repository.create(self._folder / "work", {"work.py": WORK})
        url = repository.publish(self._folder / "work.git")
        return Code(repository=url, branch="main", commit=repository.head)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with package_index(tmp_path / "wheels") as index, ServerProcess(*PATIENT) as server, Yard(server) as yard:
        for package in (*PACKAGES, LATE):
            index.add(package)
        for queue in QUEUES:
            yard.queue(queue)
        (tmp_path / "driver").mkdir()
        driver = nvml.install(tmp_path / "driver", gpus=THERE)
        indexes = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
        yield Machine(yard, tmp_path, driver | indexes)


def three_agents(machine: Machine) -> list[AgentProcess]:
    return [
        machine.agent("one", list(MINE[:2]), "--queue", *QUEUES),
        machine.agent("two", list(MINE[2:3]), "--queue", *reversed(QUEUES)),
        machine.agent("three", list(MINE[3:]), "--queue", *QUEUES, "--order-fairness"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_agents_of_one_machine_share_it_while_one_is_killed_again_and_again(machine: Machine) -> None:
    seed = int(os.environ.get("TASKYARD_TEST_SEED", random.SystemRandom().randrange(10**6)))
    chance = random.Random(seed)
    print(f"seed {seed}")
    tasks = [machine.submit(chance.choice(PACKAGES), chance.choice(QUEUES)) for _ in range(TASKS - 8)]
    tasks += [machine.submit(package, queue) for package, queue in itertools.product(PACKAGES, QUEUES)]
    agents = three_agents(machine)

    with ExitStack() as stack:
        for agent in agents:
            stack.enter_context(agent)
        wait_until(lambda: len(machine.markers) == len(PACKAGES), seconds=90, what="both environments")
        built = machine.markers
        tasks += [machine.submit(LATE, chance.choice(QUEUES)) for _ in range(4)]
        kills = kill_until_the_end(machine.yard, agents, tasks, chance)
        wait_for_beats(machine.yard)
        assert [agent.stop() for agent in agents] == [0, 0, 0]

    assert kills > 2
    check_runs(machine, tasks)
    check_gpus(machine)
    check_environments(machine, tasks, built)
    check_nothing_is_left(machine)


def kill_until_the_end(yard: Yard, agents: list[AgentProcess], tasks: list[Task], chance: random.Random) -> int:
    """Kills one of the daemons and starts it again, until all have ended or for a while; returns how often."""
    deadline, kills = time.monotonic() + KILL_SECONDS, 0
    while time.monotonic() < deadline and not all(yard.task(task).state.terminal for task in tasks):
        chance.choice(agents).restart()
        kills += 1
        time.sleep(chance.uniform(*QUIET_SECONDS))
    yard.wait_for_end(*tasks, seconds=END_SECONDS)
    return kills


def wait_for_beats(yard: Yard) -> None:
    """Waits until all of them were heard of: one that was only just started does not know the signals yet."""
    now = yard.client.info().time
    wait_until(lambda: all(worker.last_seen_at > now for worker in yard.client.workers()), what="three beats")


def check_runs(machine: Machine, tasks: list[Task]) -> None:
    """Each task's command was started once and came to its end, whoever was killed meanwhile.

    A run may be in vain only where its daemon was killed too often to confirm the claim in time.
    """
    ended = machine.yard.wait_for_end(*tasks)
    stories = {task.id: machine.yard.client.story(task.id) for task in ended}
    failed = [
        (stories[task.id].events[-1].detail, [(run.worker, run.outcome) for run in stories[task.id].runs])
        for task in ended
        if task.state is not TaskState.COMPLETED
    ]
    assert not failed, failed
    assert Counter(machine.begun) == Counter(machine.yard.run(task).id for task in tasks), stories
    assert sorted(mark["run"] for mark in machine.ended) == sorted(machine.begun)
    vain = [run for story in stories.values() for run in story.runs[:-1]]
    assert not [run for run in vain if run.started_at is not None or run.confirmed_at is not None], vain


def check_gpus(machine: Machine) -> None:
    """By the tasks' own marks, no GPU was two runs' at one time, and each was somebody's."""
    by_gpu: dict[str, list[tuple[float, float]]] = {}
    for mark in machine.ended:
        assert len(mark["gpus"]) == 1, mark
        by_gpu.setdefault(mark["gpus"][0], []).append((mark["begun"], mark["ended"]))

    assert set(by_gpu) <= {nvml.uuid(index) for index in MINE}
    for spans in by_gpu.values():
        for before, after in itertools.pairwise(sorted(spans)):
            assert before[1] <= after[0]


def check_environments(machine: Machine, tasks: list[Task], built: dict[str, float]) -> None:
    """One was built where three agents wanted it, and stayed; the late one at most once more for each kill."""
    runs = [machine.yard.run(task) for task in tasks]
    builders = Counter(run.environment_key for run in runs if builds(machine.yard, run))
    assert len(machine.markers) == len({run.environment_key for run in runs}) == len(PACKAGES) + 1
    assert machine.markers.items() >= built.items()
    assert all(builders[key] == 1 for key in built), builders
    fresh = Counter(run.environment_key for run in runs if not run.environment_reused)
    assert max(fresh.values()) == 1, fresh


def builds(yard: Yard, run: Run) -> bool:
    return b"building an environment" in yard.client.read_log(run.id, limit=2**20).data


def check_nothing_is_left(machine: Machine) -> None:
    """No process, no run in a journal, no lock that is held, no half of anything; and what is cached is sound."""
    cache = machine.cache
    assert not [pid for run in machine.begun for pid in processes.marked(run)]
    assert not [*cache.glob("agents/*/*/runs/*")]  # a claim left open is settled by the next daemon
    assert not held_locks([*cache.rglob("*.lock"), *cache.glob("agents/*/*/lock")])
    mine = [Gpu(index=index, uuid=nvml.uuid(index)) for index in MINE]
    assert not gpus.held(mine) | gpus.held(mine, folder=gpus.LOCK_FOLDER / "agents")
    assert not [kept for kept in Cache(cache / "environments").entries() if kept.in_use]
    assert {folder.name for folder in (cache / "environments").iterdir() if folder.is_dir()} == set(
        machine.markers
    )
    assert not [verdict for verdict in Cache(cache / "environments").verify() if verdict.problems]
    for mirror in (cache / "git" / "mirrors").glob("*.git"):
        subprocess.run(["git", "--git-dir", mirror, "fsck", "--strict", "--no-progress"], check=True)


def held_locks(locks: list[Path]) -> list[Path]:
    held = []
    for lock in locks:
        fd = try_lock(lock)
        if fd is None:
            held.append(lock)
        else:
            os.close(fd)
    return held


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("second", MINE[1], f"GPU {MINE[1]} ({nvml.uuid(MINE[1])}) is held by first"),
        ("first", MINE[2], "an agent named 'first' runs on this machine already"),
    ],
    ids=["gpu", "name"],  # the numbers of the GPUs differ between the processes that run the tests
)
def test_neither_a_gpu_nor_a_name_is_two_agents(machine: Machine, name: str, device: int, message: str) -> None:
    with machine.agent("first", list(MINE[:2])) as first:
        wait_until(lambda: "serving" in first.log)
        with machine.agent(name, [device, MINE[3]], folder=first.folder / "other") as second:
            code = second.wait()

    assert code == 2
    assert message in second.log
