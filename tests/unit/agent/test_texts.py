"""Texts of commands and tools, as every store and terminal takes them."""

from __future__ import annotations

import json

import pytest
from taskyard.wire import Outcome, OutcomeKind, Phase, Reason, RunReport, Sample
from taskyard_agent.texts import LONGEST, clean, cleaned, finite, storable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ValueError: bad lr", "ValueError: bad lr"),
        ("Größe → 3 🙂", "Größe → 3 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("NUL \0 inside", "NUL \ufffd inside"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("bell \x07 and C1 \x9b", "bell \ufffd and C1 \ufffd"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("dos\r\nline", "dos\nline"),
    ],
)
def test_what_no_store_or_terminal_takes_is_replaced(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_a_text_that_is_too_long_keeps_how_it_begins_and_ends() -> None:
    text = clean("begin" + "x" * 1_000_000 + "end")

    assert len(text) <= LONGEST
    assert text.startswith("begin")
    assert text.endswith("end")


def test_every_text_of_a_record_is_cleaned_and_the_rest_stays() -> None:
    outcome = Outcome(
        kind=OutcomeKind.FAILED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=3, message="KeyError: '\0'"
    )
    report = RunReport(id="t.1", control_token="c", phase=Phase.RUNNING, notes=("a\0", "b"))

    assert cleaned(outcome) == Outcome(
        kind=OutcomeKind.FAILED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=3, message="KeyError: '\ufffd'"
    )
    assert cleaned((report,))[0].notes == ("a\ufffd", "b")
    assert cleaned({"a\0": ["b\0"]}) == {"a\ufffd": ["b\ufffd"]}


def test_a_command_line_keeps_all_but_what_no_server_takes() -> None:
    assert storable("a\rb\x1b") == "a\rb\x1b"
    assert json.dumps(storable("a\0b\udcff"), ensure_ascii=False).encode() == b'"a\xef\xbf\xbdb?"'


def test_measurements_that_are_no_numbers_are_left_out() -> None:
    good = Sample(subject="worker:w", name="cpu_percent", at=1.0, value=2.0)
    bad = [
        Sample(subject="worker:w", name="cpu_percent", at=1.0, value=float("nan")),
        Sample(subject="worker:w", name="cpu_percent", at=float("inf"), value=1.0),
    ]

    assert finite([bad[0], good, bad[1]]) == [good]
