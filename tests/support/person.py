"""A person at a keyboard: a home of their own, and a command line typed in some folder."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from taskyard.config import Credentials

from tests.support.forked import can_be_forked, run
from tests.support.servers import ServerProcess

TASKYARD = (sys.executable, "-m", "taskyard.cli")
LIMIT_SECONDS = 90


class Person:
    """Somebody whose settings, caches and logins are in `home` alone."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        self.work = home / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKYARD_")}
        folders = {name: str(home / name.lower()) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
        self.variables = kept | folders | variables

    @property
    def settings(self) -> Path:
        """The folder of this person's settings and logins."""
        return self.home / "xdg_config_home" / "taskyard"

    def log_in(self, server: ServerProcess) -> Person:
        """As the server's administrator."""
        Credentials(self.settings / "credentials.json").save(server.url, server.admin_token, default=True)
        return self

    def types(
        self, *words: str, folder: Path | None = None, text: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `taskyard WORDS` to its end with `text` on standard input; nobody is at a terminal."""
        variables = self.variables | variables
        if words[:1] != ("agent",) and can_be_forked(
            variables
        ):  # an agent takes its folder's default as it starts
            folder = folder or self.work
            return run("taskyard.cli", words, variables=variables, text=text, folder=folder, seconds=LIMIT_SECONDS)
        return subprocess.run(
            [*TASKYARD, *words],
            cwd=folder or self.work,
            env=variables,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )

    def starts(self, *words: str, log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Starts `taskyard WORDS`, which writes to `log`."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [*TASKYARD, *words], cwd=self.work, env=self.variables | variables, stdout=file, stderr=file
            )

    def answers(self, *words: str, question: str, answer: str) -> tuple[int, str]:
        """Runs `taskyard WORDS` on a terminal and answers its question; returns exit code and what it showed."""
        terminal, inner = pty.openpty()
        process = subprocess.Popen(
            [*TASKYARD, *words],
            cwd=self.work,
            env=self.variables,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,  # else it would ask at the terminal of whoever runs the tests
        )
        os.close(inner)
        shown = _read(terminal, until=question)
        os.write(terminal, f"{answer}\n".encode())
        shown += _read(terminal)
        os.close(terminal)
        return process.wait(LIMIT_SECONDS), shown


def _read(terminal: int, until: str | None = None) -> str:
    """What a terminal shows, up to a text or to its end."""
    shown, deadline = "", time.monotonic() + LIMIT_SECONDS
    while (until is None or until not in shown) and time.monotonic() < deadline:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that nobody holds the other end any more
            break
        if not data:
            break
        shown += data.decode(errors="replace")
    return shown
