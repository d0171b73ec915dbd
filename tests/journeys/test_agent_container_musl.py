"""Images whose C library is musl, on a real engine: C07, C23."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import docker
import pytest
from taskyard.wire import (
    Command,
    CommandKind,
    Container,
    Environment,
    NewTask,
    Outcome,
    Reason,
    RequirementsKind,
    Task,
    TaskSpec,
    TaskState,
)

from tests.support.agents import wait_until
from tests.support.docker import bare_image, connect, derive, ensure_image, musl_image
from tests.support.yard import Yard

SLOW = 120.0
CLAIMS_MUSL = "sed -i \"s/'HOST_GNU_TYPE': '[^']*'/'HOST_GNU_TYPE': '$(uname -m)-linux-musl'/\" {}"
"""What Alpine's Python says of itself is written into Debian's: it cannot be had itself without a registry."""
SYSCONFIG = "/usr/lib/python3.11/_sysconfigdata__*.py"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = connect()
    ensure_image(client)
    yield client
    client.close()


def test_an_image_of_musl_runs_programs_and_lacks_python_where_a_broken_one_runs_nothing(
    yard: Yard, engine: docker.DockerClient
) -> None:
    musl = musl_image(engine)
    broken = bare_image(engine, "taskyard-test/no-library:1", {"/bin/sh": Path("/bin/sh").read_bytes()})
    program = yard.submit(
        "sh", "-c", "/lib/ld-musl-$(busybox uname -m).so.1; true", container=Container(image=musl)
    )

    with yard.agent("--docker"):
        yard.wait_for_end(program, seconds=SLOW)
        without, dead = (_failure(yard, _module(yard, image)) for image in (musl, broken))

    assert yard.text(program).startswith("musl libc")
    assert (without.reason, without.infrastructure) == (Reason.IMAGE, False)
    assert f"the image {musl} has no Python on its PATH" in without.message
    assert (dead.reason, dead.infrastructure) == (Reason.IMAGE, False)
    assert f"nothing runs in the image {broken}" in dead.message


def test_a_python_of_musl_gets_a_uv_that_needs_no_library(yard: Yard, engine: docker.DockerClient) -> None:
    image = derive(engine, "taskyard-test/musl-python:1", CLAIMS_MUSL.format(SYSCONFIG))
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("six==1.16.0",))
    source = "import six; print(six.__version__)"
    task = yard.submit("python3", "-c", source, container=Container(image=image), environment=wanted)

    with yard.agent("--docker") as agent:
        (ended,) = yard.wait_for_end(task, seconds=SLOW)
        (uv,) = agent.cache.glob(f"tools/uv-*-{platform.machine()}-unknown-linux-musl/bin/uv")
        said = [_said_by(engine, uv, image) for image in (_empty(engine), musl_image(engine))]

    assert (ended.state, yard.text(task)) == (TaskState.COMPLETED, "1.16.0\n")
    assert all(line.startswith(f"uv {metadata.version('uv')}") and "musl" in line for line in said)


def _module(yard: Yard, image: str) -> Task:
    spec = TaskSpec(command=Command(kind=CommandKind.MODULE, target="this"), container=Container(image=image))
    return yard.client.create_task(NewTask(spec=spec, queue="default"))


def _failure(yard: Yard, task: Task) -> Outcome:
    wait_until(lambda: (run := yard.task(task).run) and run.outcome, seconds=SLOW, what=f"end of {task.id}")
    outcome = yard.run(task).outcome
    assert outcome is not None
    return outcome


def _empty(engine: docker.DockerClient) -> str:
    """An image in which only what needs nothing can run."""
    return bare_image(engine, "taskyard-test/empty:1", {"/empty": b""})


def _said_by(engine: docker.DockerClient, uv: Path, image: str) -> str:
    lent = {str(uv): {"bind": "/uv", "mode": "ro"}}
    said: bytes = engine.containers.run(
        image, ["/uv", "--version"], volumes=lent, network_mode="none", remove=True
    )
    return said.decode()
