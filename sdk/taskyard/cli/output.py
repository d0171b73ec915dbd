"""What commands print: tables on a terminal, tab-separated lines in a pipe, JSON where it is asked for."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskyard.wire import Command

_UNITS = ("B", "KB", "MB", "GB", "TB")
UNCUT = ("ID", "TASK", "AT", "STATE", "POSITION", "FITS")
"""Columns that are of no use when they are cut: a narrow terminal takes from the others."""
WRAPPED = ("REASON",)
"""Columns of sentences, which go on in the next line."""
LEAST_CELLS = 2
LEAST_OF_A_NAME_CELLS = 4
GAP_CELLS = 2
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STYLES = {
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


def print_json(value: Any) -> None:
    """Prints records in the wire's own field names."""
    from taskyard.wire import to_json

    print(json.dumps(to_json(value), indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """A table that fits the terminal; in a pipe the bare rows, one per line, tabs between the cells."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            print("\t".join(row))
    elif cells:
        _console().print(_table(columns, cells))
    elif empty:
        note(empty)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Any:
    """The same table for a live display."""
    return _table(columns, [[clean(cell) for cell in row] for row in rows])


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair per line; pairs without a value are left out."""
    pairs = [(name, clean(value)) for name, value in fields if value not in (None, "", ())]
    if not sys.stdout.isatty():
        for name, value in pairs:
            print(f"{name}\t{value}")
        return
    console = _console()
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        console.print(f"{name:<{width}} ", _styled(value), soft_wrap=True)


def note(text: str, *, indent: int = 0) -> None:
    """A word to the person beside the output, on standard error; on a terminal long lines go on at `indent`."""
    if indent and sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)
    print(text, file=sys.stderr)


def trouble(error: Exception) -> str:
    """What went wrong and what to do; of the operating system's refusals it says whom they concern."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error)
    if error.filename is None:
        return f"{reason}; is the disk full, or the current folder gone?"
    return f"cannot use {clean(error.filename)}: {reason}; make it usable, or name another place"


def clean(value: object) -> str:
    """One line without control characters: names come from others, and a terminal obeys."""
    text = "" if value is None else str(value)
    return "".join(" " if char in "\t\n\r" else char if _harmless(char) else "\ufffd" for char in text)


def _harmless(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs") or char == "\u200d"


def command_line(command: Command) -> str:
    """The command as a person would type it."""
    python = () if command.kind == "executable" else ("python", *command.python_args)
    module = ("-m",) if command.kind == "module" else ()
    return clean(shlex.join((*python, *module, command.target, *command.args)))


def duration(seconds: float | None) -> str:
    """Such as 0.8 s, 42 s, 3m10s, 2h05m, 3d04h."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def ago(at: float | None) -> str:
    """How long before now."""
    return "" if at is None else f"{duration(time.time() - at)} ago"


def moment(at: float | None) -> str:
    """A local date and time."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def size(count: float | None) -> str:
    """Such as 512 B, 3.4 MB."""
    if count is None:
        return ""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table

    columns, cells = _without_the_empty(columns, cells)
    made = Table(box=None, pad_edge=False, padding=(0, GAP_CELLS, 0, 0), header_style="bold")
    for column, width in zip(columns, _widths(columns, cells), strict=True):
        wrapped = column in WRAPPED
        made.add_column(column, overflow="fold" if wrapped else "ellipsis", no_wrap=not wrapped, width=width)
    for row in cells:
        made.add_row(*(_styled(cell) for cell in row))
    return made


def _without_the_empty(
    columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The same table; where it is too wide, without the columns that say nothing."""
    if sum(_natural_widths(columns, cells)) <= _room(columns):
        return columns, cells
    kept = [number for number in range(len(columns)) if any(row[number] for row in cells)]
    return [columns[number] for number in kept], [[row[number] for number in kept] for row in cells]


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """Cells per column: the widest give way until the table fits, but those that are of no use when cut.

    Names that are wider than what is below them give way first.
    """
    widths, below = _natural_widths(columns, cells), _natural_widths([""] * len(columns), cells)
    flexible = [number for number, column in enumerate(columns) if column not in UNCUT]
    while flexible and sum(widths) > _room(columns):
        wordy = [number for number in flexible if widths[number] > max(below[number], LEAST_OF_A_NAME_CELLS)]
        widest = max(wordy or flexible, key=widths.__getitem__)
        if widths[widest] <= LEAST_CELLS:
            break
        widths[widest] -= 1
    return widths


def _natural_widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]


def _room(columns: Sequence[str]) -> int:
    """Cells of the terminal for the columns together."""
    return int(_console().width) - GAP_CELLS * (len(columns) - 1)


def _styled(cell: str) -> Any:
    from rich.text import Text

    return Text(cell, style=_STYLES.get(cell, ""))
