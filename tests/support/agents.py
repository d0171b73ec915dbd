"""A real agent process that shares nothing with the server but its address and a token."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from taskyard.client import Client
from taskyard.config import Connection

from tests.support import forked as forking
from tests.support.servers import ServerProcess

STOP_SECONDS = 30.0


class AgentProcess:
    """One agent. As a context manager it starts, and leaves neither process nor, if it made it, folder."""

    def __init__(
        self,
        server: ServerProcess,
        *flags: str,
        name: str = "tester",
        folder: Path | None = None,
        url: str | None = None,
        variables: dict[str, str] | None = None,
        under: Sequence[str] = (),
        cache: Path | None = None,
        forked: bool = True,
    ) -> None:
        """`url` stands for another way to the server, such as a relay; `variables` are added to its own.

        `cache` is a --local-dir that it shares with others. The daemon is started through the command `under`,
        which must replace itself with it. Its first start is forked where that makes no difference and `forked`
        allows it; each later one is a user's.
        """
        self._made = (
            None if folder else tempfile.TemporaryDirectory(prefix="taskyard-agent-", ignore_cleanup_errors=True)
        )
        self.folder = folder or Path(self._made.name if self._made else "")
        self.cache = cache or self.folder / "cache"
        self.name = name
        self.process: subprocess.Popen[bytes] | forking.Forked | None = None
        self._forked = forked
        self._log = ""
        self._flags = flags
        self._url = url or server.url
        self._token = server.issue("agent", name=name, create_queues=True)
        self._variables = variables or {}
        self.under = tuple(under)

    @property
    def log(self) -> str:
        """Everything that the process wrote, also once its folder is gone."""
        file = self.folder / "agent.log"
        self._log = file.read_text(errors="replace") if file.exists() else self._log
        return self._log

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs in its journal."""
        return sorted((self.cache / "agents").glob("*/*/runs/*"))

    def __enter__(self) -> AgentProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for run in self.runs:
            end_leftovers(run.name)
        self._log = self.log
        if self._made:
            self._made.cleanup()

    def start(self) -> AgentProcess:
        """Starts the daemon on the folder that it has; does not wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = self._spawn(self.folder / "agent.log", self._environment())
        return self

    def _spawn(self, log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes] | forking.Forked:
        if self._forked and self.process is None and not self.under and forking.can_be_forked(variables):
            return forking.Forked("taskyard.cli", self._argv(), log, variables)
        command = [*self.under, sys.executable, "-m", "taskyard.cli", *self._argv()]
        with log.open("ab") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, env=variables)

    def ask(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Runs `agent daemon` with flags that only look at, or stop, what runs on its folder."""
        argv = ["agent", "daemon", "--local-dir", str(self.folder / "cache"), *flags]
        variables = self._environment()
        if forking.can_be_forked(variables):
            return forking.run(
                "taskyard.cli", argv, variables=variables, text="", folder=Path.cwd(), seconds=STOP_SECONDS
            )
        command = [sys.executable, "-m", "taskyard.cli", *argv]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=variables, timeout=STOP_SECONDS
        )

    def execute(self, task_id: str, **options: Any) -> subprocess.Popen[bytes]:
        """Starts `agent execute` on its folder."""
        place = ["--cpu-only", "--local-dir", str(self.cache), "--allow-file-repositories"]
        command = [sys.executable, "-m", "taskyard.cli", "agent", "execute", *place, "--id", task_id]
        return subprocess.Popen(command, env=self._environment(), **options)

    def signal(self, number: int) -> None:
        """Sends the daemon alone a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Drains it; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Waits for its end; returns the exit code."""
        assert self.process is not None
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """As `kill -9` of the daemon; keepers and commands live on."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def reboot(self, boot_id: Path) -> AgentProcess:
        """Ends all that it holds without a word, and starts it on a machine that was started as `boot_id` says."""
        self.kill()
        for keeper in self.keepers():
            os.kill(keeper, signal.SIGKILL)
        for run in self.runs:
            end_leftovers(run.name)
        return self.on_machine(boot_id).start()

    def on_machine(self, boot_id: Path) -> AgentProcess:
        """Lets it start, from now on, on a machine that was started as `boot_id` says."""
        mount = f'mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec "$0" "$@"'
        self.under = ("unshare", "--mount", "sh", "-c", mount)
        return self

    def keepers(self) -> list[int]:
        """The processes that hold its runs."""
        found = [json.loads(file.read_bytes())["pid"] for run in self.runs for file in run.glob("keeper.json")]
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]

    @property
    def own_token(self) -> dict[str, str]:
        """The variables that let another agent speak with this one's token."""
        return {"TASKYARD_TOKEN": self._token}

    def control_token(self) -> str:
        """The control token of the run that it holds."""
        return str(json.loads((self.runs[0] / "run.json").read_bytes())["tokens"]["control_token"])

    def client(self) -> Client:
        """Speaks to the server as this agent does."""
        return Client.of(Connection(server=self._url, token=self._token))

    def restart(self, *flags: str) -> AgentProcess:
        """Kills the daemon and starts it again on its folder, with other flags where they are given."""
        self.kill()
        self._flags = flags or self._flags
        return self.start()

    def _argv(self) -> list[str]:
        flags = self._flags if "--gpus" in self._flags else ("--cpu-only", *self._flags)
        place = ["--local-dir", str(self.cache), "--name", self.name, "--allow-file-repositories"]
        return ["agent", "daemon", *place, *flags]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKYARD_")}
        return kept | {
            "TASKYARD_SERVER": self._url,
            "TASKYARD_TOKEN": self._token,
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **self._variables,
        }


def end_leftovers(run_id: str) -> None:
    """Ends whatever of a run a test left behind, keeper first."""
    from taskyard_agent.keeper.processes import sweep

    sweep(run_id)


def wait_until(condition: Callable[[], object], *, seconds: float = 30.0, what: str = "") -> None:
    """Polls until the condition holds. Fails with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)
