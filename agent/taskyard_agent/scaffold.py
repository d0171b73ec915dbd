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
CERTIFICATE = "ca.pem"
INSTALLED = f"/opt/worker/{CERTIFICATE}"
"""Where the image has it, and a machine without containers."""
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
        flags += ["--ca-file", INSTALLED] if self.link.ca_file else []
        return {
            "name": self.name,
            "queue": self.queue,
            "base": self.base,
            "server": self.link.server,
            "version": __version__,
            "flags": "".join(f', "{flag}"' for flag in flags),
            "unit_flags": "".join(f" {flag}" for flag in flags),
            "certificate": f"install -D --mode 0644 {CERTIFICATE} {INSTALLED}\n" if self.link.ca_file else "",
            "network": "    network_mode: host        # the server is on this machine\n" if here else "",
        }


def write(folder: Path, worker: CustomWorker, *, force: bool) -> tuple[Path, ...]:
    """Writes the worker's files, with the server's certificate where it has one of its own; returns them.

    Raises SettingsError for a folder that holds something, and for a certificate that cannot be read.

    With `force` its files are overwritten; those of other names stay as they are.
    """
    if folder.exists() and not (folder.is_dir() and (force or not any(folder.iterdir()))):
        raise SettingsError(f"{folder} is not an empty folder: name another, or overwrite its files with --force")
    authorities = _authorities(worker.link.ca_file)
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write(folder, template, worker) for template in sorted(TEMPLATES.iterdir())]
    if authorities is not None:
        written.append(folder / CERTIFICATE)
        written[-1].write_bytes(authorities)
        written[-1].chmod(0o644)  # the image copies the mode, and its agent is no root
    return tuple(written)


def _authorities(ca_file: Path | None) -> bytes | None:
    """The certificates that the server's own is checked by, where they are not the system's."""
    try:
        return None if ca_file is None else ca_file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"--ca-file {ca_file}: {error.strerror}; name the file with the server's certificate"
        ) from error


def _write(folder: Path, template: Path, worker: CustomWorker) -> Path:
    name = f".{template.name}" if template.name in HIDDEN else template.name
    path = folder / name
    path.write_text(Template(template.read_text(encoding="utf-8")).substitute(worker.words), encoding="utf-8")
    return path
