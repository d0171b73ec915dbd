"""What `deploy/` holds starts a server, an agent and a services agent that run tasks: C28."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from taskyard.client import Client
from taskyard.config import Connection
from taskyard.wire import Command, CommandKind, NewTask, Task, TaskSpec, TaskState
from taskyard_agent.containers.engine import find_socket

from tests.support import docker as engine
from tests.support import workers
from tests.support.agents import wait_until
from tests.support.servers import free_port
from tests.support.yard import INHERIT

WHO = "import os; print(os.getuid(), [name for name in os.environ if 'TOKEN' in name])"


@dataclass(frozen=True, kw_only=True)
class Composed:
    """The compose file, on images of this tree that are built without an index."""

    command: tuple[str, ...]
    port: int
    engine: docker.DockerClient

    def run(self, *words: str) -> str:
        variables = os.environ | {"DOCKER_HOST": f"unix://{find_socket(os.environ)}"}
        done = subprocess.run([*self.command, *words], env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def client(self) -> Client:
        """Its administrator, by the command that the file names."""
        token = self.run("exec", "-T", "server", "cat", "/var/lib/taskyard/admin-token").strip()
        return Client.of(Connection(server=f"http://127.0.0.1:{self.port}", token=token))


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    compose = [word for word in (shutil.which("docker-compose"),) if word]
    if not compose:
        pytest.skip("needs docker-compose")
    client, port, project = engine.connect(), free_port(), f"taskyard-test-{os.getpid()}"
    base = workers.make_base(client, tmp_path / "base", "agent", "server", "mongo")
    file = _for_this_machine(tmp_path / "source", base, port)
    made = Composed(command=(*compose, "-p", project, "-f", str(file)), port=port, engine=client)
    try:
        yield made
    finally:
        made.run("down", "--volumes", "--rmi", "local")
        client.close()


def _for_this_machine(source: Path, base: str, port: int) -> Path:
    """A copy of what the images are built from, on another base and another port; returns its compose file."""
    for name in ("sdk", "agent", "server", "deploy"):
        shutil.copytree(workers.ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(workers.ROOT / name, source / name)
    dockerfile, file = source / "deploy" / "containers" / "Dockerfile", source / "deploy" / "compose.yaml"
    dockerfile.write_text(re.sub(r"^ARG BASE=.*", f"ARG BASE={base}", dockerfile.read_text(), flags=re.MULTILINE))
    text = re.sub(r"^name: .*\n", "", file.read_text(), flags=re.MULTILINE)  # unknown to version 1 of Compose
    file.write_text(text.replace("127.0.0.1:8420:8420", f"127.0.0.1:{port}:8420"))
    return file


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_the_compose_file_starts_a_server_an_agent_and_a_services_agent(composed: Composed) -> None:
    composed.run("up", "--build", "--detach")

    with composed.client() as client:
        tasks = {queue: submit(client, queue) for queue in ("default", "services")}
        ended = {queue: finished(client, task) for queue, task in tasks.items()}
        said = [client.read_log(task.run.id).data for task in ended.values() if task.run]

    assert {task.state for task in ended.values()} == {TaskState.COMPLETED}, composed.run("logs")
    assert {queue: task.run.worker for queue, task in ended.items() if task.run} == {
        "default": "default",
        "services": "services",
    }
    assert [log.splitlines()[-1] for log in said] == [b"1000 ['TASKYARD_TOKEN']"] * 2
    assert told_in_the_open(composed) == []


def submit(client: Client, queue: str) -> Task:
    command = Command(kind=CommandKind.EXECUTABLE, target="python", args=("-c", WHO))
    return client.create_task(NewTask(spec=TaskSpec(command=command, environment=INHERIT), queue=queue))


def finished(client: Client, task: Task) -> Task:
    wait_until(lambda: client.task(task.id).state.terminal, seconds=90, what="the task's end")
    run = client.task(task.id).run
    assert run is not None
    wait_until(lambda: client.read_log(run.id, limit=1).complete, what="whole log")
    return client.task(task.id)


def told_in_the_open(composed: Composed) -> list[str]:
    """Containers whose description, command line or variables hold the agents' or the administrator's token."""
    secrets = [
        composed.run("exec", "-T", "server", "cat", "/var/lib/taskyard/admin-token").strip(),
        composed.run("exec", "-T", "agent", "cat", "/var/lib/taskyard-token/agent").strip(),
    ]
    containers = [composed.engine.containers.get(name) for name in composed.run("ps", "-q").split()]
    return [one.name or "" for one in containers if any(secret in str(one.attrs) for secret in secrets)]
