"""Reaching repositories: tokens through askpass, ssh in batch mode, and the way from one to the other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import Code, Reason
from taskyard_agent.checkout import CheckoutSettings, check_repository
from taskyard_agent.checkout.address import parse, routes
from taskyard_agent.checkout.credentials import ASKPASS
from taskyard_agent.errors import RunFailed

from tests.support.checkouts import Machine
from tests.support.git_host import GitHost, fake_ssh, refusing_ssh, serving
from tests.support.repositories import Repository

TOKEN = "s3cret-token-1"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "code", {"train.py": "print(1)\n"})
    made.publish(tmp_path / "hosted" / "team" / "code.git")
    return made


@pytest.fixture
def host(repository: Repository, tmp_path: Path) -> Iterator[GitHost]:
    with serving(tmp_path / "hosted", password=f"x-access-token:{TOKEN}") as served:
        yield served


def machine_for(host: GitHost, tmp_path: Path, token: str | None) -> Machine:
    tokens = {}
    if token is not None:
        (tmp_path / "token").write_text(f"{token}\n")
        tokens = {f"localhost:{host.port}": tmp_path / "token"}
    return Machine.at(tmp_path / "agent", tokens=tokens, environ=host.environ)


def test_a_token_opens_its_host(host: GitHost, repository: Repository, tmp_path: Path) -> None:
    machine = machine_for(host, tmp_path, TOKEN)

    tree = machine.prepare(Code(repository=f"{host.address}/team/code.git", commit=repository.head))

    assert (tree.root / "train.py").read_text() == "print(1)\n"


def test_a_token_may_name_its_user(host: GitHost, repository: Repository, tmp_path: Path) -> None:
    host.password = f"robot:{TOKEN}"
    machine = machine_for(host, tmp_path, f"robot:{TOKEN}")

    tree = machine.prepare(Code(repository=f"{host.address}/team/code.git", commit=repository.head))

    assert (tree.root / "train.py").exists()


def test_a_token_is_written_nowhere(host: GitHost, repository: Repository, tmp_path: Path) -> None:
    machine = machine_for(host, tmp_path, TOKEN)

    machine.prepare(Code(repository=f"{host.address}/team/code.git", commit=repository.head))

    written = [path for path in (tmp_path / "agent").rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in "".join(machine.lines)


def test_a_wrong_token_is_refused_and_masked(host: GitHost, repository: Repository, tmp_path: Path) -> None:
    machine = machine_for(host, tmp_path, "wrong-token-2")

    with pytest.raises(RunFailed, match="refuses this agent") as failed:
        machine.prepare(Code(repository=f"{host.address}/team/code.git", commit=repository.head))

    assert "wrong-token-2" not in str(failed.value)
    assert "Authentication failed" in str(failed.value)
    assert not failed.value.infrastructure


def test_no_token_means_no_waiting_for_one(host: GitHost, repository: Repository, tmp_path: Path) -> None:
    machine = machine_for(host, tmp_path, None)

    with pytest.raises(RunFailed, match="terminal prompts disabled") as failed:
        machine.prepare(Code(repository=f"{host.address}/team/code.git", commit=repository.head))

    assert "--ship-code" in str(failed.value)


def test_a_user_in_the_address_is_not_sent(host: GitHost, repository: Repository, tmp_path: Path) -> None:
    machine = machine_for(host, tmp_path, TOKEN)
    address = host.address.replace("https://", "https://eve:stolen@")

    machine.prepare(Code(repository=f"{address}/team/code.git", commit=repository.head))

    assert {header for header in host.asked if header} == {host.asked[-1]}


def test_a_token_file_that_is_gone_is_the_machines_failure(
    host: GitHost, repository: Repository, tmp_path: Path
) -> None:
    machine = machine_for(host, tmp_path, TOKEN)
    (tmp_path / "token").unlink()

    with pytest.raises(RunFailed, match="token file") as failed:
        machine.prepare(Code(repository=f"{host.address}/team/code.git", commit=repository.head))

    assert failed.value.infrastructure


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Username for 'https://git.example.org': ", "robot"),
        ("Password for 'https://robot@git.example.org': ", "s3cret"),
        ("Password for 'https://robot@evil.example.org': ", None),
        ("Password for 'https://git.example.org.evil.net': ", None),
        ("Password for 'https://git.example.org@evil.net': ", None),
        ("Password for 'https://evil.net/git.example.org': ", None),
        ("Enter passphrase for key '/home/a/.ssh/id': ", None),
    ],
)
def test_the_askpass_program_answers_for_one_host_alone(tmp_path: Path, prompt: str, answer: str | None) -> None:
    (tmp_path / "askpass").write_text(ASKPASS)
    env = {"TASKYARD_GIT_PLACE": "git.example.org", "TASKYARD_GIT_USER": "robot", "TASKYARD_GIT_TOKEN": "s3cret"}

    done = subprocess.run(["sh", tmp_path / "askpass", prompt], env=env, stdout=subprocess.PIPE, check=False)

    assert done.stdout.decode() == ("" if answer is None else f"{answer}\n")


def test_ssh_runs_in_batch_mode_with_the_operators_known_hosts(repository: Repository, tmp_path: Path) -> None:
    program = fake_ssh(tmp_path / "ssh", tmp_path / "hosted")
    machine = Machine.at(tmp_path / "agent", ssh_command=(str(program),), ssh_key=tmp_path / "key")

    tree = machine.prepare(Code(repository="git@git.example.org:team/code.git", commit=repository.head))

    calls = (tmp_path / "ssh.calls").read_text()
    assert "-o BatchMode=yes -o StrictHostKeyChecking=yes" in calls
    assert f"-i {tmp_path}/key -o IdentitiesOnly=yes" in calls
    assert (tree.root / "train.py").exists()


def test_ssh_that_is_refused_falls_back_to_https(tmp_path: Path) -> None:
    program = refusing_ssh(tmp_path / "ssh")
    machine = Machine.at(tmp_path / "agent", ssh_command=(str(program),))

    with pytest.raises(RunFailed, match="Permission denied") as failed:
        machine.prepare(Code(repository="git@nowhere.invalid:team/code.git", commit="a" * 40))

    assert "https://nowhere.invalid/team/code.git: fatal: unable to access" in str(failed.value)
    assert not failed.value.infrastructure


def test_a_host_that_cannot_be_reached_is_waited_for(tmp_path: Path) -> None:
    machine = Machine.at(tmp_path / "agent")

    with pytest.raises(RunFailed, match="cannot be reached") as failed:
        machine.prepare(Code(repository="https://localhost:1/team/code.git", commit="a" * 40))

    assert failed.value.target == "localhost:1"
    assert failed.value.reason is Reason.GIT_HOST


@pytest.mark.parametrize(
    ("url", "with_token", "ways"),
    [
        ("https://h.org/a/b.git", False, ["https://h.org/a/b.git", "git@h.org:a/b.git"]),
        ("https://h.org/a/b.git", True, ["https://h.org/a/b.git"]),
        ("git@h.org:a/b.git", False, ["git@h.org:a/b.git", "https://h.org/a/b.git"]),
        ("git@H.org:a/b.git", True, ["https://h.org/a/b.git", "git@h.org:a/b.git"]),
        ("ssh://git@h.org/a/b", True, ["https://h.org/a/b", "ssh://git@h.org/a/b"]),
        ("ssh://git@h.org:29418/a/b", True, ["ssh://git@h.org:29418/a/b"]),
        ("ssh://ada@h.org/a/b", False, ["ssh://ada@h.org/a/b"]),
        ("https://h.org:8443/a/b", False, ["https://h.org:8443/a/b"]),
    ],
)
def test_the_way_follows_what_there_are_credentials_for(
    tmp_path: Path, url: str, with_token: bool, ways: list[str]
) -> None:
    tokens = {"h.org": tmp_path / "token"} if with_token else {}
    settings = CheckoutSettings(folder=tmp_path, tokens=tokens, environ={})

    found = routes(parse(url, settings), settings)

    assert [route.address.url for route in found] == ways
    assert [route.token_file is not None for route in found] == [
        with_token and way.startswith("https") for way in ways
    ]


def test_the_doctor_reads_a_repository_with_its_token(host: GitHost, tmp_path: Path) -> None:
    machine = machine_for(host, tmp_path, TOKEN)

    found = check_repository(f"{host.address}/team/code.git", machine.settings)

    assert found.reachable
    assert TOKEN not in repr(found)


def test_the_doctor_says_what_mends_a_refusal(host: GitHost, tmp_path: Path) -> None:
    machine = machine_for(host, tmp_path, "wrong-token-2")

    found = check_repository(f"{host.address}/team/code.git", machine.settings)

    assert not found.reachable
    assert "private-repositories.md" in found.advice
    assert "wrong-token-2" not in repr(found)
