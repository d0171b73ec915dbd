"""A run whose way to its end fails inside the agent, and the report of an end that is refused."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from taskyard.errors import NotFound, Refused, Stale, TaskyardError
from taskyard.wire import (
    Command,
    FinishRequest,
    Outcome,
    OutcomeKind,
    Phase,
    Reason,
    Run,
    RunDirective,
    Task,
    TaskSpec,
    TaskState,
)
from taskyard_agent import answers
from taskyard_agent.clock import ServerClock
from taskyard_agent.journal import ClaimTokens, JournalledRun, RunDirectory, RunProgress
from taskyard_agent.run import RunJob

LOUD = Outcome(
    kind=OutcomeKind.FAILED, reason=Reason.SIGNAL, phase=Phase.RUNNING, signal=9, message="killed: \0", exit_code=1
)


class Server:
    """Takes ends, after the refusals that a test sets."""

    def __init__(self, *refusals: TaskyardError) -> None:
        self.refusals = list(refusals)
        self.requests: list[FinishRequest] = []

    def finish_run(self, run_id: str, request: FinishRequest, *, patience_seconds: float) -> Run:
        self.requests.append(request)
        if self.refusals:
            raise self.refusals.pop(0)
        return Run(id=run_id, task="t", number=1, worker="w")


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "REPEAT_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(answers, "DENIED_SECONDS", (0.0, 0.0))


def job_on(folder: Path, server: Server, *, secrets: Any = dict, outcome: Outcome | None = None) -> RunJob:
    folder.mkdir(exist_ok=True)
    journalled = JournalledRun(
        directory=RunDirectory(folder),
        tokens=ClaimTokens.draw(),
        run=Run(id="t.1", task="t", number=1, worker="w"),
        task=Task(
            id="t",
            spec=TaskSpec(command=Command(target="train.py")),
            state=TaskState.RUNNING,
            created_at=0.0,
            updated_at=0.0,
        ),
        boot_id="boot",
        lease_seconds=60.0,
        progress=RunProgress(outcome=outcome),
    )
    services = SimpleNamespace(
        client=server,
        clock=ServerClock(),
        probes=SimpleNamespace(problem=lambda *args: None),
        shipper=SimpleNamespace(follow=lambda *args: None, end=lambda *args: True),
        hooks=SimpleNamespace(run=lambda *args, **options: None),
        journal=SimpleNamespace(
            save_progress=lambda *args: None, close_run=lambda *args: None, remember_end=lambda *args: None
        ),
    )
    return RunJob(journalled, cast(Any, services), (), secrets)


@pytest.mark.parametrize(
    ("error", "infrastructure"),
    [(RuntimeError("a surprise"), False), (OSError(errno.ENOSPC, "no space left on device"), True)],
)
def test_any_surprise_on_the_way_is_reported_at_once_as_an_internal_failure(
    tmp_path: Path, error: Exception, infrastructure: bool
) -> None:
    def secrets() -> Mapping[str, str]:
        raise error

    server = Server()
    outcome = job_on(tmp_path, server, secrets=secrets).execute()

    assert outcome == server.requests[0].outcome
    assert outcome is not None
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, Reason.INTERNAL)
    assert outcome.infrastructure is infrastructure
    assert type(error).__name__ in outcome.message
    assert type(error).__name__.encode() in (tmp_path / "output.log").read_bytes()


def test_an_end_that_is_refused_as_invalid_is_sent_without_texts_then_bare(tmp_path: Path) -> None:
    server = Server(Refused(422, "invalid", "x"), Refused(413, "too_large", "x"), Refused(422, "invalid", "x"))

    assert job_on(tmp_path, server, outcome=LOUD).execute() is not None

    full, textless, bare, again = (request.outcome for request in server.requests)
    assert full.message == "killed: \ufffd"
    assert (textless.message, textless.signal, textless.exit_code) == ("", 9, 1)
    assert (bare.kind, bare.reason, bare.exit_code, bare.signal) == (LOUD.kind, LOUD.reason, 1, None)
    assert again == bare


@pytest.mark.parametrize("error", [Stale(409, "stale", "x"), NotFound(404, "not_found", "x")])
def test_an_end_that_is_not_wanted_is_reported_once(tmp_path: Path, error: TaskyardError) -> None:
    server = Server(error)

    assert job_on(tmp_path, server, outcome=LOUD).execute() is None
    assert len(server.requests) == 1


def test_an_end_is_reported_no_more_once_the_beat_says_that_the_run_is_stale(tmp_path: Path) -> None:
    server = Server()
    job = job_on(tmp_path, server, outcome=LOUD)

    job.obey(RunDirective(run="t.1", stale=True))

    assert job.execute() is None
    assert server.requests == []
