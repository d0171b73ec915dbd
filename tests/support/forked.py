"""Starts servers and agents from a process that has imported them: most of a start's work is its imports."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MODULES = (
    "taskyard_server.main",
    "taskyard_server.store.sqlite",
    "taskyard_server.blobs.folder",
    "taskyard_server.logs.files",
    "taskyard_server.series.sqlite",
    "uvicorn.lifespan.off",
    "anyio._backends._asyncio",
    "taskyard.cli.app",
    "taskyard_agent.daemon",
    "taskyard_agent.cli",
    "httpcore",
    "truststore",
    "encodings.idna",
)
"""What a server and an agent import, also later where they are used."""
_AT_START = ("PYTHON", "LD_", "PATH", "MALLOC")
"""How variables begin that count while a program starts, or while it imports."""


def can_be_forked(variables: Mapping[str, str]) -> bool:
    """Whether a process with these variables added is the same when it is forked; never outside of tests."""
    return "PYTEST_CURRENT_TEST" in os.environ and not any(name.startswith(_AT_START) for name in variables)


class Forked:
    """A process as `python -m MODULE ARGV` would be, with the methods of `Popen` that tests use."""

    def __init__(self, module: str, argv: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
        log.touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(MODULES))
        arguments = (module, list(argv), str(log), dict(variables), os.getcwd())
        self._process = context.Process(target=_run, args=arguments)
        self._process.daemon = True  # it may not outlive the tests
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when it has ended."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process.name), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As `kill -9`."""
        self.send_signal(signal.SIGKILL)


def _run(module: str, argv: list[str], log: str, variables: dict[str, str], folder: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(written, stream)
    os.close(written)
    sys.argv[:] = [module, *argv]
    sys.orig_argv[:] = [sys.executable, "-m", module, *argv]
    if module == "taskyard_server":
        from taskyard_server.main import main
    else:
        from taskyard.cli import main
    sys.exit(main())
