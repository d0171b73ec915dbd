"""An older agent and command line with this server, and this agent and command line with an older server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import versions
from tests.support.agents import AgentProcess
from tests.support.claimants import Claimant, enqueue
from tests.support.person import Person
from tests.support.servers import ServerProcess

SCRIPT = """
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--name")
parser.add_argument("--amp", action="store_true")
print(json.dumps(vars(parser.parse_args())))
print("PARAMS", os.environ["TASKYARD_PARAMS"])
"""
OLD = versions.BEFORE_TYPED_PARAMETERS

needs_history = pytest.mark.skipif(not versions.has(OLD), reason=f"the clone has no commit {OLD[:7]}: fetch it")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return versions.unpack(OLD, tmp_path_factory.mktemp("old") / "taskyard")


def follows_a_task(person: Person, *, cloned_by: Person) -> None:
    """A task with parameters runs, is listed, shown, read and cloned with others."""
    (person.work / "train.py").write_text(SCRIPT)
    line = ("--", "python", "train.py", "--lr", "0.1", "--name", "a b")

    ran = person.types("run", "--wait", "--set", "lr=0.5", "--set", "amp=true", *line)
    assert ran.returncode == 0, ran.stderr
    assert '{"lr": 0.5, "name": "a b", "amp": true}' in ran.stdout

    task_id = json.loads(cloned_by.types("ps", "--json").stdout)[0]["id"]
    for reader in (person, cloned_by):
        shown = reader.types("show", task_id)
        assert (shown.returncode, "0.5" in shown.stdout) == (0, True), shown.stderr
    assert '"lr": 0.5' in cloned_by.types("logs", task_id).stdout

    cloned = cloned_by.types("clone", task_id, "--set", "lr=0.25", "--queue", "default", "--json")
    assert cloned.returncode == 0, cloned.stderr
    followed = person.types("logs", "-f", json.loads(cloned.stdout)[0]["id"])
    assert '{"lr": 0.25, "name": "a b", "amp": true}' in followed.stdout


def preempts_a_task(server: ServerProcess) -> str:
    """An agent of this version reports a preemption, which is not charged: beside its word stands an older one."""
    with server.client() as http, Claimant(server, server.issue("agent"), "node:job7") as agent:
        http.post("/queues", json={"name": "slurm"}).raise_for_status()
        task = enqueue(http, "slurm")
        run = agent.claim("slurm")["run"]["id"]
        agent.beat(run)
        agent.start(run).raise_for_status()
        outcome = {"kind": "lost", "reason": "agent_stopped", "exact": "preempted", "phase": "running"}
        body = {"control_token": agent.control_token, "outcome": outcome, "log_bytes": 0}
        agent.http.post(f"/runs/{run}/finish", json=body).raise_for_status()
        left = http.get(f"/tasks/{task}").json()
    assert (left["state"], left["losses"], left["run"]["outcome"]["reason"]) == ("queued", 0, "agent_stopped")
    return task


@needs_history
def test_an_older_agent_and_command_line_work_with_this_server(tmp_path: Path, old: dict[str, str]) -> None:
    with ServerProcess() as server, AgentProcess(server, variables=old):
        before = Person(tmp_path / "before", TASKYARD_MANAGER="inherit", **old).log_in(server)
        now = Person(tmp_path / "now", TASKYARD_MANAGER="inherit").log_in(server)
        follows_a_task(before, cloned_by=now)
        follows_a_task(now, cloned_by=before)
        task = preempts_a_task(server)
        assert [
            word in reader.types("show", task).stdout
            for reader, word in ((now, "preempted"), (before, "agent_stopped"))
        ] == [True, True]


@needs_history
def test_this_agent_and_command_line_work_with_an_older_server(tmp_path: Path, old: dict[str, str]) -> None:
    with ServerProcess(variables=old) as server, AgentProcess(server):
        preempts_a_task(server)
        now = Person(tmp_path / "now", TASKYARD_MANAGER="inherit").log_in(server)
        before = Person(tmp_path / "before", TASKYARD_MANAGER="inherit", **old).log_in(server)
        follows_a_task(now, cloned_by=before)
        follows_a_task(before, cloned_by=now)


# --- Words that a newer version may add


@pytest.fixture
def root() -> Iterator[tuple[ServerProcess, httpx.Client]]:
    with ServerProcess() as server, server.client() as client:
        yield server, client


def test_the_server_keeps_the_words_of_a_newer_agent(
    root: tuple[ServerProcess, httpx.Client], tmp_path: Path
) -> None:
    server, http = root
    task = enqueue(http)
    with Claimant(server, server.issue("agent")) as agent:
        run = agent.claim()["run"]["id"]
        agent.beat(run, phase="warming")
        agent.start(run).raise_for_status()
        outcome: dict[str, Any] = {
            "kind": "failed",
            "reason": "moon",
            "phase": "cooling",
            "message": "it was full",
        }
        body = {"control_token": agent.control_token, "outcome": outcome, "log_bytes": 0}
        agent.http.post(f"/runs/{run}/finish", json=body).raise_for_status()

    person = Person(tmp_path / "person").log_in(server)
    found = http.get(f"/tasks/{task}").json()
    assert (found["state"], found["run"]["outcome"]["reason"]) == ("failed", "moon")
    shown = person.types("show", task)
    assert (shown.returncode, "moon" in shown.stdout, "cooling" in shown.stdout) == (0, True, True)
    assert "moon" in person.types("ps").stdout
    assert http.get("/tasks", params={"state": "pondering"}).status_code == 422
    assert http.post("/tasks", json={"spec": {"environment": {"manager": "bazel"}}}).status_code == 422
