"""A real server process on a free port, that can be killed and started again on its data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx

from tests.support.forked import Forked, can_be_forked
from tests.support.memory_disk import memory_disk

START_SECONDS = 120.0
STOP_SECONDS = 15.0
PATIENT = ("--lease-seconds", "2", "--confirm-seconds", "5", "--lost-after-seconds", "60")
"""Flags with which agents are heard often, and no run is lost, however slow the machine is."""


class ServerProcess:
    """One server. As a context manager it starts, and leaves neither process nor, if it made it, folder."""

    def __init__(
        self,
        *flags: str,
        data: Path | None = None,
        store: str = "",
        port: int | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        self._folder = (
            None
            if data
            else tempfile.TemporaryDirectory(prefix="taskyard-", dir=memory_disk(), ignore_cleanup_errors=True)
        )
        self.data = data or Path(self._folder.name if self._folder else "")
        self.port = port or free_port()
        self._may_move = port is None
        self.scheme = "https" if "--tls-cert" in flags else "http"
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._flags = flags
        self._store = store
        self._variables = variables or {}

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """The prefix of every route."""
        return f"{self.url}/api/v1"

    @property
    def admin_token(self) -> str:
        """The administrator's token that the first start left."""
        return (self.data / "admin-token").read_text().strip()

    @property
    def log(self) -> str:
        """Everything that the process wrote."""
        return (self.data / "server.log").read_text()

    def __enter__(self) -> ServerProcess:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._folder:
            self._folder.cleanup()

    def start(self) -> ServerProcess:
        """Starts it on the port and data that it has; returns when it answers.

        A port that was free when it was drawn may be taken by now: then the first start draws another.
        """
        try:
            return self._start()
        except AssertionError:
            if not (self._may_move and "is taken" in self.log):
                raise
        self.port = free_port()
        return self._start()

    def _start(self) -> ServerProcess:
        self.data.mkdir(parents=True, exist_ok=True)
        self.process = self._spawn(self.data / "server.log", _environment() | self._variables)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log}")
            time.sleep(0.02)
        self._may_move = False
        return self

    def stop(self) -> int:
        """Ends it gracefully; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """As `kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> ServerProcess:
        """Kills it and starts it again on the same port and data."""
        self.kill()
        return self.start()

    def client(self, token: str | None = None, **options: object) -> httpx.Client:
        """A client of the API, as administrator unless a token is given; an empty token is none."""
        token = self.admin_token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.api, headers=headers, timeout=30.0, **options)  # type: ignore[arg-type]

    def issue(self, kind: str, **wishes: object) -> str:
        """A new token's secret."""
        with self.client() as client:
            answer = client.post("/tokens", json={"kind": kind, **wishes})
        answer.raise_for_status()
        return str(answer.json()["secret"])

    def _spawn(self, log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes] | Forked:
        """The first start is forked where that makes no difference; each later one is a user's."""
        argv = ["--port", str(self.port), "--data", str(self.data), "--store", self._store, *self._flags]
        if self.process is None and can_be_forked(variables):
            return Forked("taskyard_server", argv, log, variables)
        with log.open("ab") as stream:
            command = [sys.executable, "-m", "taskyard_server", *argv]
            return subprocess.Popen(command, stdout=stream, stderr=stream, env=variables)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                if (self.data / "admin-token").exists() or not self._store:
                    return (self.data / "admin-token").exists()
            # A second server of a store leaves no token, and the first one only once it has opened its store.
            return httpx.get(f"{self.api}/health", timeout=1.0, verify=False).is_success
        except (OSError, httpx.HTTPError):
            return False


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TASKYARD_")}


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="taskyard-", ignore_cleanup_errors=True)
