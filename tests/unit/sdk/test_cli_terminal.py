"""What of a log reaches a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard.cli.terminal import TerminalFilter

ORDERS = {
    "title": b"\x1b]0;root\x07",
    "clipboard": b"\x1b]52;c;cm0gLXJmIH4K\x1b\\",
    "device string": b"\x1bP$q\x1b\\",
    "question": b"\x1b[6n",
    "mouse": b"\x1b[?1000h",
    "other screen": b"\x1b[?1049h",
    "reset": b"\x1bc",
    "character set": b"\x1b(0",
    "bell": b"\x07",
    "one-byte question": b"\xc2\x9b6n",
}
HARMLESS = {
    "colours": b"\x1b[1;38;5;196mred\x1b[0m",
    "bar": b" 40%\r 41%\x1b[A\x1b[2K\x1b[?25l",
    "keras": b"1/2\x08\x08\x082/2",
    "text": "grün\tπ\n".encode(),
    "no text": b"\xff\xfe\x80",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_log_cannot_command_the_terminal(order: bytes) -> None:
    shown = TerminalFilter().feed(b"before " + order + b"after\n")

    assert b"\x1b" not in shown
    assert shown in (b"before after\n", b"before 6nafter\n")


@pytest.mark.parametrize("harmless", HARMLESS.values(), ids=HARMLESS)
def test_colours_and_progress_bars_are_shown(harmless: bytes) -> None:
    assert TerminalFilter().feed(harmless + b".") == harmless + b"."


def test_an_order_without_an_end_hides_no_line() -> None:
    shown = TerminalFilter().feed(b"\x1b]0;never ended\nloss 0.1\n")

    assert shown == b"0;never ended\nloss 0.1\n"


@given(pieces=st.lists(st.sampled_from([*ORDERS.values(), *HARMLESS.values()]), max_size=6), cut=st.data())
def test_the_result_does_not_depend_on_the_pieces(pieces: list[bytes], cut: st.DataObject) -> None:
    whole = b"".join(pieces) + b"\n"
    at = cut.draw(st.integers(0, len(whole)))
    in_two = TerminalFilter()

    assert in_two.feed(whole[:at]) + in_two.feed(whole[at:]) == TerminalFilter().feed(whole)
