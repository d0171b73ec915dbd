"""What an agent does about each answer on each route, cell by cell."""

from __future__ import annotations

import logging

import pytest
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
from taskyard_agent import answers
from taskyard_agent.answers import Act, Conversation, Route, Troubles, act_on, until_answered

ERRORS: dict[str, TaskyardError] = {
    "stale": Stale(409, "stale", "x"),
    "not_found": NotFound(404, "not_found", "x"),
    "invalid": Refused(422, "invalid", "x"),
    "not Unicode": UsageError("x"),
    "too_large": Refused(413, "too_large", "x"),
    "forbidden": Refused(403, "forbidden", "x"),
    "unauthorised": NotLoggedIn("x"),
    "conflict": Refused(409, "conflict", "x"),
    "unknown word": Refused(409, "asleep", "x"),
    "too_many, unavailable, internal, silence": Unavailable("x"),
    "foreign": ForeignAnswer("x", 404),
    "foreign 413": ForeignAnswer("x", 413),
    "not understood": TaskyardError("x"),
}
R, M, S, D, L, C, G, A = (
    Act.REPEAT,
    Act.ASK_EACH_MINUTE,
    Act.SHRINK,
    Act.DISCARD,
    Act.STOP_SHIPPING,
    Act.DRAW_AGAIN,
    Act.GIVE_UP,
    Act.SEND_AGAIN,
)
ROUTES = (
    Route.REGISTER,
    Route.CLAIM,
    Route.CODE,
    Route.START,
    Route.BEAT,
    Route.LOGS,
    Route.FINISH,
    Route.OUTPUTS,
)
EXPECTED = {
    "stale": (R, C, R, D, R, D, D, D),
    "not_found": (R, C, G, D, R, L, D, D),
    "invalid": (G, C, G, S, S, S, S, S),
    "not Unicode": (G, C, G, S, S, S, S, S),
    "too_large": (R, C, R, S, S, S, S, S),
    "forbidden": (M, M, M, M, M, M, M, M),
    "unauthorised": (M, M, M, M, M, M, M, M),
    "conflict": (R, C, R, R, R, R, R, A),
    "unknown word": (R, R, R, R, R, R, R, R),
    "too_many, unavailable, internal, silence": (R, R, R, R, R, R, R, R),
    "foreign": (R, R, R, R, R, R, R, R),
    "foreign 413": (R, R, R, S, S, S, R, R),
    "not understood": (R, R, R, R, R, R, R, R),
}
CELLS = [(name, route, act) for name, acts in EXPECTED.items() for route, act in zip(ROUTES, acts, strict=True)]


@pytest.mark.parametrize(("name", "route", "act"), CELLS)
def test_each_answer_has_its_act_on_each_route(name: str, route: Route, act: Act) -> None:
    assert act_on(route, ERRORS[name]) is act


def test_every_answer_and_route_is_in_the_table() -> None:
    assert EXPECTED.keys() == ERRORS.keys()
    assert set(ROUTES) | {Route.LOOK_UP} == set(Route)


def test_an_agent_that_is_not_let_in_asks_at_last_once_a_minute() -> None:
    conversation = Conversation(Route.BEAT)
    pauses = []
    for _ in range(20):
        conversation.heed(NotLoggedIn("x"))
        pauses.append(conversation.pause)

    assert pauses[0] <= 2.0
    assert 30.0 <= pauses[-1] <= 60.0


def test_a_trouble_that_lasts_is_said_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    conversation = Conversation(Route.FINISH, "t.1", clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(425):
            conversation.heed(ForeignAnswer("a proxy answered", 413))
            now[0] += 1.0

    assert [record.message for record in caplog.records] == [
        "cannot report the end of run t.1: a proxy answered; asking again",
        "cannot report the end of run t.1 (61 times in 60 s): a proxy answered; asking again",
        "cannot report the end of run t.1 (181 times in 180 s): a proxy answered; asking again",
        "cannot report the end of run t.1 (421 times in 420 s): a proxy answered; asking again",
    ]


def test_the_end_of_a_trouble_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    conversation = Conversation(Route.CLAIM, clock=lambda: now[0])
    conversation.heed(Unavailable("no answer"))
    now[0] = 42.0
    with caplog.at_level(logging.INFO):
        conversation.answered()
        conversation.answered()

    said = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert said == ["the server answers again after 42 s: cannot claim"]


def test_what_keeps_an_agent_out_is_a_trouble_until_the_server_takes_a_request() -> None:
    shown: list[str] = []
    troubles = Troubles()
    troubles.listen(shown.append)
    conversation = Conversation(Route.BEAT, troubles=troubles)

    conversation.heed(Unavailable("away for a moment"))
    conversation.heed(NotLoggedIn("the token was revoked"))
    conversation.answered()

    assert shown == ["the token was revoked", ""]


def test_what_an_agent_asks_at_its_start_is_asked_until_it_is_answered() -> None:
    said = iter([Unavailable("x"), ForeignAnswer("x", 404), None])

    def ask() -> str:
        if error := next(said):
            raise error
        return "here"

    assert until_answered(ask, sleep=lambda seconds: None) == "here"


def test_a_refusal_at_the_start_is_the_operators_to_read() -> None:
    def ask() -> str:
        raise NotLoggedIn("x")

    with pytest.raises(NotLoggedIn):
        until_answered(ask)


def test_the_table_knows_no_word_that_no_server_says() -> None:
    said = {"stale", "not_found", "invalid", "too_large", "forbidden", "unauthorised", "conflict"}

    assert {word for row in answers.TABLE.values() for word in row} <= said | {answers.FOREIGN_TOO_LARGE}
