"""A custom worker is written, built by a real engine, and runs a task in what it holds: D05."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.models.containers import Container
from docker.types import Mount
from taskyard.wire import Environment, Manager, RequirementsKind, TaskState

from tests.support import docker as engine
from tests.support import workers
from tests.support.agents import wait_until
from tests.support.person import Person
from tests.support.units import faults
from tests.support.wheels import make_wheel
from tests.support.yard import Yard

UID = os.getuid() or 1000
LOOK = "import os, speck_of_dust; print(speck_of_dust.version, os.getuid())"


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = engine.connect()
    workers.ensure_base(client)
    yield client
    client.close()


def written(yard: Yard, folder: Path) -> Path:
    """A folder that `agent init` wrote, with a package of its own and all that its image needs."""
    person = Person(folder / "person").log_in(yard.server)
    done = person.types("agent", "init", str(folder / "worker"), "--name", "dusty", "--base", workers.BASE)
    assert done.returncode == 0, done.stderr
    (folder / "worker" / "wheels").mkdir()
    make_wheel(workers.download_wheels(folder / "worker" / "wheels", "agent"), "speck_of_dust")
    with (folder / "worker" / "requirements.txt").open("a") as requirements:
        requirements.write("./wheels/speck_of_dust-1.0-py3-none-any.whl\n")
    (folder / "worker" / "uv.toml").write_text('no-index = true\nfind-links = ["wheels"]\n')
    return folder / "worker"


def with_token(yard: Yard, worker: Path) -> str:
    """Does what its README says; returns the token."""
    secret = yard.server.issue("agent", name="dusty", queues=["dusty"])
    (worker / "token").touch(mode=0o600)
    (worker / "token").write_text(secret)
    if os.getuid() == 0:
        os.chown(worker / "token", UID, -1)
    return secret


@contextmanager
def composed(client: docker.DockerClient, worker: Path) -> Iterator[Container]:
    """Builds and starts what compose.yaml describes, as Compose would."""
    service: dict[str, Any] = yaml.safe_load((worker / "compose.yaml").read_text())["services"]["agent"]
    image, _ = client.images.build(
        path=str(worker), buildargs={"UID": str(UID)}, network_mode="none", rm=True, forcerm=True
    )
    container = client.containers.run(
        image,
        service["command"],
        detach=True,
        init=service["init"],
        network_mode=service["network_mode"],
        security_opt=service["security_opt"],
        mounts=[Mount("/run/secrets/token", str(worker / "token"), type="bind", read_only=True)],
    )
    try:
        yield container
    finally:
        container.remove(force=True, v=True)
        client.images.remove(image.id, force=True)


def ended(container: Container) -> bool:
    container.reload()
    return bool(container.status == "exited")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_custom_worker_is_written_built_and_runs_a_task_in_its_image(
    yard: Yard, client: docker.DockerClient, tmp_path: Path
) -> None:
    worker = written(yard, tmp_path)
    yard.queue("dusty")
    secret = with_token(yard, worker)
    wants = Environment(manager=Manager.UV, requirements=RequirementsKind.PACKAGES, packages=("not-on-any-index",))

    with composed(client, worker) as container:
        task = yard.submit("python", "-c", LOOK, queue="dusty", environment=wants)
        wait_until(lambda: yard.task(task).state.terminal or ended(container), seconds=90)
        told = container.logs().decode()
        shown = str(container.attrs) + str(client.images.get(container.image.id).history())
        container.kill("SIGTERM")
        code = container.wait(timeout=30)["StatusCode"]

    assert yard.task(task).state is TaskState.COMPLETED, told
    assert yard.text(task) == f"1.0 {UID}\n"
    assert secret not in shown + told
    assert code == 0


def test_the_next_steps_are_said(yard: Yard, tmp_path: Path) -> None:
    person = Person(tmp_path).log_in(yard.server)

    first = person.types("agent", "init", "worker")
    second = person.types("agent", "init", "worker")

    assert re.search(r"^worker/Dockerfile$", first.stdout, flags=re.MULTILINE)
    assert "the next three commands are in worker/README.md" in first.stderr
    assert (second.returncode, "--force" in second.stderr) == (2, True)


def test_the_unit_is_one_that_systemd_takes(yard: Yard, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    Person(tmp_path).log_in(yard.server).types("agent", "init", "worker", "--name", "dusty")
    unit = tmp_path / "work" / "worker" / "worker.service"

    assert faults(unit, tmp_path) == []


def test_an_agent_that_inherits_gives_every_task_its_own_environment(yard: Yard) -> None:
    wants = Environment(manager=Manager.UV, requirements=RequirementsKind.PACKAGES, packages=("not-on-any-index",))
    task = yard.submit("python", "-c", "import psutil; print('it is there')", environment=wants)

    with yard.agent("--inherit") as agent:
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.COMPLETED, agent.log
    assert yard.text(task) == "it is there\n"
