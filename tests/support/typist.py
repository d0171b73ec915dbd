"""A person at a pseudo-terminal in front of a command that stays: types, looks, changes the window's size."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from types import TracebackType

from tests.support.person import TASKYARD, Person

LIMIT_SECONDS = 60.0


class Typist:
    """`taskyard WORDS` on a terminal of its own, until it ends."""

    def __init__(self, person: Person, *words: str, rows: int = 24, columns: int = 80) -> None:
        self.shown = ""
        self._terminal, inner = pty.openpty()
        self.resize(rows, columns)
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *TASKYARD, *words],
            cwd=person.work,
            env=person.variables,
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)

    def __enter__(self) -> Typist:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._terminal)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def types(self, text: str) -> None:
        """Presses the keys."""
        os.write(self._terminal, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Changes the window, as a mouse would."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def sees(self, text: str) -> str:
        """Waits until the screen shows a text that it did not show when this was called last; returns up to it."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} is not shown, but:\n{self.shown}"
            assert self._read(), f"it ended without {text!r}:\n{self.shown}"
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def ends(self) -> int:
        """Waits for the end of the command; returns its exit code."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self._read() and time.monotonic() < deadline:
            pass
        return self._process.wait(LIMIT_SECONDS)

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
