"""What the reading commands show: of what they load, on narrow and old terminals, with the columns asked for."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard import wire
from taskyard.cli import events
from taskyard.client import Client
from taskyard.transport import Transport

from tests.support.agents import wait_until
from tests.support.claimants import Claimant
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.socks import SocksProxy

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


HEAVY = (
    *("rich", "click", "pygments", "docker", "git", "difflib", "httpx._main", "taskyard_agent"),
    *("taskyard.submission", "taskyard.requirements", "taskyard.snapshot", "taskyard.script_options"),
)


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

    assert ("größe +" if encoding != "ascii" else "gr??e +") in listed
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


# --- columns


@pytest.fixture(scope="module")
def variants(server: ServerProcess, client: Client) -> list[wire.Task]:
    """Three tasks that differ in one parameter; the first of them ran."""
    queue = client.create_queue(wire.NewQueue(name="variants"))
    tasks = [
        client.create_task(
            wire.NewTask(
                spec=wire.TaskSpec(
                    name=f"variant {lr}",
                    project="variants",
                    command=COMMAND,
                    parameters={"Args": {"seed": "1", "lr": lr} if lr else {"seed": "1"}},
                ),
                queue=queue.id,
            )
        )
        for lr in ("0.1", "1e-3", "")
    ]
    with Claimant(server, server.issue("agent"), "columns") as agent:
        run = agent.claim("variants")["run"]["id"]
        agent.beat(run, memory_bytes=5e6)
        agent.start(run).raise_for_status()
        text = b"epoch 1\nepoch 2 loss 0.25\n"
        agent.append(run, 0, text).raise_for_status()
        agent.finish(run, log_bytes=len(text)).raise_for_status()
    return [client.task(task.id) for task in tasks]


def rows_of(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_ps_shows_and_sorts_by_what_is_asked_for(person: Person, variants: list[wire.Task]) -> None:
    columns = "id,param.lr,metric.memory_bytes,last-line"

    listed = person.types("ps", "--project", "variants", "--columns", columns, "--sort", "param.lr")

    assert rows_of(listed.stdout) == [
        [variants[1].id[:8], "1e-3", "", ""],
        [variants[0].id[:8], "0.1", "5.0 MB", "epoch 2 loss 0.25"],
        [variants[2].id[:8], "", "", ""],
    ]


def test_ps_params_adds_those_that_differ(person: Person, variants: list[wire.Task]) -> None:
    shown = shown_on_a_terminal(person, "ps", "--project", "variants", "--params", COLUMNS="120")

    assert "lr" in shown.splitlines()[0].split()
    assert "seed" not in shown


def test_ps_gives_csv_for_a_spreadsheet_and_fields_for_a_program(
    person: Person, variants: list[wire.Task]
) -> None:
    words = ("ps", "--project", "variants", "--sort", "param.lr", "--reverse")

    table = person.types(*words, "--csv", "--columns", "id,name,param.lr").stdout.splitlines()
    fields = json.loads(person.types(*words, "--json", "id,spec.name,run.outcome.kind").stdout)
    unknown = person.types(*words, "--json=nonsense")

    assert table[:2] == ["ID,NAME,lr", f"{variants[0].id},variant 0.1,0.1"]
    assert fields[0] == {"id": variants[0].id, "spec.name": "variant 0.1", "run.outcome.kind": "completed"}
    assert (unknown.returncode, "there is no field 'nonsense'" in unknown.stderr) == (2, True)


def test_ps_mine_leaves_out_what_others_created(
    server: ServerProcess, person: Person, variants: list[wire.Task], tmp_path: Path
) -> None:
    other = Person(tmp_path, TASKYARD_SERVER=server.url, TASKYARD_TOKEN=server.issue("user", name="other"))

    listed = [who.types("ps", "--mine", "--project", "variants").stdout for who in (person, other)]

    assert [len(rows_of(text)) for text in listed] == [3, 0]


def test_a_column_that_does_not_exist_is_refused_with_the_names_of_all(person: Person) -> None:
    refused = person.types("ps", "--columns", "id,lr")

    assert refused.returncode == 2
    assert "param.NAME" in refused.stderr


# --- events


def test_events_are_the_newest_ones_the_newest_last(person: Person, client: Client) -> None:
    tasks = [
        client.create_task(wire.NewTask(spec=wire.TaskSpec(name=f"event {number}", command=COMMAND)))
        for number in range(5)
    ]

    listed = rows_of(person.types("events", "--kind", "created", "--limit", "3").stdout)

    assert [row[1] for row in listed] == [task.id[:8] for task in tasks[2:]]


def test_more_events_than_a_page_are_gone_through_without_losing_one(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = client.info().time
    made = client.create_tasks(
        wire.NewTask(spec=wire.TaskSpec(name=f"page {number}", command=COMMAND)) for number in range(25)
    )
    made.append(client.create_task(wire.NewTask(spec=wire.TaskSpec(name="page last", command=COMMAND))))
    monkeypatch.setattr(events, "PAGE", 30)  # those of one request may have one time: they must fit a page

    found = events.newest(client, began, 26, task=None, kind="created")

    assert {one.task for one in found} == {task.id for task in made}
    assert found[-1].task == made[-1].id


def test_followed_events_go_on_with_what_happens(person: Person, client: Client, tmp_path: Path) -> None:
    log = tmp_path / "events"
    process = person.starts("events", "-f", "--kind", "created", "-n", "1", "--json", log=log)
    wait_until(lambda: log.read_text().count("\n") == 1, what="the last event of before")

    task = client.create_task(wire.NewTask(spec=wire.TaskSpec(name="while followed", command=COMMAND)))

    wait_until(lambda: log.read_text().count("\n") == 2, what="the new event")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert json.loads(log.read_text().splitlines()[-1])["task"] == task.id


# --- proxies


def test_a_socks_proxy_leads_to_the_server(server: ServerProcess, person: Person) -> None:
    port = server.url.rpartition(":")[2]
    with SocksProxy() as proxy:
        done = person.types(
            "queues",
            *("--server", f"http://yard.test:{port}", "--insecure"),
            ALL_PROXY=proxy.url,
            TASKYARD_TOKEN=server.admin_token,
            TASKYARD_SERVER=f"http://yard.test:{port}",
        )

    assert (done.returncode, "default" in done.stdout) == (0, True), done.stderr
    assert proxy.names == ["yard.test"]


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("socks5://127.0.0.1:1", 'pip install "taskyard[socks]"'),
        ("gopher://127.0.0.1:1", "names a proxy that is none"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line(person: Person, proxy: str, says: str) -> None:
    code = "import sys; sys.modules['socksio'] = None; from taskyard.cli import main; sys.exit(main())"
    words = ("queues", "--server", "http://yard.test:1", "--insecure")

    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=person.variables | {"ALL_PROXY": proxy},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert says in done.stderr
