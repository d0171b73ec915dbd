"""`agent init`: writes a custom worker, an image with an agent that runs tasks in what the image holds."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path

from taskyard import __version__
from taskyard.config import Connection, is_loopback

from .errors import SettingsError

TEMPLATES = Path(__file__).with_name("init")
BASE = "python:3.12-slim-bookworm"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:@-]{0,255}")
HIDDEN = ("dockerignore", "gitignore")
"""Kept without their dots, so that the tools that read such files leave ours alone."""


class Template(string.Template):
    """Files with `@{name}`: `$` is the shell's and Docker's own."""

    delimiter = "@"


@dataclass(frozen=True, kw_only=True)
class CustomWorker:
    """What the files say. Raises SettingsError for a word that would mean something to one of their readers."""

    name: str
    queue: str
    base: str
    link: Connection

    def __post_init__(self) -> None:
        for flag, text, allowed in (
            ("--name", self.name, WORD),
            ("--queue", self.queue, WORD),
            ("--base", self.base, IMAGE),
        ):
            if not allowed.fullmatch(text):
                raise SettingsError(
                    f"{flag} {text!r} cannot stand in a command: give letters, digits, `-`, `_` and `.`"
                )

    @property
    def words(self) -> dict[str, str]:
        """What stands where in the templates."""
        here = is_loopback(self.link.server)
        flags = ["--insecure"] if self.link.insecure else []
        return {
            "name": self.name,
            "queue": self.queue,
            "base": self.base,
            "server": self.link.server,
            "version": __version__,
            "flags": "".join(f', "{flag}"' for flag in flags),
            "unit_flags": "".join(f" {flag}" for flag in flags),
            "network": "    network_mode: host        # the server is on this machine\n" if here else "",
        }


def write(folder: Path, worker: CustomWorker, *, force: bool) -> tuple[Path, ...]:
    """Writes the worker's files; returns them. Raises SettingsError for a folder that holds something.

    With `force` its files are overwritten; those of other names stay as they are.
    """
    if folder.exists() and not (folder.is_dir() and (force or not any(folder.iterdir()))):
        raise SettingsError(f"{folder} is not an empty folder: name another, or overwrite its files with --force")
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(_write(folder, template, worker) for template in sorted(TEMPLATES.iterdir()))


def _write(folder: Path, template: Path, worker: CustomWorker) -> Path:
    name = f".{template.name}" if template.name in HIDDEN else template.name
    path = folder / name
    path.write_text(Template(template.read_text(encoding="utf-8")).substitute(worker.words), encoding="utf-8")
    return path
