"""What a request becomes when servers stumble, refuse or break off; against a real HTTP server."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from taskyard.client import Client
from taskyard.errors import (
    ForeignAnswer,
    NotFound,
    NotLoggedIn,
    Refused,
    Stale,
    TaskyardError,
    Unavailable,
    UsageError,
)
from taskyard.transport import Transport, parse_events

Answer = tuple[int, dict[str, str], bytes]


class Scripted:
    """A server that gives the answers of a list, the last one for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [(200, {}, b"{}")]
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = owner.body(self)
                owner.requests.append((self.command, self.path, dict(self.headers), body))
                status, headers, answer = owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = do_PATCH = do_DELETE = handle_one

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @staticmethod
    def body(handler: BaseHTTPRequestHandler) -> bytes:
        if handler.headers.get("Transfer-Encoding") != "chunked":
            return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        parts = []
        while size := int(handler.rfile.readline(), 16):
            parts.append(handler.rfile.read(size))
            handler.rfile.readline()
        handler.rfile.readline()
        return b"".join(parts)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transport(server: Scripted, clock: Clock) -> Iterator[Transport]:
    with Transport(server.url, "secret-token", clock=clock, sleep=clock.sleep) as opened:
        yield opened


def problem(status: int, word: str = "conflict", detail: str = "because", **headers: str) -> Answer:
    return status, headers, json.dumps({"error": word, "detail": detail}).encode()


def test_a_request_carries_the_token_and_nothing_is_logged_of_it(
    server: Scripted, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    transport.request("GET", "/tasks", params={"state": ["a", "b"], "queue": None})

    method, path, headers, _ = server.requests[0]
    assert (method, path) == ("GET", "/api/v1/tasks?state=a&state=b")
    assert headers["Authorization"] == "Bearer secret-token"
    assert "secret-token" not in caplog.text


@pytest.mark.parametrize("token", ["two\r\nX-Admin: yes", "two words", "schlüssel", "nul\0"])
def test_a_token_that_is_none_is_neither_sent_nor_shown(server: Scripted, token: str) -> None:
    with pytest.raises(UsageError) as refused:
        Transport(server.url, token)

    assert token[:3] not in str(refused.value)
    assert server.requests == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_stumbling_server_is_asked_again_with_the_same_idempotency_key(
    server: Scripted, transport: Transport, status: int
) -> None:
    server.answers = [problem(status), problem(status), (200, {}, b'{"a": 1}')]

    answer = transport.request("POST", "/tasks", json={"x": 1})

    keys = {headers["Idempotency-Key"] for _, _, headers, _ in server.requests}
    assert answer.json() == {"a": 1}
    assert len(server.requests) == 3
    assert len(keys) == 1


def test_two_requests_have_two_keys_and_an_unkeyed_one_has_none(server: Scripted, transport: Transport) -> None:
    transport.request("POST", "/tasks", json={})
    transport.request("POST", "/tasks", json={})
    transport.request("POST", "/beats", json={}, keyed=False)

    first, second, third = (headers.get("Idempotency-Key") for _, _, headers, _ in server.requests)
    assert first != second
    assert third is None


def test_patience_ends(server: Scripted, transport: Transport, clock: Clock) -> None:
    server.answers = [problem(503, "unavailable", "the disk is full")]

    with pytest.raises(Unavailable, match="the disk is full"):
        transport.request("GET", "/tasks", patience_seconds=10.0)

    assert 5.0 < clock.now <= 10.0
    assert clock.pauses[0] < clock.pauses[-1] <= 5.0


def test_the_server_may_say_when_to_ask_again(server: Scripted, transport: Transport, clock: Clock) -> None:
    server.answers = [problem(429, "too_many", **{"Retry-After": "7"}), (200, {}, b"{}")]

    transport.request("GET", "/tasks")

    assert 7.0 <= clock.now < 8.0


def test_nobody_there_is_unavailable_with_the_cure(clock: Clock) -> None:
    gone = Scripted()
    gone.close()

    with (
        Transport(gone.url, clock=clock, sleep=clock.sleep) as transport,
        pytest.raises(Unavailable, match="taskyard up"),
    ):
        transport.request("GET", "/tasks")

    assert clock.now > 20.0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(401, "unauthorised"), NotLoggedIn),
        (problem(404, "not_found"), NotFound),
        (problem(409, "stale"), Stale),
        (problem(409, "conflict"), Refused),
        (problem(422, "invalid"), Refused),
    ],
)
def test_a_refusal_is_final_and_typed(
    server: Scripted, transport: Transport, answer: Answer, kind: type[TaskyardError]
) -> None:
    server.answers = [answer]

    with pytest.raises(kind, match="because") as caught:
        transport.request("POST", "/tasks", json={})

    assert caught.type is kind
    assert len(server.requests) == 1


PAGE = {"Content-Type": "text/html"}
FOREIGN: dict[str, Answer] = {
    "portal": (200, PAGE, b"<html>Log in to the network</html>"),
    "moved": (301, {"Location": "https://elsewhere.example/"}, b""),
    "unauthorised": (401, PAGE, b"<html>"),
    "forbidden": (403, PAGE, b"[]"),
    "not found": (404, PAGE, b"<html>"),
    "too large": (413, PAGE, b"<html>"),
    "too many": (429, PAGE, b"<html>"),
    "bad gateway": (502, PAGE, b"<html>"),
    "timeout": (504, {}, b""),
    "empty": (200, {}, b""),
    "gateway's JSON": (404, {}, b'{"error": "not_found", "detail": "no route", "request_id": "1"}'),
    "another word": (403, {}, b'{"error": "Forbidden", "detail": "by policy"}'),
    "nested": (404, {}, b'{"error": {"code": 404}, "detail": "x"}'),
    "half": (200, {"Content-Length": "90", "Connection": "close"}, b'{"version": "1'),
}
MARK = {"Taskyard-Version": "1"}
CALLS: dict[str, Callable[[Client, Path], object]] = {
    "record": lambda client, _: client.task("a"),
    "list": lambda client, _: client.queues(),
    "log": lambda client, _: client.read_log("a.1"),
    "append": lambda client, _: client.append_log("a.1", 0, b"x", control_token="t"),
    "delete": lambda client, _: client.delete_task("a"),
    "upload": lambda client, _: client.transport.request("PUT", "/blobs/a", content=b"x"),
    "download": lambda client, folder: client.get_blob("0" * 64, folder / "blob"),
    "stream": lambda client, _: next(iter(client.follow_log("a.1"))),
    "health": lambda client, _: client.health(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", FOREIGN)
def test_an_answer_that_is_not_taskyards_never_counts_as_its_word(
    server: Scripted, transport: Transport, tmp_path: Path, answer: str, call: str
) -> None:
    server.answers = [FOREIGN[answer]]

    with pytest.raises(Unavailable):
        CALLS[call](Client(transport), tmp_path)


@pytest.mark.parametrize("call", ["record", "list", "health"])
def test_an_answer_of_the_servers_that_was_cut_on_its_way_is_asked_for_again(
    server: Scripted, transport: Transport, tmp_path: Path, call: str
) -> None:
    server.answers = [(200, MARK, b'{"version": "1')]

    with pytest.raises(Unavailable):
        CALLS[call](Client(transport), tmp_path)


@pytest.mark.parametrize("answer", ["portal", "moved", "forbidden", "not found", "empty"])
def test_at_first_contact_a_stranger_is_named_at_once(
    server: Scripted, transport: Transport, clock: Clock, answer: str
) -> None:
    server.answers = [FOREIGN[answer]]
    person = Transport(server.url, names_strangers=True, clock=clock, sleep=clock.sleep)

    with person, pytest.raises(ForeignAnswer, match=r"no Taskyard server answers at http://127|give that address"):
        Client(person).queues()

    assert clock.now == 0.0
    with pytest.raises(ForeignAnswer):  # a program waits: what looks on is the next attempt
        Client(transport).queues()
    assert clock.now > 20.0


def test_a_proxys_limit_on_uploads_is_named_to_a_person_at_once(server: Scripted, clock: Clock) -> None:
    server.answers = [(200, MARK, b"[]"), FOREIGN["too large"]]

    with Transport(server.url, names_strangers=True, clock=clock, sleep=clock.sleep) as person:
        Client(person).queues()
        with pytest.raises(ForeignAnswer, match="client_max_body_size"):
            person.request("PUT", "/blobs/a", content=b"x")

    assert clock.now == 0.0


@pytest.mark.parametrize("answer", FOREIGN)
def test_a_page_in_between_is_waited_out_once_the_server_has_answered(
    server: Scripted, transport: Transport, answer: str
) -> None:
    server.answers = [(200, MARK, b"[]"), FOREIGN[answer], FOREIGN[answer], (200, MARK, b"[]")]
    client = Client(transport)

    assert client.queues() == client.queues() == []
    assert len(server.requests) == 4


def test_what_looks_like_an_older_servers_word_is_foreign_while_the_server_marks_its_answers(
    server: Scripted, transport: Transport, clock: Clock
) -> None:
    server.answers = [(200, MARK, b"[]"), problem(404, "not_found")]
    client = Client(transport)
    client.queues()

    with pytest.raises(ForeignAnswer):
        transport.request("GET", "/tasks", patience_seconds=0.0)

    clock.now += 100.0  # the server was replaced by an older one
    with pytest.raises(NotFound):
        transport.request("GET", "/tasks", patience_seconds=0.0)


def test_a_marked_answer_may_have_a_word_that_is_not_known_yet(server: Scripted, transport: Transport) -> None:
    server.answers = [problem(409, "asleep", **MARK)]

    with pytest.raises(Refused, match="because") as refused:
        transport.request("GET", "/tasks")

    assert refused.value.word == "asleep"


@pytest.mark.parametrize(("status", "held"), [(200, True), (404, False)])
def test_a_head_request_is_answered_without_a_body(
    server: Scripted, transport: Transport, status: int, held: bool
) -> None:
    for headers in (MARK, {"Content-Type": "application/octet-stream" if held else "application/json"}):
        server.answers = [(status, headers, b"")]
        with Transport(server.url) as fresh:
            assert Client(fresh).has_blob("a") is held


def test_a_renewed_token_is_taken_up_without_a_new_start(server: Scripted, clock: Clock) -> None:
    server.answers = [problem(401, "unauthorised"), (200, MARK, b"[]")]
    with Transport(server.url, "old", renewed_token=lambda: "new", clock=clock, sleep=clock.sleep) as transport:
        Client(transport).queues()

    assert [headers["Authorization"] for _, _, headers, _ in server.requests] == ["Bearer old", "Bearer new"]


def test_a_token_that_was_not_renewed_is_refused_once(server: Scripted, clock: Clock) -> None:
    server.answers = [problem(401, "unauthorised")]
    with (
        Transport(server.url, "old", renewed_token=lambda: "old", clock=clock, sleep=clock.sleep) as transport,
        pytest.raises(NotLoggedIn),
    ):
        Client(transport).queues()

    assert len(server.requests) == 1


def test_a_file_is_sent_whole_on_every_attempt(server: Scripted, transport: Transport, tmp_path: Path) -> None:
    content = b"x" * 3_000_000
    (tmp_path / "pack").write_bytes(content)
    server.answers = [problem(503), (204, {}, b"")]

    transport.request("PUT", "/blobs/a", content=tmp_path / "pack")

    assert [body for *_, body in server.requests] == [content, content]


def test_a_download_appears_whole(server: Scripted, transport: Transport, tmp_path: Path) -> None:
    server.answers = [(200, {}, b"abc")]

    size = transport.download("/blobs/a", tmp_path / "file", sha256=hashlib.sha256(b"abc").hexdigest())

    assert size == 3
    assert (tmp_path / "file").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "answer", [(200, {}, b"abd"), (200, {"Content-Length": "9", "Connection": "close"}, b"abc")]
)
def test_a_damaged_or_broken_download_leaves_nothing(
    server: Scripted, transport: Transport, tmp_path: Path, answer: Answer
) -> None:
    server.answers = [answer]

    with pytest.raises(Unavailable):
        transport.download("/blobs/a", tmp_path / "file", sha256=hashlib.sha256(b"abc").hexdigest())

    assert list(tmp_path.iterdir()) == []


def test_a_broken_stream_is_resumed_after_the_last_event(server: Scripted, transport: Transport) -> None:
    server.answers = [
        (200, {"Content-Type": "text/event-stream"}, b": hello\n\nevent: log\nid: 5\ndata: one\n\nevent: log\nda"),
        (200, {"Content-Type": "text/event-stream"}, b"event: log\nid: 9\ndata: two\n\nevent: end\ndata: {}\n\n"),
    ]

    events = transport.events("/runs/r/logs/stream", params={"offset": 0})
    seen = [next(events) for _ in range(3)]

    assert [(event.kind, event.data, event.id) for event in seen] == [
        ("log", "one", "5"),
        ("log", "two", "9"),
        ("end", "{}", "9"),
    ]
    assert server.requests[1][2]["Last-Event-ID"] == "5"


def test_a_refused_stream_is_final(server: Scripted, transport: Transport) -> None:
    server.answers = [problem(404, "not_found")]

    with pytest.raises(NotFound):
        next(transport.events("/runs/r/logs/stream"))


def test_events_are_read_as_the_standard_says() -> None:
    lines = ["event: a", "data: 1", "data:2", "id: 7", "", ": comment", "", "data", "", "event: empty", ""]

    events = [(event.kind, event.data, event.id) for event in parse_events(iter(lines))]

    assert events == [("a", "1\n2", "7"), ("message", "", "7")]


def test_plain_http_beyond_this_machine_needs_to_be_accepted() -> None:
    with pytest.raises(UsageError, match="--insecure"):
        Transport("http://example.org", "token")

    assert Transport("http://example.org", "token", insecure=True).server == "http://example.org"
    assert Transport("https://example.org", "token").server == "https://example.org"


def test_a_file_that_holds_no_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")

    with pytest.raises(UsageError, match=r"--ca-file .*ca\.pem"):
        Transport("https://localhost:1", ca_file=tmp_path / "ca.pem").request("GET", "/info")


def test_a_server_that_speaks_no_tls_is_told_from_one_that_is_away(server: Scripted) -> None:
    encrypted = server.url.replace("http:", "https:")

    with pytest.raises(Unavailable, match=f"speaks no TLS: is it {server.url}, or another port"):
        Transport(encrypted, patience_seconds=0.0).request("GET", "/info")


def test_threads_share_one_transport(server: Scripted, transport: Transport) -> None:
    failures: list[Exception] = []

    def ask() -> None:
        try:
            transport.request("GET", "/info")
        except TaskyardError as error:
            failures.append(error)

    in_threads(8, ask)

    assert not failures
    assert len(server.requests) == 8


def in_threads(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
