"""`--grace --retry-delay --on-lost --exclusive --with`: each is honoured, from the flag to the process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import OutcomeKind, Reason, TaskState

from tests.support.agents import AgentProcess, wait_until
from tests.support.person import Person
from tests.support.relay import Relay
from tests.support.servers import ServerProcess
from tests.support.wheels import package_index
from tests.support.yard import Yard

SOON = ("--lease-seconds", "2", "--confirm-seconds", "2", "--lost-after-seconds", "5")
SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(1.5)
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with ServerProcess(*SOON) as server, Yard(server) as yard:
        yield yard


@pytest.fixture
def person(tmp_path: Path, yard: Yard) -> Person:
    person = Person(tmp_path / "person", TASKYARD_MANAGER="inherit").log_in(yard.server)
    (person.work / "saves.py").write_text(SAVES)
    return person


def submitted(yard: Yard, person: Person, *flags: str, script: str = "saves.py"):  # type: ignore[no-untyped-def]
    done = person.types("run", "--gpus", "0", *flags, "--", "python", script)
    assert done.returncode == 0, done.stderr
    return yard.client.task(done.stdout.strip())


def test_a_checkpoint_has_the_time_that_grace_gives_it(yard: Yard, person: Person) -> None:
    with yard.agent("--slots", "2"):
        long, short = (submitted(yard, person, "--grace", grace) for grace in ("30s", "0.2s"))
        for task in (long, short):
            yard.wait_for_output(task, "started")
        person.types("stop", long.id, short.id)
        yard.wait_for_end(long, short)

    assert "saved" in yard.text(long)
    assert "saved" not in yard.text(short)


def test_a_retry_waits_for_its_delay(yard: Yard, person: Person) -> None:
    (person.work / "fails.py").write_text("raise SystemExit(1)")

    with yard.agent():
        task = submitted(yard, person, "--retries", "1", "--retry-delay", "1h", script="fails.py")
        waiting = yard.wait_for_state(task, TaskState.WAITING)

    assert waiting.wake_at is not None
    assert 3000 < waiting.wake_at - time.time() < 3700


@pytest.mark.parametrize(("on_lost", "state"), [("fail", TaskState.FAILED), ("wait", TaskState.WAITING)])
def test_on_lost_decides_what_becomes_of_a_task_whose_keeper_was_killed(
    yard: Yard, person: Person, on_lost: str, state: TaskState
) -> None:
    with yard.agent() as agent:
        task = submitted(yard, person, "--on-lost", on_lost)
        yard.wait_for_output(task, "started")
        (keeper,) = agent.keepers()
        os.kill(keeper, signal.SIGKILL)

        yard.wait_for_state(task, state)

    outcome = yard.runs(task)[0].outcome
    assert outcome is not None
    assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, Reason.KEEPER)
    person.types("stop", task.id)


def test_an_exclusive_run_ends_where_its_machine_is_cut_off_and_another_goes_on(
    yard: Yard, person: Person
) -> None:
    with Relay(yard.server.port) as relay, yard.agent("--slots", "2", url=relay.url) as agent:
        flags = ("--grace", "0.2s", "--on-lost", "fail")
        exclusive, other = submitted(yard, person, "--exclusive", *flags), submitted(yard, person, *flags)
        for task in (exclusive, other):
            yard.wait_for_output(task, "started")
        relay.cut()

        wait_until(lambda: len(agent.keepers()) == 1, what="the end of the exclusive run")
        assert yard.run(exclusive).outcome is None  # before the server could give it to another
        # A server that was kept from running lengthens the leases: on a busy machine that is more than once.
        yard.wait_for_state(exclusive, TaskState.FAILED, seconds=150.0)
        assert len(agent.keepers()) == 1


def test_with_adds_a_package_to_those_of_a_requirements_file(yard: Yard, person: Person, tmp_path: Path) -> None:
    (person.work / "use.py").write_text("import grain, speck; print('both', grain.version, speck.version)")
    (person.work / "requirements.txt").write_text("grain==1.0\n")

    with package_index(tmp_path / "wheels") as index:
        index.add("grain")
        index.add("speck", "2.0")
        variables = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
        with AgentProcess(yard.server, name="builder", variables=variables):
            ran = person.types("run", "--wait", "--manager", "auto", "--with", "speck", "--", "python", "use.py")

    assert "both 1.0 2.0" in ran.stdout, ran.stdout + ran.stderr
    assert "and speck" in ran.stderr


def test_with_is_refused_beside_a_lock_and_an_inherited_environment(person: Person) -> None:
    (person.work / "uv.lock").write_text("version = 1\nrequires-python = '>=3.10'\n")
    (person.work / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '1'\n")

    inherited = person.types("run", "--with", "speck", "--", "python", "saves.py")
    locked = person.types("run", "--manager", "uv", "--with", "speck", "--", "python", "saves.py")

    assert (inherited.returncode, locked.returncode) == (2, 2)
    assert "with --manager inherit nothing is installed" in inherited.stderr
    assert "uv.lock names all that uv installs; add speck there" in locked.stderr
