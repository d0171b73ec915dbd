"""The way in: tokens and codes over real HTTP, limits, TLS, and what the process says when it cannot serve."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import self_made_certificate
from tests.support.servers import ServerProcess, free_port
from tests.support.waiting import becomes_true


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


def test_first_start_lets_the_one_who_started_it_in(server: ServerProcess) -> None:
    mode = stat.S_IMODE((server.data / "admin-token").stat().st_mode)

    with server.client() as root:
        me = root.get("/whoami").json()

    assert mode == 0o600
    assert me["kind"] == "administrator"
    assert server.admin_token not in server.log


def test_revoked_token_stops_within_two_seconds(server: ServerProcess) -> None:
    with server.client() as root:
        issued = root.post("/tokens", json={"kind": "user", "name": "ada"}).json()
        with server.client(issued["secret"]) as ada:
            assert ada.get("/whoami").json()["name"] == "ada"

            root.post(f"/tokens/{issued['token']['id']}/revoke").raise_for_status()

            assert becomes_true(lambda: ada.get("/whoami").status_code == 401, seconds=2.0)


def test_code_is_exchanged_for_a_token_once(server: ServerProcess) -> None:
    with server.client() as root, server.client("") as stranger:
        code = root.post("/invitations", json={"kind": "agent", "queues": ["default"]}).json()["code"]

        first = stranger.post("/login", json={"code": code, "name": "gpu-7"})
        second = stranger.post("/login", json={"code": code, "name": "gpu-8"})

        assert first.json()["token"]["queues"] == ["default"]
        assert second.status_code == 401
        with server.client(first.json()["secret"]) as agent:
            assert agent.get("/whoami").json()["name"] == "gpu-7"


def test_lost_answer_to_a_login_is_given_again_under_the_same_key(server: ServerProcess) -> None:
    with server.client() as root, server.client("") as stranger:
        code = root.post("/invitations", json={"kind": "user"}).json()["code"]
        key = {"Idempotency-Key": "one-login"}

        first = stranger.post("/login", json={"code": code}, headers=key)
        again = stranger.post("/login", json={"code": code}, headers=key)

        assert first.status_code == 200
        assert again.json() == first.json()


def test_guessing_codes_is_slowed_down() -> None:
    with ServerProcess("--login-rate-limit", "3/minute") as server, server.client("") as stranger:
        guesses = [stranger.post("/login", json={"code": "AAAA-AAAA-AAAA"}) for _ in range(4)]

    assert [guess.status_code for guess in guesses] == [401, 401, 401, 429]


def test_token_over_its_rate_is_told_when_to_come_back() -> None:
    with ServerProcess("--rate-limit", "5/minute") as server, server.client() as root:
        answers = [root.get("/whoami") for _ in range(6)]

    assert answers[4].status_code == 200
    assert answers[5].status_code == 429
    assert 1 <= int(answers[5].headers["Retry-After"]) <= 60
    assert answers[5].json()["error"] == "too_many"


def test_server_speaks_tls_itself(tmp_path: Path) -> None:
    cert, key = self_made_certificate(tmp_path, "IP:127.0.0.1")

    with ServerProcess("--tls-cert", str(cert), "--tls-key", str(key)) as server:
        with server.client(verify=ssl.create_default_context(cafile=str(cert))) as root:
            answer = root.get("/whoami")

    assert answer.status_code == 200
    assert "Strict-Transport-Security" in answer.headers


def test_plain_http_beyond_this_machine_needs_a_word(tmp_path: Path) -> None:
    refused = start("--host", "0.0.0.0", "--port", str(free_port()), "--data", str(tmp_path))

    assert refused.returncode == 2
    assert "--insecure" in refused.stderr
    assert "--tls-cert" in refused.stderr


def test_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = start("--port", str(port), "--data", str(tmp_path))

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"port {port} on 127.0.0.1 is taken" in refused.stderr


def test_second_server_on_one_file_is_refused(server: ServerProcess) -> None:
    refused = start("--port", str(free_port()), "--data", str(server.data))

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_command_line_keeps_the_token_of_a_server_that_it_starts(tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "config"
    command = [
        sys.executable,
        "-m",
        "taskyard.cli",
        "server",
        "--port",
        str(port),
        "--data",
        str(tmp_path / "data"),
    ]
    environment = {"XDG_CONFIG_HOME": str(config), "PATH": "", "HOME": str(tmp_path)}

    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        credentials = config / "taskyard" / "credentials.json"
        exists = becomes_true(credentials.exists)
        process.terminate()

    assert exists
    assert f"http://127.0.0.1:{port}" in credentials.read_text()
    assert (tmp_path / "data" / "admin-token").read_text().strip() in credentials.read_text()
    assert process.returncode == 0


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "taskyard_server", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
