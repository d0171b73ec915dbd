"""`agent build`: what a task needs is made before it runs, on a real engine: C01."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from taskyard.wire import Container, Environment, RequirementsKind, Task, TaskState
from taskyard_agent.containers.engine import AGENT, RUN, TASK

from tests.support.agents import AgentProcess
from tests.support.docker import IMAGE, connect, ensure_image
from tests.support.person import Person
from tests.support.wheels import package_index
from tests.support.yard import Yard

SLOW = 120.0
SIX = Environment(requirements=RequirementsKind.PACKAGES, packages=("six==1.16.0",))


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = connect()
    ensure_image(client)
    yield client
    client.close()


@pytest.fixture
def person(tmp_path: Path, yard: Yard) -> Person:
    return Person(tmp_path / "person").log_in(yard.server)


@pytest.fixture
def target(engine: docker.DockerClient) -> Iterator[str]:
    name = "taskyard-test/target:1"
    yield name
    engine.images.remove(name, force=True)


def cache_of(person: Person) -> Path:
    return person.home / "xdg_cache_home" / "taskyard"


def agent_of(yard: Yard, person: Person, *flags: str, **variables: str) -> AgentProcess:
    """A daemon on the folder in which the person has built."""
    return yard.agent(*flags, cache=cache_of(person), variables=variables)


def six(yard: Yard, **spec: object) -> Task:
    return yard.submit("python3", "-c", "import six; print(six.__version__)", environment=SIX, **spec)  # type: ignore[arg-type]


def test_a_run_finds_the_environment_that_was_built_for_it(yard: Yard, person: Person, tmp_path: Path) -> None:
    task = six(yard)
    with package_index(tmp_path / "index") as index:
        index.add("six", "1.16.0")
        variables: dict[str, Any] = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
        done = person.types("agent", "build", "--cpu-only", "--json", "--id", task.id, **variables)
        made = json.loads(done.stdout)
        before = yard.task(task)
        with agent_of(yard, person, **variables):
            yard.wait_for_end(task)

    assert (done.returncode, made["reused"], made["image"]) == (0, False, None), done.stderr
    assert (before.state, before.run) == (TaskState.QUEUED, None)
    assert yard.run(task).environment_key == made["key"]
    assert yard.run(task).environment_reused


@pytest.mark.usefixtures("images_alone")
def test_a_run_finds_image_and_environment_that_were_built_for_it(
    yard: Yard, engine: docker.DockerClient, person: Person
) -> None:
    wanted = Container(image=IMAGE, setup_script="echo made for this > /etc/marker")
    task = six(yard, container=wanted)

    done = person.types("agent", "build", "--cpu-only", "--json", "--id", task.id)
    made = json.loads(done.stdout)
    with agent_of(yard, person, "--docker"):
        (ended,) = yard.wait_for_end(task, seconds=SLOW)
    log = yard.client.read_log(yard.run(task).id).data.decode()

    assert made["image"].startswith("taskyard.invalid/prepared:")
    assert ended.state is TaskState.COMPLETED, log
    assert (yard.run(task).environment_key, yard.run(task).environment_reused) == (made["key"], True)
    assert "using the image that the same set-up made before" in log


@pytest.mark.usefixtures("images_alone")
def test_an_image_that_was_built_runs_as_it_stands_and_needs_nothing_installed(
    yard: Yard, engine: docker.DockerClient, person: Person, target: str
) -> None:
    task = six(yard, container=Container(image=IMAGE, setup_script="echo made > /etc/marker"), queue=None)
    look = "python -c 'import six; print(six.__file__)'; cat /etc/marker"

    done = person.types("agent", "build", "--cpu-only", "--target", target, "--id", task.id)
    said = engine.containers.run(target, ["sh", "-c", look], remove=True).decode()
    again = six(yard, container=Container(image=target))
    inherited = yard.submit("python3", "-c", "import six; print('there')", container=Container(image=target))
    with agent_of(yard, person, "--docker"):
        yard.wait_for_end(again, inherited, seconds=SLOW)

    assert done.returncode == 0, done.stderr
    assert not any(engine.images.get(target).labels[label] for label in (TASK, RUN, AGENT))
    assert said.splitlines()[1] == "made"
    assert said.startswith("/opt/taskyard/environment/")
    assert (yard.text(again), yard.text(inherited)) == ("1.16.0\n", "there\n")
    assert "Installed" not in yard.client.read_log(yard.run(again).id).data.decode()


def test_an_agents_token_builds_what_waits_in_its_queues_and_nothing_else(yard: Yard, tmp_path: Path) -> None:
    own, other = yard.queue("own"), yard.queue("other")
    mine, theirs = (yard.submit("true", queue=queue) for queue in (own, other))
    token = yard.server.issue("agent", name="builder", queues=("own",))
    person = Person(tmp_path / "person", TASKYARD_SERVER=yard.server.url, TASKYARD_TOKEN=token)

    allowed, refused = (person.types("agent", "build", "--cpu-only", "--id", task.id) for task in (mine, theirs))

    assert (allowed.returncode, refused.returncode) == (0, 1), allowed.stderr
    assert "in its queues alone" in refused.stderr


@pytest.mark.parametrize("flags", [("--docker",), ("--target", "mine:1")])
def test_an_image_of_a_task_without_a_container_must_be_named(
    yard: Yard, person: Person, flags: tuple[str, ...]
) -> None:
    task = yard.submit("true")

    done = person.types("agent", "build", "--cpu-only", *flags, "--id", task.id)

    assert done.returncode == 2
    assert "--docker IMAGE" in done.stderr


def test_what_the_task_gets_wrong_ends_a_build_with_1(yard: Yard, person: Person) -> None:
    wanted = Environment(requirements=RequirementsKind.REQUIREMENTS_TXT, path="absent.txt")
    task = yard.submit("true", environment=wanted)

    done = person.types("agent", "build", "--cpu-only", "--id", task.id)

    assert done.returncode == 1
    assert "absent.txt" in done.stderr


@pytest.mark.usefixtures("images_alone")
def test_prepared_images_are_listed_and_pruned_but_for_those_that_a_container_uses(
    yard: Yard, engine: docker.DockerClient, person: Person
) -> None:
    for word in ("one", "two"):
        task = yard.submit("true", container=Container(image=IMAGE, setup_script=f"echo {word} > /etc/pruned"))
        person.types("agent", "build", "--cpu-only", "--id", task.id)
    listed = json.loads(person.types("agent", "cache", "list", "--json").stdout)["images"]
    held = engine.containers.create(listed[0]["image"], ["true"])

    pruned = json.loads(person.types("agent", "cache", "prune", "--all", "--json").stdout)["images"]
    left = json.loads(person.types("agent", "cache", "list", "--json").stdout)["images"]
    held.remove()
    person.types("agent", "cache", "prune", "--cache-environments", "0")
    last = json.loads(person.types("agent", "cache", "list", "--json").stdout)["images"]

    assert [one["image"] for one in pruned] == [listed[1]["image"]]
    assert [(one["image"], one["in_use"]) for one in left] == [(listed[0]["image"], True)]
    assert last == []


def test_without_an_engine_the_cache_is_listed_all_the_same(person: Person, tmp_path: Path) -> None:
    done = person.types("agent", "cache", "list", DOCKER_HOST=f"unix://{tmp_path}/none.sock")

    assert done.returncode == 0, done.stderr
