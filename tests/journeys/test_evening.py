"""An evening of a researcher: twelve variants by one command, the best found, one stopped, one retried."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess, wait_until
from tests.support.person import Person
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess

TRAIN = """
import argparse, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--opt", default="adam")
parser.add_argument("--seconds", type=float, default=0)
options = parser.parse_args()
if options.lr == 10:
    print("diverges", flush=True)
    time.sleep(600)
if options.opt == "lion" and options.lr == 1 and not os.path.exists(os.environ["LICENCE"]):
    sys.exit("no licence")
print("loss", abs(options.lr - 0.1) + {"adam": 0.0, "sgd": 0.5, "lion": 0.7}[options.opt])
"""
JOBS = """
[jobs.search]
command = "python train.py"
gpus = 0
tags = ["evening"]
grace = "1s"

[jobs.search.grid]
opt = ["adam", "sgd", "lion"]
lr = [10, 1, 0.1, 0.01]
"""


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server, AgentProcess(server, "--slots", "4"):
        yield server


def test_an_evening_of_twelve_variants_needs_no_loop(tmp_path: Path, server: ServerProcess) -> None:
    licence = tmp_path / "licence"
    person = Person(tmp_path / "researcher", TASKYARD_MANAGER="inherit").log_in(server)
    person.work.rmdir()
    Repository.create(person.work, {"train.py": TRAIN})
    (person.work / "taskyard.toml").write_text(JOBS)  # not committed: it goes along, and so does what it starts

    def listed(*flags: str) -> dict[str, dict[str, object]]:
        return {task["spec"]["name"]: task for task in json.loads(person.types("ps", "--json", *flags).stdout)}

    # one command, twelve tasks
    done = person.types("run", "search", "--env", f"LICENCE={licence}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
    assert "12: opt adam sgd lion × lr 10 1 0.1 0.01" in done.stderr

    # the three that diverge are seen, and stopped together
    wait_until(lambda: len(listed("--state", "running", "--match", "lr=10")) == 3, what="three that diverge")
    stopped = person.types("stop", *(f"search opt={opt} lr=10" for opt in ("adam", "sgd", "lion")))
    assert stopped.returncode == 0, stopped.stderr
    ended = ("completed", "failed", "cancelled")
    wait_until(
        lambda: len(listed(*(f"--state={state}" for state in ended))) == 12, seconds=120.0, what="the end of all"
    )

    # one failed by a mistake that is no fault of the code: that is set right, and it is retried
    failed = listed("--state", "failed")
    assert list(failed) == ["search opt=lion lr=1"]
    licence.touch()
    retried = person.types("retry", "search opt=lion lr=1")
    assert retried.returncode == 0, retried.stderr
    wait_until(lambda: "search opt=lion lr=1" in listed("--state", "completed"), what="the retried one")

    # the best is found, copied with a finer value, and the two compared
    losses = {
        name: float(person.types("logs", "--tail", "1", str(task["id"])).stdout.split()[1])
        for name, task in listed("--state", "completed").items()
    }
    best = min(losses, key=losses.__getitem__)
    assert best == "search opt=adam lr=0.1"
    copied = person.types("clone", best, "--set", "lr=0.09", "--queue", "default")
    assert copied.returncode == 0, copied.stderr
    assert "search opt=adam lr=0.09" in copied.stdout
    followed = person.types("logs", "-f", "@new")
    assert "loss 0.01" in followed.stdout
    compared = person.types("diff", "@last", "@new")
    assert "parameters\tlr\t0.1\t0.09" in compared.stdout
