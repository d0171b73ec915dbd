"""How a machine gets its token: by a code, by a ready token, or by the login of the person at it."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.config import Credentials
from taskyard.wire import NewToken, TokenKind

from tests.support.agents import wait_until
from tests.support.person import Person
from tests.support.relay import Relay
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

CTRL_D = "\x04"


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with ServerProcess() as server, Yard(server) as yard:
        yield yard


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def agent_token(person: Person, yard: Yard) -> str:
    kept = json.loads((person.settings / "agent-credentials.json").read_text())
    return str(kept["logins"][yard.server.url]["token"])


def invite(yard: Yard, kind: TokenKind = TokenKind.AGENT) -> str:
    return yard.client.invite(NewToken(kind=kind)).code


def test_a_machine_joins_by_a_code_typed_on_a_terminal(person: Person, yard: Yard) -> None:
    code, shown = person.answers("agent", "join", yard.server.url, question="Code:", answer=invite(yard))

    assert code == 0, shown
    assert "start it with: taskyard agent daemon" in shown
    kept = person.settings / "agent-credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert person.types("agent", "doctor").returncode == 0  # the server is remembered, the token is an agent's


@pytest.mark.parametrize("command", [("login",), ("agent", "join")])
def test_who_ends_the_input_where_a_code_is_asked_for_is_told_in_a_line(
    person: Person, yard: Yard, command: tuple[str, ...]
) -> None:
    code, shown = person.answers(*command, yard.server.url, question="Code:", answer=CTRL_D)

    assert code == 2
    assert "the input ended where an answer was asked for" in shown
    assert "Traceback" not in shown


def test_a_code_works_once(person: Person, yard: Yard) -> None:
    typed = {"question": "Code:", "answer": invite(yard)}
    person.answers("agent", "join", yard.server.url, **typed)

    code, shown = person.answers("agent", "join", yard.server.url, **typed)

    assert code == 2
    assert "make a new one with `taskyard invite agent`" in shown


def test_a_persons_code_is_not_a_machines(person: Person, yard: Yard) -> None:
    answer = invite(yard, TokenKind.USER)

    code, shown = person.answers("agent", "join", yard.server.url, question="Code:", answer=answer)

    assert code == 2
    assert "that is a person's code" in shown
    assert not (person.settings / "agent-credentials.json").exists()


def test_automation_joins_by_a_token_on_standard_input(person: Person, yard: Yard) -> None:
    token = yard.server.issue("agent", name="rack-1", queues=["default"])

    done = person.types("agent", "join", yard.server.url, "--token-stdin", text=f"{token}\n")
    again = person.types("agent", "join", yard.server.url, "--token-stdin", "--json", text=f"{token}\n")

    assert done.returncode == 0, done.stderr
    assert json.loads(again.stdout)["queues"] == ["default"]
    assert done.stdout.startswith(f"joined {yard.server.url} as 'rack-1', for default;")
    assert agent_token(person, yard) == token


def test_what_is_not_a_token_is_not_kept(person: Person, yard: Yard) -> None:
    done = person.types("agent", "join", yard.server.url, "--token-stdin", text="nonsense\n")

    assert done.returncode == 2
    assert not (person.settings / "agent-credentials.json").exists()


def test_joining_remembers_the_way_to_the_server(person: Person, yard: Yard) -> None:
    token = yard.server.issue("agent")

    person.types("agent", "join", yard.server.url, "--insecure", "--token-stdin", text=token)

    kept = json.loads((person.settings / "agent-credentials.json").read_text())
    assert kept["logins"][yard.server.url]["insecure"] is True


@pytest.mark.parametrize("address", ["127.0.0.1:8420", "http://127.0.0.1:1"])
def test_a_wrong_address_is_found_before_a_code_is_asked_for(person: Person, address: str) -> None:
    done = person.types("agent", "join", address)

    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert "taskyard up" in done.stderr or "http://127.0.0.1:8420" in done.stderr


def test_an_agents_first_start_enrols_it_with_the_persons_login(
    person: Person, yard: Yard, tmp_path: Path
) -> None:
    person.log_in(yard.server)
    daemon = person.starts("agent", "daemon", "--cpu-only", "--name", "enrolled", log=tmp_path / "log")

    wait_until(lambda: "enrolled" in [worker.name for worker in yard.client.workers()])
    daemon.send_signal(signal.SIGTERM)

    assert daemon.wait(30) == 0, (tmp_path / "log").read_text()
    with yard.server.client(agent_token(person, yard)) as agent:
        assert agent.get("/whoami").json()["kind"] == "agent"


def test_agents_that_start_together_share_one_token(person: Person, tmp_path: Path) -> None:
    with ServerProcess(data=tmp_path / "data") as server, Yard(server) as yard, Relay(server.port) as relay:
        person.log_in(server)
        Credentials(person.settings / "credentials.json").save(relay.url, server.admin_token, default=True)
        asking = relay.hold(b"POST /api/v1/invitations")
        first = person.starts("agent", "daemon", "--cpu-only", "--name", "first", log=tmp_path / "first")
        assert asking.caught.wait(30)

        second = person.starts("agent", "daemon", "--cpu-only", "--name", "second", log=tmp_path / "second")
        wait_until(lambda: f" {second.pid} " in Path("/proc/locks").read_text(), what="it waits for its turn")
        asking.loosen()
        wait_until(lambda: len(yard.client.workers()) == 2)
        for daemon in (first, second):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)

        assert [token.kind for token in yard.client.tokens()].count(TokenKind.AGENT) == 1


def test_a_machine_without_a_login_is_told_all_that_is_missing(person: Person) -> None:
    done = person.types("agent", "daemon")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for words in ("--server", "TASKYARD_SERVER", "--token-file", "TASKYARD_TOKEN_FILE", "taskyard agent join"):
        assert words in done.stderr


def test_a_machine_that_starts_before_its_server_waits_for_it(person: Person, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ServerProcess(data=tmp_path / "data") as server:
        person.log_in(server)
        server.kill()
        daemon = person.starts("agent", "daemon", "--cpu-only", log=log)
        wait_until(lambda: b"waiting for the server" in log.read_bytes())
        server.start()
        wait_until(lambda: b"serving" in log.read_bytes())
        daemon.send_signal(signal.SIGTERM)

        assert daemon.wait(30) == 0


@pytest.mark.parametrize(("token", "said"), [("{user}", "is not an agent's"), ("ty_agent_x", "does not accept")])
def test_a_token_that_opens_nothing_here_comes_with_the_cure(
    person: Person, yard: Yard, token: str, said: str
) -> None:
    token = token.format(user=yard.server.issue("user"))

    done = person.types("agent", "daemon", TASKYARD_SERVER=yard.server.url, TASKYARD_TOKEN=token)

    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert f"taskyard agent join {yard.server.url}" in done.stderr
