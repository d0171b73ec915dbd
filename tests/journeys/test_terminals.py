"""Terminals in runs: a real pseudo-terminal before the command line, another behind the agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from taskyard.wire import Task, TaskState
from taskyard_agent.keeper.processes import carrying

from tests.support.agents import AgentProcess, wait_until
from tests.support.docker import IMAGE, connect, ensure_image
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.typist import Typist
from tests.support.yard import Yard

STAYS = "import os, time; print('at it', os.getcwd(), flush=True); time.sleep(600)"
ALONE = {"SHELL": "/bin/sh"}


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with ServerProcess() as server, Yard(server) as yard:
        yield yard


@pytest.fixture(scope="module")
def agent(yard: Yard) -> Iterator[AgentProcess]:
    with yard.agent("--allow-shell", "--slots", "4") as agent:
        yield agent


@pytest.fixture(scope="module")
def person(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person(tmp_path_factory.mktemp("home") / "home").log_in(yard.server)


@pytest.fixture
def running(yard: Yard, agent: AgentProcess) -> Iterator[Task]:
    task = yard.python(STAYS, env={**ALONE, "COLOUR": "green"})
    yard.wait_for_output(task, "at it", seconds=90)
    yield task
    yard.client.stop_task(task.id)


def arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def events(yard: Yard, task: Task, kind: str) -> list[tuple[str, str]]:
    return [(event.by, event.detail) for event in yard.client.story(task.id).events if event.kind == kind]


def test_a_shell_is_in_the_runs_environment_and_passes_its_exit_code_on(
    yard: Yard, person: Person, running: Task
) -> None:
    with Typist(person, "shell", running.id, rows=30, columns=100) as typist:
        typist.types("stty size; echo $COLOUR; pwd; tty; echo first-$((1 + 1))\r")
        seen = typist.sees("first-2")
        assert "30 100" in seen
        assert "green" in seen
        assert yard.text(running).split()[2] in seen
        assert "/dev/pts/" in seen

        typist.resize(50, 120)
        typist.types("until stty size | grep '50 120'; do sleep 0.1; done; echo second-$((1 + 1))\r")
        typist.sees("second-2")

        typist.types("echo $TASKYARD_TERMINAL third-$((1 + 3)); sleep 4322\r")
        mark = f"TASKYARD_TERMINAL={typist.sees('third-4').split()[-2]}"
        wait_until(lambda: any(b"4322" in arguments(pid) for pid in carrying(mark)))
        typist.types("\x03")
        wait_until(lambda: not any(b"4322" in arguments(pid) for pid in carrying(mark)))

        typist.types("exit 7\r")
        assert typist.ends() == 7

    assert events(yard, running, "terminal_opened")[0][1] == "shell"
    wait_until(lambda: events(yard, running, "terminal_ended"))
    assert events(yard, running, "terminal_ended")[0][1].endswith("exit code 7")


def test_what_a_shell_left_in_the_background_ends_with_it(person: Person, running: Task) -> None:
    with Typist(person, "shell", running.id) as typist:
        typist.types("setsid nohup sleep 4321 >/dev/null 2>&1 & echo $TASKYARD_TERMINAL begun-$((1 + 1))\r")
        terminal = typist.sees("begun-2").split()[-2]
        mark = f"TASKYARD_TERMINAL={terminal}"
        wait_until(lambda: len(carrying(mark)) >= 2)

        typist.types("exit\r")
        assert typist.ends() == 0

    wait_until(lambda: not carrying(mark))


def test_much_output_arrives_whole_though_it_is_read_slowly(person: Person, running: Task) -> None:
    done = person.types("shell", running.id, "--", "seq", "1", "200000", text="")

    assert done.returncode == 0
    assert done.stdout.replace("\r", "").split() == [str(number) for number in range(1, 200001)]


def test_a_terminal_ends_with_its_run(yard: Yard, person: Person, agent: AgentProcess) -> None:
    task = yard.python(STAYS, env=ALONE)
    yard.wait_for_output(task, "at it", seconds=90)
    with Typist(person, "shell", task.id) as typist:
        typist.types("echo here-$((1 + 1))\r")
        typist.sees("here-2")

        yard.client.stop_task(task.id)

        assert typist.ends() == 125
        assert "the run has ended" in typist.shown
    assert yard.wait_for_end(task)[0].state is TaskState.CANCELLED


def test_who_goes_away_leaves_nothing_running(person: Person, running: Task) -> None:
    with Typist(person, "shell", running.id) as typist:
        typist.types("echo $TASKYARD_TERMINAL here-$((1 + 1))\r")
        mark = f"TASKYARD_TERMINAL={typist.sees('here-2').split()[-2]}"
        assert carrying(mark)
        typist.types("\r~.")
        assert typist.ends() == 0

    wait_until(lambda: not carrying(mark))


def test_a_shell_is_inside_the_runs_container(yard: Yard, person: Person) -> None:
    engine = connect()
    ensure_image(engine)
    engine.close()
    yard.queue("boxes")
    with yard.agent("--docker", IMAGE, "--allow-shell", "--queue", "boxes"):
        task = yard.submit("python3", "-c", STAYS, queue="boxes", env={"COLOUR": "blue"})
        yard.wait_for_output(task, "at it", seconds=180)
        with Typist(person, "shell", task.id, rows=30, columns=100) as typist:
            size = "python3 -c 'import os; print(*os.get_terminal_size(0))'"
            typist.resize(50, 120)
            typist.types(
                f"until {size} | grep '120 50'; do sleep 0.1; done; echo $COLOUR $(pwd) first-$((1 + 1))\r"
            )
            assert f"blue {yard.text(task).split()[2]}" in typist.sees("first-2")
            typist.types("sleep 4323 & echo $TASKYARD_TERMINAL second-$((1 + 1))\r")
            mark = f"TASKYARD_TERMINAL={typist.sees('second-2').split()[-2]}"
            typist.types("exit 5\r")
            assert typist.ends() == 5
        wait_until(lambda: not carrying(mark))

        with Typist(person, "attach", task.id) as typist:
            typist.sees("at it")
            typist.types("\x03")
            typist.ends()
        assert yard.wait_for_end(task)[0].state is TaskState.FAILED
        assert "KeyboardInterrupt" in yard.text(task)


def test_attach_follows_the_run_and_passes_ctrl_c_on(yard: Yard, person: Person, agent: AgentProcess) -> None:
    source = (
        "import time\nprint('at it', flush=True)\n"
        "try:\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    print('saved', flush=True)\n    raise SystemExit(9)"
    )
    task = yard.python(source)
    yard.wait_for_output(task, "at it", seconds=90)
    with Typist(person, "attach", task.id) as typist:
        typist.sees("at it")
        typist.types("\x03")
        typist.sees("saved")
        assert typist.ends() == 9

    assert yard.wait_for_end(task)[0].state is TaskState.FAILED


def test_attach_is_left_alone_with_another_key(yard: Yard, person: Person, running: Task) -> None:
    with Typist(person, "attach", running.id) as typist:
        typist.sees("at it")
        typist.types("\x1c")
        assert typist.ends() == 0

    assert yard.task(running).state is TaskState.RUNNING


def test_the_owner_alone_opens_a_terminal(yard: Yard, agent: AgentProcess, running: Task) -> None:
    server = yard.server
    other, agents = server.issue("user"), server.issue("agent")

    def ask(token: str) -> httpx.Response:
        with server.client(token) as client:
            return client.post(f"/tasks/{running.id}/terminals", json={})

    refused = [ask(other), ask(agents), ask("")]

    assert [answer.status_code for answer in refused] == [403, 403, 401]
    assert "its owner alone" in refused[0].json()["detail"]
    command = {"kind": "executable", "target": "sleep", "args": ["600"]}
    spec = {"command": command, "environment": {"manager": "inherit"}}
    with server.client(other) as client:
        mine = client.post("/tasks", json={"spec": spec, "queue": "default"}).json()["id"]
    wait_until(lambda: yard.client.task(mine).state is TaskState.RUNNING)
    with server.client() as administrator:
        assert administrator.post(f"/tasks/{mine}/terminals", json={}).status_code == 403
    yard.client.stop_task(mine)


def test_a_run_that_stole_its_token_opens_none(yard: Yard, agent: AgentProcess, tmp_path: Path) -> None:
    task = yard.python(
        "import os, time; print(os.environ['TASKYARD_TOKEN'][:4], flush=True);"
        f"open({str(tmp_path / 'token')!r}, 'w').write(os.environ['TASKYARD_TOKEN']); time.sleep(600)"
    )
    wait_until(lambda: (tmp_path / "token").exists() and (tmp_path / "token").read_text())
    with yard.server.client((tmp_path / "token").read_text()) as run:
        answer = run.post(f"/tasks/{task.id}/terminals", json={})
    yard.client.stop_task(task.id)

    assert answer.status_code == 403


def test_without_the_flag_there_is_no_terminal(yard: Yard, person: Person, agent: AgentProcess) -> None:
    queue = yard.queue("closed")
    with yard.agent("--queue", "closed") as closed:
        task = yard.python(STAYS, queue=queue)
        yard.wait_for_output(task, "at it", seconds=90)
        done = person.types("shell", task.id, text="")
        yard.client.stop_task(task.id)

    assert done.returncode == 1
    assert "--allow-shell" in done.stderr
    assert "terminal" not in closed.log
