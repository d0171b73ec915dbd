"""A run's log over real HTTP: appended, read, followed live through reconnects."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.claimants import Claimant, enqueue
from tests.support.servers import ServerProcess


@dataclass
class Running:
    """A task that an agent holds."""

    server: ServerProcess
    agent: Claimant
    reader: httpx.Client
    task: str
    run: str

    def follow(self, **headers: str) -> Iterator[dict[str, Any]]:
        """The events of the live log."""
        with self.reader.stream("GET", f"/runs/{self.run}/logs/stream", headers=headers) as answer:
            answer.raise_for_status()
            yield from events(answer)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--log-cap-bytes", "100000") as server:
        yield server


@pytest.fixture
def running(server: ServerProcess) -> Iterator[Running]:
    with server.client() as root, Claimant(server, server.issue("agent")) as agent:
        task = enqueue(root)
        run = agent.claim()["run"]["id"]
        agent.beat(run)
        agent.start(run).raise_for_status()
        yield Running(server, agent, root, task, run)


def test_resent_bytes_are_held_once(running: Running) -> None:
    first = running.agent.append(running.run, 0, b"one\ntwo\n").json()
    again = running.agent.append(running.run, 4, b"two\nthree\n").json()

    assert (first["offset"], again["offset"]) == (8, 14)
    assert running.reader.get(f"/runs/{running.run}/logs").content == b"one\ntwo\nthree\n"


def test_bytes_ahead_of_the_log_are_not_taken(running: Running) -> None:
    answer = running.agent.append(running.run, 100, b"later")

    assert answer.json()["offset"] == 0


def test_log_is_any_bytes(running: Running) -> None:
    data = bytes(range(256))

    running.agent.append(running.run, 0, data)

    answer = running.reader.get(f"/runs/{running.run}/logs", params={"offset": 250, "limit": 3})
    assert answer.content == data[250:253]
    assert answer.headers["Taskyard-Log-Offset"] == "250"
    assert answer.headers["Taskyard-Log-Length"] == "256"
    assert answer.headers["Taskyard-Log-Complete"] == "false"


def test_tail_is_the_last_lines(running: Running) -> None:
    running.agent.append(running.run, 0, b"a\nb\nc\nd")

    answer = running.reader.get(f"/runs/{running.run}/logs", params={"tail_lines": 2})

    assert answer.content == b"c\nd"
    assert answer.headers["Taskyard-Log-Offset"] == "4"


def test_only_the_holder_of_the_control_token_writes(running: Running) -> None:
    running.agent.control_token = "guessed"

    answer = running.agent.append(running.run, 0, b"forged")

    assert answer.status_code == 409
    assert answer.json()["error"] == "stale"


def test_log_beyond_the_cap_is_dropped_and_said(running: Running) -> None:
    answer = running.agent.append(running.run, 0, b"x" * 150_000).json()

    assert answer == {"offset": 100_000, "capped": True}


def test_live_log_ends_with_the_run(running: Running) -> None:
    events = running.follow()
    running.agent.append(running.run, 0, b"hello ")
    first = next(events)
    running.agent.append(running.run, 6, b"world\n")
    running.agent.finish(running.run, log_bytes=12).raise_for_status()

    rest = list(events)

    assert text_of([first, *rest]) == b"hello world\n"
    assert rest[-1]["event"] == "end"
    assert json.loads(rest[-1]["data"])["outcome"]["kind"] == "completed"


def test_live_log_goes_on_after_a_reconnect_where_it_broke_off(running: Running) -> None:
    running.agent.append(running.run, 0, b"one ")
    events = running.follow()
    first = next(events)
    events.close()  # type: ignore[attr-defined]

    running.agent.append(running.run, 4, b"two ")
    running.server.restart()
    running.agent.append(running.run, 8, b"three")
    running.agent.finish(running.run, log_bytes=13).raise_for_status()
    rest = list(running.follow(**{"Last-Event-ID": first["id"]}))

    assert text_of([first, *rest]) == b"one two three"


def test_log_that_comes_after_the_end_is_waited_for(running: Running) -> None:
    running.agent.append(running.run, 0, b"early ")
    running.agent.finish(running.run, log_bytes=10).raise_for_status()
    events = running.follow()
    first = next(events)

    running.agent.append(running.run, 6, b"late")

    assert text_of([first, *events]) == b"early late"


@pytest.mark.slow
def test_quiet_live_log_shows_a_sign_of_life(running: Running) -> None:
    with running.reader.stream("GET", f"/runs/{running.run}/logs/stream") as answer:
        first_line = next(answer.iter_lines())

    assert first_line.startswith(": ping")


def test_revoked_token_ends_the_live_log(running: Running) -> None:
    issued = running.reader.post("/tokens", json={"kind": "user"}).json()
    running.agent.append(running.run, 0, b"hello")

    with running.server.client(issued["secret"]) as ada:
        with ada.stream("GET", f"/runs/{running.run}/logs/stream") as answer:
            stream = events(answer)
            next(stream)
            running.reader.post(f"/tokens/{issued['token']['id']}/revoke").raise_for_status()
            rest = list(stream)

    assert rest == []


def test_stopping_server_ends_live_logs() -> None:
    with ServerProcess() as server, server.client() as root, Claimant(server, server.issue("agent")) as agent:
        enqueue(root)
        run = agent.claim()["run"]["id"]
        agent.append(run, 0, b"hello")
        with root.stream("GET", f"/runs/{run}/logs/stream") as answer:
            stream = events(answer)
            next(stream)

            code = server.stop()

            assert list(stream) == []
    assert code == 0


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            continue
        if not line and event:
            yield event
            event = {}
        elif line:
            name, _, value = line.partition(": ")
            event[name] = value


def text_of(events: list[dict[str, Any]]) -> bytes:
    """The log that the events carry; each must begin where the last one ended."""
    text = b""
    for event in events:
        if event["event"] == "log":
            chunk = json.loads(event["data"])
            assert chunk["offset"] == len(text)
            text += base64.b64decode(chunk["data"])
    return text
