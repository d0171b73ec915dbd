"""Runs the programs that build environments: logged line by line, masked, cancellable, with few variables."""

from __future__ import annotations

import collections
import os
import re
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, cast

from taskyard.wire import Reason

from taskyard_agent.environments.indexes import mask
from taskyard_agent.environments.request import Log, failed
from taskyard_agent.errors import RunFailed, RunStopped

# The agent's token and whatever else it was started with stay away from build scripts, which are the task's code.
# fmt: off
VISIBLE = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR",
    "LD_LIBRARY_PATH", "SSH_AUTH_SOCK", "NETRC",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS",
    "PIP_CONFIG_FILE", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_TIMEOUT",
    "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES",
    "PIP_TRUSTED_HOST", "PIP_KEYRING_PROVIDER", "UV_INDEX_*_USERNAME", "UV_INDEX_*_PASSWORD",
    "UV_KEYRING_PROVIDER",
    "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_OFFLINE", "UV_CONCURRENT_*",
)
# fmt: on
TAIL_LINES = 20
_POLL_SECONDS = 0.1
_TERM_SECONDS = 0.5

_DISK = re.compile(r"no space left on device|disk quota exceeded|os error 28|errno 28|errno 122", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"dns error|connection refused|connection reset|connection closed|tcp connect error|timed? ?out"
    r"|error sending request|failed to establish a new connection|name resolution|name or service not known"
    r"|network is unreachable|no route to host|max retries exceeded|certificate verify failed"
    r"|invalid peer certificate|\b50[0234]\b.{0,40}(server error|bad gateway|unavailable|gateway)"
    r"|http status server error|request failed after \d+ retries|tunnel connection failed",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Installer:
    """Runs programs for one build."""

    log: Log
    cancelled: threading.Event
    downloads: Path
    """Where tools keep what they fetched."""
    variables: Mapping[str, str] = field(default_factory=dict)
    held_fds: tuple[int, ...] = ()
    """Inherited by every program: one that outlives a killed agent keeps the build's lock until it ends."""

    def holding(self, lock: int) -> Installer:
        """Returns this installer with one more descriptor for its programs to inherit."""
        return replace(self, held_fds=(*self.held_fds, lock))

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        variables: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> list[str]:
        """Runs a program and returns its output. `quiet`: logged only when it fails.

        Raises RunFailed with its last lines, RunStopped when the run was cancelled meanwhile.
        """
        process = self._start([str(part) for part in argv], cwd, {**self.variables, **(variables or {})})
        output: list[str] = []
        try:
            for line in self._lines(process):
                output.append(line)
                if not quiet:
                    self.log(line)
            self._wait(process)
        finally:
            _end(process)
        if process.returncode:
            if quiet:
                self._log_all(output)
            raise failure_of(Path(argv[0]).name, process.returncode, output)
        return output

    def _start(self, argv: list[str], cwd: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                argv,
                cwd=cwd,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self.held_fds,
            )
        except OSError as error:
            raise failed(f"cannot start {argv[0]}: {error.strerror or error}", infrastructure=True) from error

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[str]:
        rest = b""
        for chunk in self._chunks(cast("IO[bytes]", process.stdout)):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (_readable(line) for line in lines)
        if rest:
            yield _readable(rest)

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

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while not _ends_within(process, _POLL_SECONDS):
            self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise RunStopped("the run was ended while its environment was built")

    def _log_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.log(line)


def visible_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns the part of the agent's variables that an installer may see."""
    return {name: value for name, value in variables.items() if any(fnmatch(name, mark) for mark in VISIBLE)}


def failure_of(program: str, code: int, output: Sequence[str]) -> RunFailed:
    """Returns what a failed program means, in its own last words."""
    tail = collections.deque((line for line in output if line.strip()), maxlen=TAIL_LINES)
    words = "\n".join(tail)
    if _DISK.search(words):
        return failed(f"the disk is full:\n{words}", reason=Reason.DISK, infrastructure=True)
    if _UNREACHABLE.search(words):
        return failed(
            f"the package index cannot be reached:\n{words}", reason=Reason.PACKAGE_INDEX, infrastructure=True
        )
    return failed(f"{program} ended with {code}:\n{words}")


def _readable(line: bytes) -> str:
    return mask(line.decode("utf-8", "replace").rstrip("\r"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and everything it started; one that ended by itself is only collected."""
    cast("IO[bytes]", process.stdout).close()
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        if not _ends_within(process, _TERM_SECONDS):
            _signal_group(process, signal.SIGKILL)
    process.wait()


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
