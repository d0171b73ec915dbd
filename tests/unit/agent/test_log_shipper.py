"""Shipping of spools: nothing lost, nothing doubled, whatever the server and the network do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest
from taskyard.errors import ForeignAnswer, NotFound, Refused, Stale, TaskyardError, Unavailable
from taskyard.wire import LogPosition
from taskyard_agent import log_shipper
from taskyard_agent.log_shipper import LogShipper


class LogHolder:
    """Holds logs as the server does: what begins before its end is no news, what begins after it is refused."""

    def __init__(self) -> None:
        self.logs: dict[str, bytes] = {}
        self.requests = 0
        self.trouble: list[TaskyardError] = []
        self.cap = 1 << 30
        self.most = 1 << 30
        self.refusal: TaskyardError | None = None

    def append(self, run_id: str, control_token: str, offset: int, data: bytes) -> LogPosition:
        self.requests += 1
        if self.trouble:
            raise self.trouble.pop(0)
        if self.refusal and len(data) > self.most:
            raise self.refusal
        held = self.logs.get(run_id, b"")
        if offset <= len(held):
            held = (held + data[len(held) - offset :])[: self.cap]
        self.logs[run_id] = held
        return LogPosition(offset=len(held), capped=len(held) >= self.cap)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def server():
    return LogHolder()


@pytest.fixture
def ended():
    return {"stale": [], "complete": []}


@pytest.fixture
def shipper(server, ended, monkeypatch):
    monkeypatch.setattr(log_shipper, "BACKOFF_SECONDS", (0.01, 0.05))
    shipper = LogShipper(server.append, on_stale=ended["stale"].append, on_complete=ended["complete"].append)
    shipper.start()
    yield shipper
    shipper.close()


@pytest.fixture
def spool(tmp_path):
    path = tmp_path / "output.log"
    path.touch()
    return path


def add(path, data: bytes) -> None:
    with path.open("ab") as spool:
        spool.write(data)


def test_what_is_appended_arrives_without_being_asked_for(shipper, server, spool):
    shipper.follow("r.1", "token", spool)
    add(spool, b"one\n")
    assert until(lambda: server.logs.get("r.1") == b"one\n")

    add(spool, b"two\n")

    assert until(lambda: server.logs["r.1"] == b"one\ntwo\n")
    assert shipper.position("r.1") == 8


def test_an_ended_run_is_shipped_to_its_last_byte_and_then_forgotten(shipper, server, spool, ended):
    add(spool, bytes(3_000_000))
    shipper.follow("r.1", "token", spool)

    shipper.end("r.1", 3_000_000)

    assert until(lambda: ended["complete"] == ["r.1"])
    assert len(server.logs["r.1"]) == 3_000_000


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (NotFound(404, "not_found", "x"), {"stale": [], "complete": []}),
        (Stale(409, "stale", "x"), {"stale": ["r.1"], "complete": []}),
    ],
)
def test_a_log_that_is_not_wanted_ends_its_run_only_where_that_is_stale(
    shipper, server, spool, ended, error, calls
):
    server.trouble = [error]
    add(spool, b"line\n")

    shipper.follow("r.1", "token", spool)

    assert until(lambda: server.requests == 1 and not shipper.end("r.1", 5))
    assert ended == calls


@pytest.mark.parametrize("error", [NotFound(404, "not_found", "x"), Stale(409, "stale", "x")])
def test_where_the_run_has_ended_its_unwanted_log_is_the_last_of_it(shipper, server, spool, ended, error):
    server.trouble = [Unavailable("x"), Unavailable("x"), error]
    add(spool, b"line\n")
    shipper.follow("r.1", "token", spool)

    assert shipper.end("r.1", 5)

    assert until(lambda: ended == {"stale": [], "complete": ["r.1"]})


@pytest.mark.parametrize(
    "error", [ForeignAnswer("x", 413), Refused(413, "too_large", "x"), Refused(422, "invalid", "x")]
)
def test_a_chunk_that_is_refused_is_halved_until_it_passes(shipper, server, spool, ended, error):
    server.most = 40_000
    server.refusal = error
    add(spool, bytes(3_000_000))
    shipper.follow("r.1", "token", spool)

    shipper.end("r.1", 3_000_000)

    assert until(lambda: ended["complete"] == ["r.1"])
    assert server.logs["r.1"] == bytes(3_000_000)
    assert server.requests < 110  # not once more than 32 KiB was found to pass


def test_where_not_even_the_smallest_chunk_passes_the_log_is_kept_and_the_proxy_named(
    shipper, server, spool, caplog
):
    server.most = 1000
    server.refusal = ForeignAnswer("something between here and the server answered in its place", 413)
    add(spool, bytes(3_000_000))

    with caplog.at_level(logging.WARNING):
        shipper.follow("r.1", "token", spool)
        assert until(lambda: server.requests > 8)
        server.most = 1 << 30
        assert until(lambda: server.logs.get("r.1") == bytes(3_000_000), 30.0)

    assert "cannot send the log of run r.1: something between here and the server" in caplog.text


def test_an_empty_log_is_complete_at_once(shipper, spool, ended):
    shipper.follow("r.1", "token", spool)

    shipper.end("r.1", 0)

    assert until(lambda: ended["complete"] == ["r.1"])


def test_an_unreachable_server_loses_nothing(shipper, server, spool, ended):
    server.trouble = [Unavailable("nobody answers")] * 5
    add(spool, b"all of it")
    shipper.follow("r.1", "token", spool)

    shipper.end("r.1", 9)

    assert until(lambda: ended["complete"] == ["r.1"])
    assert server.logs["r.1"] == b"all of it"


def test_a_refusal_that_a_person_can_mend_loses_nothing_either(shipper, server, spool, ended):
    server.trouble = [Refused(403, "forbidden", "this token was revoked")] * 2
    add(spool, b"all of it")
    shipper.follow("r.1", "token", spool)

    shipper.end("r.1", 9)

    assert until(lambda: ended["complete"] == ["r.1"])


def test_a_stale_run_is_told_and_its_log_is_sent_no_more(shipper, server, spool, ended):
    server.trouble = [Stale(409, "stale", "the run is not yours any more")]
    add(spool, b"too late")

    shipper.follow("r.1", "token", spool)

    assert until(lambda: ended["stale"] == ["r.1"])
    assert server.requests == 1
    assert ended["complete"] == []


def test_an_agent_that_restarted_goes_on_where_the_server_is(shipper, server, spool):
    add(spool, b"held before, and new")
    server.logs["r.1"] = b"held before"

    shipper.follow("r.1", "token", spool)

    assert shipper.flush("r.1", timeout=10)
    assert server.logs["r.1"] == b"held before, and new"


def test_a_server_that_lost_the_end_of_a_log_gets_it_again(shipper, server, spool):
    add(spool, b"first ")
    shipper.follow("r.1", "token", spool)
    assert shipper.flush("r.1", timeout=10)
    server.logs["r.1"] = b"fir"

    add(spool, b"second")

    assert until(lambda: server.logs["r.1"] == b"first second")


def test_a_capped_log_ends_without_its_rest(shipper, server, spool, ended):
    server.cap = 4
    add(spool, b"much too long")
    shipper.follow("r.1", "token", spool)

    shipper.end("r.1", 13)

    assert until(lambda: ended["complete"] == ["r.1"])
    assert server.logs["r.1"] == b"much"


def test_flush_says_when_it_could_not(shipper, server, spool):
    server.trouble = [Unavailable("nobody answers")] * 1000
    add(spool, b"line\n")
    shipper.follow("r.1", "token", spool)

    assert not shipper.flush("r.1", timeout=0.05)


def test_one_run_that_cannot_be_sent_does_not_hold_up_another(tmp_path, server, shipper):
    def refuse_first(run_id, control_token, offset, data):
        if run_id == "r.1":
            raise ValueError("a surprise")
        return LogHolder.append(server, run_id, control_token, offset, data)

    shipper._append = refuse_first
    for run_id in ("r.1", "r.2"):
        (tmp_path / run_id).mkdir()
        add(tmp_path / run_id / "output.log", b"line\n")
        shipper.follow(run_id, "token", tmp_path / run_id / "output.log")

    assert until(lambda: server.logs.get("r.2") == b"line\n")


def test_many_lines_become_few_requests(shipper, server, spool):
    shipper.follow("r.1", "token", spool)

    for _ in range(2000):
        add(spool, b"a line\n")
        shipper.wake()

    assert shipper.flush("r.1", timeout=10)
    assert server.requests < 1000


def test_the_log_of_an_ended_run_is_flushed_once_its_end_is_seen_to(server, spool):
    begun, seen_to = threading.Event(), threading.Event()
    shipper = LogShipper(server.append, on_complete=lambda _run: (begun.set(), seen_to.wait(10)))
    shipper.start()
    add(spool, b"line\n")
    shipper.follow("r.1", "token", spool)
    shipper.end("r.1", 5)
    assert begun.wait(10)
    waiting = threading.Thread(target=shipper.flush, args=("r.1", 60))
    waiting.start()

    waiting.join(0.1)
    waited = waiting.is_alive()
    seen_to.set()
    waiting.join(10)

    assert (waited, waiting.is_alive()) == (True, False)
    shipper.close()


def test_closing_ends_the_thread_and_whoever_waits(server, spool):
    server.trouble = [Unavailable("nobody answers")] * 1000
    shipper = LogShipper(server.append)
    shipper.start()
    add(spool, b"line\n")
    shipper.follow("r.1", "token", spool)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(shipper.flush("r.1", timeout=60)))
    waiting.start()

    shipper.close()
    waiting.join(10)

    assert len(answers) == 1
    assert not shipper._thread.is_alive()
