"""Git as a program on the agent: no terminal, no configuration of the task's, ended within a second."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from taskyard_agent.errors import RunStopped

from .failure import GitFailed

FIXED_CONFIG = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.autocrlf": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.askPass": "",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "checkout.workers": "0",
}
FIXED_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "LC_ALL": "C",
}
OFFLINE = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ALLOW_PROTOCOL": "none"}
"""For every call that needs no network: the operator's own configuration is not read either."""
INHERITED = ("GIT_SSL_", "GIT_EXEC_PATH", "GIT_PROXY_SSL_")
CREDENTIALS = re.compile(r"(://)[^/@\s']+@")
NOISE = re.compile(
    r"warning: |hint: |(?:remote: )?(?:Enumerating|Counting|Compressing|Receiving) objects: .*done|remote: Total "
)
POLL_SECONDS = 0.1
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Git:
    """Runs git on one git directory."""

    git_dir: Path
    work_tree: Path | None = None
    environ: Mapping[str, str]
    """The agent's own variables."""
    cancelled: threading.Event
    locks: tuple[int, ...] = ()
    """Descriptors that git inherits: a lock holds until git, too, has ended."""
    config: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Values that are masked in git's words."""

    def at(self, git_dir: Path, work_tree: Path | None = None, locks: tuple[int, ...] | None = None) -> Git:
        """The same for other folders."""
        return replace(self, git_dir=git_dir, work_tree=work_tree, locks=self.locks if locks is None else locks)

    def with_access(self, env: Mapping[str, str], config: Mapping[str, str], secrets: tuple[str, ...]) -> Git:
        """The same with the network and one call's credentials."""
        return replace(self, env=env, config=config, secrets=secrets)

    def run(
        self,
        *args: str,
        stdin: Path | bytes | None = None,
        seconds: float | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> bytes:
        """Returns what git printed. Raises GitFailed, and RunStopped once the run is cancelled."""
        if self.cancelled.is_set():
            raise RunStopped("cancelled during the checkout")
        with tempfile.TemporaryFile() as words, _input(stdin) as source:
            process = self._start(args, source, words)
            try:
                printed = self._wait(
                    process, stdin if isinstance(stdin, bytes) else None, words, seconds, progress
                )
            finally:
                _end(process)
            if process.returncode != 0:
                raise GitFailed(self._masked(_read(words)) or f"git {args[0]} ended with {process.returncode}")
        return printed

    def ask(self, *args: str) -> bool:
        """Whether git answers yes."""
        try:
            self.run(*args)
        except GitFailed:
            return False
        return True

    def line(self, *args: str) -> str:
        """What git printed, as one line."""
        return os.fsdecode(self.run(*args)).strip()

    def _start(self, args: Sequence[str], source: IO[bytes] | int, words: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._argv(args),
                cwd=self.work_tree or os.sep,
                env=self._environ(),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=words,
                pass_fds=self.locks,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise GitFailed(f"git cannot be started: {error}") from error

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        given: bytes | None,
        words: IO[bytes],
        seconds: float | None,
        progress: Callable[[str], None] | None,
    ) -> bytes:
        began = told = time.monotonic()
        while True:
            try:
                return process.communicate(given, timeout=POLL_SECONDS)[0]
            except subprocess.TimeoutExpired:
                given = None  # what is left of it goes on being written
            now = time.monotonic()
            if self.cancelled.is_set():
                raise RunStopped("cancelled during the checkout")
            if seconds is not None and now - began > seconds:
                raise GitFailed(f"gave up after {seconds:.0f} s\n{self._masked(_read(words))}", timed_out=True)
            if progress is not None and now - told > PROGRESS_SECONDS:
                told = now
                progress(_latest(self._masked(_read(words))))

    def _argv(self, args: Sequence[str]) -> list[str]:
        tree = [f"--work-tree={self.work_tree}"] if self.work_tree else []
        config = {**FIXED_CONFIG, **self.config}
        settings = [word for name, value in config.items() for word in ("-c", f"{name}={value}")]
        return ["git", f"--git-dir={self.git_dir}", *tree, *settings, *args]

    def _environ(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in self.environ.items()
            if not name.startswith(("GIT_", "TASKYARD_")) or name.startswith(INHERITED)
        }
        kept.pop("SSH_ASKPASS", None)
        return {**kept, **FIXED_ENVIRONMENT, **(self.env or OFFLINE)}

    def _masked(self, words: str) -> str:
        for secret in self.secrets:
            words = words.replace(secret, "***")
        return CREDENTIALS.sub(r"\1", words)


@contextlib.contextmanager
def _input(stdin: Path | bytes | None) -> Iterator[IO[bytes] | int]:
    if isinstance(stdin, Path):
        with stdin.open("rb") as source:
            yield source
    else:
        yield subprocess.PIPE if isinstance(stdin, bytes) else subprocess.DEVNULL


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends git and its helpers, if they still run."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read(words: IO[bytes]) -> str:
    size = os.fstat(words.fileno()).st_size
    text = os.pread(words.fileno(), 16_384, max(0, size - 16_384)).decode(errors="replace")
    # Progress overwrites its line with a carriage return: only what would still be seen is kept.
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line and not NOISE.match(line))


def _latest(words: str) -> str:
    return words.splitlines()[-1] if words else "waiting for the host"
