"""What a person types, what is printed and with which code it ends; against a real server."""

from __future__ import annotations

import argparse
import json
import os
import pty
import shlex
import signal
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from taskyard import wire
from taskyard.cli.app import KNOWN, MODULES, _parser, execute, parse
from taskyard.cli.guidance import EXAMPLES, FAMILIAR
from taskyard.client import Client
from taskyard.config import Credentials
from taskyard.transport import Transport

from tests.support.certificates import self_made_certificate
from tests.support.claimants import Claimant
from tests.support.servers import ServerProcess, free_port

Typed = Callable[..., "Result"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as started:
        yield started


@pytest.fixture(autouse=True)
def logged_in(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TASKYARD_SERVER", "TASKYARD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    Credentials().save(server.url, server.admin_token, default=True)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(Transport(server.url, server.admin_token)) as opened:
        yield opened


@pytest.fixture
def type_in(capsys: pytest.CaptureFixture[str]) -> Typed:
    def typed(*words: str) -> Result:
        try:
            code = execute(words)
        except SystemExit as end:  # argparse's own refusals
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return typed


@pytest.fixture
def queue(client: Client) -> wire.Queue:
    return client.create_queue(wire.NewQueue(name=f"queue {uuid.uuid4().hex[:8]}"))


@pytest.fixture
def task(client: Client) -> wire.Task:
    command = wire.Command(target="train.py", args=("--lr", "0.01"))
    spec = wire.TaskSpec(name=f"task {uuid.uuid4()}", command=command, parameters={"Args": {"lr": "0.01"}})
    return client.create_task(wire.NewTask(spec=spec))


@pytest.fixture
def ended(server: ServerProcess, client: Client, task: wire.Task, queue: wire.Queue) -> wire.Task:
    """A task that ran twice, with more memory the second time."""
    client.enqueue(task.id, queue.id)
    with Claimant(server, server.issue("agent"), f"host:{queue.name}") as agent:
        agent.run_one(queue.name, memory_bytes=1e6)
        client.retry_task(task.id)
        agent.run_one(queue.name, memory_bytes=2e6)
    return client.task(task.id)


# --- mistakes


def test_a_token_that_the_server_is_not_sent_is_not_passed_over_in_silence(
    type_in: Typed, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKYARD_TOKEN", server.admin_token)
    alone = type_in("queues")
    monkeypatch.setenv("TASKYARD_SERVER", server.url)
    beside = type_in("queues")

    assert (alone.code, beside.code, beside.err) == (0, 0, "")
    assert f"TASKYARD_TOKEN is not sent to {server.url}" in alone.err
    assert "that TASKYARD_SERVER names" in alone.err


def test_an_unknown_queue_ends_with_2_the_nearest_names_and_how_to_create_it(
    type_in: Typed, task: wire.Task
) -> None:
    result = type_in("enqueue", "--queue", "defualt", task.id)

    assert result.code == 2
    assert "did you mean 'default'" in result.err
    assert "taskyard queue create defualt" in result.err


def test_nothing_is_suggested_for_a_queue_that_is_like_no_other(type_in: Typed, task: wire.Task) -> None:
    result = type_in("enqueue", "--queue", "xyzzy", task.id)

    assert result.err == (
        "taskyard: there is no queue 'xyzzy'; `taskyard queues` lists them. "
        "Create it with: taskyard queue create xyzzy\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("pss",), "did you mean `taskyard ps`?"),
        (("frobnicate",), "`taskyard --help` lists them"),
        (("cancel", "TASK"), "that is `taskyard stop TASK` here"),
        (("kill", "TASK"), "that is `taskyard stop TASK` here"),
        (("rm", "TASK"), "that is `taskyard delete TASK` here"),
        (("status",), "that is `taskyard ps` here"),
        (("list",), "that is `taskyard ps` here"),
        (("--server", "http://127.0.0.1:1", "ps"), "the command comes first"),
        (("ps", "--al"), "did you mean --all?"),
        (("ps", "everything"), "'everything' is not known here"),
        (("stop", "TASK", "--wait"), "'--wait' is not known here; see: taskyard stop --help"),
        (("ps", "--state", "runing"), "see: taskyard ps --help"),
        (("queue",), "see: taskyard queue --help"),
        (("queue", "create"), "see: taskyard queue create --help"),
        (("run", "--gpu", "1", "--", "python", "train.py"), "did you mean --gpus?"),
        (("show", "nothing-like-it"), "no task is called 'nothing-like-it'"),
        (("show", "@last"), "none yet"),
        (("edit", "TASK"), "say what to change"),
        (("edit", "TASK", "--set", "lr"), "--set lr: write it as NAME=VALUE"),
        (("edit", "TASK", "--on-lost", "pray"), "--on-lost pray: write requeue, fail, wait"),
        (("edit", "TASK", "--grace", "soon"), "--grace: 'soon' is not a time span; write it like 90s"),
        (("clone", "TASK", "--grid", "lr"), "--grid lr: write it as NAME=VALUE,VALUE"),
        (("edit", "TASK", "--timeout", "soon"), "--timeout: 'soon' is not a time span; write it like 90s"),
        (("clone", "TASK", "--secret", "A=b"), "--secret A: give the name alone"),
        (("ps", "--watch"), "on a terminal"),
        (("ps", "--watch", "--json"), "on a terminal"),
        (("logs", "TASK"), "has not run yet"),
        (("logs", "-f", "TASK"), "is a draft; put it into a queue with: taskyard enqueue"),
        (("metrics", "TASK"), "has not run yet"),
        (("metrics", "TASK", "--attempt", "1"), "has had 0 attempts"),
        (("metrics", "TASK", "--since", "soon"), "--since: 'soon' is not a time span; write it like 90s"),
        (("metrics", "--worker", "there", "--attempt", "1"), "--attempt is for a task"),
        (("logs", "TASK", "--attempt", "2"), "has had 0 attempts"),
        (("workers", "show"), "the other verbs take names"),
        (("workers", "show", "nobody"), "no worker is called 'nobody'"),
        (("ps", "--server", "localhost:1"), "not a server's address"),
        (("ps", "--server", "http://example.org"), "--insecure"),
        (("run",), "say what to run"),
        (("show", "abc"), "give at least 4 digits of an id"),
        (("ps", "--limit", "0"), "1 or more"),
        (("invite", "agent", "--queue", "defualt"), "did you mean 'default'"),
        (("token", "create", "user", "--queue", "a"), "are for agents"),
        (("token", "revoke", "zzz"), "0 tokens begin with 'zzz'"),
    ],
)
def test_a_mistake_is_one_line_and_2(
    type_in: Typed, task: wire.Task, words: tuple[str, ...], sentence: str
) -> None:
    result = type_in(*(task.id if word == "TASK" else word for word in words))

    assert result.code == 2
    assert sentence in result.err
    assert len(result.err.splitlines()) == 1


def test_a_server_that_is_away_is_a_failure_with_the_cure(type_in: Typed) -> None:
    result = type_in("ps", "--server", f"http://127.0.0.1:{free_port()}")

    assert result.code == 1
    assert "taskyard up" in result.err


def test_without_a_login_one_is_told_how_to_get_in(type_in: Typed, server: ServerProcess) -> None:
    Credentials().forget(server.url)

    result = type_in("ps", "--server", server.url)

    assert result.code == 1
    assert f"taskyard login {server.url}" in result.err


def test_a_refusal_of_the_server_is_a_failure(type_in: Typed, task: wire.Task) -> None:
    result = type_in("retry", task.id)

    assert result.code == 1
    assert len(result.err.splitlines()) == 1


# --- tasks


def test_tasks_are_listed_in_lines_with_tabs(type_in: Typed, task: wire.Task) -> None:
    result = type_in("ps", "--name", task.spec.name)

    assert result.code == 0
    assert result.rows[0][:3] == [task.id[:8], task.spec.name, "draft"]


def test_json_is_the_wires_own(type_in: Typed, task: wire.Task) -> None:
    shown = json.loads(type_in("show", "--json", task.spec.name).out)
    listed = json.loads(type_in("ps", "--json", "--name", task.spec.name).out)

    assert wire.from_json(wire.Task, shown) == task
    assert [each["id"] for each in listed] == [task.id]


def test_a_draft_goes_its_way_from_edit_to_delete(type_in: Typed, task: wire.Task, queue: wire.Queue) -> None:
    prefix = task.id[:10]

    assert type_in("edit", prefix, "--set", "lr=0.1", "--gpus", "0", "--timeout", "2h").code == 0
    assert type_in("enqueue", "--queue", queue.name, prefix).rows[0][2] == "queued"
    assert type_in("stop", prefix).rows[0][2] == "cancelled"
    assert type_in("retry", prefix).rows[0][2] == "queued"
    assert type_in("dequeue", prefix).rows[0][2] == "draft"
    shown = json.loads(type_in("show", prefix, "--json").out)
    assert type_in("delete", "--yes", prefix).code == 0

    assert shown["spec"]["parameters"] == {"Args": {"lr": "0.1"}}
    assert shown["spec"]["policy"]["timeout_seconds"] == 7200
    assert type_in("show", prefix).code == 2


@pytest.mark.parametrize("verb", ["stop", "retry", "dequeue"])
def test_a_refusal_concerns_its_own_task_alone(
    type_in: Typed, client: Client, queue: wire.Queue, ended: wire.Task, verb: str
) -> None:
    spec = wire.TaskSpec(command=wire.Command(target="train.py"))
    one, two = client.create_tasks([wire.NewTask(spec=spec, queue=queue.id) for _ in range(2)])
    refused = client.create_task(wire.NewTask(spec=spec)).id if verb == "retry" else ended.id
    for each in (one, two) if verb == "retry" else ():
        client.stop_task(each.id)

    result = type_in(verb, "--json", one.id, refused, refused, two.id)

    assert [each["id"] for each in json.loads(result.out)] == [one.id, two.id]
    assert result.code == 1
    assert [refused in line for line in result.err.splitlines()] == [True, True]


def test_a_clone_takes_changes_and_its_base_is_the_last(
    type_in: Typed, task: wire.Task, queue: wire.Queue
) -> None:
    cloned = json.loads(type_in("clone", task.id, "--set", "lr=0.5", "--queue", queue.name, "--json").out)[0]

    last, new = (json.loads(type_in("show", name, "--json").out) for name in ("@last", "@new"))

    assert last["id"] == task.id
    assert new["id"] == cloned["id"] != task.id
    assert new["spec"]["parameters"]["Args"] == {"lr": "0.5"}
    assert new["state"] == "queued"


def test_a_secret_is_sent_apart_and_never_shown(
    type_in: Typed, task: wire.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret-value")

    result = type_in("edit", task.id, "--secret", "WANDB_API_KEY", "--json")

    assert result.code == 0
    assert json.loads(result.out)[0]["spec"]["secrets"] == ["WANDB_API_KEY"]
    assert "very-secret-value" not in type_in("show", task.id, "--json").out


def test_it_is_explained_why_a_task_waits(type_in: Typed, task: wire.Task, queue: wire.Queue) -> None:
    type_in("enqueue", "--queue", queue.name, task.id)

    assert "worker" in type_in("explain", task.id).out
    assert json.loads(type_in("explain", task.id, "--json").out)["position"] == 0


def test_a_story_lists_the_events(type_in: Typed, task: wire.Task) -> None:
    result = type_in("story", task.id)

    assert result.rows[-1][1] == "created"
    assert type_in("events", "--task", task.id, "--kind", "created").rows[0][1:3] == [task.id[:8], "created"]


WITHOUT_RECORDS = {"up", "server", "completion", "shell", "attach"}
"""What runs until it is told to stop, what is the shell's to read, and terminals."""


@pytest.mark.parametrize("name", [name for names in MODULES.values() for name in names])
def test_every_command_has_records_for_programs(name: str) -> None:
    (commands,) = _choices(_parser(name, ["--help"]))

    lacking = {words for words, parser in _leaves(name, commands[name]) if "--json" not in parser.format_help()}

    assert lacking <= WITHOUT_RECORDS


def _leaves(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command line that does something, below this one."""
    below = _choices(parser)
    if not below:
        yield words, parser
    for verbs in below:
        for verb, its_parser in verbs.items():
            yield from _leaves(f"{words} {verb}", its_parser)


def _choices(parser: argparse.ArgumentParser) -> list[dict[str, argparse.ArgumentParser]]:
    return [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def test_what_each_attempt_used_is_shown(type_in: Typed, ended: wire.Task) -> None:
    latest = json.loads(type_in("metrics", "--json", ended.id).out)

    assert [series["points"][0]["maximum"] for series in latest] == [2e6]
    assert type_in("metrics", "--attempt", "1", ended.id).rows[0][:2] == ["memory_bytes", "1.0 MB"]
    assert type_in("metrics", "--since", "1h", ended.id).rows[0][:2] == ["memory_bytes", "2.0 MB"]
    assert type_in("metrics", "--since", "2h", "--until", "1h", ended.id).out == ""


def test_a_story_is_the_servers_own_record_too(type_in: Typed, ended: wire.Task) -> None:
    told = wire.from_json(wire.Story, json.loads(type_in("story", "--json", ended.id).out))

    assert told.task == ended
    assert [run.number for run in told.runs] == [1, 2]
    assert told.events[0].kind == "created"


# --- queues


def test_a_queue_is_created_described_renamed_paused_and_deleted(type_in: Typed) -> None:
    name, other = f"a / b {uuid.uuid4().hex[:6]}", f"ärger {uuid.uuid4().hex[:6]}"

    assert type_in("queue", "create", name).rows[0][0] == name
    assert type_in("queue", "describe", name, "for tests").rows[0][7] == "for tests"
    assert type_in("queue", "rename", name, other).rows[0][0] == other
    assert type_in("queue", "pause", other).rows[0][6] == "paused"
    assert type_in("queue", "resume", other).rows[0][6] == "open"
    assert other in {row[0] for row in type_in("queue", "list").rows}
    assert type_in("queue", "delete", other).code == 0
    assert other not in type_in("queue", "list").out


def test_the_queues_are_listed_by_their_own_word_too_with_the_time_to_wait(type_in: Typed) -> None:
    rows = type_in("queues").rows

    assert rows == type_in("queue", "list").rows
    assert ("default", "") in {(row[0], row[5]) for row in rows}  # no worker, so nobody knows


def test_a_queue_that_holds_tasks_is_deleted_by_force_alone(
    type_in: Typed, task: wire.Task, queue: wire.Queue
) -> None:
    type_in("enqueue", "--queue", queue.name, task.id)

    refused = type_in("queue", "delete", queue.name)

    assert refused.code == 1
    assert type_in("queue", "delete", "--force", queue.name).code == 0


def test_entries_are_shown_in_order_moved_and_removed(type_in: Typed, client: Client, queue: wire.Queue) -> None:
    spec = wire.TaskSpec(command=wire.Command(target="a.py"))
    one, two, three = client.create_tasks([wire.NewTask(spec=spec, queue=queue.id) for _ in range(3)])

    assert type_in("queue", "move", three.id, "--first").rows[0][0] == "0"
    assert type_in("queue", "move", one.id, "--to", "2").rows[0][0] == "2"
    assert [row[1] for row in type_in("queue", "show", queue.name).rows] == [
        three.id[:8],
        two.id[:8],
        one.id[:8],
    ]
    assert type_in("queue", "remove", two.id).code == 0
    assert len(type_in("queue", "show", queue.name).rows) == 2
    assert len(json.loads(type_in("queue", "show", queue.name, "--json").out)["entries"]) == 2


# --- getting in


def test_a_token_in_a_file_logs_in_and_logout_forgets_it(
    type_in: Typed, server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(server.issue("user", name="ada") + "\n")

    result = type_in("login", server.url, "--token-file", str(tmp_path / "token"))

    assert (result.code, "as ada" in result.err) == (0, True)
    assert stat.S_IMODE(Credentials().path.stat().st_mode) == 0o600
    assert type_in("logout", server.url).code == 0
    assert Credentials().token(server.url) is None
    assert type_in("logout", server.url).code == 2


def test_an_agents_token_is_not_a_persons(type_in: Typed, server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(server.issue("agent"))

    result = type_in("login", server.url, "--token-file", str(tmp_path / "token"))

    assert result.code == 1
    assert "taskyard agent join" in result.err


def test_a_code_is_asked_for_on_a_terminal_alone(type_in: Typed, server: ServerProcess) -> None:
    result = type_in("login", server.url)

    assert result.code == 2
    assert "--token-file FILE or --token-stdin" in result.err


def test_a_code_is_exchanged_for_a_token(
    type_in: Typed, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = type_in("invite", "user").out.strip()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: code)

    result = type_in("login", server.url)

    assert result.code == 0
    assert Credentials().token(server.url) not in (None, server.admin_token)


def test_a_code_made_on_the_servers_own_machine_says_that_others_need_another_address(type_in: Typed) -> None:
    assert "the one that others reach it by" in type_in("invite", "agent").err


def test_a_code_is_listed_and_taken_back(type_in: Typed) -> None:
    made = json.loads(type_in("invite", "agent", "--json").out)

    listed = {row[0]: row[3] for row in type_in("token", "list").rows}

    assert listed[made["id"][:8]] == "invitation"
    assert type_in("token", "revoke", made["id"]).rows[0][3] == "revoked"


def test_tokens_are_made_listed_and_revoked(type_in: Typed) -> None:
    name = f"box {uuid.uuid4().hex[:6]}"
    made = json.loads(type_in("token", "create", "agent", "--name", name, "--expires", "1h", "--json").out)

    assert type_in("token", "revoke", made["token"]["id"]).rows[0][3] == "revoked"
    assert [row for row in type_in("token", "list").rows if row[2] == name]
    assert made["secret"] not in type_in("token", "list", "--json").out


# --- the rest


def test_config_says_where_each_value_comes_from(
    type_in: Typed, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKYARD_QUEUE", "gpu")
    monkeypatch.setenv("TASKYARD_LABEL", "site=north arch=a100")
    monkeypatch.setenv("TASKYARD_STORE", "mongodb://me:secret@elsewhere")

    shown = type_in("config", "--insecure")

    rows = {(row[3], row[0]): row[1:3] for row in shown.rows}
    assert rows["connection", "server"] == [server.url, "taskyard login"]
    assert rows["connection", "insecure"] == ["True", "flag --insecure"]
    assert rows["connection", "token"] == ["********", str(Credentials().path)]
    assert rows["run", "queue"] == rows["agent", "queue"] == ["gpu", "TASKYARD_QUEUE"]
    assert rows["agent", "label"] == ["site=north arch=a100", "TASKYARD_LABEL"]
    assert rows["agent", "cache_bytes"] == ["100GB", "default"]
    assert rows["server", "store"] == ["********", "TASKYARD_STORE"]
    assert {name for group, name in rows if group == "server"} >= {"host", "port", "data"}
    assert "secret" not in shown.out


def test_the_configuration_names_what_no_command_reads(type_in: Typed, tmp_path: Path) -> None:
    file = tmp_path / "config" / "taskyard" / "config.toml"
    file.write_text('memroy = "8GB"\nservices = false\nlabel = ["site=north"]\n\n[presets.own]\ngpus = "all"\n')

    shown = type_in("config")

    assert shown.err == f"taskyard: {file}: no setting is called 'memroy'; did you mean 'memory'?\n"


def test_config_shows_the_settings_of_one_alone(type_in: Typed) -> None:
    shown = json.loads(type_in("config", "agent", "--json").out)

    assert {setting["of"] for setting in shown} == {"agent"}
    assert {"local_dir", "docker", "uptime"} <= {setting["name"] for setting in shown}


def test_config_leaves_out_what_is_not_installed(type_in: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "taskyard_agent.config", None)

    assert "agent" not in {row[3] for row in type_in("config").rows}
    assert 'pip install "taskyard[agent]"' in type_in("config", "agent").err


def test_the_doctor_finds_nothing_here(type_in: Typed) -> None:
    checks = json.loads(type_in("doctor", "--json").out)

    assert {check["name"] for check in checks if check["good"]} >= {"server", "version", "clock", "token", "git"}


def test_the_doctor_names_the_cure(type_in: Typed) -> None:
    result = type_in("doctor", "--server", f"http://127.0.0.1:{free_port()}")

    assert result.code == 1
    assert "taskyard up" in result.out


def test_a_task_that_was_last_and_is_deleted_is_said_to_be(type_in: Typed, task: wire.Task) -> None:
    made = json.loads(type_in("clone", "--json", task.id).out)[0]
    deleted = json.loads(type_in("delete", "--json", "@new").out)

    result = type_in("show", "@new")

    assert deleted[0]["id"] == made["id"]
    assert result.code == 2
    assert f"@new was task {made['id'][:8]}, which was deleted" in result.err


def test_who_is_not_logged_in_is_told_once_how(type_in: Typed, server: ServerProcess) -> None:
    type_in("logout")

    result = type_in("ps", "--server", server.url)

    assert result.err.count("taskyard login") == 1
    assert f"run `taskyard login {server.url}`" in result.err


def test_a_server_that_is_away_is_spoken_of_before_patience_ends(type_in: Typed) -> None:
    result = type_in("ps", "--server", f"http://127.0.0.1:{free_port()}")

    assert result.code == 1
    assert "trying on for" in result.err.splitlines()[0]
    assert "start it with `taskyard up`" in result.err.splitlines()[-1]


def test_a_long_list_is_whole_in_a_pipe_and_cut_with_a_word_on_a_terminal(
    type_in: Typed, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = uuid.uuid4().hex
    spec = wire.TaskSpec(command=wire.Command(target="train.py"), tags=(tag,))
    client.create_tasks([wire.NewTask(spec=spec)] * 21)

    piped, as_json = type_in("ps", "--tag", tag), type_in("ps", "--tag", tag, "--json")
    wanted = type_in("ps", "--tag", tag, "--limit", "3")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    on_terminal, whole = type_in("ps", "--tag", tag), type_in("ps", "--tag", tag, "--all")

    assert [len(piped.rows), len(json.loads(as_json.out)), len(wanted.rows)] == [21, 21, 3]
    assert (on_terminal.out.count("draft"), whole.out.count("draft")) == (20, 21)
    assert "These are the 20 newest: --limit N shows more" in on_terminal.err
    assert [piped.err, wanted.err, whole.err] == [""] * 3


def test_watched_tasks_are_shown_until_ctrl_c(task: wire.Task) -> None:
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "taskyard.cli", "ps", "--watch", "--name", task.spec.name]
    process = subprocess.Popen(command, stdout=inner, stderr=inner, env={**os.environ, "COLUMNS": "120"})
    os.close(inner)
    shown = b""
    while b"draft" not in shown:
        shown += os.read(outer, 1024)

    process.send_signal(signal.SIGINT)
    code = process.wait(30)
    os.close(outer)

    assert code == 130
    assert task.id[:8].encode() in shown


def test_nothing_typed_is_a_question_for_help(type_in: Typed) -> None:
    assert type_in().out == type_in("--help").out


def test_a_folder_that_cannot_be_written_is_one_line(
    type_in: Typed, tmp_path: Path, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(server.admin_token)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))

    result = type_in("login", server.url, "--token-file", "token")

    assert result.code == 1
    assert str(tmp_path / "file") in result.err
    assert result.err.count("\n") == 1


def test_a_current_folder_that_is_gone_is_one_line(
    type_in: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    result = type_in("ps")
    monkeypatch.chdir(tmp_path)

    assert result.code == 1
    assert "the current folder gone?" in result.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_every_shell_is_given_its_completion(type_in: Typed, shell: str) -> None:
    assert "taskyard" in type_in("completion", shell).out


@pytest.fixture
def tab(tmp_path: Path) -> Callable[[str], list[str]]:
    """What a shell is offered for a line that somebody has begun."""

    def pressed(line: str) -> list[str]:
        script = Path(sys.executable).with_name(line.split(maxsplit=1)[0])
        asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
        answer = tmp_path / "completions"
        told = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
        subprocess.run([script], env=told, capture_output=True, check=True)
        return [word.strip() for word in answer.read_text().splitlines()]

    return pressed


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("taskyard wor", {"workers", "worker"}),
        ("taskyard ps --sta", {"--state"}),
        ("taskyard agent dae", {"daemon"}),
        ("agent dae", {"daemon"}),
        ("agent execute --cpu", {"--cpu-only"}),
    ],
)
def test_the_shell_completes_commands_and_flags_of_both_scripts(
    tab: Callable[[str], list[str]], line: str, offered: set[str]
) -> None:
    assert set(tab(line)) == offered


def test_the_shell_completes_tasks_and_queues_from_the_server(
    tab: Callable[[str], list[str]], task: wire.Task
) -> None:
    prefix = task.id[:4]

    assert task.id[:8] in tab(f"taskyard show {prefix}")
    assert task.id[:8] in tab(f"agent execute --id {prefix}")
    assert tab("taskyard enqueue --queue defa") == ["default"]


def test_a_server_that_is_away_is_no_trouble_to_the_shell(tab: Callable[[str], list[str]]) -> None:
    assert tab(f"taskyard enqueue --server http://127.0.0.1:{free_port()} --queue de") == []


def test_the_help_names_every_command(type_in: Typed) -> None:
    result = type_in("--help")

    assert result.code == 0
    for command in ("run", "up", "server", "agent", "ps", "logs", "queue", "doctor"):
        assert f"\n  {command} " in result.out


@pytest.mark.parametrize("name", [name for names in MODULES.values() for name in names])
def test_the_help_of_a_command_has_examples_that_can_be_typed(name: str) -> None:
    (commands,) = _choices(_parser(name, ["--help"]))

    for words, parser in _leaves(name, commands[name]):
        assert "\nexamples:\n" in parser.format_help(), f"no example of `taskyard {words}` in cli/guidance.py"
        for line in EXAMPLES[words]:
            assert line.startswith(words)
            parse(shlex.split(line))


def test_the_help_puts_each_command_into_a_group(type_in: Typed) -> None:
    assert "other commands" not in type_in("--help").out
    assert {line.split()[1] for line in FAMILIAR.values() if " " in line} <= {"TASK", "--", "-f", "--watch"}
    assert {line.split()[0] for line in FAMILIAR.values()} <= set(KNOWN)
    assert set(FAMILIAR).isdisjoint(KNOWN)


def test_the_agent_says_its_version(type_in: Typed) -> None:
    assert type_in("agent", "--version").out == type_in("--version").out != ""


@pytest.mark.parametrize("name", [name for names in MODULES.values() for name in names])
def test_help_fits_80_columns(type_in: Typed, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    result = type_in(name, "--help")

    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80


def test_the_version_needs_next_to_nothing() -> None:
    code = (
        "import sys; from taskyard.cli.app import execute; execute(['--version']); "
        "print([m for m in ('httpx', 'rich', 'taskyard.wire', 'taskyard.client') if m in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.splitlines()[1] == "[]"


def test_a_closed_pipe_is_no_traceback(server: ServerProcess) -> None:
    script = f"{sys.executable} -m taskyard.cli queue list --json | true"

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)

    assert "Traceback" not in done.stderr


def test_every_command_is_in_the_reference() -> None:
    reference = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()

    missing = [name for names in MODULES.values() for name in names if f"`{name}" not in reference]

    assert missing == []


def test_up_says_how_others_get_in(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taskyard.cli", "up", "--host", "0.0.0.0", "--insecure", "--cpu-only"]
    folders = ["--data", str(tmp_path / "data"), "--local-dir", str(tmp_path / "local")]
    process = subprocess.Popen([*command, "--port", str(free_port()), *folders], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "agent join" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert process.returncode == 0
    assert "taskyard login http://" in said
    assert "--insecure" in said


def test_a_certificate_is_trusted_by_name_and_remembered_by_the_login(type_in: Typed, tmp_path: Path) -> None:
    cert, key = self_made_certificate(tmp_path, "DNS:localhost", "IP:127.0.0.1")
    with ServerProcess("--tls-cert", str(cert), "--tls-key", str(key)) as server:
        (tmp_path / "token").write_text(server.admin_token)

        strange = type_in("ps", "--server", server.url)
        login = type_in("login", server.url, "--token-file", str(tmp_path / "token"), "--ca-file", "cert.pem")
        after = type_in("ps", "--server", server.url)

    assert strange.code == 1
    assert "--ca-file FILE" in strange.err
    assert (login.code, after.code) == (0, 0)


def test_the_doctor_knows_another_program_called_agent(
    type_in: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "bin" / "agent"
    foreign.parent.mkdir()
    foreign.write_text("#!/bin/sh\n")
    foreign.chmod(0o755)
    monkeypatch.setenv("PATH", f"{foreign.parent}{os.pathsep}{os.environ['PATH']}")

    assert f"{foreign} is another program" in type_in("doctor").out
