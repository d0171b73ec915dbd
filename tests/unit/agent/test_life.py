"""An agent's duties over time, and its watchdog on a real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskyard.wire import Outcome, OutcomeKind, Phase, Reason
from taskyard_agent.life.duties import Life
from taskyard_agent.life.running import Announcement, is_in_job, on_this_machine, read
from taskyard_agent.tally import Tally

ENDED = Outcome(kind=OutcomeKind.COMPLETED, reason=Reason.EXIT, phase=Phase.RUNNING)


def life(
    folder: Path, tally: Tally, *, lives: Callable[[], bool] = lambda: True, **wishes: Any
) -> tuple[Life, list[str]]:
    """A life with nothing asked of it but the wishes, and the reasons for which it drained."""
    drained: list[str] = []
    settings = {
        "uptime": (), "downtime": (), "lifetime": None, "lifetime_stagger": 0.0, "lifetime_restart": False,
        "idle_timeout": None, "max_tasks": None, "environ": {}, **wishes,
    }  # fmt: skip
    made = Life(
        SimpleNamespace(**settings),  # type: ignore[arg-type]
        tally,
        hold=lambda source, reason: None,
        drain=lambda reason: not drained.append(reason),  # type: ignore[func-returns-value]
        tell_server=lambda: None,
        lives=lives,
        announcement=Announcement(folder, "a", "http://127.0.0.1"),
    )
    return made, drained


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rest_is_counted_from_the_end_of_the_last_run(tmp_path: Path) -> None:
    now = [100.0]
    tally = Tally(clock=lambda: now[0])
    tally.took("a.1")
    busy = tally.rested_seconds
    tally.ended("a.1", ENDED)
    now[0] = 107.0

    assert (busy, tally.rested_seconds) == (None, 7.0)
    assert (tally.taken, tally.executing, tally.executed) == (1, 0, {"completed": 1})


def test_the_last_task_that_may_be_taken_drains_before_the_next_could_be(tmp_path: Path) -> None:
    tally = Tally()
    living, drained = life(tmp_path, tally, max_tasks=2)
    living.start()

    tally.took("a.1")
    after_one = list(drained)
    tally.took("b.1")

    assert after_one == []
    assert drained == ["it took 2 tasks, as many as it was to take"]
    living.stop()


def test_a_lifetime_that_nobody_else_ended_begins_anew_where_asked(tmp_path: Path) -> None:
    living, drained = life(tmp_path, Tally(), lifetime=0.01, lifetime_restart=True)
    living.start()
    wait_for(lambda: drained)
    wait_for(lambda: living.begins_anew)
    living.stop()


@pytest.mark.parametrize(("works", "heard"), [(True, b"WATCHDOG=1"), (False, b"STOPPING=1")])
def test_the_watchdog_is_fed_only_while_the_loops_turn(tmp_path: Path, works: bool, heard: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(10)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"}
        looks: list[None] = []
        living, _ = life(tmp_path, Tally(), lives=lambda: bool(looks.append(None)) or works, environ=environ)  # type: ignore[func-returns-value]
        living.start()
        wait_for(lambda: len(looks) > 3)
        living.stop()

        assert ear.recv(100) == heard


def test_the_record_of_an_agent_says_when_the_server_knows_it(tmp_path: Path) -> None:
    living, _ = life(tmp_path, Tally())
    living.start()
    begun = read(tmp_path)
    living.ready()
    known = read(tmp_path)
    living.stop()

    assert begun is not None
    assert known is not None
    assert (begun.known, known.known, read(tmp_path)) == (False, True, None)


def test_an_agent_in_a_batch_job_is_found_and_distinguished_from_others(tmp_path: Path) -> None:
    folders = [tmp_path / "executes/server/host/1-a", tmp_path / "agents/server/w"]
    for folder in folders:
        folder.mkdir(parents=True)
        Announcement(folder, folder.name, "server").make()

    found = on_this_machine(tmp_path)

    assert {folder: is_in_job(folder) for folder in found} == dict(zip(folders, (True, False), strict=True))
