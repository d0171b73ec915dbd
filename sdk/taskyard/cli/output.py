"""What commands print: tables on a terminal, tab-separated lines in a pipe, JSON where it is asked for."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from taskyard.cli.table import STYLES, lines, styled
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.wire import Command

_UNITS = ("B", "kB", "MB", "GB", "TB")
"""Powers of 1000. What is asked for is counted in powers of 1024: `asking.size_in_words`."""
_PLAIN = {"…": "...", "–": "-", "—": "-", "→": "->", "≤": "<=", "≥": ">=", "×": "x", "’": "'", "‘": "'"}
_PLAIN |= {"“": '"', "”": '"', "•": "*", "·": "-", "✓": "+", "✗": "x", **dict.fromkeys("█▉▊▋▌▍▎▏", "#")}
"""What stands for our own words' signs where they cannot be shown."""
_FIELDS = re.compile(r"[a-z][a-z_.]*(,[a-z][a-z_.]*)+")
_NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class _Chosen:
    """What the command line asks of all that it prints."""

    fields: tuple[str, ...] = ()
    csv: bool = False


_chosen = _Chosen()


def print_json(value: Any) -> None:
    """Prints records in the wire's own field names, or the fields of them that `--json FIELD,…` names."""
    from taskyard.wire import to_json

    found = to_json(value)
    if _chosen.fields:
        found = picked(found, _chosen.fields)
    print(json.dumps(found, indent=2, ensure_ascii=not _speaks_unicode(sys.stdout)))


def choose(fields: Sequence[str], *, csv: bool) -> None:
    """Set what this command line asks for: fields of the records, a table as CSV."""
    if csv and fields:
        raise UsageError("give --json or --csv")
    _chosen.fields, _chosen.csv = tuple(fields), csv


def add_csv(parser: Any) -> None:
    """Add the flag that `print_table` obeys."""
    parser.add_argument("--csv", action="store_true", help="print a table with its heads as CSV, times in seconds")


def without_fields(words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the command line with `--json` alone, and the fields behind it: `--json=id`, `--json id,state`.

    A single word behind `--json` may be a task; so one field is written with the sign.
    """
    kept, fields = list[str](), ""
    for word in words:
        if word.startswith("--json="):
            kept, fields = [*kept, "--json"], word.partition("=")[2]
        elif kept and kept[-1] == "--json" and _FIELDS.fullmatch(word):
            fields = word
        else:
            kept.append(word)
    return kept, tuple(name for name in fields.split(",") if name)


def picked(value: Any, fields: Sequence[str]) -> Any:
    """Return the fields of a JSON document, of each where it is a list; `spec.name` reaches into it.

    Raises UsageError for a field that none of them has.
    """
    if isinstance(value, list):
        unknown = [name for name in fields if value and not any(_has(item, name) for item in value)]
    else:
        unknown = [name for name in fields if not _has(value, name)]
    if unknown:
        first = value[0] if isinstance(value, list) else value
        known = ", ".join(first) if isinstance(first, dict) else "none"
        raise UsageError(f"--json: there is no field {unknown[0]!r}; there are: {known}")
    if isinstance(value, list):
        return [{name: _reached(item, name) for name in fields} for item in value]
    return {name: _reached(value, name) for name in fields}


def _has(value: Any, name: str) -> bool:
    """Whether the field is there, or lies in something that is not there this time."""
    for part in name.split("."):
        if value is None:
            return True
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _reached(value: Any, name: str) -> Any:
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "", keep: bool = False
) -> None:
    """A table that fits the terminal; in a pipe the bare rows, one per line, tabs between the cells.

    `keep`: a person chose the columns, so a narrow terminal leaves none out.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    if _chosen.csv:
        _print_csv(columns, cells)
    elif not sys.stdout.isatty():
        for row in cells:
            print("\t".join(row))
    elif cells:
        print("\n".join(_lines(columns, cells, keep=keep)))
    elif empty:
        note(empty)


def _print_csv(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_no_formula(cell) for cell in row] for row in cells)


def _no_formula(cell: str) -> str:
    """Return the cell so that a spreadsheet takes it for text: names come from others."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(cell) else cell


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, keep: bool = False) -> str:
    """The same table for a live display."""
    return "\n".join(_lines(columns, [[clean(cell) for cell in row] for row in rows], keep=keep))


def _lines(columns: Sequence[str], cells: list[list[str]], *, keep: bool) -> list[str]:
    room = shutil.get_terminal_size().columns
    mark = "…" if _speaks_unicode(sys.stdout) else "~"
    return lines(columns, cells, room=room, colours=in_colours(sys.stdout), mark=mark, keep=keep)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair per line; pairs without a value are left out."""
    pairs = [(name, clean(value)) for name, value in fields if value not in (None, "", ())]
    if not sys.stdout.isatty():
        for name, value in pairs:
            print(f"{name}\t{value}")
        return
    width = max((len(name) for name, _ in pairs), default=0)
    colours = in_colours(sys.stdout)
    for name, value in pairs:
        print(f"{name:<{width}} ", styled(value, STYLES.get(value, "") if colours else ""))


def note(text: str, *, indent: int = 0) -> None:
    """A word to the person beside the output, on standard error; on a terminal long lines go on at `indent`."""
    if indent and sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)
    print(text, file=sys.stderr)


def print_next(commands: Sequence[tuple[str, str]]) -> None:
    """Say what to type next, each line with what it does; only to a person at a terminal."""
    if not sys.stdout.isatty():
        return
    width = max((len(line) for line, _ in commands), default=0)
    for line, what in commands:
        note(f"taskyard {line:<{width}}  {what}")


def trouble(error: Exception) -> str:
    """What went wrong and what to do; of the operating system's refusals it says whom they concern."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error)
    if error.filename is None:
        return f"{reason}; is the disk full, or the current folder gone?"
    return f"cannot use {clean(error.filename)}: {reason}; make it usable, or name another place"


def in_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, unless its reader wants none (`NO_COLOR`)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    return sys.platform != "win32" or bool(os.environ.get("WT_SESSION") or os.environ.get("TERM"))


def make_printable() -> None:
    """Let output be readable where the terminal or the pipe cannot carry every letter (Latin-1, cp1252)."""
    codecs.register_error("taskyard", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _speaks_unicode(stream):
            stream.reconfigure(errors="taskyard")


def _speaks_unicode(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "").replace("_", "") in ("utf8", "utf16", "utf32")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_PLAIN.get(char, "?") for char in found), error.end


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
    """Such as 512 B, 3.4 MB, in powers of 1000."""
    if count is None:
        return ""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
