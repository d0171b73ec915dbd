"""A server with the means to put work into it and to look at what became of it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskyard.client import Client
from taskyard.config import Connection
from taskyard.wire import (
    Command,
    CommandKind,
    Environment,
    Manager,
    NewQueue,
    NewTask,
    Policy,
    Resources,
    Run,
    Task,
    TaskSpec,
    TaskState,
)

from tests.support.agents import AgentProcess, wait_until
from tests.support.servers import ServerProcess

INHERIT = Environment(manager=Manager.INHERIT)
NOTICE = "taskyard: this run wrote "
"""Begins the lines at the end of a log that name files of the run which are removed."""


class Yard:
    """One server, as its administrator sees it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._agents = itertools.count(1)
        self.client = Client.of(Connection(server=server.url, token=server.admin_token))

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def agent(self, *flags: str, **options: Any) -> AgentProcess:
        """An agent of this server, not started yet; the first is called `tester`, and no other like one before."""
        number = next(self._agents)
        name = options.pop("name", f"tester{number if number > 1 else ''}")
        return AgentProcess(self.server, *flags, name=name, **options)

    def queue(self, name: str) -> str:
        """Creates a queue; returns its id."""
        return self.client.create_queue(NewQueue(name=name)).id

    def submit(
        self,
        *argv: str,
        queue: str | None = "default",
        name: str = "",
        gpus: int | None = None,
        policy: Policy | None = None,
        **spec: Any,
    ) -> Task:
        """Enqueues a command that needs no code and no environment."""
        command = Command(kind=CommandKind.EXECUTABLE, target=argv[0], args=tuple(argv[1:]))
        wanted = TaskSpec(
            name=name,
            command=command,
            environment=spec.pop("environment", INHERIT),
            resources=spec.pop("resources", Resources(gpus=gpus)),
            policy=policy or Policy(),
            **spec,
        )
        return self.client.create_task(NewTask(spec=wanted, queue=queue))

    def python(self, source: str, **options: Any) -> Task:
        """Enqueues a Python program, given as text."""
        return self.submit(sys.executable, "-c", source, **options)

    def task(self, task: Task) -> Task:
        """How it is now."""
        return self.client.task(task.id)

    def wait_for_state(self, task: Task, *states: TaskState, seconds: float = 30.0) -> Task:
        """Waits until the task is in one of the states."""
        wait_until(
            lambda: self.task(task).state in states,
            seconds=seconds,
            what=f"task in {[state.value for state in states]}",
        )
        return self.task(task)

    def wait_for_end(self, *tasks: Task, seconds: float = 60.0) -> list[Task]:
        """Waits until all of them are in a final state, in which their logs are complete."""
        for task in tasks:
            wait_until(lambda task=task: self.task(task).state.terminal, seconds=seconds, what=f"end of {task.id}")
            self.wait_for_log(self.run(task))
        return [self.task(task) for task in tasks]

    def wait_for_log(self, run: Run, *, seconds: float = 30.0) -> None:
        """Waits until the server holds the whole log of a run that has ended."""
        wait_until(lambda: self.client.read_log(run.id, limit=1).complete, seconds=seconds, what="whole log")

    def run(self, task: Task) -> Run:
        """The latest run."""
        run = self.task(task).run
        assert run is not None, f"task {task.id} was never claimed"
        return run

    def runs(self, task: Task) -> Sequence[Run]:
        """All attempts."""
        return self.client.story(task.id).runs

    def output(self, run: Run) -> bytes:
        """What the command itself wrote; before it stand checkout and environment."""
        offset = self.client.run(run.id).output_offset or 0
        pieces = []
        while piece := self.client.read_log(run.id, offset=offset).data:
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def text(self, task: Task) -> str:
        """What the latest run's command wrote, without what the log says of its files."""
        return self.output(self.run(task)).decode().partition(NOTICE)[0]

    def wait_for_output(self, task: Task, text: str, *, seconds: float = 30.0) -> None:
        """Waits until the command has written `text`."""
        wait_until(
            lambda: self.task(task).run is not None and text in self.text(task),
            seconds=seconds,
            what=f"{text!r} in the log",
        )


def count(file: Path) -> int:
    """How often something left a line in a file: what ran, and how often, by its own account."""
    return len(file.read_text().splitlines()) if file.exists() else 0
