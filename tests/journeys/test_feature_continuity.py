"""Machines come and go, servers too, and nothing is lost: C19, K08, K10, K11, D09."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from taskyard.wire import OnLost, Policy, TaskState

from tests.support.agents import wait_until
from tests.support.person import Person
from tests.support.servers import ServerProcess, free_port
from tests.support.yard import Yard, count


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with ServerProcess() as server, Yard(server) as yard:
        yield yard


def test_agents_join_and_leave_under_load_and_nothing_is_lost(yard: Yard, tmp_path: Path) -> None:
    queue, ran = yard.queue("comings and goings"), tmp_path / "ran"
    tasks = [yard.submit("sh", "-c", f"sleep 0.05; echo {number} >> {ran}", queue=queue) for number in range(24)]

    with (
        yard.agent("--queue", "comings and goings", name="leaver") as leaver,
        yard.agent("--queue", "comings and goings", name="stayer"),
    ):
        wait_until(lambda: count(ran) >= 4)
        assert leaver.stop() == 0
        with yard.agent("--queue", "comings and goings", name="joiner") as joiner:
            ended = yard.wait_for_end(*tasks)
            assert joiner.stop() == 0

    assert {task.state for task in ended} == {TaskState.COMPLETED}
    assert sorted(map(int, ran.read_text().split())) == list(range(24))


def test_a_server_that_is_away_for_a_while_costs_nothing(tmp_path: Path) -> None:
    over = tmp_path / "over"
    program = f"import time\nfor i in range(60): print(i); time.sleep(0.05)\nopen({str(over)!r}, 'w').close()"
    with ServerProcess(data=tmp_path / "data") as server, Yard(server) as yard, yard.agent():
        task = yard.python(program)
        yard.wait_for_output(task, "3\n")
        server.kill()
        wait_until(over.exists, what="the command's end while the server is away")
        server.start()
        (ended,) = yard.wait_for_end(task)

        assert ended.state is TaskState.COMPLETED
        assert ended.run_count == 1
        assert yard.text(task) == "".join(f"{number}\n" for number in range(60))


def test_what_a_dead_agent_left_is_collected_by_the_next(yard: Yard, tmp_path: Path) -> None:
    queue = yard.queue("the dead")
    policy = Policy(grace_seconds=0.3, on_lost=OnLost.FAIL)
    task = yard.submit("sh", "-c", "sleep 60 & echo ready; wait", queue=queue, policy=policy)

    with yard.agent("--queue", "the dead", folder=tmp_path) as agent:
        yard.wait_for_output(task, "ready")
        left = _processes_of(yard.run(task).id)
        agent.kill()
        left[0].parent().send_signal(signal.SIGKILL)  # the keeper, whose death the command's children survive
        agent.start()
        (ended,) = yard.wait_for_end(task)
        wait_until(lambda: not agent.runs, what="an empty journal")

    assert ended.state is TaskState.FAILED
    assert len(left) >= 2
    assert not _processes_of(yard.run(task).id)


def _processes_of(run_id: str) -> list[psutil.Process]:
    """Every process of the run's command, the oldest first."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if run_id in process.environ().values():
                found.append(process)
    return found


def test_the_story_and_the_events_tell_the_same_in_order(yard: Yard, tmp_path: Path) -> None:
    task = yard.submit("true", queue=yard.queue("told"))
    with yard.agent("--queue", "told"):
        yard.wait_for_end(task)

    story = [event.kind for event in yard.client.story(task.id).events]
    with yard.server.client() as client:
        listed = client.get("/events", params={"task": task.id}).json()
    shown = Person(tmp_path).log_in(yard.server).types("story", task.id).stdout

    kinds = [event["event"]["kind"] for event in sorted(listed, key=lambda each: each["event"]["at"])]
    assert sorted(kinds) == sorted(story)
    assert story[:3] == ["created", "enqueued", "claimed"]
    assert [shown.index(f"\t{kind}\t") for kind in story] == sorted(shown.index(f"\t{kind}\t") for kind in story)


def test_a_person_retries_a_task_that_failed(yard: Yard, tmp_path: Path) -> None:
    flag, person = tmp_path / "flag", Person(tmp_path / "person").log_in(yard.server)
    task = yard.submit("test", "-e", str(flag), queue=yard.queue("again"))

    with yard.agent("--queue", "again"):
        yard.wait_for_end(task)
        flag.touch()
        retried = person.types("retry", task.id)
        yard.wait_for_state(task, TaskState.COMPLETED)

    assert retried.returncode == 0, retried.stderr
    assert [run.outcome.kind.value for run in yard.runs(task) if run.outcome] == ["failed", "completed"]


def test_up_leaves_no_process_behind(tmp_path: Path) -> None:
    person, port, log = Person(tmp_path / "person"), str(free_port()), tmp_path / "log"
    folders = ["--data", str(tmp_path / "data"), "--local-dir", str(tmp_path / "local")]
    up = person.starts("up", "--host", "0.0.0.0", "--insecure", "--port", port, "--cpu-only", *folders, log=log)
    wait_until(lambda: b"serving 'default'" in log.read_bytes(), what="an agent that serves")
    ours = psutil.Process(up.pid).children(recursive=True)

    up.send_signal(signal.SIGINT)

    assert up.wait(60) == 0, log.read_text()
    assert len(ours) >= 2
    assert not any(process.is_running() for process in ours)
    said = log.read_text()
    assert "taskyard login http://" in said
    assert "taskyard agent join http://" in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/api/v1/health")
