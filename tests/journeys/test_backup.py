"""A server that is copied under load loses its disk, and comes back while its agents go on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from taskyard.errors import TaskyardError
from taskyard.wire import QueueChanges, Task, TaskState
from taskyard_server.copies.pins import PREFIX

from tests.faults.witness import Witness
from tests.support.agents import wait_until
from tests.support.servers import ServerProcess
from tests.support.yard import Yard, count

LATER = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(data=tmp_path / "data") as server:
        yield server


@pytest.fixture
def yard(server: ServerProcess) -> Iterator[Yard]:
    with Yard(server) as yard:
        yield yard


def command(server: ServerProcess, *argv: str) -> list[str]:
    return [sys.executable, "-m", "taskyard.cli", "server", *argv]


def environment(server: ServerProcess, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKYARD_")}
    own = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "TASKYARD_DATA": str(server.data)}
    token = server.data / "admin-token"
    login = {"TASKYARD_SERVER": server.url, "TASKYARD_TOKEN": server.admin_token} if token.exists() else {}
    return {**kept, **own, **login}


def run(server: ServerProcess, home: Path, *argv: str, code: int = 0) -> Any:
    """What `taskyard server …` printed as JSON, or said where it fails."""
    done = subprocess.run(
        command(server, *argv, "--json"),
        capture_output=True,
        text=True,
        check=False,
        env=environment(server, home),
        timeout=180,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


@contextlib.contextmanager
def load(yard: Yard) -> Iterator[list[tuple[float, str]]]:
    """Tasks that arrive all the time in a queue that nobody serves; yields when each was acknowledged."""
    acknowledged: list[tuple[float, str]] = []
    stop = threading.Event()

    def submit() -> None:
        while not stop.is_set():
            with contextlib.suppress(TaskyardError):
                task = yard.submit("true", queue="load")
                acknowledged.append((time.time(), task.id))

    yard.queue("load")
    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.timeout(400)
def test_a_destroyed_disk_costs_no_task_an_end(server: ServerProcess, yard: Yard, tmp_path: Path) -> None:
    """Every task ends once: those that the copy knows, those that it has queued and that ended since, those that
    it does not know at all."""
    later = yard.queue("later")
    yard.client.change_queue(later, QueueChanges(paused=True))
    marks = tmp_path / "marks"
    ended = [mark(yard, marks, queue="later") for _ in range(LATER)]
    runs = Witness(yard, tmp_path / "runs")
    begins = Witness(yard, tmp_path / "begins", queue="later")

    with yard.agent("--queue", "default", "later", "--slots", "4") as agent:
        runs.wait_for_start()
        with load(yard) as acknowledged:
            wait_until(lambda: len(acknowledged) > 30, what="load")
            made = run(server, tmp_path, "backup", str(tmp_path / "copy.tar"))
            at = len(acknowledged)
            wait_until(lambda: len(acknowledged) > at + 5, what="load that goes on")
        yard.client.change_queue(later, QueueChanges(paused=False))
        yard.wait_for_end(*ended)
        begins.wait_for_start()
        younger = Witness(yard, tmp_path / "younger")
        younger.wait_for_start()

        server.kill()
        shutil.rmtree(server.data)
        run(server, tmp_path, "restore", str(tmp_path / "copy.tar"))
        server.start()

        wait_until(lambda: len(unknown(yard)) == LATER + 2, seconds=180, what="all that is unknown")
        assert unknown(yard) == {
            **{f"{task.id}.1": "ended" for task in ended},
            f"{begins.task.id}.1": "running",
            f"{younger.task.id}.1": "running",
        }
        assert len(run(server, tmp_path, "status")["runs"]) == LATER + 2
        assert yard.task(runs.task).state is TaskState.RUNNING
        assert "undecided" in run(server, tmp_path, "resume", code=1)
        assert "taskyard server resume" in yard.client.explain(runs.task.id).summary
        run(server, tmp_path, "adopt", "--all")
        run(server, tmp_path, "resume")

        for witness in (runs, begins, younger):
            witness.ends_once(starts=1)
        assert {task.state for task in yard.wait_for_end(*ended)} == {TaskState.COMPLETED}
        assert count(marks) == LATER, "a task that had ended ran again"
        assert yard.wait_for_end(mark(yard, marks))[0].state is TaskState.COMPLETED, agent.log

    lost = [task for at, task in acknowledged if at < made["copied_at"] and not known(yard, task)]
    assert not lost, "acknowledged before the copy, and not in it"


def mark(yard: Yard, marks: Path, **options: Any) -> Task:
    source = f"open({str(marks)!r}, 'a').write('ran\\n'); print('said')"
    return yard.python(source, **options)


def unknown(yard: Yard) -> dict[str, str]:
    return {one.run: str(one.kind) for one in yard.client.recovery().runs}


def known(yard: Yard, task: str) -> bool:
    try:
        yard.client.task(task)
    except TaskyardError:
        return False
    return True


def test_a_run_that_is_given_up_ends_and_its_task_runs_again(
    server: ServerProcess, yard: Yard, tmp_path: Path
) -> None:
    yard.client.change_queue(yard.client.resolve_queue("default").id, QueueChanges(paused=True))

    with yard.agent() as agent:
        witness = Witness(yard, tmp_path / "witness")
        run(server, tmp_path, "backup", str(tmp_path / "copy.tar"))  # which holds the agent's token
        yard.client.change_queue(yard.client.resolve_queue("default").id, QueueChanges(paused=False))
        witness.wait_for_start()
        server.kill()
        shutil.rmtree(server.data)
        run(server, tmp_path, "restore", str(tmp_path / "copy.tar"))
        server.start()
        yard.client.change_queue(yard.client.resolve_queue("default").id, QueueChanges(paused=False))
        wait_until(lambda: len(unknown(yard)) == 1, seconds=180, what="the unknown run")
        assert agent.keepers(), "the run was killed before its operator decided"

        run(server, tmp_path, "give-up", f"{witness.task.id}.1")
        wait_until(lambda: not agent.keepers(), seconds=180, what="end of the run that was given up")
        run(server, tmp_path, "resume")

        witness.wait_for_start(2, seconds=180)
        witness.let_go()
        (task,) = yard.wait_for_end(witness.task)
        assert task.state is TaskState.COMPLETED


def test_every_answer_names_the_generation(server: ServerProcess, tmp_path: Path) -> None:
    with server.client("") as anybody:
        assert anybody.get("/info").headers["taskyard-store-generation"] == "1"
        assert anybody.get("/nowhere").headers["taskyard-store-generation"] == "1"
    run(server, tmp_path, "backup", str(tmp_path / "copy.tar"))
    server.kill()
    shutil.rmtree(server.data)

    restored = run(server, tmp_path, "restore", str(tmp_path / "copy.tar"))

    server.start()
    with server.client("") as anybody:
        answer = anybody.get("/info")
    assert answer.headers["taskyard-store-generation"] == str(restored["generation"])
    assert answer.json()["recovering"] is True
    assert "nothing is handed out" in server.log


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_copy_that_is_killed_leaves_no_file_and_the_next_leaves_nothing_else(
    server: ServerProcess, tmp_path: Path, number: int
) -> None:
    places = tmp_path / "copies"
    places.mkdir()
    with server.client() as root:
        root.put(f"/blobs/{'0' * 64}", content=b"")
    (server.data / "blobs" / "ab").mkdir()
    large = server.data / "blobs" / "ab" / ("ab" + "0" * 62)
    with large.open("wb") as file:
        file.truncate(4 << 30)  # a hole: nothing is stored, and reading it takes a while

    process = subprocess.Popen(
        command(server, "backup", str(places / "copy.tar")),
        env=environment(server, tmp_path),
        stderr=subprocess.DEVNULL,
    )
    wait_until(
        lambda: any(path.stat().st_size > 1 << 20 for path in places.glob(f"{PREFIX}*/archive")), what="a part"
    )
    process.send_signal(number)
    process.wait(120)
    large.unlink()

    assert not (places / "copy.tar").exists()
    run(server, tmp_path, "backup", str(places / "copy.tar"))
    assert [path.name for path in places.iterdir()] == ["copy.tar"]
    assert not list(server.data.glob(f"{PREFIX}*"))


def test_a_server_killed_during_the_copy_does_not_matter_to_it(
    server: ServerProcess, yard: Yard, tmp_path: Path
) -> None:
    with load(yard) as acknowledged:
        wait_until(lambda: len(acknowledged) > 30, what="load")
        process = subprocess.Popen(
            command(server, "backup", str(tmp_path / "copy.tar"), "--json"),
            env=environment(server, tmp_path),
            stdout=subprocess.PIPE,
        )
        server.restart()
        out, _ = process.communicate(timeout=180)
    made = json.loads(out)
    server.kill()
    shutil.rmtree(server.data)

    run(server, tmp_path, "restore", str(tmp_path / "copy.tar"))

    server.start()
    assert not [task for at, task in acknowledged if at < made["copied_at"] and not known(yard, task)]
