"""Finds and reads the files of a project that say what it needs."""

from __future__ import annotations

import codecs
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskyard.errors import UsageError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""The longer ones first: UTF-32's begins as UTF-16's."""
_CODING = re.compile(rb"coding[:=]\s*([-\w.]+)")
_INCLUDED = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<name>[^\s#]+)")
_LOCAL = re.compile(r"(?m)^[\s-]*(?:(?:-e|--editable)(?:\s*=\s*|\s+)[\"']?(?!git\+)|(?=\.))(?P<name>[^\s#\[\"']+)")
_SCRIPT_BLOCK = re.compile(r"(?m)^# /// script\s*$\n(?P<body>(^#(| .*)$\n?)+?)^# ///\s*$")


def folders_up(start: Path, root: Path) -> Iterator[Path]:
    """Yields `start` and the folders above it, up to `root`."""
    start, root = start.resolve(), root.resolve()
    if not start.is_relative_to(root):
        start = root
    for folder in (start, *start.parents):
        yield folder
        if folder == root:
            return


def nearest(name: str, start: Path, root: Path) -> Path | None:
    """Returns the first file of that name from `start` up to `root`."""
    files = (folder / name for folder in folders_up(start, root))
    return next((file for file in files if file.is_file()), None)


def read_toml(file: Path) -> dict[str, Any]:
    """Reads a TOML file. Raises UsageError naming it."""
    try:
        return parse_toml(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Reads TOML. Raises UsageError naming where it stands."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return dict(toml.loads(text))
    except ValueError as error:
        raise UsageError(f"{where} is not valid TOML: {error}") from error


def script_block(script: Path) -> dict[str, Any] | None:
    """Returns the PEP 723 table of a script, None when it has none. Raises UsageError for one that is broken."""
    try:
        text = script.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return None
    match = _SCRIPT_BLOCK.search(text)
    if match is None:
        return None
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in match["body"].splitlines())
    return parse_toml("\n".join(lines), str(script))


def decoded(data: bytes) -> str:
    """Return the text of a requirements file as pip reads it: by byte order mark, coding line, or as UTF-8.

    Raises ValueError for any other. https://pip.pypa.io/en/stable/reference/requirements-file-format/#encoding
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding)
    named = (_CODING.search(line) for line in data.split(b"\n")[:2] if line.startswith(b"#"))
    encoding = next((match[1].decode("ascii") for match in named if match), "utf-8")
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise ValueError(str(error)) from error


def text_of(file: Path) -> str:
    """Read a file as pip reads requirements. Raises UsageError naming it and what to do."""
    data = file.read_bytes()
    try:
        return decoded(data)
    except ValueError as error:
        name = shlex.quote(str(file))
        raise UsageError(
            f"{file} is not UTF-8, and no coding line says what it is ({error}); write "
            f"`# -*- coding: latin-1 -*-` above its first line, or convert it: "
            f"iconv -f latin1 -t utf-8 {name} -o {name}.new && mv {name}.new {name}"
        ) from error


def local_projects(text: str) -> list[str]:
    """Return the folders that requirements name as projects: `-e .`, `./libs/tools[extra]`."""
    return [match["name"] for match in _LOCAL.finditer(text) if "://" not in match["name"]]


def check_requirements_file(file: Path, root: Path) -> None:
    """Read a requirements file and those that it includes. Raises UsageError for one that cannot be read."""
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        here = waiting.pop()
        if here.resolve() in seen:
            continue
        seen.add(here.resolve())
        for number, line in enumerate(text_of(here).splitlines(), start=1):
            match = _INCLUDED.match(line)
            if match is None or "://" in match["name"]:
                continue
            included = here.parent / match["name"].strip("'\"")
            if not included.is_file():
                raise UsageError(f"{here}:{number}: there is no {match['name']} beside it")
            if included.resolve().is_relative_to(root):
                waiting.append(included)
