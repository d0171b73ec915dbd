"""Leaving a terminal by its escape."""

from __future__ import annotations

import pytest
from taskyard.cli.remote_terminal import Escape


@pytest.mark.parametrize(
    ("typed", "sent", "left"),
    [
        ([b"ls\r"], b"ls\r", False),
        ([b"~."], b"", True),
        ([b"ls\r~.rest"], b"ls\r", True),
        ([b"ls\r", b"~", b"."], b"ls\r", True),
        ([b"cd ~.\r"], b"cd ~.\r", False),
        ([b"~~."], b"~~.", False),
        ([b"~/bin/x\r"], b"~/bin/x\r", False),
        ([b"\r", b"~", b"root\r"], b"\r~root\r", False),
    ],
)
def test_the_escape_leaves_at_the_beginning_of_a_line_alone(typed: list[bytes], sent: bytes, left: bool) -> None:
    escape = Escape()

    assert b"".join(escape.feed(keys) for keys in typed) == sent
    assert escape.given is left
