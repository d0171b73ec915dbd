"""An evening of a researcher: twelve variants by one command, three stopped, one retried, the best one fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from taskyard.client import Client
from taskyard.config import Connection
from taskyard.wire import TaskState

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
loss = abs(options.lr - 0.1) + {"adam": 0.0, "sgd": 0.5, "lion": 0.7}[options.opt]
open("model.txt", "w").write(f"trained to {loss}")
print("loss", loss)
"""
JOBS = """
[jobs.search]
command = "python train.py"
gpus = 0
tags = ["evening"]
outputs = ["model.txt"]
grace = "1s"

[jobs.search.grid]
opt = ["adam", "sgd", "lion"]
lr = [10, 1, 0.1, 0.01]
"""


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server, AgentProcess(server, "--slots", "4"):
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client.of(Connection(server=server.url, token=server.admin_token)) as client:
        yield client


def test_an_evening_of_twelve_variants_needs_no_loop(
    tmp_path: Path, server: ServerProcess, client: Client
) -> None:
    licence = tmp_path / "licence"
    person = Person(tmp_path / "researcher", TASKYARD_MANAGER="inherit").log_in(server)
    person.work.rmdir()
    Repository.create(person.work, {"train.py": TRAIN})
    (person.work / "taskyard.toml").write_text(JOBS)  # not committed: it goes along, and so does what it starts

    def names(*states: str) -> list[str]:
        return [task.spec.name for task in client.all_tasks(states=[TaskState(state) for state in states])]

    def wait_for(condition: Callable[[], object], what: str) -> None:
        wait_until(condition, seconds=180.0, what=what)

    # one command, twelve tasks
    done = person.types("run", "search", "--env", f"LICENCE={licence}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
    assert "12: opt adam sgd lion × lr 10 1 0.1 0.01" in done.stderr

    # the three that diverge are seen, and stopped together
    wait_for(lambda: len([name for name in names("running") if name.endswith("lr=10")]) == 3, "three that diverge")
    stopped = person.types("stop", *(f"search opt={opt} lr=10" for opt in ("adam", "sgd", "lion")))
    assert stopped.returncode == 0, stopped.stderr
    wait_for(lambda: len(names("completed", "failed", "cancelled")) == 12, "the end of all")

    # one failed by a mistake that is no fault of the code: that is set right, and it is retried
    assert names("failed") == ["search opt=lion lr=1"]
    licence.touch()
    retried = person.types("retry", "search opt=lion lr=1")
    assert retried.returncode == 0, retried.stderr
    wait_for(lambda: "search opt=lion lr=1" in names("completed"), "the retried one")

    # the best is found, what it kept is fetched; it is copied with a finer value, and the two compared
    losses = {
        task.spec.name: float(client.read_log(task.run.id).data.partition(b"\nloss ")[2].split()[0])
        for task in client.all_tasks(states=[TaskState.COMPLETED])
        if task.run is not None
    }
    best = min(losses, key=losses.__getitem__)
    assert best == "search opt=adam lr=0.1"
    fetched = person.types("artifact", "get", best, "-o", "best")
    assert fetched.returncode == 0, fetched.stderr
    assert (person.work / "best" / "model.txt").read_text() == "trained to 0.0"
    copied = person.types("clone", best, "--set", "lr=0.09", "--queue", "default")
    assert copied.returncode == 0, copied.stderr
    assert "search opt=adam lr=0.09" in copied.stdout
    followed = person.types("logs", "-f", "@new")
    assert "loss 0.01" in followed.stdout
    compared = person.types("diff", "@last", "@new")
    assert "parameters\tlr\t0.1\t0.09" in compared.stdout
