"""Variants of a task: grids, copies, differences, and what `@last` and `@new` name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.client import Client
from taskyard.config import Connection

from tests.support.agents import AgentProcess
from tests.support.person import Person
from tests.support.proxy import RESET, Proxy, Rule
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess

SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--opt", default="adam")
options = parser.parse_args()
print("loss", options.lr, options.opt)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client.of(Connection(server=server.url, token=server.admin_token)) as client:
        yield client


@pytest.fixture
def person(tmp_path: Path, server: ServerProcess) -> Person:
    """Somebody with a repository and a queue that no agent serves."""
    person = Person(tmp_path / "person", TASKYARD_MANAGER="inherit", TASKYARD_QUEUE="idle").log_in(server)
    person.types("queue", "create", "idle")
    person.work.rmdir()
    Repository.create(person.work, {"train.py": SCRIPT})
    return person


GRID = ("--grid", "lr=0.1,0.01", "--grid", "opt=adam,sgd")
NAMES = ["train lr=0.1 opt=adam", "train lr=0.1 opt=sgd", "train lr=0.01 opt=adam", "train lr=0.01 opt=sgd"]


def test_a_grid_is_one_submission_of_one_snapshot_named_by_what_differs(person: Person, client: Client) -> None:
    (person.work / "notes.txt").write_text("uncommitted")

    done = person.types("run", *GRID, "--", "python", "train.py")

    assert done.returncode == 0, done.stderr
    ids, names = zip(*(line.split("\t") for line in done.stdout.splitlines()), strict=True)
    tasks = [client.task(one) for one in ids]
    assert list(names) == [task.spec.name for task in tasks] == NAMES
    assert {task.spec.code for task in tasks} == {tasks[0].spec.code}
    assert [task.spec.command.args for task in tasks][1] == ("--lr=0.1", "--opt=sgd")
    assert {task.state for task in tasks} == {"queued"}
    assert "4: lr 0.1 0.01 × opt adam sgd; all of them are submitted, or none" in done.stderr
    assert all(name in done.stderr for name in NAMES)


def test_a_grid_with_one_wrong_variant_submits_none(person: Person, client: Client) -> None:
    before = len(list(client.all_tasks()))

    done = person.types("run", "--grid", "lr=0.1,zero", "--", "python", "train.py", "--lr", "0.1")
    twice = person.types("run", "--grid", "lr=1,2", "--set", "lr=3", "--", "python", "train.py")

    assert (done.returncode, twice.returncode) == (2, 2)
    assert "lr" in done.stderr
    assert "lr has a value by --set and several by --grid" in twice.stderr
    assert len(list(client.all_tasks())) == before


def test_clones_of_a_grid_keep_the_secret_and_leave_last_where_it_was(person: Person, client: Client) -> None:
    run = person.types("run", "--secret", "KEY", "--", "python", "train.py", KEY="hidden value")
    base = run.stdout.strip()

    done = person.types("clone", "@last", *GRID, "--queue", "idle", "--json")
    again = person.types("clone", "@last", "--set", "lr=0.5", "--set", "opt=sgd")
    third = person.types("clone", "@last", "--set", "opt=sgd")

    assert done.returncode == again.returncode == third.returncode == 0, done.stderr + again.stderr
    made = json.loads(done.stdout)
    assert [task["spec"]["name"] for task in made] == NAMES
    assert [task["spec"]["secrets"] for task in made] == [["KEY"]] * 4
    assert json.loads(person.types("show", "@last", "--json").stdout)["id"] == base
    newest = json.loads(person.types("show", "@new", "--json").stdout)
    assert newest["spec"]["name"] == "train opt=sgd"
    assert newest["spec"]["command"]["args"] == ["--opt=sgd"]  # and not --lr=0.5 besides
    assert f"copied        {base[:8]} train" in again.stderr
    assert "set           --lr=0.5 --opt=sgd" in again.stderr
    assert "it is a draft; to run: taskyard enqueue --queue QUEUE" in again.stderr


def test_a_clone_says_what_differs_beside_the_line(person: Person) -> None:
    person.types("run", "--", "python", "train.py")

    done = person.types("clone", "@last", "--gpus", "2", "--env", "COLOUR=red", "--tag", "second")
    copy = person.types("clone", "@last")

    assert "resources.gpus 2, not -" in done.stderr
    assert "env.COLOUR red, not -" in done.stderr
    assert "train gpus=2 COLOUR=red" in done.stdout
    assert "train (copy)" in copy.stdout


def test_a_misspelt_parameter_is_noted_with_the_one_that_stays(person: Person) -> None:
    person.types("run", "--set", "Model/depth=3", "--", "python", "train.py")

    done = person.types("clone", "@last", "--set", "Model/dept=4")
    right = person.types("clone", "@last", "--set", "Model/depth=4")

    assert "note          Model/dept is a new parameter; the task has Model/depth, which stays" in done.stderr
    assert "is a new parameter" not in right.stderr
    assert "differs       Model/depth 4, not 3" in right.stderr


def test_the_same_command_after_a_lost_answer_makes_no_task_twice(
    person: Person, server: ServerProcess, client: Client
) -> None:
    with Proxy(server.port) as proxy:
        at = ("--server", proxy.url)
        variables = {"TASKYARD_TOKEN": server.admin_token, "TASKYARD_SERVER": proxy.url}
        before = len(list(client.all_tasks()))
        proxy.rules.append(Rule("/tasks/bulk", RESET, behind=True))
        lost = person.types("run", *at, *GRID, "--", "python", "train.py", **variables)
        proxy.rules.clear()
        repeated = person.types("run", *at, *GRID, "--", "python", "train.py", **variables)
        meant = person.types("run", *at, *GRID, "--", "python", "train.py", **variables)

    assert lost.returncode == 1
    assert "whether the 4 tasks were submitted is not known: type the same once more" in lost.stderr
    assert repeated.returncode == meant.returncode == 0, repeated.stderr
    assert len(list(client.all_tasks())) == before + 8


def test_diff_shows_parameters_code_and_packages(person: Person, server: ServerProcess) -> None:
    person.types("run", "--queue", "default", "--gpus", "0", "--", "python", "train.py", "--lr", "0.1")
    first = json.loads(person.types("show", "@new", "--json").stdout)["id"]
    (person.work / "train.py").write_text(SCRIPT.replace("loss", "error"))
    with AgentProcess(server):
        person.types("run", "--wait", "--queue", "default", "--gpus", "0", "--", "python", "train.py", "--lr", "1")

        done = person.types("diff", first, "@last")
        record = json.loads(person.types("diff", "--json", first, "@last").stdout)
        same = person.types("diff", "--exit-code", "@last", "@last")
        other = person.types("diff", "--exit-code", first, "@last")

    assert done.returncode == 0, done.stderr
    assert "parameters\tlr\t0.1\t1" in done.stdout
    assert "code\tchanges\t-\ttrain.py" in done.stdout
    assert '+ +print("error"' in done.stdout.replace("++", "+ +")
    assert {"section": "parameters", "name": "lr", "a": "0.1", "b": "1"} in record["differences"]
    assert (same.returncode, same.stdout, other.returncode) == (0, "", 3)


def test_a_run_that_lacked_an_ignored_file_names_it_and_the_flag(person: Person, server: ServerProcess) -> None:
    (person.work / ".gitignore").write_text("data/\n")
    (person.work / "data").mkdir()
    (person.work / "data" / "x.csv").write_text("1")
    (person.work / "read.py").write_text("print(open('data/x.csv').read(), open('data/none.csv'))")
    here = ("--queue", "default", "--gpus", "0", "--wait")

    with AgentProcess(server):
        failed = person.types("run", *here, "--", "python", "read.py")
        sent = person.types("run", *here, "--include", "data/x.csv", "--", "python", "read.py")

    assert failed.returncode == sent.returncode == 1
    assert "data/x.csv is here, but git ignores it; to send it: --include data/x.csv" in failed.stderr
    assert "git ignores" not in sent.stderr


def test_a_notebook_is_refused_with_what_to_type(person: Person) -> None:
    (person.work / "look.ipynb").write_text("{}")

    for words in (("python", "look.ipynb"), ("look.ipynb",)):
        done = person.types("run", "--", *words)

        assert done.returncode == 2
        assert "jupyter nbconvert --to script look.ipynb, then: taskyard run -- python look.py" in done.stderr


def test_the_plan_says_what_a_task_without_a_number_of_gpus_takes(person: Person) -> None:
    unsaid, none = (
        person.types("run", "--", "python", "train.py"),
        person.types("run", "--gpus", "0", "--", "python", "train.py"),
    )

    assert "gpus          what its worker gives a task, usually all that it has; --gpus N" in unsaid.stderr
    assert "gpus          " not in none.stderr
    assert "asks for      0 GPUs" in none.stderr
