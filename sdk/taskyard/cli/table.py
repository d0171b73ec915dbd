"""Tables that fit a terminal: which columns give way, how cells are cut, and what is coloured."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

GAP_CELLS = 2
UNCUT = ("ID", "TASK", "AT", "STATE", "POSITION", "FITS")
"""Columns that are of no use when they are cut: a narrow terminal takes from the others."""
CUT_LAST = ("NAME",)
WRAPPED = ("REASON",)
"""Columns of sentences, which go on in the next line."""
LEFT_OUT = ("DESCRIPTION", "CREATED", "USED", "SEEN", "WORKER", "QUEUE", "BY", "LAST LINE")
"""Columns that a narrow terminal goes without, the first one first, before a name is cut."""
LEAST_CELLS = 2
LEAST_OF_A_TITLE_CELLS = 4
LEAST_OF_A_VALUE_CELLS = 6
_CODES = {"green": "32", "bold green": "1;32", "bold red": "1;31", "red": "31", "yellow": "33"}
_CODES |= {"cyan": "36", "blue": "34", "dim": "2", "bold": "1"}
STYLES = {
    "running": "green",
    "preparing": "green",
    "completed": "bold green",
    "failed": "bold red",
    "cancelled": "yellow",
    "lost": "red",
    "idle": "green",
    "busy": "cyan",
    "paused": "yellow",
    "queued": "cyan",
    "waiting": "blue",
    "draft": "dim",
}


def lines(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    room: int,
    colours: bool = False,
    mark: str = "…",
    keep: bool = False,
) -> list[str]:
    """Return the lines of a table that is at most `room` cells wide.

    `mark` ends what is cut. `keep`: a person chose the columns, so none is left out.
    """
    columns, cells = _without_the_empty(columns, cells, room, keep=keep)
    while not keep and (least := _least_useful(columns, cells, room)) is not None:
        columns, cells = _without(least, columns, cells)
    widths = _widths(columns, cells, room)
    title = _line([_cut(column, width, mark) for column, width in zip(columns, widths, strict=True)], widths)
    made = [styled(title, "bold") if colours else title]
    for row in cells:
        made += _row(columns, row, widths, mark, colours=colours)
    return made


def styled(text: str, style: str) -> str:
    """Return the text with the codes of a style around it."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style else text


def cell_len(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _row(
    columns: Sequence[str], row: Sequence[str], widths: Sequence[int], mark: str, *, colours: bool
) -> list[str]:
    parts = [
        _folded(cell, width) if column in WRAPPED else [_cut(cell, width, mark)]
        for column, cell, width in zip(columns, row, widths, strict=True)
    ]
    styles = [STYLES.get(cell, "") if colours else "" for cell in row]
    height = max(map(len, parts))
    return [
        _line([part[number] if number < len(part) else "" for part in parts], widths, styles)
        for number in range(height)
    ]


def _line(cells: Sequence[str], widths: Sequence[int], styles: Sequence[str] = ()) -> str:
    padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    padded[-1] = padded[-1].rstrip()
    shown = [styled(cell, style) for cell, style in zip(padded, styles or [""] * len(padded), strict=True)]
    return (" " * GAP_CELLS).join(shown).rstrip()


def _cut(text: str, width: int, mark: str) -> str:
    if cell_len(text) <= width:
        return text
    kept, left = "", width - len(mark)
    for char in text:
        left -= _cells(char)
        if left < 0:
            break
        kept += char
    return (kept + mark)[:width]


def _folded(text: str, width: int) -> list[str]:
    if text.isascii():
        return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
    folded, line = list[str](), ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and cell_len(longer) > width:
            folded.append(line)
            longer = word
        while cell_len(longer) > width:
            head = _cut(longer, width, "")
            folded.append(head)
            longer = longer[len(head) :]
        line = longer
    return [*folded, line]


# --- which columns, and how wide


def _without_the_empty(
    columns: Sequence[str], cells: Sequence[Sequence[str]], room: int, *, keep: bool
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the same table; where it is too wide, without the columns that say nothing."""
    if keep or _width(_natural(columns, cells)) <= room:
        return columns, cells
    for number in reversed(range(len(columns))):
        if not any(row[number] for row in cells):
            columns, cells = _without(number, columns, cells)
    return columns, cells


def _least_useful(columns: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> int | None:
    """Return the column to leave out, if names would be cut, or values to nothing, with all of them."""
    least = [
        width if column in (*UNCUT, *CUT_LAST) else min(width, LEAST_OF_A_VALUE_CELLS)
        for column, width in zip(columns, _natural([""] * len(columns), cells), strict=True)
    ]
    if _width(least) <= room:
        return None
    return next((list(columns).index(name) for name in LEFT_OUT if name in columns), None)


def _without(
    number: int, columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    return [*columns[:number], *columns[number + 1 :]], [[*row[:number], *row[number + 1 :]] for row in cells]


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return cells per column: the widest give way until the table fits, names last, and some never.

    Titles that are wider than what is below them give way first.
    """
    widths, below = _natural(columns, cells), _natural([""] * len(columns), cells)
    flexible = [number for number, column in enumerate(columns) if column not in UNCUT]
    while flexible and _width(widths) > room:
        titles = [number for number in flexible if widths[number] > max(below[number], LEAST_OF_A_TITLE_CELLS)]
        values = [
            number
            for number in flexible
            if columns[number] not in CUT_LAST and widths[number] > LEAST_OF_A_VALUE_CELLS
        ]
        widest = max(titles or values or flexible, key=widths.__getitem__)
        if widths[widest] <= LEAST_CELLS:
            break
        widths[widest] -= 1
    return widths


def _natural(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + GAP_CELLS * (len(widths) - 1)
