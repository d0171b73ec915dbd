"""An agent in the background, looked at and stopped: C30."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from taskyard.wire import TaskState
from taskyard_agent.keeper.processes import descendants

from tests.support.agents import AgentProcess, wait_until
from tests.support.servers import free_port
from tests.support.yard import Yard


@contextlib.contextmanager
def left_alone(agent: AgentProcess) -> Iterator[AgentProcess]:
    """Ends whatever still runs in the background of it."""
    with agent:
        try:
            yield agent
        finally:
            for found in status(agent):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found["pid"], signal.SIGKILL)


def status(agent: AgentProcess, *flags: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(agent.ask("--status", *flags, "--json").stdout)
    return found


def test_a_detached_agent_goes_on_once_the_server_knows_it(yard: Yard) -> None:
    task = yard.submit("true")

    with left_alone(yard.agent("--detached")) as agent:
        code = agent.wait()
        known = [worker.name for worker in yard.client.workers()]
        (task,) = yard.wait_for_end(task)

    assert (code, known, task.state) == (0, ["tester"], TaskState.COMPLETED)


def test_the_first_line_names_the_log_that_its_owner_alone_can_read(yard: Yard) -> None:
    with left_alone(yard.agent("--detached")) as agent:
        agent.wait()
        first = agent.log.splitlines()[0]
        log = Path(first.removeprefix("log: "))

        assert log.stat().st_mode & 0o777 == 0o600
        assert "worker tester" in log.read_text()
        assert status(agent)[0]["log"] == str(log)


def test_a_log_that_has_grown_large_begins_anew(yard: Yard, tmp_path: Path) -> None:
    log = tmp_path / f"cache/agents/127.0.0.1_{urlsplit(yard.server.url).port}/tester/agent.log"
    log.parent.mkdir(parents=True)
    log.touch()
    os.truncate(log, 11 << 20)

    with left_alone(yard.agent("--detached", folder=tmp_path)) as agent:
        assert agent.wait() == 0

        assert "worker tester" in log.read_text()
        assert log.stat().st_size < 1 << 20
        assert log.with_name("agent.log.1").stat().st_size == 11 << 20


def test_a_detached_agent_that_is_refused_says_why(yard: Yard) -> None:
    with left_alone(yard.agent("--detached", "--gpus", "no-such-gpu")) as agent:
        assert agent.wait() == 2
        assert "GPU" in agent.log


def test_a_detached_agent_whose_token_is_refused_says_why(yard: Yard) -> None:
    with left_alone(yard.agent("--detached", variables={"TASKYARD_TOKEN": "wrong"})) as agent:
        assert agent.wait() != 0
        assert "does not accept" in agent.log
        assert not status(agent)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_wait_for_the_server_ends_the_detached_agent(yard: Yard, number: int) -> None:
    nobody = {"TASKYARD_SERVER": f"http://127.0.0.1:{free_port()}"}

    with left_alone(yard.agent("--detached", variables=nobody)) as agent:
        wait_until(lambda: "waiting up to 60 s" in agent.log)
        assert agent.process is not None
        (detached,) = descendants(agent.process.pid)
        agent.signal(number)

        assert agent.wait() == 130
        wait_until(lambda: not Path(f"/proc/{detached}").exists())


def test_the_status_tells_whether_an_agent_runs(yard: Yard) -> None:
    with yard.agent() as agent:
        wait_until(lambda: agent.ask("--status").returncode == 0)
        task = yard.submit("sleep", "600")
        yard.wait_for_state(task, TaskState.RUNNING)
        (shown,) = status(agent)
        table = agent.ask("--status", "tester").stdout

        assert agent.process is not None
        assert (shown["name"], shown["pid"]) == ("tester", agent.process.pid)
        assert shown["runs"] == [yard.run(task).id]
        assert yard.server.url in table
        assert agent.ask("--status", "other").returncode == 1
        agent.kill()
        assert agent.ask("--status").returncode == 1


def test_stop_waits_for_what_runs(yard: Yard) -> None:
    with yard.agent() as agent:
        task = yard.submit("sleep", "6")
        yard.wait_for_state(task, TaskState.RUNNING)
        stopped = agent.ask("--stop", "tester")

        assert stopped.returncode == 0
        assert yard.run(task).id in stopped.stdout
        assert agent.wait() == 0
        assert yard.task(task).state is TaskState.COMPLETED


def test_a_second_stop_cancels_what_runs(yard: Yard) -> None:
    with yard.agent() as agent:
        task = yard.submit("sleep", "100")
        yard.wait_for_state(task, TaskState.RUNNING)
        agent.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in agent.log)

        assert agent.ask("--stop").returncode == 0
        assert agent.wait() == 0


def test_of_several_agents_one_is_named_or_all_are_stopped(yard: Yard, tmp_path: Path) -> None:
    with yard.agent(folder=tmp_path, name="one") as one, yard.agent(folder=tmp_path, name="two") as two:
        wait_until(lambda: len(status(one)) == 2)
        undecided = one.ask("--stop")
        all_of_them = one.ask("--stop", "--all")

        assert undecided.returncode == 2
        assert "one, two" in undecided.stderr
        assert all_of_them.returncode == 0
        assert (one.wait(), two.wait()) == (0, 0)


def test_a_detached_pool_is_there_once_all_its_agents_are_and_stops_as_one(yard: Yard) -> None:
    with left_alone(yard.agent("--detached", "--workers", "2")) as agent:
        code = agent.wait()
        known = {worker.name for worker in yard.client.workers()}
        shown = {found["name"] for found in status(agent)}
        stopped = agent.ask("--stop")

        assert (code, known) == (0, {"tester:1", "tester:2"})
        assert shown == {"tester", *known}
        assert stopped.returncode == 0
        assert status(agent) == []


@pytest.mark.parametrize("flags", [("--stop",), ("--stop", "nobody"), ("--stop", "--all")])
def test_to_stop_where_none_runs_is_told_by_the_exit_code(
    yard: Yard, flags: tuple[str, ...], tmp_path: Path
) -> None:
    agent = yard.agent(folder=tmp_path)

    assert agent.ask(*flags).returncode == 1


def test_a_process_that_took_a_dead_agents_pid_is_left_alone(yard: Yard, tmp_path: Path) -> None:
    with yard.agent(folder=tmp_path) as agent:
        wait_until(lambda: status(agent))
        (record,) = tmp_path.glob("cache/agents/*/*/agent.json")
        agent.kill()
    record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": os.getpid()}))

    assert agent.ask("--stop", "tester").returncode == 1
