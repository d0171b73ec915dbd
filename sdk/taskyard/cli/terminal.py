"""What of a log reaches a terminal: text, colours and progress bars, and no order that a terminal would obey."""

from __future__ import annotations

import re

LONGEST_ORDER = 4096
"""Of a title, a link or a clipboard's content; an order that is longer is shown as text."""

_STRING = rb"\x1b[\]PX^_][^\x07\x1b\n]{0,%d}" % LONGEST_ORDER
_ORDER = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, movements, questions that the terminal answers by typing
    rb"|" + _STRING + rb"(?:\x07|\x1b\\)"  # titles, links, the clipboard, device strings
    rb"|\x1b[ -/]*[0-~]?"  # everything else that begins with an escape
    rb"|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]"
    rb"|\xc2[\x80-\x9f]",  # the same orders in one character
)
_HARMLESS = re.compile(rb"\x1b\[(?:[0-9;:]*[mABCDEFGJK]|\?25[hl])")
"""Colours, movements within what is shown, erasing, and hiding the cursor: what progress bars are made of."""
_UNFINISHED = re.compile(rb"(?:\x1b(?:\[[0-?]*[ -/]*|[ -/]*)|" + _STRING + rb"\x1b?|\xc2)\Z")


class TerminalFilter:
    """Takes a log in pieces. The result does not depend on where they were cut."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """Returns what may be written now; the beginning of an order waits for its end."""
        data = self._held + piece
        unfinished = _UNFINISHED.search(data)
        end = unfinished.start() if unfinished else len(data)
        self._held = data[end:]
        return _ORDER.sub(_kept, data[:end])


def _kept(found: re.Match[bytes]) -> bytes:
    return found[0] if _HARMLESS.fullmatch(found[0]) else b""
