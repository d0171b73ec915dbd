"""Runs a program for a run that is being prepared: its output line by line, ended as soon as the run is."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from .errors import RunStopped

_POLL_SECONDS = 0.1
_TERM_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program in a session of its own, of which nothing is left when `lines` has ended."""

    argv: Sequence[str]
    cwd: Path
    variables: Mapping[str, str]
    cancelled: threading.Event
    term_seconds: float = _TERM_SECONDS
    """Between SIGTERM and SIGKILL when the run is ended."""
    held_fds: tuple[int, ...] = ()
    """Inherited by it: a lock that is to be held as long as the program lives."""

    def lines(self) -> Generator[str, None, int]:
        """Starts it and yields what it writes; returns the exit code.

        Raises OSError when it cannot be started, RunStopped when the run was ended meanwhile.
        """
        process = self._start()
        try:
            rest = b""
            for chunk in self._chunks(cast("IO[bytes]", process.stdout)):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (_readable(line) for line in lines)
            if rest:
                yield _readable(rest)
            while not _ends_within(process, _POLL_SECONDS):
                self._stop_if_cancelled()
        finally:
            self._end(process)
        return int(process.returncode)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv,
            cwd=self.cwd,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=self.held_fds,
        )

    def _chunks(self, pipe: IO[bytes]) -> Iterator[bytes]:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                self._stop_if_cancelled()
                if not selector.select(_POLL_SECONDS):
                    continue
                chunk = os.read(pipe.fileno(), 65536)
                if not chunk:
                    return
                yield chunk

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise RunStopped("the run was ended while it was prepared")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the program and everything it started; one that ended by itself is only collected."""
        cast("IO[bytes]", process.stdout).close()
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            if not _ends_within(process, self.term_seconds):
                _signal_group(process, signal.SIGKILL)
        process.wait()


class Lines:
    """What a program writes, line by line; its exit code once that has ended."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.exit_code = 0

    def __iter__(self) -> Iterator[str]:
        self.exit_code = yield from self._program.lines()


def _readable(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
