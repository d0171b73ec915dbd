"""`agent build`: the whole command, from typing it to its exit."""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from taskyard.wire import Container, Environment, RequirementsKind, Task

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement, p50
from tests.support import docker
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

SIX = Environment(requirements=RequirementsKind.PACKAGES, packages=("six==1.16.0",))


def measure(bench: Bench) -> Iterator[Measurement]:
    """A new environment of one package, and an image with a new set-up and that environment."""
    with contextlib.closing(docker.connect()) as engine:
        docker.ensure_image(engine)
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder, ServerProcess() as server:
        with Yard(server) as yard:
            person = Person(Path(folder)).log_in(server)
            plain = [_build(person, _on_machine(yard)) for _ in bench.progress(bench.times(5, 2))]
            boxed = [_build(person, _in_container(yard)) for _ in bench.progress(bench.times(5, 2))]
            person.types("agent", "cache", "prune", "--all")
    yield Measurement(metric="agent build, environment of one package, p50", value=p50(plain), unit="s")
    yield Measurement(
        metric="agent build, image with a set-up and that environment, p50", value=p50(boxed), unit="s"
    )


def _on_machine(yard: Yard) -> Task:
    return yard.submit("true", environment=SIX, queue=None)


def _in_container(yard: Yard) -> Task:
    wanted = Container(image=docker.IMAGE, setup_script=f"echo {uuid.uuid4()} > /etc/marker")
    return yard.submit("true", environment=SIX, container=wanted, queue=None)


def _build(person: Person, task: Task) -> float:
    """Seconds; what was built before is forgotten, what was downloaded is not."""
    person.types("agent", "cache", "prune", "--all")
    began = time.monotonic()
    done = person.types("agent", "build", "--cpu-only", "--id", task.id)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began
