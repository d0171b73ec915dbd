"""What user code, and another user of the machine, can learn from an agent."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import (
    Command,
    CommandKind,
    Environment,
    Manager,
    NewTask,
    TaskSpec,
    TaskState,
)

from tests.support.agents import AgentProcess, wait_until
from tests.support.yard import Yard

SPY = """
import os, pathlib, sys
found = open(sys.argv[1], "wb")
watched = {os.environ["DAEMON"]: "daemon", str(os.getppid()): "keeper"}
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        found.write((process / "cmdline").read_bytes())
        for secret in ("environ", "mem"):
            try:
                with open(process / secret, "rb") as file:
                    found.write(file.read() if secret == "environ" else b"")
                denied = False
            except PermissionError:
                denied = True
            if process.name in watched:
                print(watched[process.name], secret, "denied" if denied else "open")
    except OSError:
        pass
found.close()
print("searched", flush=True)
import time; time.sleep(600)
"""
PRIVATE = ("daemon environ", "daemon mem", "keeper environ", "keeper mem")
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
"""What makes of root a user like any other: one who may not look into what is not dumpable."""


@pytest.fixture
def plain_user() -> Iterator[tuple[str, ...]]:
    """The command under which an agent has no more rights than its tasks."""
    if os.geteuid() != 0:
        yield ()
    elif shutil.which("setpriv"):
        yield WITHOUT_CAPABILITIES
    else:
        pytest.skip("setpriv, of util-linux, is not installed")


def tokens(agent: AgentProcess) -> dict[str, str]:
    """The tokens of the agent's only run, as its journal holds them."""
    held: dict[str, str] = json.loads((agent.runs[0] / "run.json").read_text())["tokens"]
    return held


def test_user_code_finds_no_token_of_the_agent_in_any_process(
    yard: Yard, tmp_path: Path, plain_user: tuple[str, ...]
) -> None:
    token = yard.server.issue("agent")
    with yard.agent(under=plain_user, variables={"TASKYARD_TOKEN": token}, forked=False) as agent:
        assert agent.process is not None
        task = yard.submit(
            sys.executable, "-c", SPY, str(tmp_path / "found"), env={"DAEMON": str(agent.process.pid)}
        )
        yard.wait_for_output(task, "searched")
        drawn = tokens(agent)

    found = (tmp_path / "found").read_bytes()
    assert token.encode() not in found
    assert drawn["control_token"].encode() not in found
    assert drawn["report_token"].encode() in found  # its own: the search would have found the others
    assert set(yard.text(task).splitlines()) == {f"{who} denied" for who in PRIVATE} | {"searched"}


def test_what_a_run_leaves_on_the_disk_is_for_the_agent_alone(yard: Yard) -> None:
    task = yard.python("import time; print('here', flush=True); time.sleep(600)")
    with yard.agent() as agent:
        yard.wait_for_output(task, "here")

        (run,) = agent.runs
        home = run.parent.parent
        open_to_others = [path for path in (home, *home.glob("*"), run, *run.glob("*.*")) if is_open(path)]

        assert (run / "keeper.json").exists()
        assert open_to_others == []
        assert not is_open(run / "ticket")


def is_open(path: Path) -> bool:
    """Whether group or others have any right."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def test_no_token_and_no_secret_stands_in_any_log_or_record(yard: Yard) -> None:
    command = Command(kind=CommandKind.EXECUTABLE, target="sh", args=("-c", "echo here; sleep 600"))
    spec = TaskSpec(command=command, environment=Environment(manager=Manager.INHERIT))
    new = NewTask(spec=spec, queue="default", secret_values={"API_KEY": "s3cr3t-value"})
    task = yard.client.create_task(new)
    token = yard.server.issue("agent")
    with yard.agent("--log-level", "debug", variables={"TASKYARD_TOKEN": token}) as agent:
        yard.wait_for_output(task, "here")
        hidden = {token, "s3cr3t-value", yard.server.admin_token, *tokens(agent).values()}
        hidden -= {tokens(agent)["request_id"]}
        kept = [path for path in agent.runs[0].glob("*.*") if path.name != "run.json" and path.is_file()]

        told = [path.read_text(errors="replace") for path in kept] + [agent.log, yard.server.log]
        told += [str(yard.client.story(task.id)), str(yard.client.explain(task.id)), str(yard.client.events())]

        assert [secret for secret in hidden for text in told if secret in text] == []


def test_a_task_created_without_a_report_token_is_given_none(yard: Yard) -> None:
    task = yard.python("import os; print('TASKYARD_TOKEN' in os.environ)", report_token=False)

    with yard.agent():
        yard.wait_for_end(task)

    assert yard.text(task) == "False\n"


def test_user_code_acts_with_the_token_of_its_run_while_it_runs(yard: Yard) -> None:
    task = yard.python("import os, time; print(os.environ['TASKYARD_TOKEN']); time.sleep(600)")
    with yard.agent() as agent:
        yard.wait_for_output(task, "***")
        report = tokens(agent)["report_token"]
        with yard.server.client(report) as run:
            assert run.get("/whoami").json()["kind"] == "run"

            yard.client.stop_task(task.id)
            yard.wait_for_state(task, TaskState.CANCELLED)

            wait_until(lambda: run.get("/whoami").status_code == 401, seconds=3.0)
