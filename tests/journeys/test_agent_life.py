"""How long an agent lives and when it takes tasks: C30, K06."""

from __future__ import annotations

import socket
import time
from datetime import datetime, timedelta
from pathlib import Path

from taskyard.wire import TaskState, WorkerState

from tests.support.agents import wait_until
from tests.support.yard import Yard, count


def shut() -> str:
    """Hours of a day that is neither today nor tomorrow."""
    return f"0-24 {(datetime.now() + timedelta(days=3)):%a}".upper()


def is_paused(yard: Yard, name: str = "tester") -> bool:
    """Whether the server knows that a worker takes nothing."""
    return any(worker.name == name and worker.state is WorkerState.PAUSED for worker in yard.client.workers())


def test_outside_its_hours_an_agent_takes_nothing_and_says_until_when(yard: Yard) -> None:
    with yard.agent("--uptime", shut()) as agent:
        wait_until(lambda: is_paused(yard))
        task = yard.submit("true")

        assert "outside its hours: takes tasks again at" in agent.log
        assert yard.task(task).state is TaskState.QUEUED


def test_within_its_hours_an_agent_takes_tasks(yard: Yard) -> None:
    task = yard.submit("true")

    with yard.agent("--downtime", shut()):
        (task,) = yard.wait_for_end(task)

    assert task.state is TaskState.COMPLETED


def test_a_task_is_taken_the_moment_the_hours_begin(yard: Yard) -> None:
    """By the clock of a zone in which midnight is some seconds ahead."""
    task = yard.submit("true")

    with yard.agent("--uptime", "0-12", variables={"TZ": zone_with_midnight_in(8)}):
        wait_until(lambda: is_paused(yard))
        (task,) = yard.wait_for_end(task)

    assert task.state is TaskState.COMPLETED


def zone_with_midnight_in(seconds: int) -> str:
    """A zone (as POSIX writes it: west of Greenwich is positive) whose clock shows 23:59 until then."""
    ahead = 86_400 - (int(time.time()) + seconds) % 86_400
    sign, ahead = ("-", ahead) if ahead < 43_200 else ("+", 86_400 - ahead)
    return f"XXX{sign}{ahead // 3600}:{ahead // 60 % 60:02}:{ahead % 60:02}"


def test_the_running_task_is_waited_for_at_the_end_of_the_lifetime(yard: Yard, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    task = yard.submit("sh", "-c", f"echo >>{ran}; sleep 3")

    with yard.agent("--lifetime", "2s", "--lifetime-stagger", "1s") as agent:
        code = agent.wait()

    assert code == 0
    assert "its lifetime is over" in agent.log
    assert yard.task(task).state is TaskState.COMPLETED
    assert count(ran) == 1


def test_an_agent_that_restarts_at_the_end_of_its_lifetime_goes_on_as_the_same_process(yard: Yard) -> None:
    with yard.agent("--lifetime", "2s", "--lifetime-restart") as agent:
        first = yard.submit("sleep", "3")
        wait_until(lambda: agent.log.count("its lifetime is over") >= 1)
        second = yard.submit("true")
        ended = yard.wait_for_end(first, second)

        assert [task.state for task in ended] == [TaskState.COMPLETED, TaskState.COMPLETED]
        assert [len(yard.runs(task)) for task in ended] == [1, 1]
        assert agent.process is not None
        assert agent.process.poll() is None
        assert agent.stop() == 0


def test_a_service_manager_hears_that_the_agent_is_ready_once_the_server_knows_it(
    yard: Yard, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(30)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        with yard.agent(variables=told):
            hear(ear, b"READY=1")
            known = [worker.name for worker in yard.client.workers()]
            hear(ear, b"WATCHDOG=1")

    assert known == ["tester"]


def hear(ear: socket.socket, word: bytes) -> None:
    """Waits until it is told."""
    while ear.recv(100) != word:
        pass


def test_an_idle_agent_ends_after_its_timeout_and_a_busy_one_does_not(yard: Yard) -> None:
    task = yard.submit("sleep", "4")

    with yard.agent("--idle-timeout", "2s") as agent:
        (task,) = yard.wait_for_end(task)
        code = agent.wait()

    assert (code, task.state) == (0, TaskState.COMPLETED)
    assert "nothing has run for 2 s" in agent.log


def test_an_agent_takes_as_many_tasks_as_it_was_told(yard: Yard) -> None:
    tasks = [yard.submit("true") for _ in range(3)]

    with yard.agent("--max-tasks", "2") as agent:
        code = agent.wait()

    assert code == 0
    states = [yard.task(task).state for task in tasks]
    assert states == [TaskState.COMPLETED, TaskState.COMPLETED, TaskState.QUEUED]
