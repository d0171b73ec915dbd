"""What an outsider, a former insider and a run cannot learn from a server or do to it."""

from __future__ import annotations

import http.client
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.claimants import COMMAND, Claimant, enqueue
from tests.support.servers import ServerProcess

STRANGE_PLACES = (
    "/api/v1/runs/..%2f..%2fadmin-token/logs",
    "/api/v1/runs/..%252f..%252fadmin-token/logs",
    "/api/v1/runs/%2e%2e/logs",
    "/api/v1/runs/../../admin-token",
    "/api/v1/runs/..%5cadmin-token/logs",
    "/api/v1/runs/%00/logs",
    "/api/v1/workers/..%252f..%252fadmin-token",
    "/api/v1/workers/%2e%2e",
    "/api/v1/blobs/..%2fadmin-token",
    "/api/v1/blobs/%2e%2e%252fadmin-token",
    "/api/v1/blobs/" + "A" * 64,
    "/api/v1/tasks/%7b%22$ne%22:1%7d",
    "/api/v1/tasks/x%0d%0aSet-Cookie:%20a=b",
    "/admin-token",
    "/../admin-token",
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


# --- Tokens


def test_a_claim_parked_before_its_token_was_revoked_is_given_nothing(server: ServerProcess) -> None:
    with server.client() as root, Claimant(server, server.issue("agent", name="leaver")) as agent:
        leaver = next(token for token in root.get("/tokens").json() if token["name"] == "leaver")
        with agent.parked(agent.request(wait_seconds=20.0)) as answer:
            root.post(f"/tokens/{leaver['id']}/revoke").raise_for_status()
            task = enqueue(root)

            with pytest.raises(httpx.HTTPStatusError, match="401"):
                answer.result(10.0)
        assert root.get(f"/tasks/{task}").json()["state"] == "queued"
        root.delete(f"/tasks/{task}").raise_for_status()


def test_a_run_whose_task_is_to_have_no_rights_has_none(server: ServerProcess) -> None:
    with server.client() as root, Claimant(server, server.issue("agent")) as agent:
        enqueue(root, report_token=False)
        agent.beat(agent.claim()["run"]["id"])

        with server.client(agent.report_token) as run:
            answer = run.get("/whoami")

    assert answer.status_code == 401
    assert "report_token" in answer.json()["detail"]


def test_of_many_who_try_one_code_one_gets_in(server: ServerProcess) -> None:
    with server.client() as root:
        code = root.post("/invitations", json={"kind": "user"}).json()["code"]

    def try_it(_: int) -> int:
        with server.client("") as stranger:
            return stranger.post("/login", json={"code": code}).status_code

    with ThreadPoolExecutor(8) as crowd:
        answers = list(crowd.map(try_it, range(8)))

    assert sorted(answers) == [200] + [401] * 7


def test_a_token_that_has_expired_is_refused_everywhere(server: ServerProcess) -> None:
    with server.client() as root:
        short = root.post("/tokens", json={"kind": "user", "expires_in_seconds": 0.001}).json()["secret"]

    with server.client(short) as user:
        answers = {user.get(path).status_code for path in ("/whoami", "/tasks", "/queues", "/events")}

    assert answers == {401}


# --- Secrets


def test_what_the_server_keeps_is_for_its_own_account(server: ServerProcess) -> None:
    with server.client() as root:
        root.post("/tasks", json={"spec": {"command": COMMAND}, "secret_values": {"API_KEY": "s3cr3t-at-rest"}})

    holding = [path for path in files_of(server) if b"s3cr3t-at-rest" in path.read_bytes()]
    tokens = [path for path in files_of(server) if server.admin_token.encode() in path.read_bytes()]

    assert {path.name.partition("-")[0] for path in holding} == {"control.db"}
    assert [path.name for path in tokens] == ["admin-token"]
    assert [path for path in (*holding, *tokens) if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
    assert [
        path for path in server.data.iterdir() if path.is_dir() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ] == []


def test_no_answer_holds_the_value_of_a_secret_but_the_claim(server: ServerProcess) -> None:
    new = {"spec": {"command": COMMAND}, "secret_values": {"API_KEY": "s3cr3t-answer"}, "queue": "default"}
    with server.client() as root, Claimant(server, server.issue("agent")) as agent:
        created = root.post("/tasks", json=new)
        task = created.json()["id"]
        explained = root.get(f"/tasks/{task}/explain")
        claim = agent.claim()
        paths = (f"/tasks/{task}", f"/tasks/{task}/story", "/tasks", "/events", f"/runs/{claim['run']['id']}")
        read = [root.get(path) for path in paths]

    assert claim["secrets"] == {"API_KEY": "s3cr3t-answer"}
    assert [answer.url for answer in (created, explained, *read) if "s3cr3t-answer" in answer.text] == []
    assert "s3cr3t-answer" not in server.log


def test_a_mistake_is_told_without_what_was_sent(server: ServerProcess) -> None:
    wrong = {"spec": {"command": COMMAND, "retries": []}, "secret_values": {"API_KEY": {"v": "s3cr3t-wrong"}}}

    with server.client() as root:
        answer = root.post("/tasks", json=wrong)

    assert answer.status_code == 422
    assert "s3cr3t-wrong" not in answer.text + server.log


# --- Addresses


@pytest.mark.parametrize("place", STRANGE_PLACES)
def test_no_address_leads_out_of_the_api(server: ServerProcess, place: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("GET", place, skip_host=False)
    connection.putheader("Authorization", f"Bearer {server.admin_token}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()

    assert answer.status in (400, 404, 422)
    assert server.admin_token not in body
    assert answer.getheader("Set-Cookie") is None


@pytest.mark.parametrize("name", ["../../admin-token", "a\r\nSet-Cookie: a=b", "", "a\u202eb", "x" * 300])
def test_a_worker_cannot_have_a_name_that_misleads(server: ServerProcess, name: str) -> None:
    with server.client(server.issue("agent")) as agent:
        worker = {"name": name, "state": "idle", "queues": []}
        beat = {"agent": "a", "host": "h", "boot_id": "b", "version": "1", "workers": [worker]}

        assert agent.post("/beats", json=beat).status_code == 422


# --- Versions


def test_a_newer_agent_may_say_more_than_this_server_knows(server: ServerProcess) -> None:
    with server.client() as root, Claimant(server, server.issue("agent"), worker="newer:cpu:0") as agent:
        task = enqueue(root, from_the_future={"x": [1]})
        run = agent.send({**agent.request(), "mood": "good"})["run"]["id"]
        answer = agent.http.post(f"/runs/{run}/start", json={"control_token": agent.control_token, "weather": 1})

        assert answer.json()["task"] == task


# --- Terminals


def test_a_log_does_not_command_the_terminal_that_it_is_read_on(server: ServerProcess, tmp_path: Path) -> None:
    with server.client() as root, Claimant(server, server.issue("agent"), worker="pty:cpu:0") as agent:
        task = enqueue(root)
        run = agent.claim()["run"]["id"]
        agent.append(run, 0, b"\x1b]52;c;ZXZpbA==\x07\x1b[31mred\x1b[0m\n").raise_for_status()

    assert on_a_terminal(server, tmp_path, "logs", task) == b"\x1b[31mred\x1b[0m\r\n"


def on_a_terminal(server: ServerProcess, home: Path, *words: str) -> bytes:
    """What the command line writes to a terminal."""
    variables = {"TASKYARD_SERVER": server.url, "TASKYARD_TOKEN": server.admin_token, "XDG_CONFIG_HOME": str(home)}
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "taskyard.cli", *words]
    code = subprocess.run(command, env={**os.environ, **variables}, stdout=inner, check=False).returncode
    os.close(inner)
    shown = os.read(outer, 65536)
    os.close(outer)
    assert code == 0
    return shown


def files_of(server: ServerProcess) -> list[Path]:
    """Everything that the server keeps, but for the output that the test itself caught."""
    return [path for path in server.data.rglob("*") if path.is_file() and path.name != "server.log"]
