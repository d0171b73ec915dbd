"""What the reading commands show: of what they load, on narrow and old terminals, with the columns asked for."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from taskyard import wire
from taskyard.client import Client
from taskyard.transport import Transport

from tests.support.claimants import Claimant
from tests.support.person import Person
from tests.support.servers import ServerProcess

COMMAND = wire.Command(target="train.py")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(Transport(server.url, server.admin_token)) as opened:
        yield opened


@pytest.fixture(scope="module")
def person(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person(tmp_path_factory.mktemp("person")).log_in(server)


@pytest.fixture(scope="module")
def ended(server: ServerProcess, client: Client) -> wire.Task:
    """A task that ran to its end, with a log."""
    queue = client.create_queue(wire.NewQueue(name=f"queue {uuid.uuid4().hex[:8]}"))
    spec = wire.TaskSpec(name="größe ✓", command=COMMAND)
    task = client.create_task(wire.NewTask(spec=spec, queue=queue.id))
    with Claimant(server, server.issue("agent"), "reader") as agent:
        agent.run_one(queue.name, memory_bytes=1e6)
    return client.task(task.id)


def shown_on_a_terminal(person: Person, *words: str, **variables: str) -> str:
    """What the command shows on a terminal, without colours."""
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "taskyard.cli", *words],
        cwd=person.work,
        env=person.variables | {"NO_COLOR": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    pieces = []
    while True:
        try:
            piece = os.read(outer, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(outer)
    process.wait(60)
    return b"".join(pieces).decode(variables.get("PYTHONIOENCODING", "utf-8")).replace("\r\n", "\n")


HEAVY = [
    "rich",
    "click",
    "pygments",
    "docker",
    "git",
    "difflib",
    "taskyard.submission",
    "taskyard.requirements",
    "taskyard.snapshot",
    "taskyard.script_options",
    "taskyard_agent",
    "httpx._main",
]


@pytest.mark.parametrize("words", [("ps",), ("show", "TASK"), ("logs", "TASK"), ("explain", "TASK")])
def test_a_reading_command_loads_no_more_than_it_needs(
    person: Person, ended: wire.Task, words: tuple[str]
) -> None:
    typed = [ended.id if word == "TASK" else word for word in words]
    code = (
        "import json, sys; from taskyard.cli.app import execute; code = execute(sys.argv[2:]); "
        "open(sys.argv[1], 'w').write(json.dumps([code, sorted(sys.modules)]))"
    )
    report = person.work / "modules.json"
    outer, inner = pty.openpty()  # a table on a terminal needs the most

    subprocess.run(
        [sys.executable, "-c", code, str(report), *typed], stdout=inner, env=person.variables, check=True
    )

    os.close(inner)
    os.close(outer)
    exit_code, loaded = json.loads(report.read_text())
    assert exit_code == 0
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_a_terminal_that_cannot_show_every_letter_gets_what_it_can(
    person: Person, ended: wire.Task, encoding: str
) -> None:
    listed, story = (
        shown_on_a_terminal(person, *words, PYTHONIOENCODING=encoding, COLUMNS="60")
        for words in (("ps", "--match", "gr"), ("story", ended.id))
    )

    assert ("größe ?" if encoding != "ascii" else "gr??e ?") in listed
    assert "###" in story
    assert "Traceback" not in listed + story


def test_json_in_such_a_pipe_loses_nothing(person: Person, ended: wire.Task) -> None:
    done = person.types("show", "--json", ended.id, PYTHONIOENCODING="cp1252")

    assert json.loads(done.stdout)["spec"]["name"] == ended.spec.name


def test_at_60_columns_names_are_whole_and_other_columns_go(person: Person, client: Client) -> None:
    name = f"sweep-{uuid.uuid4().hex[:12]}"
    client.create_task(wire.NewTask(spec=wire.TaskSpec(name=name, command=COMMAND), queue="default"))

    shown = shown_on_a_terminal(person, "ps", "--match", name, COLUMNS="60")

    title, row = shown.splitlines()
    assert name in row
    assert {len(title) <= 60, len(row) <= 60} == {True}
    assert {"ID", "NAME", "STATE"} <= set(title.split())
