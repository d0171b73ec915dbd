"""Tasks that run as another user than the agent: what they may do, what they cannot reach."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import Code, Task, TaskState
from taskyard_agent.keeper.processes import marked

from tests.support.agents import AgentProcess, wait_until
from tests.support.repositories import Repository
from tests.support.yard import Yard

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run tasks as another user")

USER = "nobody"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="taskyard-run-as-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def agent(yard: Yard, folder: Path) -> Iterator[AgentProcess]:
    with yard.agent("--run-as", USER, folder=folder, forked=False) as agent:
        yield agent


def shell(yard: Yard, script: str, **options: object) -> Task:
    return yard.submit("/bin/sh", "-c", script, **options)  # type: ignore[arg-type]


def said(yard: Yard, script: str, **options: object) -> list[str]:
    task = shell(yard, script, **options)
    yard.wait_for_end(task)
    return yard.text(task).splitlines()


def test_a_task_is_that_user_and_owns_what_it_works_on(yard: Yard, agent: AgentProcess) -> None:
    lines = said(yard, 'id -un; id -Gn; echo "$HOME $USER $LOGNAME"; umask; touch new && stat -c %U . new')

    account = pwd.getpwnam(USER)
    assert lines[0] == USER
    assert "root" not in lines[1].split()
    assert lines[2:] == [f"{account.pw_dir} {USER} {USER}", "0022", USER, USER]


def test_it_reads_nothing_of_the_agents_own(yard: Yard, agent: AgentProcess, folder: Path) -> None:
    secret = folder / "config"
    secret.mkdir(mode=0o700)
    (secret / "credentials").write_text("token")
    task = shell(yard, "echo begun; sleep 600")
    yard.wait_for_output(task, "begun")
    run, keeper = agent.runs[0], agent.keepers()[0]
    assert agent.process is not None
    wanted = [
        *(file for file in run.iterdir() if file.is_file()),
        run.parent.parent / "lock",
        secret / "credentials",
        Path(f"/proc/{keeper}/environ"),
        Path(f"/proc/{agent.process.pid}/environ"),
    ]

    got = {path: as_user("cat", str(path)) for path in wanted}

    assert len(got) >= 8
    assert {path: result.returncode for path, result in got.items() if result.returncode == 0} == {}
    assert not any(result.stdout for result in got.values())


def as_user(*argv: str) -> subprocess.CompletedProcess[bytes]:
    account = pwd.getpwnam(USER)
    return subprocess.run(
        argv, user=account.pw_uid, group=account.pw_gid, extra_groups=[], capture_output=True, check=False
    )


def test_what_it_leaves_running_is_ended(yard: Yard, agent: AgentProcess) -> None:
    task = shell(yard, "setsid sleep 600 & (sleep 600 &) ; echo planted")

    yard.wait_for_end(task)

    assert not marked(yard.run(task).id)


def test_it_dies_with_its_keeper(yard: Yard, agent: AgentProcess) -> None:
    task = shell(yard, "echo begun; exec sleep 600")
    yard.wait_for_output(task, "begun")
    run = yard.run(task).id

    os.kill(agent.keepers()[0], signal.SIGKILL)

    wait_until(lambda: not marked(run), what="end of the command")


def test_a_cancelled_task_ends(yard: Yard, agent: AgentProcess) -> None:
    task = shell(yard, "echo begun; exec sleep 600")
    yard.wait_for_output(task, "begun")

    yard.client.stop_task(task.id)

    assert yard.wait_for_end(task)[0].state is TaskState.CANCELLED


def test_the_next_task_gets_the_tree_as_the_repository_has_it(
    yard: Yard, agent: AgentProcess, folder: Path
) -> None:
    origin = Repository.create(folder / "origin", {"file": "text\n", "sub/inner": "inner\n"})
    code = Code(repository=str(origin.root), commit=origin.head)
    hostile = "rm -rf sub && ln -s /etc sub && ln -s /etc other && chmod 0 file; git status --short; echo left"
    wanted = "cat sub/inner file; ls; git rev-parse HEAD; git status --short; stat -c %U sub/inner .git"

    first = said(yard, hostile, code=code)
    second = said(yard, wanted, code=code)

    assert first[-1] == "left"
    assert second == ["inner", "text", "file", "sub", origin.head, USER, USER]
    assert Path("/etc/passwd").owner() == "root"


@pytest.mark.parametrize(
    ("user", "told"),
    [("no-such-user", "this machine has no user 'no-such-user'"), ("root", "that is root itself")],
)
def test_a_user_that_will_not_do_is_refused(yard: Yard, folder: Path, user: str, told: str) -> None:
    with yard.agent("--run-as", user, folder=folder) as agent:
        code = agent.wait()

    assert (code, told in agent.log) == (2, True), agent.log


def test_a_folder_that_the_user_cannot_enter_is_refused(yard: Yard, folder: Path) -> None:
    folder.chmod(0o700)
    with yard.agent("--run-as", USER, folder=folder) as agent:
        code = agent.wait()

    assert code == 2
    assert f"{USER} may not enter {folder}/cache" in agent.log


def test_files_of_the_run_s_own_user_are_kept_and_no_others(yard: Yard, agent: AgentProcess, folder: Path) -> None:
    (folder / "secret").write_text("of another user")
    (folder / "secret").chmod(0o600)
    waits = "until [ -e out/hard ]; do sleep 0.1; done"
    script = (
        f"mkdir out; echo mine > out/model; ln -s {folder}/secret out/link; chmod 700 out; echo ready; {waits}"
    )
    task = shell(yard, script, outputs=("out",))
    yard.wait_for_output(task, "ready", seconds=90.0)
    (tree,) = (folder / "cache/git/trees").glob("*/*/tree/out")
    os.link(folder / "secret", tree / "hard")  # as where the kernel lets a user do so
    yard.wait_for_end(task)

    wait_until(lambda: (found := yard.run(task).outputs) and found.state == "kept", what="outputs")

    run = yard.run(task)
    assert [artifact.name for artifact in yard.client.artifacts(run.id).artifacts] == ["out/model"]
    assert run.outputs is not None
    assert {skipped.name: skipped.reason for skipped in run.outputs.skipped} == {
        "out/hard": "it belongs to another user",
        "out/link": "it is a link that leads out of the code",
    }
