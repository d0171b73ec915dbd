"""Beats that the server, or something on the way, does not take as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from taskyard.errors import ForeignAnswer, NotLoggedIn, Refused, TaskyardError
from taskyard.wire import Beat, BeatAnswer, Sample
from taskyard_agent import answers
from taskyard_agent.allotment import Means
from taskyard_agent.clock import ServerClock
from taskyard_agent.lease import Lease
from taskyard_agent.restored import Restored
from taskyard_agent.worker import AgentIdentity, Worker

from tests.support.agents import wait_until


class Server:
    """Takes beats that a test allows."""

    def __init__(self, refusal: TaskyardError) -> None:
        self.refusal = refusal
        self.most = 1 << 30
        self.bad = ""
        self.paused_reasons = True
        self.denied = 0
        self.taken: list[Sample] = []
        self.beats: list[Beat] = []

    def beat(self, beat: Beat, *, patience_seconds: float) -> BeatAnswer:
        self.beats.append(beat)
        said = any(report.paused_reason for report in beat.workers)
        if self.denied > 0:
            self.denied -= 1
            raise NotLoggedIn("the token was revoked")
        if len(beat.samples) > self.most or any(sample.name == self.bad for sample in beat.samples):
            raise self.refusal
        if said and not self.paused_reasons:
            raise self.refusal
        self.taken += beat.samples
        return BeatAnswer(server_time=time.time(), lease_seconds=0.06)


@contextmanager
def beating(server: Server, *names: str, reason: str = "") -> Iterator[Lease]:
    measured = [[Sample(subject="worker:w", name=name, at=0.0, value=1.0) for name in names]]
    worker = Worker("w", Means(), ())
    worker.hold("hours", reason)
    identity = AgentIdentity(name="w", host="h", boot_id="b", version="1", instance="i")
    lease = Lease(
        identity,
        worker,
        client=cast(Any, server),
        clock=ServerClock(),
        samples=lambda: measured.pop() if measured else [],
        restored=Restored(kept=lambda since: (), on_restore=lambda: None),
    )
    lease.start()
    try:
        yield lease
    finally:
        lease.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "DENIED_SECONDS", (0.01, 0.01))


def test_the_one_measurement_that_is_refused_is_dropped_alone() -> None:
    server = Server(Refused(422, "invalid", "x"))
    server.bad = "n70"

    with beating(server, *(f"n{number}" for number in range(100))):
        wait_until(lambda: len(server.taken) >= 99, what="all but one")

    assert [sample.name for sample in server.taken] == [f"n{number}" for number in range(100) if number != 70]


def test_a_proxys_limit_on_bodies_makes_beats_shorter_and_loses_no_measurement() -> None:
    server = Server(ForeignAnswer("x", 413))
    server.most = 10

    with beating(server, *(f"n{number}" for number in range(100))):
        wait_until(lambda: len(server.taken) == 100, what="all of them")


def test_a_beat_whose_texts_are_refused_is_sent_without_them() -> None:
    server = Server(Refused(422, "invalid", "x"))
    server.paused_reasons = False

    with beating(server, reason="outside its hours") as lease:
        wait_until(lambda: lease.acknowledged_at is not None, what="a beat that is taken")

    assert not server.beats[-1].workers[0].paused_reason


def test_an_agent_that_is_not_let_in_goes_on_asking() -> None:
    server = Server(Refused(422, "invalid", "x"))
    server.denied = 5

    with beating(server, "n") as lease:
        wait_until(lambda: lease.acknowledged_at is not None, what="a beat that is taken")

    assert [sample.name for sample in server.taken] == ["n"]
