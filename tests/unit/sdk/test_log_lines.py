"""The form of log lines, and how an outage is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from taskyard import log_lines
from taskyard.log_lines import JsonLines, Outage, TextLines


@pytest.fixture(autouse=True)
def component() -> Iterator[None]:
    log_lines.name("server")
    yield
    log_lines.name("taskyard")


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "args": args, "levelname": "INFO", "created": 1.5})
    made.__dict__.update(extra)
    return made


def test_a_line_of_text_says_when_how_bad_who_what_and_which_action() -> None:
    line = TextLines().format(record("claimed %s", "t", action="task_claimed"))

    assert line == "1970-01-01T00:00:01.500Z INFO server: claimed t [task_claimed]"


def test_a_name_forges_no_line() -> None:
    line = TextLines().format(record("claimed %s", "t\n2026 ERROR \x1b[31m", action="task_claimed"))

    assert "\n" not in line
    assert "t\\x0a2026 ERROR \\x1b[31m" in line


def test_a_line_of_json_holds_what_the_event_is_about() -> None:
    line = JsonLines().format(record("claimed %s", "t\n", action="task_claimed", task="t", run="t.1"))

    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "info",
        "component": "server",
        "action": "task_claimed",
        "message": "claimed t\n",
        "task": "t",
        "run": "t.1",
    }


def test_an_outage_is_logged_ever_more_rarely_and_once_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    outage = Outage(logging.getLogger("x"), "the store is away", "store_away", clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for second in range(301):
            now[0] = float(second)
            outage.failed("refused")
        outage.over()
        outage.over()

    assert [each.getMessage() for each in caplog.records] == [
        "the store is away: refused",
        "the store is away (11 times in 10 s): refused",
        "the store is away (31 times in 30 s): refused",
        "the store is away (71 times in 70 s): refused",
        "the store is away (151 times in 150 s): refused",
        "over after 300 s and 301 failures: the store is away",
    ]


def test_a_failure_after_a_quiet_while_is_another_outage(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    outage = Outage(logging.getLogger("x"), "the store is away", "store_away", clock=lambda: now[0])
    for moment in (0.0, 1.0, 2.0, 500.0):
        now[0] = moment
        outage.failed("refused")

    assert [each.getMessage() for each in caplog.records] == ["the store is away: refused"] * 2
