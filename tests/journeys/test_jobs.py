"""Jobs of a repository's `taskyard.toml`, as a person runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess
from tests.support.person import Person
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess

JOBS = """
[jobs.train]
command = "python train.py --lr 0.1"
folder = "src"
description = "the usual one"
gpus = 0
secrets = ["KEY"]
env = {COLOUR = "red"}

[jobs.train.parameters]
opt = "adam"

[jobs.search]
command = "python train.py"
folder = "src"
queue = "idle"
grid = {lr = [0.1, 0.01], opt = ["adam", "sgd"]}
"""
SCRIPT = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--opt", default="none")
options = parser.parse_args()
print("ran", options.lr, options.opt, os.environ.get("COLOUR"), "KEY" in os.environ)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server, AgentProcess(server):
        yield server


@pytest.fixture
def person(tmp_path: Path, server: ServerProcess) -> Person:
    person = Person(tmp_path / "person", TASKYARD_MANAGER="inherit", KEY="a hidden value").log_in(server)
    person.work.rmdir()
    Repository.create(person.work, {"taskyard.toml": JOBS, "src/train.py": SCRIPT})
    return person


def test_a_job_runs_from_any_folder_of_its_repository_and_flags_outrank_it(person: Person) -> None:
    job = person.types("run", "--wait", "train", folder=person.work / "src")
    changed = person.types(
        *("run", "--wait", "train", "--set", "opt=sgd", "--env", "COLOUR=blue", "--", "--lr", "0.5")
    )

    assert "ran 0.1 adam red True" in job.stdout, job.stderr
    assert "ran 0.5 sgd blue True" in changed.stdout, changed.stderr
    assert "secrets       KEY, their values from your environment" in job.stderr
    record = json.loads(person.types("show", "@last", "--json").stdout)["spec"]
    assert (record["name"], record["description"], record["resources"]["gpus"]) == ("train", "the usual one", 0)


def test_a_job_with_a_grid_is_one_command_and_a_typed_value_takes_the_place_of_an_axis(person: Person) -> None:
    person.types("queue", "create", "idle")

    four = person.types("run", "search")
    two = person.types("run", "search", "--set", "opt=sgd", "--json")

    assert len(four.stdout.splitlines()) == 4, four.stderr
    assert [task["spec"]["name"] for task in json.loads(two.stdout)] == ["search lr=0.1", "search lr=0.01"]
    assert {task["queue"] for task in json.loads(two.stdout)} == {"idle"}


def test_a_job_goes_before_a_file_of_its_name_which_is_meant_behind_dashes(person: Person) -> None:
    (person.work / "train").write_text("#!/bin/sh\necho the file ran\n")
    (person.work / "train").chmod(0o755)

    job = person.types("run", "--wait", "train")
    file = person.types("run", "--wait", "--", "./train")
    named = person.types("run", "--json", "--", "train")

    assert "train is the job of" in job.stderr
    assert "ran 0.1 adam" in job.stdout
    assert "the file ran" in file.stdout, file.stderr
    assert json.loads(named.stdout)["spec"]["command"]["kind"] == "executable"


def test_jobs_are_listed_and_a_misspelt_one_is_refused(person: Person) -> None:
    listed = person.types("run", "--list", folder=person.work / "src")
    record = json.loads(person.types("run", "--list", "--json").stdout)
    refused = person.types("run", "trian")
    stray = person.types("run", "train", "fast")

    assert listed.stdout.splitlines()[0].split("\t") == ["train", "python train.py --lr 0.1", "", "the usual one"]
    assert [job["name"] for job in record] == ["train", "search"]
    assert refused.returncode == stray.returncode == 2
    assert "no job is called 'trian'; did you mean 'train'?" in refused.stderr
    assert "taskyard run train -- fast" in stray.stderr


def test_a_persons_queue_in_a_variable_outranks_the_repositorys(person: Person) -> None:
    person.types("queue", "create", "mine")

    done = person.types("run", "search", "--json", TASKYARD_QUEUE="mine")

    assert {task["queue"] for task in json.loads(done.stdout)} == {"mine"}, done.stderr


def test_on_a_terminal_secrets_that_a_repository_asks_for_are_confirmed(person: Person) -> None:
    code, shown = person.answers("run", "train", question="[y/N]", answer="n")

    assert code == 1
    assert "taskyard.toml of this repository sends KEY of your environment" in " ".join(shown.split())


def test_profiles_are_made_by_a_login_listed_chosen_and_forgotten(tmp_path: Path, server: ServerProcess) -> None:
    person = Person(tmp_path / "newcomer")
    user = server.issue("user", name="ada")
    person.types("login", server.url, "--profile", "ada", "--token-stdin", text=user)
    person.types("login", server.url, "--profile", "root", "--token-stdin", text=server.admin_token)

    listed = [line.split("\t") for line in person.types("use").stdout.splitlines()]
    as_root, as_ada = person.types("token", "list"), person.types("token", "list", "--profile", "ada")
    chosen = person.types("use", "ada")
    config = person.types("config", "connection")
    forgotten = person.types("use", "ada", "--forget")
    left = json.loads(person.types("use", "--json").stdout)

    assert listed == [["", "ada", server.url], ["*", "root", server.url]]
    assert len(as_root.stdout.splitlines()) > len(as_ada.stdout.splitlines()) > 0
    assert f"using ada: {server.url}" in chosen.stderr
    assert "profile ada" in config.stdout
    assert user not in config.stdout + chosen.stderr + forgotten.stderr
    assert left == [{"name": "root", "server": server.url, "current": False}]
    assert person.types("ps").returncode == 1  # no profile is in use, and there was no other login
