"""What the server makes of requests that are wrong, strange, too big or repeated."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.claimants import COMMAND, enqueue
from tests.support.servers import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--max-blob-bytes", "1000") as server:
        yield server


@pytest.fixture
def root(server: ServerProcess) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/tasks/" + "0" * 32, 404, "not_found"),
        ("GET", "/tasks/no-such-id", 404, "not_found"),
        ("DELETE", "/whoami", 405, "method_not_allowed"),
        ("GET", "/tasks?limit=0", 422, "invalid"),
        ("GET", "/tasks?limit=99999999999999999999999", 422, "invalid"),
        ("GET", "/events?since=nan", 422, "invalid"),
        ("GET", "/tasks?name=%00", 400, "malformed"),
        ("GET", "/workers/a%2Fb", 400, "malformed"),
        ("GET", "/workers/a%252Fb", 404, "not_found"),
        ("GET", "/tasks%2F" + "0" * 32, 400, "malformed"),
        ("GET", "/workers/..%5Cetc", 400, "malformed"),
        ("GET", "/blobs/../../etc/passwd", 404, "not_found"),
    ],
)
def test_every_error_has_a_word_and_a_sentence(
    root: httpx.Client, method: str, path: str, status: int, word: str
) -> None:
    answer = root.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"] == word
    assert answer.json()["detail"]
    assert set(answer.json()) == {"error", "detail"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"", "body"),
        (b"[]", "body"),
        (b'{"spec": {"resources": {"gpus": "many"}}}', "spec.resources.gpus"),
        (b'{"spec": {"name": "\\u0000"}}', "NUL"),
        (b'{"spec": {"name": "\\ud800"}}', "not JSON"),
        (b'{"spec": {"resources": {"gpus": 99999999999999999999}}}', "64 bits"),
        (b'{"spec": {"policy": {"grace_seconds": NaN}}}', "not JSON"),
        (b'{"spec": {"policy": {"grace_seconds": 1e999}}}', ""),
        (b'{"spec": {"policy": {"grace_seconds": "nan"}}}', "spec.policy.grace_seconds"),
        (b'{"spec": {"resources": {"custom": {"a": "-Infinity"}}}}', "spec.resources.custom.a"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_strange_body_is_refused_in_words(root: httpx.Client, body: bytes, says: str) -> None:
    answer = root.post("/tasks", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid"
    assert says in answer.json()["detail"]


def test_backslash_before_u0000_is_no_nul(root: httpx.Client) -> None:
    answer = root.post("/tasks", json=draft(description="a literal \\u0000 in a patch"))

    assert answer.json()["spec"]["description"] == "a literal \\u0000 in a patch"


def test_body_over_the_limit_is_refused_before_it_is_read(root: httpx.Client) -> None:
    declared = root.post("/login", content=b" " * 20_000, headers={"Content-Type": "application/json"})
    streamed = root.put(f"/blobs/{'0' * 64}", content=(b"x" * 600 for _ in range(3)))

    assert declared.status_code == 413
    assert streamed.status_code == 413
    assert "1000 bytes" in streamed.json()["detail"]


def test_body_that_is_not_json_is_told_so(root: httpx.Client) -> None:
    answer = root.post("/tasks", content=json.dumps({"spec": {}}), headers={"Content-Type": "text/plain"})

    assert answer.status_code == 422
    assert "Content-Type" in answer.json()["detail"]


def test_stranger_is_told_how_to_get_in(server: ServerProcess) -> None:
    with server.client("") as stranger:
        answer = stranger.get("/tasks")

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "taskyard login" in answer.json()["detail"]


def test_anybody_may_see_version_and_health_and_nothing_else(server: ServerProcess) -> None:
    with server.client("") as stranger:
        assert stranger.get("/info").json()["api"] == "v1"
        assert stranger.get("/health").json() == {"status": "ok"}
        assert stranger.get("/openapi.json").status_code == 200
        assert stranger.get("/queues").status_code == 401


def test_answers_carry_the_headers_that_browsers_heed(root: httpx.Client) -> None:
    answer = root.get("/nothing")

    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Server" not in answer.headers


def test_repeat_with_one_key_creates_one_task(root: httpx.Client) -> None:
    key = {"Idempotency-Key": "create-1"}

    first = root.post("/tasks", json=draft(name="once"), headers=key)
    again = root.post("/tasks", json=draft(name="once"), headers=key)
    other = root.post("/tasks", json=draft(name="twice"), headers=key)

    assert again.json() == first.json()
    assert other.status_code == 422
    assert len(root.get("/tasks", params={"name": "once"}).json()["tasks"]) == 1


def test_repeated_delete_is_answered_alike_after_a_restart(server: ServerProcess, root: httpx.Client) -> None:
    task = root.post("/tasks", json=draft()).json()["id"]
    key = {"Idempotency-Key": "delete-1"}
    first = root.delete(f"/tasks/{task}", headers=key)

    server.restart()

    assert first.status_code == 204
    assert root.delete(f"/tasks/{task}", headers=key).status_code == 204
    assert root.delete(f"/tasks/{task}").status_code == 404


def test_key_of_one_token_means_nothing_to_another(server: ServerProcess, root: httpx.Client) -> None:
    key = {"Idempotency-Key": "shared"}
    mine = root.post("/tasks", json=draft(name="mine"), headers=key).json()

    with server.client(server.issue("user")) as ada:
        hers = ada.post("/tasks", json=draft(name="hers"), headers=key).json()

    assert hers["id"] != mine["id"]


def test_acknowledged_task_survives_a_kill(server: ServerProcess, root: httpx.Client) -> None:
    task = enqueue(root, name="durable")

    server.restart()

    assert root.get(f"/tasks/{task}").json()["state"] == "queued"


@pytest.mark.parametrize("last", ["9" * 5000, "-1", "x"])
def test_stream_resumes_after_an_event_of_its_own_alone(root: httpx.Client, last: str) -> None:
    answer = root.get(f"/runs/{enqueue(root)}.1/logs/stream", headers={"Last-Event-ID": last})

    assert answer.status_code == 422


def test_low_disk_takes_neither_code_nor_tasks() -> None:
    with ServerProcess("--min-free-disk-bytes", str(1 << 60)) as server, server.client() as root:
        answers = (root.put(f"/blobs/{'0' * 64}", content=b"hello"), root.post("/tasks", json=draft()))

        assert [answer.status_code for answer in answers] == [503, 503]
        assert all("the server's disk is low" in answer.json()["detail"] for answer in answers)


def test_blob_is_kept_under_its_own_digest_alone(root: httpx.Client) -> None:
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

    wrong = root.put(f"/blobs/{'0' * 64}", content=b"hello")
    right = root.put(f"/blobs/{digest}", content=b"hello")

    assert (wrong.status_code, right.status_code) == (422, 204)
    assert root.get(f"/blobs/{digest}").content == b"hello"
    assert root.head(f"/blobs/{digest}").headers["Content-Length"] == "5"
    assert root.head(f"/blobs/{'0' * 64}").status_code == 404


def draft(**spec: object) -> dict[str, object]:
    return {"spec": {"command": COMMAND, **spec}}


def test_repeat_by_another_address_of_the_server_is_given_the_first_answer(server: ServerProcess) -> None:
    key = {"Idempotency-Key": "by two addresses"}
    other = f"http://localhost:{server.port}/api/v1/tasks"
    with server.client() as client:
        first = client.post("/tasks", json=draft(), headers=key)
        again = client.post(other, json=draft(), headers={**key, "Host": "proxy.example"})

    assert again.status_code == 200
    assert again.json()["id"] == first.json()["id"]


def test_upload_that_its_client_gives_up_is_one_line_in_the_log(server: ServerProcess) -> None:
    head = f"PUT /api/v1/blobs/{'0' * 64} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {server.admin_token}\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + b"Content-Length: 900\r\n\r\n" + b"x" * 500)

    deadline = time.monotonic() + 30
    while "request_aborted" not in server.log:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)
    assert "Traceback" not in server.log
