"""Git as a program: how capturing runs it, untouched by the settings of the person it runs for.

Plain argument lists and no GitPython: everything here is plumbing on a temporary index and object directory,
which GitPython would only pass on to the same program, after a tenth of a second of import.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from taskyard.config import environment
from taskyard.errors import UsageError

INHERITED = ("GIT_CONFIG", "GIT_SSL_", "GIT_SSH", "GIT_EXEC_PATH", "GIT_CEILING_", "GIT_DISCOVERY_", "GIT_PROXY_")
"""Of git's variables these alone are passed on: GIT_DIR, GIT_INDEX_FILE and the like name other repositories."""
FIXED = {
    "GIT_OPTIONAL_LOCKS": "0",  # a mere look must not rewrite the person's index
    "GIT_NO_REPLACE_OBJECTS": "1",  # replacements are not part of what the remote has
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C",
}
OVERRIDES = {
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.sparseCheckout": "false",  # files outside the cone that do exist are part of what runs
    "core.hooksPath": os.devnull,
    "core.safecrlf": "false",
    "core.quotePath": "false",
    "submodule.recurse": "false",
    "pack.threads": "1",  # several threads make other bytes each time: the same snapshot has the same blob
    "i18n.commitEncoding": "UTF-8",
    "color.ui": "false",
}


class GitFailed(UsageError):
    """Git said no; `str(error)` holds its own words."""


@dataclass(frozen=True, kw_only=True)
class Git:
    """Runs git in one folder."""

    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)

    def with_env(self, **env: str) -> Git:
        """The same with more variables."""
        return Git(cwd=self.cwd, env={**self.env, **env}, config=self.config)

    def run(self, *args: str, stdin: bytes = b"", stdout: IO[bytes] | None = None) -> bytes:
        """Returns what git printed. Raises GitFailed with its words."""
        done = self._start(args, stdin, stdout)
        if done.returncode != 0:
            raise GitFailed(f"git {args[0]} failed in {self.cwd}: {_words(done.stderr) or done.returncode}")
        return done.stdout or b""

    def line(self, *args: str) -> str:
        """What git printed, as one line of text."""
        return os.fsdecode(self.run(*args)).rstrip("\r\n")

    def lines(self, *args: str, stdin: bytes = b"") -> list[str]:
        """What git printed, line by line."""
        return os.fsdecode(self.run(*args, stdin=stdin)).splitlines()

    def paths(self, *args: str) -> list[str]:
        """What git printed with `-z`, item by item."""
        return [os.fsdecode(item) for item in self.run(*args).split(b"\0") if item]

    def ask(self, *args: str) -> str | None:
        """The line that git printed, None where its answer is no."""
        done = self._start(args, b"", None)
        return os.fsdecode(done.stdout).rstrip("\r\n") if done.returncode == 0 else None

    def head(self, limit: int, *args: str) -> bytes:
        """At most `limit` bytes of what git would print; git is ended there."""
        with subprocess.Popen(
            self._argv(args),
            cwd=self.cwd,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            data = process.stdout.read(limit)
            process.kill()
        return data

    def _start(
        self, args: Sequence[str], stdin: bytes, stdout: IO[bytes] | None
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                self._argv(args),
                cwd=self.cwd,
                env=self._environ(),
                input=stdin,
                stdout=stdout or subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
            )
        except FileNotFoundError as error:
            raise UsageError("git is not installed, or not on the PATH: install it and try again") from error

    def _argv(self, args: Sequence[str]) -> list[str]:
        config = {**OVERRIDES, **self.config}
        return ["git", *(word for name, value in config.items() for word in ("-c", f"{name}={value}")), *args]

    def _environ(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in environment().items()
            if not name.startswith("GIT_") or name.startswith(INHERITED)
        }
        return {**kept, **FIXED, **self.env}


def joined(paths: Sequence[str]) -> bytes:
    """Paths as git reads them from standard input with `-z`."""
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _words(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("hint:", "warning:"))) or "\n".join(lines)
