"""`agent execute`, `agent doctor` and `agent cache`, as an operator types them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from taskyard.config import add_settings
from taskyard.wire import Environment, RequirementsKind, TaskState
from taskyard_agent.config import EXECUTE_SETTINGS, read_settings
from taskyard_agent.doctor import Finding, examine

from tests.support import docker, nvml
from tests.support.person import Person
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess
from tests.support.wheels import package_index
from tests.support.yard import Yard


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with ServerProcess() as server, Yard(server) as yard:
        yield yard


@pytest.fixture
def person(tmp_path: Path, yard: Yard) -> Person:
    return Person(tmp_path / "person").log_in(yard.server)


# --- execute


@pytest.mark.parametrize(("source", "code"), [("print('here')", 0), ("print('here'); exit(7)", 7)])
def test_one_task_is_run_here_and_now_and_its_exit_code_returned(
    person: Person, yard: Yard, source: str, code: int
) -> None:
    queue = yard.queue(f"nobody serves it {code}")
    task = yard.python(source, queue=queue)

    done = person.types("agent", "execute", "--cpu-only", "--id", task.id)

    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("here\n")
    assert yard.task(task).state is (TaskState.FAILED if code else TaskState.COMPLETED)
    assert yard.text(task) == "here\n"


def test_a_run_that_was_executed_is_a_record_beside_its_log(person: Person, yard: Yard) -> None:
    task = yard.python("print('here'); exit(3)", queue=None)

    done = person.types("agent", "execute", "--cpu-only", "--json", "--id", task.id)

    assert done.returncode == 3
    assert json.loads(done.stdout)["outcome"]["exit_code"] == 3
    assert "here\n" in done.stderr


def test_a_custom_worker_that_was_written_is_a_record(person: Person) -> None:
    made = json.loads(person.types("agent", "init", "worker", "--name", "dusty", "--json").stdout)

    assert (made["name"], made["queue"]) == ("dusty", "dusty")
    assert "worker/Dockerfile" in made["files"]


def test_no_worker_is_left_of_what_was_executed(person: Person, yard: Yard) -> None:
    task = yard.python("print()", queue=None)

    person.types("agent", "execute", "--cpu-only", "--id", task.id)
    person.types("agent", "execute", "--cpu-only", "--id", task.id)  # which has ended, and is refused

    assert yard.run(task).outcome is not None
    assert yard.client.workers() == []


def test_one_task_is_found_by_its_name(person: Person, yard: Yard) -> None:
    yard.python("print('found')", queue=yard.queue("names"), name="by name")

    done = person.types("agent", "execute", "--cpu-only", "--id", "by name")

    assert done.stdout.endswith("found\n"), done.stderr


def test_a_task_that_has_ended_is_not_run_again(person: Person, yard: Yard) -> None:
    task = yard.python("print()", queue=None)
    person.types("agent", "execute", "--cpu-only", "--id", task.id)

    done = person.types("agent", "execute", "--cpu-only", "--id", task.id)

    assert done.returncode == 0
    assert done.stderr == f"taskyard: nothing to do: task {task.id}: it is completed: exit 0\n"
    assert yard.task(task).run_count == 1


# --- doctor


def test_the_doctor_finds_a_machine_that_can_run_tasks(person: Person, tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "code", {"a": "b"})

    done = person.types("agent", "doctor", "--repo", str(repository.root), "--allow-file-repositories")

    assert done.returncode == 0, done.stdout
    named = [line.removeprefix("ok").strip().partition(":")[0] for line in done.stdout.splitlines()]
    assert named == [
        "git", "uv", "Python", "local folder", "disk", "server", "clock", "token", "GPUs", "`agent` command",
        "repository",
    ]  # fmt: skip


def test_the_doctor_leaves_no_token_behind(person: Person, yard: Yard) -> None:
    before = len(yard.client.tokens())

    person.types("agent", "doctor")

    assert len(yard.client.tokens()) == before


@pytest.mark.parametrize(
    ("words", "name", "cure"),
    [
        (("--server", "http://127.0.0.1:1"), "server", "taskyard up"),
        (("--min-free-disk", "900000T"), "disk", "taskyard agent cache prune --all"),
        (("--local-dir", "/proc/nowhere"), "local folder", "--local-dir"),
        (("--gpus", "63"), "GPUs", "nvidia-smi"),
        (("--repo", "ext::sh -c id"), "repository", "give an https:// or ssh address"),
        (("--repo", "/no/such/repository", "--allow-file-repositories"), "repository", ""),
        (("--conda-binary", "/no/such/conda"), "conda", "pip install 'taskyard[conda]'"),
        (("--run-as", "nobody-of-that-name"), "tasks' user", "sudo taskyard agent doctor --run-as"),
        (("--hooks", "/no/such/hooks"), "hooks", "mkdir -p /no/such/hooks"),
    ],
)
def test_each_failure_comes_with_its_cure(person: Person, words: tuple[str, ...], name: str, cure: str) -> None:
    done = person.types("agent", "doctor", *words, "--json")

    failed = {found["name"]: found["cure"] for found in json.loads(done.stdout) if not found["ok"]}
    assert done.returncode == 1
    assert cure in failed[name]
    assert failed[name]


@pytest.mark.parametrize(
    ("engine", "cure"), [("unix:///no/such/socket", "systemctl start docker"), ("tcp://far:1", "apt-get install")]
)
def test_an_engine_that_is_wanted_and_not_to_be_had_is_reported(person: Person, engine: str, cure: str) -> None:
    done = person.types("agent", "doctor", "--docker", "--json", DOCKER_HOST=engine)

    (found,) = [found for found in json.loads(done.stdout) if found["name"] == "container engine"]
    assert not found["ok"]
    assert cure in found["cure"]


@pytest.mark.skipif(nvml.compiler() is None, reason="builds a fake driver with a C compiler")
def test_an_engine_that_gives_no_gpus_is_reported_with_the_toolkit_it_lacks(
    person: Person, tmp_path: Path
) -> None:
    docker.connect().close()
    driver = nvml.install(tmp_path, gpus=1)
    hook = tmp_path / "bin" / "nvidia-container-runtime-hook"

    without = person.types("agent", "doctor", "--docker", **driver)
    hook.parent.mkdir()
    hook.touch(mode=0o755)
    path = f"{hook.parent}{os.pathsep}{os.environ['PATH']}"
    having = person.types("agent", "doctor", "--docker", **driver, PATH=path)

    assert "ok    container engine: " in without.stdout
    assert "FAIL  GPUs in containers" in without.stdout
    assert "nvidia-ctk runtime configure" in without.stdout
    assert "ok    GPUs in containers" in having.stdout


@pytest.mark.parametrize(("mode", "cure"), [(0o777, "chmod go-w"), (0o644, "chmod u+x")])
def test_a_hook_that_would_not_be_run_is_reported(person: Person, tmp_path: Path, mode: int, cure: str) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir(mode=0o755)
    (hooks / "before-run").touch()
    (hooks / "before-run").chmod(mode)

    done = person.types("agent", "doctor", "--hooks", str(hooks))

    assert "FAIL  hooks: the hook 'before-run'" in done.stdout
    assert f"{cure} {hooks / 'before-run'}" in done.stdout


def test_a_machine_that_has_not_joined_is_told_how(tmp_path: Path, yard: Yard) -> None:
    done = Person(tmp_path).types("agent", "doctor", "--server", yard.server.url)

    assert done.returncode == 1
    assert f"taskyard agent join {yard.server.url}" in done.stdout


def test_programs_that_are_absent_are_named_with_what_installs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    failed = {finding.name: finding.cure for finding in examined() if not finding.ok}

    assert "apt-get install git" in failed["git"]
    assert "pip install" in failed["uv"]
    assert "uv python install" in failed["Python"]


def test_a_clock_that_is_wrong_is_reported(monkeypatch: pytest.MonkeyPatch, yard: Yard) -> None:
    late = SimpleNamespace(time=lambda: time.time() - 60)
    monkeypatch.setattr("taskyard_agent.doctor.time", late)

    (clock,) = [finding for finding in examined("--server", yard.server.url) if finding.name == "clock"]

    assert not clock.ok
    assert "behind the server's" in clock.detail
    assert clock.cure == "timedatectl set-ntp true"


def examined(*flags: str) -> list[Finding]:
    """What the doctor finds in this very process."""
    parser = argparse.ArgumentParser()
    add_settings(parser, EXECUTE_SETTINGS)
    return list(examine(read_settings(parser.parse_args(["--cpu-only", *flags]), EXECUTE_SETTINGS)))


def test_another_program_called_agent_is_reported(person: Person, tmp_path: Path) -> None:
    foreign = tmp_path / "agent"
    foreign.write_text("#!/bin/sh\n")
    foreign.chmod(0o755)

    done = person.types("agent", "doctor", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert f"{foreign} is another program" in done.stdout
    assert "use `taskyard agent`" in done.stdout


# --- cache


def test_environments_are_listed_and_pruned(person: Person, yard: Yard, tmp_path: Path) -> None:
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("speck_of_dust",))
    task = yard.submit("python", "-c", "import speck_of_dust", queue=yard.queue("cached"), environment=wanted)
    with package_index(tmp_path / "index") as index:
        index.add("speck_of_dust")
        ran = person.types(
            "agent", "execute", "--cpu-only", "--id", task.id, PIP_INDEX_URL=index.url, PIP_CONFIG_FILE=os.devnull
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr

    everything = json.loads(person.types("agent", "cache", "list", "--json").stdout)
    (listed,) = everything["environments"]
    shown = person.types("agent", "cache", "list").stdout
    pruned = person.types("agent", "cache", "prune", "--all")

    assert listed["manager"].startswith("uv ")
    assert "speck_of_dust==1.0" in listed["packages"]
    assert listed["key"][:12] in shown
    assert listed["key"][:12] in pruned.stdout
    left = json.loads(person.types("agent", "cache", "list", "--json").stdout)
    assert [fetched["name"] for fetched in everything["downloads"]] == ["uv"]
    assert "\nuv\t" in pruned.stdout
    assert (left["environments"], left["downloads"]) == ([], [])
