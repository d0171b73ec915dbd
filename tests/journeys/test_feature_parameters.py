"""Scripts that know nothing of Taskyard see the parameters that `run` and `clone` set: C08."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard import Task
from taskyard.client import Client
from taskyard.errors import UsageError

from tests.support.agents import AgentProcess
from tests.support.person import Person
from tests.support.servers import ServerProcess

ARGPARSE = """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--learning-rate", "--lr", type=float, default=0.1)
parser.add_argument("--layers", type=int, nargs="+")
parser.add_argument("--amp", action=argparse.BooleanOptionalAction)
print(json.dumps(vars(parser.parse_args())))
"""
CLICK = """
import click, json

@click.command()
@click.argument("data")
@click.option("--learning-rate", type=float, default=0.1)
@click.option("--layers", type=int, multiple=True)
@click.option("--amp/--no-amp")
def train(**options):
    print(json.dumps(options))

train()
"""
CASES = [
    (ARGPARSE, ["d.csv", "--learning-rate", "0.01", "--layers", "64", "32"]),
    (CLICK, ["d.csv", "--learning-rate=0.01", "--layers", "64", "--layers", "32"]),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server, AgentProcess(server):
        yield server


@pytest.fixture
def person(tmp_path: Path, server: ServerProcess) -> Person:
    return Person(tmp_path / "person", TASKYARD_MANAGER="inherit").log_in(server)


def printed(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The record that the script printed among the rest of the log."""
    assert done.returncode == 0, done.stderr
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))


@pytest.mark.parametrize(("script", "args"), CASES, ids=["argparse", "click"])
def test_unmodified_scripts_see_what_run_and_clone_set(person: Person, script: str, args: list[str]) -> None:
    (person.work / "train.py").write_text(script)

    ran = person.types(
        "run", "--wait", "--set", "learning-rate=0.5", "--set", "amp=true", "--", "python", "train.py", *args
    )
    cloned = person.types(
        "clone", "@last", "--set", "Args/learning-rate=0.25", "--set", "layers=[8, 4]", "--queue", "default"
    )
    followed = person.types("logs", "-f", "@new")

    first = {"data": "d.csv", "learning_rate": 0.5, "layers": [64, 32], "amp": True}
    assert printed(ran) == first
    assert cloned.returncode == 0, cloned.stderr
    assert printed(followed) == {**first, "learning_rate": 0.25, "layers": [8, 4]}


def test_the_effective_values_are_recorded(person: Person) -> None:
    (person.work / "train.py").write_text(ARGPARSE)
    person.types("run", "--wait", "--set", "lr=0.5", "--", "python", "train.py", "d.csv", "--lr", "0.01")

    task = json.loads(person.types("show", "@last", "--json").stdout)

    assert task["spec"]["parameters"]["Args"]["lr"] == "0.5"
    assert task["spec"]["command"]["args"] == ["d.csv", "--lr", "0.5"]
    assert task["spec"]["command"]["typed"] == ["d.csv", "--lr", "0.01"]
    assert task["spec"]["values"]["Args"] == {"lr": 0.5}


def test_a_program_reads_what_is_no_argument_from_its_variables(person: Person) -> None:
    (person.work / "read.py").write_text("import os; print(os.environ['TASKYARD_PARAMS'])")

    ran = person.types("run", "--wait", "--set", "Model/depth=3", "--", "python", "read.py")

    assert printed(ran)["Model"] == {"depth": "3"}


FLAG = """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
parser.add_argument("--layers", type=int, nargs="+")
print(json.dumps(vars(parser.parse_args())))
"""


def test_a_flag_is_taken_back_in_the_form_of_its_parser(person: Person) -> None:
    (person.work / "train.py").write_text(FLAG)

    ran = person.types(
        "run", "--wait", "--set", "cache=false", "--", "python", "train.py", "--cache", "--layers", "8"
    )
    shown = person.types("show", "@last")
    (person.work / "train.py").unlink()  # what the clone needs to know was stored with the task
    cloned = person.types("clone", "@last", "--set", "layers=[4, 5]", "--set", "cache=true", "--queue", "default")
    followed = person.types("logs", "-f", "@new")

    assert printed(ran) == {"cache": False, "layers": [8]}
    assert "set           --no-cache instead of --cache" in ran.stderr
    assert "python train.py --no-cache --layers 8" in shown.stdout
    assert "--no-cache instead of --cache" in shown.stdout
    assert "python train.py --cache --layers 4 5" in cloned.stderr
    assert printed(followed) == {"cache": True, "layers": [4, 5]}
    record = json.loads(person.types("show", "@new", "--json").stdout)["spec"]
    assert (record["values"]["Args"], record["command"]["written"]) == ({"cache": True, "layers": [4, 5]}, True)


def test_what_cannot_be_known_is_refused_with_the_line_to_type(person: Person) -> None:
    (person.work / "train.py").write_text("import sys; print('{\"line\":', '\"' + ' '.join(sys.argv[1:]) + '\"}')")
    command = ("--", "python", "train.py", "--amp")

    refused = person.types("run", "--yes", "--set", "amp=false", *command)
    typed = person.types("run", "--wait", "--set", "--amp=False", *command)

    assert (refused.returncode, "--set '--amp=False'" in refused.stderr, refused.stdout) == (2, True, "")
    assert printed(typed) == {"line": "--amp=False"}


def test_what_the_api_sets_is_written_by_the_agent_or_fails_before_the_command_starts(
    person: Person, server: ServerProcess
) -> None:
    (person.work / "train.py").write_text(FLAG)
    task = person.types("run", "--wait", "--json", "--", "python", "train.py", "--cache").stdout
    with server.client() as http:
        clones = [
            http.post(
                f"/tasks/{json.loads(task)['id']}/clone",
                json={"changes": {"values": {"Args": values}}, "queue": "default"},
            ).json()["id"]
            for values in ({"cache": False}, {"depth": 3})
        ]

    right, wrong = (person.types("logs", "-f", clone) for clone in clones)

    assert printed(right) == {"cache": False, "layers": None}
    assert "{" not in wrong.stdout
    shown = person.types("show", clones[1]).stdout
    assert "failed (command)" in shown
    assert "the script has no such option" in shown


def test_parameters_beyond_what_a_variable_may_hold_reach_the_program_in_a_file(person: Person) -> None:
    (person.work / "read.py").write_text(
        "import json, os; values = json.load(open(os.environ['TASKYARD_PARAMS_FILE']))['Model']\n"
        "print(json.dumps({'sizes': len(values) and sum(map(len, map(str, values.values())))}))\n"
        "print('VARIABLE', 'TASKYARD_PARAMS' in os.environ)"
    )
    wanted = [f"--set=Model/x{number}={'y' * 70_000}" for number in range(2)]

    ran = person.types("run", "--wait", *wanted, "--", "python", "read.py")

    assert printed(ran) == {"sizes": 140_000}
    assert "VARIABLE False" in ran.stdout


def test_arguments_that_the_kernel_would_refuse_are_refused_before(person: Person) -> None:
    (person.work / "read.py").write_text("import sys; print(sys.argv)")

    ran = person.types("run", "--", "python", "read.py", *["y" * 120_000] * 9)

    refused = "put some of them into a file" in ran.stderr
    assert (ran.returncode, refused, len(ran.stderr) < 1000) == (2, True, True)
    with pytest.raises(UsageError, match="put it into a file"):
        Task.create("read.py", folder=person.work, args=["y" * 140_000], client=Client(None))  # type: ignore[arg-type]
