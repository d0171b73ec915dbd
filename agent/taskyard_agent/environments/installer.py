"""Runs the programs that build environments: logged line by line, masked, cancellable, with few variables."""

from __future__ import annotations

import collections
import contextlib
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from taskyard.wire import Reason
from uv import find_uv_bin

from taskyard_agent.environments.indexes import PYTORCH_HOST, mask
from taskyard_agent.environments.place import Place
from taskyard_agent.environments.request import GitSource, Log, failed
from taskyard_agent.errors import RunFailed
from taskyard_agent.programs import Lines, Program

# The agent's token and whatever else it was started with stay away from build scripts, which are the task's code.
# fmt: off
VISIBLE = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR",
    "LD_LIBRARY_PATH", "SSH_AUTH_SOCK", "NETRC",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS",
    "PIP_CONFIG_FILE", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_TIMEOUT",
    "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES", "PIP_ONLY_BINARY", "UV_NO_BUILD",
    "PIP_TRUSTED_HOST", "PIP_KEYRING_PROVIDER", "UV_INDEX_*_USERNAME", "UV_INDEX_*_PASSWORD",
    "UV_KEYRING_PROVIDER",
    "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_OFFLINE", "UV_CONCURRENT_*",
)
OF_THIS_MACHINE = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LD_LIBRARY_PATH", "SSH_AUTH_SOCK", "NETRC",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDA_HOME", "CUDA_PATH", "PIP_CONFIG_FILE", "PIP_CERT",
    "PIP_CLIENT_CERT",
)
"""Those that name what is not in a container, or is its own there."""
# fmt: on
TAIL_LINES = 20
_IN_PLACE_SECONDS = 5.0
"""A container takes longer to end than a process."""

_ENGINE_GONE = "the container engine was stopped or restarted while the environment was built in a container"
_DISK = re.compile(r"no space left on device|disk quota exceeded|os error 28|errno 28|errno 122", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"dns error|connection refused|connection reset|connection closed|tcp connect error|timed? ?out"
    r"|error sending request|failed to establish a new connection|name resolution|name or service not known"
    r"|network is unreachable|no route to host|max retries exceeded|certificate verify failed"
    r"|invalid peer certificate|\b50[0234]\b.{0,40}(server error|bad gateway|unavailable|gateway)"
    r"|http status server error|request failed after \d+ retries|tunnel connection failed",
    re.IGNORECASE,
)
_NO_SUCH_NAME = re.compile(r"name or service not known|nodename nor servname|no address associated", re.IGNORECASE)
_CERTIFICATE = re.compile(r"certificate verify failed|invalid peer certificate", re.IGNORECASE)
_ASKED = re.compile(r"(?:for url|fetch|from|to)[:\s]*[(`'\"]*https?://(?P<place>[^/\s`'\")>]+)", re.IGNORECASE)
_POOL = re.compile(r"host='(?P<host>[^']+)', port=(?P<port>\d+)")
_ANY_INDEX = "the package index"


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
    uv: str = field(default_factory=find_uv_bin)
    """The uv that runs where the programs do."""
    place: Place | None = None
    """Where the programs run; None: on this machine."""
    reads: tuple[Path, ...] = ()
    """Folders of this machine that they read."""
    writes: tuple[Path, ...] = ()
    """Those that they write, besides the downloads."""
    git: GitSource | None = None
    """Brings the repositories that requirements name."""
    operators: frozenset[str] = frozenset()
    """Hosts of the operator's own indexes and mirrors: only the machine can be to blame for those."""

    def building(self, folder: Path, prefix: Path, lock: int, *more: Path) -> Installer:
        """Returns this installer for a build in `folder`, of which its programs write `prefix` and `more` alone.

        They inherit one more descriptor, of the build's lock.
        """
        reads, writes = (*self.reads, folder), (*self.writes, prefix, *more)
        return replace(self, held_fds=(*self.held_fds, lock), reads=reads, writes=writes)

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
        output: list[str] = []
        with self._program([str(part) for part in argv], cwd, {**self.variables, **(variables or {})}) as program:
            lines = Lines(program)
            try:
                for line in lines:
                    output.append(mask(line))
                    if not quiet:
                        self.log(output[-1])
            except OSError as error:
                raise failed(f"cannot start {argv[0]}: {error.strerror or error}", infrastructure=True) from error
        if lines.exit_code:
            if quiet:
                self._log_all(output)
            if self.place is not None and lines.exit_code == -signal.SIGHUP:
                raise failed(_ENGINE_GONE, reason=Reason.CONTAINER, infrastructure=True)
            raise failure_of(Path(argv[0]).name, lines.exit_code, output, self.operators)
        return output

    @contextlib.contextmanager
    def _program(self, argv: list[str], cwd: Path, variables: dict[str, str]) -> Iterator[Program]:
        if self.place is None:
            yield self._here(argv, cwd, variables)
            return
        self.downloads.mkdir(parents=True, exist_ok=True)
        reads = (Path(self.uv), *self.reads)
        writes = (self.downloads, *self.writes)
        with self.place.program(argv, cwd=cwd, variables=variables, reads=reads, writes=writes) as command:
            yield replace(self._here(command, Path("/"), {}), term_seconds=_IN_PLACE_SECONDS)

    def _here(self, argv: list[str], cwd: Path, variables: dict[str, str]) -> Program:
        return Program(argv=argv, cwd=cwd, variables=variables, cancelled=self.cancelled, held_fds=self.held_fds)

    def _log_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.log(line)


def visible_variables(variables: Mapping[str, str], *, inside: bool = False) -> dict[str, str]:
    """Returns the part of the agent's variables that an installer may see. `inside`: one in a container."""
    marks = [mark for mark in VISIBLE if not (inside and mark in OF_THIS_MACHINE)]
    return {name: value for name, value in variables.items() if any(fnmatch(name, mark) for mark in marks)}


def failure_of(
    program: str, code: int, output: Sequence[str], operators: frozenset[str] = frozenset()
) -> RunFailed:
    """Returns what a failed program means, in its own last words. `operators`: see `Installer`."""
    tail = collections.deque((line for line in output if line.strip()), maxlen=TAIL_LINES)
    words = "\n".join(tail)
    if _DISK.search(words):
        return failed(f"the disk is full:\n{words}", reason=Reason.DISK, infrastructure=True)
    if _UNREACHABLE.search(words):
        return _unreachable(words, operators)
    return failed(f"{program} ended with {code}:\n{words}{_advice(words)}")


def _unreachable(words: str, operators: frozenset[str]) -> RunFailed:
    """An operator's host is the machine's affair; of any other, a name that does not exist is never right."""
    place = _place_in(words)
    if place in operators:
        what = f"{place}, which this agent's operator configured, cannot be reached"
        return failed(f"{what}:\n{words}", reason=Reason.PACKAGE_INDEX, infrastructure=True)
    if _NO_SUCH_NAME.search(words):
        what = f"there is no host {place}, as far as this agent can tell"
        return failed(f"{what}:\n{words}{_advice(words)}", reason=Reason.PACKAGE_INDEX)
    if _CERTIFICATE.search(words):
        what = f"{place} has a certificate that this agent does not trust"
        return failed(f"{what}:\n{words}{_advice(words)}", reason=Reason.PACKAGE_INDEX)
    what = f"{place} cannot be reached"
    return failed(f"{what}:\n{words}{_advice(words)}", reason=Reason.PACKAGE_INDEX, target=place)


def _place_in(words: str) -> str:
    """The host that a tool asked last, with its port where it is not the usual one."""
    asked = [match["place"].rpartition("@")[2] for match in _ASKED.finditer(words)]
    asked += [f"{match['host']}:{match['port']}" for match in _POOL.finditer(words)][-1:]
    return asked[-1].removesuffix(":443").lower() if asked else _ANY_INDEX


def _advice(words: str) -> str:
    if PYTORCH_HOST not in words:
        return ""
    return (
        f"\nWhat to do: PyTorch is looked for at its own index, {PYTORCH_HOST}; `--torch-backend none` takes it "
        "from the agent's other indexes, and `agent daemon --torch-backend none` does so for every task there"
    )
