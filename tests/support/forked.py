"""Starts Taskyard's programs from a process that has imported them: most of a start's work is its imports."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
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
    "taskyard.cli.tasks",
    "taskyard.cli.queues",
    "taskyard.cli.run",
    "rich.live",
    "rich.progress",
    "rich.table",
    "httpx",
    "httpcore",
    "truststore",
    "encodings.idna",
)
"""What they import, also later where it is used."""
_AT_START = ("PYTHON", "LD_", "PATH", "MALLOC", "LC_", "LANG")
"""How variables begin that count while a program starts, or while it imports."""
_FIRST = dict(os.environ)


def can_be_forked(variables: Mapping[str, str]) -> bool:
    """Whether a process with these variables is the same when it is forked; never outside of tests."""
    counting = {name for name in (*variables, *_FIRST) if name.startswith(_AT_START)}
    same = all(variables.get(name) == _FIRST.get(name) for name in counting)
    return same and "PYTEST_CURRENT_TEST" in os.environ


class Forked:
    """A process as `python -m MODULE ARGV` would be, with the methods of `Popen` that tests use."""

    def __init__(
        self,
        module: str,
        argv: Sequence[str],
        log: Path,
        variables: Mapping[str, str],
        *,
        errors: Path | None = None,
        words: Path = Path(os.devnull),
        folder: Path | None = None,
    ) -> None:
        """It adds what it writes to `log`, or its errors to `errors`, and reads `words`."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(MODULES))
        streams = [str(path) for path in (words, log, errors or log)]
        for path in streams[1:]:
            Path(path).touch()
        arguments = (module, list(argv), streams, dict(variables), str(folder or Path.cwd()))
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


def run(
    module: str, argv: Sequence[str], *, variables: Mapping[str, str], text: str, folder: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, as `subprocess.run` would with text on pipes."""
    with tempfile.TemporaryDirectory(prefix="taskyard-said-") as made:
        words, output, errors = (Path(made) / name for name in ("words", "output", "errors"))
        words.write_text(text)
        process = Forked(module, argv, output, variables, errors=errors, words=words, folder=folder)
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
        return subprocess.CompletedProcess([module, *argv], code, output.read_text(), errors.read_text())


def _run(module: str, argv: list[str], streams: list[str], variables: dict[str, str], folder: str) -> None:
    for number, (path, mode) in enumerate(zip(streams, (os.O_RDONLY, _ADD, _ADD), strict=True)):
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    program = Path(sys.modules[module].__path__[0]) / "__main__.py"
    sys.argv[:] = [str(program), *argv]
    sys.orig_argv[:] = [sys.executable, "-m", module, *argv]
    if module == "taskyard_server":
        from taskyard_server.main import main
    else:
        from taskyard.cli import main
    sys.exit(main())


_ADD = os.O_WRONLY | os.O_APPEND
