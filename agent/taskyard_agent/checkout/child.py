"""Runs a program on a task's code within limits: it cannot take the daemon's memory, or the machine, with it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from taskyard.asking import size_in_words

from taskyard_agent.errors import RunFailed, RunStopped

from .failure import GitFailed, refused

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 5.0
PATIENCE_ONCE_HEARD = 10
"""How many times longer it may be silent once it has said something: it may be at work on what it was given."""
READ_BYTES = 1 << 16
OUTPUT_BYTES = 8 << 20
"""The most that a program may answer, unless its answer is taken record by record."""
WORDS_BYTES = 16_384
STARTER = """
{ ulimit -d "$1"; ulimit -Ht "$2"; ulimit -St "$3"; ulimit -f "$4"; } 2>/dev/null
shift 4
exec "$@"
"""
"""Each limit holds by itself; one that cannot be set is lower already."""
NOISE = re.compile(
    r"warning: |hint: |(?:remote: )?(?:Enumerating|Counting|Compressing|Receiving) objects: .*done|remote: Total "
)
MEMORY = re.compile(
    r"out of memory|cannot allocate memory|malloc failed|memory exhausted|unable to create thread|MemoryError",
    re.IGNORECASE,
)
INPUT = re.compile(r"exceeds maximum allowed size|file too large|(?:died of|by) signal 25", re.IGNORECASE)
PROCESSOR = re.compile(r"(?:died of|by) signal 24", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ChildLimits:
    """What a program may take that handles a task's code."""

    memory_bytes: int = 512 << 20
    """Of its data, the memory that it writes; mapped files do not count."""
    cpu_seconds: int = 1800
    seconds: float = 3600.0
    file_bytes: int = 20 << 30
    """The size of any file that it writes."""

    def around(self, argv: Sequence[str]) -> list[str]:
        """Return what starts the program with these limits, which all that it starts inherits.

        A shell sets them: `preexec_fn` is not safe beside threads, and later may be too late.
        """
        memory, file = self.memory_bytes // 1024, self.file_bytes // 512
        numbers = (memory, self.cpu_seconds + 5, self.cpu_seconds, file)
        return ["/bin/sh", "-c", STARTER, "sh", *map(str, numbers), *argv]

    def reached(self, code: int, words: str) -> str:
        """Return which limit ended a program, as a part of a sentence; empty when none did."""
        if MEMORY.search(words):
            return f"more than {size_in_words(self.memory_bytes)} of memory (--checkout-memory)"
        if code == -signal.SIGXCPU or PROCESSOR.search(words):
            return f"more than {self.cpu_seconds} s of processor time"
        if code == -signal.SIGXFSZ or INPUT.search(words):
            return f"more than {size_in_words(self.file_bytes)} in one file (--checkout-bytes)"
        return ""


@dataclass(frozen=True, kw_only=True)
class Child:
    """One program: its answer, within limits and ended within a second once the run is cancelled."""

    name: str
    """For messages."""
    argv: Sequence[str]
    cwd: str | Path
    environ: Mapping[str, str]
    cancelled: threading.Event
    limits: ChildLimits
    fds: tuple[int, ...] = ()
    """Inherited by it: a lock holds until the program, too, has ended."""
    masked: Callable[[str], str] = str
    progress: Callable[[str], None] | None = None
    seconds: float | None = None
    """How long it may take where running out of time is its host's fault, not the task's."""
    silent_seconds: float | None = None
    """How long it may say nothing before its first word, for the same reason; later ten times as long."""

    def output(self, stdin: Path | bytes | None = None) -> bytes:
        """Return what it printed. Raises GitFailed, RunFailed naming a limit, RunStopped."""
        pieces, size = [], 0
        with contextlib.closing(self._chunks(stdin)) as chunks:
            for chunk in chunks:
                size += len(chunk)
                if size > OUTPUT_BYTES:
                    raise self._over(f"more than {size_in_words(OUTPUT_BYTES)} of answer")
                pieces.append(chunk)
        return b"".join(pieces)

    def records(self) -> Generator[bytes, None, None]:
        """Yield what it prints, one record that ends with a NUL byte at a time. Raises as `output` does."""
        rest = b""
        with contextlib.closing(self._chunks(None)) as chunks:
            for chunk in chunks:
                *whole, rest = (rest + chunk).split(b"\0")
                yield from whole
                if len(rest) > OUTPUT_BYTES:
                    raise self._over(f"more than {size_in_words(OUTPUT_BYTES)} for one name")
        if rest:
            yield rest

    def _chunks(self, stdin: Path | bytes | None) -> Generator[bytes, None, None]:
        if self.cancelled.is_set():
            raise RunStopped("cancelled during the checkout")
        with tempfile.TemporaryFile() as words, _input(stdin) as source:
            process = self._start(source, words)
            try:
                yield from self._printed(process, words)
            finally:
                _end(process)
            if process.returncode != 0:
                raise self._failure(process.returncode, self.masked(last_words(words)))

    def _start(self, source: IO[bytes] | int, words: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self.limits.around(self.argv),
                cwd=self.cwd,
                env=self.environ,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=words,
                pass_fds=self.fds,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise GitFailed(f"{self.name} cannot be started: {error}") from error

    def _printed(self, process: subprocess.Popen[bytes], words: IO[bytes]) -> Iterator[bytes]:
        """Yield what it prints until it has ended. Raises where it must not go on."""
        began = told = heard_at = time.monotonic()
        said = 0
        pipe = cast("IO[bytes]", process.stdout).fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        writes = True
        while writes or process.poll() is None:
            if writes and poll.poll(POLL_SECONDS * 1000):
                chunk = os.read(pipe, READ_BYTES)
                writes = bool(chunk)
                if chunk:
                    yield chunk
            elif not writes:
                ends_within(process, POLL_SECONDS)
            now = time.monotonic()
            self._end_if_due(now - began, words)
            size = os.fstat(words.fileno()).st_size
            if size != said:
                said, heard_at = size, now
            self._end_if_silent(now - heard_at, words, once_heard=said > 0)
            if self.progress is not None and now - told > PROGRESS_SECONDS:
                told = now
                self.progress(_latest(self.masked(last_words(words))))

    def _end_if_due(self, seconds: float, words: IO[bytes]) -> None:
        if self.cancelled.is_set():
            raise RunStopped("cancelled during the checkout")
        if self.seconds is not None and seconds > self.seconds:
            text = f"gave up after {self.seconds:.0f} s\n{self.masked(last_words(words))}"
            raise GitFailed(text, timed_out=True)
        if self.seconds is None and seconds > self.limits.seconds:
            raise self._over(f"more than {self.limits.seconds:.0f} s")

    def _end_if_silent(self, seconds: float, words: IO[bytes], *, once_heard: bool) -> None:
        limit = (self.silent_seconds or 0.0) * (PATIENCE_ONCE_HEARD if once_heard else 1)
        if self.silent_seconds is not None and seconds > limit:
            what = f"gave up after {limit:.0f} s in which the host said nothing"
            raise GitFailed(f"{what}\n{self.masked(last_words(words))}", timed_out=True)

    def _failure(self, code: int, words: str) -> GitFailed | RunFailed:
        limit = self.limits.reached(code, words)
        if limit:
            return self._over(limit)
        if code == 127 and "not found" in words:
            return GitFailed(f"{self.name} cannot be started: {words}")
        return GitFailed(words or f"{self.name} ended with {code}")

    def _over(self, limit: str) -> RunFailed:
        return over_limit(f"{self.name} was ended: the task's code takes {limit}")


def over_limit(what: str) -> RunFailed:
    """The failure of a task whose code takes more than the operator allows: its own, never the machine's."""
    return refused(what, "leave out what the run does not need, or ask the operator of this agent to allow more")


@contextlib.contextmanager
def _input(stdin: Path | bytes | None) -> Iterator[IO[bytes] | int]:
    if stdin is None:
        yield subprocess.DEVNULL
    elif isinstance(stdin, Path):
        with stdin.open("rb") as source:
            yield source
    else:
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            yield given


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the program's end; whether it came in time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it started, if they still run."""
    cast("IO[bytes]", process.stdout).close()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        if not ends_within(process, 0.5):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_words(words: IO[bytes]) -> str:
    """Return the end of what a program wrote as errors, without its progress."""
    size = os.fstat(words.fileno()).st_size
    text = os.pread(words.fileno(), WORDS_BYTES, max(0, size - WORDS_BYTES)).decode(errors="replace")
    # Progress overwrites its line with a carriage return: only what would still be seen is kept.
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line and not NOISE.match(line))


def _latest(words: str) -> str:
    return words.splitlines()[-1] if words else "waiting for the host"
