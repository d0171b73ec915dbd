"""What an agent is told, and what it says: K01, D06."""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from taskyard.cli.settings import QUEUE as RUN_QUEUE
from taskyard.cli.settings import RUN_SETTINGS
from taskyard.cli.up import AGENT_SETTINGS, SERVER_SETTINGS
from taskyard.config import Setting, add_settings, resolve
from taskyard_agent.config import DAEMON_SETTINGS, EXECUTE_SETTINGS, read_settings
from taskyard_agent.life import hours

from tests.support.agents import wait_until
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

DECLARED = (*DAEMON_SETTINGS, *RUN_SETTINGS, *SERVER_SETTINGS, *AGENT_SETTINGS)
"""Every setting of the agent, of `run` and of `up`; the server's own are tested beside it."""
EXAMPLES: dict[str, tuple[str, Any]] = {
    "torch_backend": ("cu126", "cu126"),
    "server": ("http://elsewhere:1234", "http://elsewhere:1234"),
    "queue": ("b 'a queue'", ("b", "a queue")),
    "git_token_file": ("git.example.org=/token", (("git.example.org", Path("/token")),)),
    "foreground": ("yes", True),
    "uptime": ("22-6 MON-FRI; * SAT", (hours.rule("22-6 MON-FRI"), hours.rule("* SAT"))),
    "downtime": ("9-17", (hours.rule("9-17"),)),
    "resources": ("LICENSE=2", ((("LICENSE", 2.0),),)),
    "label": ("zone=a", (("zone", "a"),)),
    "machine_part": ("0.5", 0.5),
    "pause_at": ("80%", 0.8),
}
"""Variables' texts and their values, where the kind of the setting does not say enough."""

HOSTILE = """
[tool.taskyard]
server = "http://elsewhere.example"
insecure = true
ca_file = "theirs.pem"
queue = ["theirs"]
hooks = "hooks"
docker = true
docker_allow = ["volume", "privileged"]
pass_env = ["*"]
allow_file_repositories = true
allow_index = ["http://elsewhere.example/simple"]
run_as = "nobody"
local_dir = "cache"
preset = "pytorch-gpu"
"""
"""What a repository could have set for whoever starts an agent in it."""


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with ServerProcess() as server, Yard(server) as yard:
        yield yard


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def example(setting: Setting) -> tuple[str, Any]:
    """What somebody could write, and what it means."""
    if setting.name in EXAMPLES and setting is not RUN_QUEUE:
        return EXAMPLES[setting.name]
    if setting.choices:
        return setting.choices[-1], setting.choices[-1]
    if setting.kind is bool:
        return "1", True
    text = "7"
    value = setting.kind(text)
    return text, (value,) if setting.many else value


@pytest.mark.parametrize("setting", DECLARED, ids=lambda setting: setting.flag)
def test_every_flag_has_its_variable(setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text, value = example(setting)
    monkeypatch.setenv(f"TASKYARD_{setting.flag.removeprefix('--').replace('-', '_').upper()}", text)

    assert resolve([setting])[setting.name] == value


@pytest.mark.parametrize("settings", [DAEMON_SETTINGS, EXECUTE_SETTINGS], ids=["daemon", "execute"])
def test_the_help_names_every_flag_with_its_variable(person: Person, settings: tuple[Setting, ...]) -> None:
    verb = "daemon" if settings is DAEMON_SETTINGS else "execute"

    shown = re.sub(r"\s+", " ", person.types("agent", verb, "--help").stdout)

    for setting in settings:
        assert setting.flag in shown
        assert f"[{setting.variable}" in shown


def test_flags_reach_the_record_of_settings() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, DAEMON_SETTINGS)

    read = read_settings(parser.parse_args(["--queue", "a", "b", "--queue", "c", "--cpu-only"]), DAEMON_SETTINGS)

    assert read.queues == ("a", "b", "c")
    assert read.cpu_only


def test_a_cloned_repository_has_no_say_in_what_an_agent_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, DAEMON_SETTINGS)
    monkeypatch.chdir(tmp_path)
    before = read_settings(parser.parse_args([]), DAEMON_SETTINGS)

    (tmp_path / "pyproject.toml").write_text(HOSTILE)
    read = read_settings(parser.parse_args([]), DAEMON_SETTINGS)

    assert read == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--gpus", "0", "--cpu-only"),
            "--gpus (flag --gpus) and --cpu-only (flag --cpu-only) exclude each other",
        ),
        (("--queue", "a", "a"), "--queue names 'a' twice"),
        (("--name", "two words"), "--name: 'two words' is not a worker's name"),
        (("--cache-bytes", "huge"), "'huge' is not a size; write it like 8GB or 500M"),
        (("--idle-timeout", "0"), "--idle-timeout: '0' is no time at all"),
        (("--all",), "--all belongs to --stop"),
        (("--status", "--all"), "--all belongs to --stop"),
        (("--json",), "--json belongs to --status"),
        (("--stop", "--json"), "--json belongs to --status"),
        (("--stop", "one", "--all"), "--stop one is one agent and --all is every one"),
        (("--python-downloads", "maybe"), "'maybe' is not one of auto, never"),
    ],
)
def test_what_cannot_be_followed_is_one_line_and_2(person: Person, words: tuple[str, ...], said: str) -> None:
    done = person.types("agent", "daemon", *words)

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_exclusive_settings_are_refused_wherever_they_come_from(person: Person) -> None:
    done = person.types("agent", "daemon", "--cpu-only", TASKYARD_GPUS="0")

    assert done.returncode == 2
    assert "--gpus (TASKYARD_GPUS) and --cpu-only (flag --cpu-only) exclude each other" in done.stderr


@pytest.mark.parametrize("flag", ["--server", "--api"])
def test_the_first_lines_name_worker_and_server(person: Person, yard: Yard, flag: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    person.log_in(yard.server)
    daemon = person.starts("agent", "daemon", "--cpu-only", flag, yard.server.url, "--name", f"w{flag}", log=log)

    wait_until(lambda: b"serving" in log.read_bytes())
    daemon.send_signal(signal.SIGINT)

    assert daemon.wait(30) == 0
    first, second, *_ = log.read_text().splitlines()
    assert f"worker w{flag}, server {yard.server.url}" in first
    assert "serving 'default'; Ctrl-C drains" in second
