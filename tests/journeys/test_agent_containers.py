"""Tasks in containers, on a real engine: C07, C12, C13, C23."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest
from taskyard.wire import (
    Container,
    OutcomeKind,
    Phase,
    Reason,
    TaskState,
)

from tests.support.docker import IMAGE, connect, containers_of, ensure_image
from tests.support.yard import Yard


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = connect()
    ensure_image(client)
    yield client
    client.close()


def test_a_task_runs_in_the_agents_default_image(yard: Yard, engine: docker.DockerClient) -> None:
    task = yard.submit("python3", "-c", "print(open('/etc/debian_version').read()[:2])")

    with yard.agent("--docker", IMAGE) as agent:
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.COMPLETED, agent.log
    assert yard.text(task) == "12\n"
    assert containers_of(engine, yard.run(task).id) == []
