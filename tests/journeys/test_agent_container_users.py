"""Who runs in containers and owns what they leave, on a real engine: C07, C23."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import pytest
from taskyard.wire import Code, Container, Environment, RequirementsKind, Task, TaskState
from taskyard_agent.containers.engine import find_socket

from tests.support.agents import AgentProcess
from tests.support.docker import IMAGE, connect, derive, ensure_image
from tests.support.repositories import Repository
from tests.support.yard import Yard

SLOW = 120.0
SIX = Environment(requirements=RequirementsKind.PACKAGES, packages=("six==1.16.0",))
WRITES = "id -u; python3 -c 'import six; print(six.__version__)'; mkdir kept && touch kept/new; cat /etc/marker"
UNCOVER = """
mount --bind "$1" /mnt && mount -t tmpfs -o mode=755 none "$2" && mkdir -p "$1" && mount --bind /mnt "$1" || exit
shift 2
exec "$@"
"""
"""Shows a folder that lies below one which other users may not enter, to one command alone."""


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = connect()
    ensure_image(client)
    yield client
    client.close()


@pytest.fixture
def account() -> Iterator[pwd.struct_passwd]:
    """A user of this machine that is made for the test."""
    if os.getuid():
        pytest.skip("only root can make a user")
    name = f"taskyard-{uuid.uuid4().hex[:8]}"
    subprocess.run(["useradd", "--system", "--no-create-home", name], check=True)
    yield pwd.getpwnam(name)
    subprocess.run(["userdel", name], check=True)


@pytest.fixture
def home(account: pwd.struct_passwd) -> Iterator[Path]:
    """The user's own folder."""
    with tempfile.TemporaryDirectory(prefix="taskyard-user-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        os.chown(folder, account.pw_uid, account.pw_gid)
        yield Path(folder)


def agent_of(account: pwd.struct_passwd, home: Path, yard: Yard) -> AgentProcess:
    """An agent that the user started, who may use the engine by the group of its socket."""
    socket = find_socket(os.environ)
    assert socket is not None
    as_user = _as(account, socket.stat().st_gid)
    if not _may_use(as_user, socket):
        pytest.skip(f"only root may use the engine: open the folder of {socket} to its group")
    return yard.agent(
        "--docker", IMAGE, folder=home, under=[*_uncovered(), *as_user], variables={"HOME": str(home)}
    )


@pytest.mark.usefixtures("images_alone")
def test_an_agent_of_a_plain_user_keeps_its_folder_to_itself(
    yard: Yard, engine: docker.DockerClient, account: pwd.struct_passwd, home: Path
) -> None:
    code = _code_of(account, home)
    wanted = Container(image=IMAGE, setup_script="id -u > /etc/marker")

    with agent_of(account, home, yard) as agent:
        for _ in range(2):  # the second finds environment, image and mirror that the first one made
            task = yard.submit("sh", "-c", WRITES, code=code, container=wanted, environment=SIX)
            (ended,) = yard.wait_for_end(task, seconds=SLOW)

            assert ended.state is TaskState.COMPLETED, _said(yard, task)
            assert yard.text(task).split() == [str(account.pw_uid), "1.16.0", "0"]
        assert yard.run(task).environment_reused
        assert _strangers(agent.cache, account.pw_uid) == []


def test_the_agents_user_wins_over_the_images_own(
    yard: Yard, engine: docker.DockerClient, account: pwd.struct_passwd, home: Path
) -> None:
    image = derive(engine, "taskyard-test/user-1000:1", "id -u > /etc/marker", User="1000")
    code = _code_of(account, home)
    task = yard.submit("sh", "-c", WRITES, code=code, container=Container(image=image), environment=SIX)

    with agent_of(account, home, yard) as agent:
        (ended,) = yard.wait_for_end(task, seconds=SLOW)
        strangers = _strangers(agent.cache, account.pw_uid)

    assert ended.state is TaskState.COMPLETED, _said(yard, task)
    assert yard.text(task).split() == [str(account.pw_uid), "1.16.0", "0"]
    assert strangers == []


def _code_of(account: pwd.struct_passwd, home: Path) -> Code:
    """A repository of the user's own: git reads no one else's."""
    repository = Repository.create(home / "code", {"a.txt": "a\n"})
    code = Code(repository=str(repository.root), commit=repository.head)
    subprocess.run(["chown", "-R", f"{account.pw_uid}:{account.pw_gid}", str(repository.root)], check=True)
    return code


def _as(account: pwd.struct_passwd, group: int) -> tuple[str, ...]:
    return "setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", f"--groups={group}"


def _uncovered() -> Sequence[str]:
    """A Python in root's own folder is shown to the agent."""
    python = Path(sys.base_prefix)
    closed = next((folder for folder in reversed(python.parents) if not folder.stat().st_mode & 0o001), None)
    return ("unshare", "--mount", "sh", "-c", UNCOVER, "sh", str(python), str(closed)) if closed else ()


def _may_use(as_user: Sequence[str], socket: Path) -> bool:
    return subprocess.run([*as_user, "test", "-w", str(socket)], check=False).returncode == 0


def _strangers(folder: Path, owner: int) -> list[str]:
    """What below a folder belongs to another user; the agent may be tidying up in it meanwhile."""
    search = ["find", str(folder), "!", "-uid", str(owner)]
    return subprocess.run(search, check=False, capture_output=True, text=True).stdout.splitlines()


def _said(yard: Yard, task: Task) -> str:
    return yard.client.read_log(yard.run(task).id).data.decode()
