"""An agent whose name is another's: it waits for as long as that one is not heard."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest
from taskyard.errors import Unavailable
from taskyard.wire import RunReport, WorkerDirective
from taskyard_agent import introduction
from taskyard_agent.errors import SettingsError
from taskyard_agent.introduction import Introduction

ACCEPTED = WorkerDirective(worker="w")


class Server:
    """Answers the first beats one after the other."""

    def __init__(self, answers: Iterable[WorkerDirective | Exception]) -> None:
        self._answers = iter(answers)

    def introduce(self, _left: Sequence[RunReport]) -> WorkerDirective:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introduction, "RETRY_SECONDS", 0.0)


def made(*answers: WorkerDirective | Exception) -> bool:
    return Introduction(cast(Any, Server(answers)), ()).made(threading.Event())


def taken(seconds: float, *, heard_at: float) -> WorkerDirective:
    return WorkerDirective(worker="w", paused=True, reason="taken", taken_seconds=seconds, heard_at=heard_at)


def test_a_name_is_waited_for_though_its_time_grows_while_its_agent_is_not_heard() -> None:
    away = Unavailable("the server is away")

    assert made(taken(4.0, heard_at=100.0), away, taken(30.0, heard_at=100.0), ACCEPTED)


def test_a_name_whose_agent_was_heard_again_is_refused() -> None:
    with pytest.raises(SettingsError, match="taken"):
        made(taken(4.0, heard_at=100.0), taken(3.0, heard_at=101.0))
