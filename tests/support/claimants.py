"""An agent reduced to its protocol, for tests of the server: it claims, reports and runs nothing."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import httpx

from tests.support.servers import ServerProcess

COMMAND = {"kind": "script", "target": "train.py"}


class Claimant:
    """One worker of one agent, which speaks HTTP to one server."""

    def __init__(self, server: ServerProcess, token: str, worker: str = "host:cpu:0") -> None:
        self.worker = worker
        self.http = server.client(token)
        self.queues = ["default"]
        self.control_token = ""
        self.report_token = ""

    def __enter__(self) -> Claimant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def claim(self, *queues: str, wait_seconds: float = 0.0) -> dict[str, Any]:
        """The answer to a claim with fresh tokens."""
        return self.send(self.request(*queues, wait_seconds=wait_seconds))

    @contextlib.contextmanager
    def parked(self, request: dict[str, Any]) -> Iterator[Future[dict[str, Any]]]:
        """A claim that waits at the server."""
        sent = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.send, request, sent)
            sent.wait(10.0)
            self.round_trip()
            yield answer

    def send(self, request: dict[str, Any], sent: threading.Event | None = None) -> dict[str, Any]:
        """Sends a claim; sets `sent` when it is on its way."""

        def trace(event: str, _: Any) -> None:
            if sent is not None and event.endswith("receive_response_headers.started"):
                sent.set()

        answer = self.http.post("/claims", json=request, extensions={"trace": trace})
        answer.raise_for_status()
        return dict(answer.json())

    def round_trip(self) -> None:
        """When this returns, the server has seen what was sent, or hung up, before."""
        self.http.get("/info").raise_for_status()

    def request(self, *queues: str, wait_seconds: float = 0.0) -> dict[str, Any]:
        """The body of a claim, with fresh tokens."""
        self.queues = list(queues or ("default",))
        self.control_token, self.report_token = secrets.token_urlsafe(32), f"ty_run_{secrets.token_urlsafe(32)}"
        return {
            "agent": "agent-of-the-test",
            "worker": self.worker,
            "boot_id": "boot",
            "request_id": secrets.token_hex(16),
            "control_hash": hashlib.sha256(self.control_token.encode()).hexdigest(),
            "report_hash": hashlib.sha256(self.report_token.encode()).hexdigest(),
            "queues": self.queues,
            "wait_seconds": wait_seconds,
        }

    def beat(self, *runs: str, phase: str = "claimed", **measured: float) -> dict[str, Any]:
        """Confirms and renews these runs, of which it has just `measured` this."""
        now = self.http.get("/info").json()["time"] if measured else 0.0
        samples = [
            {"subject": f"run:{run}", "name": name, "at": now, "value": value}
            for run in runs
            for name, value in measured.items()
        ]
        reports = [{"id": run, "control_token": self.control_token, "phase": phase} for run in runs]
        state = "busy" if runs else "idle"
        worker = {"name": self.worker, "state": state, "queues": self.queues, "run": runs[0] if runs else None}
        beat = {
            "agent": "agent-of-the-test",
            "host": socket.gethostname(),
            "boot_id": "boot",
            "version": "0",
            "workers": [worker],
            "runs": reports,
            "samples": samples,
        }
        answer = self.http.post("/beats", json=beat)
        answer.raise_for_status()
        return dict(answer.json())

    def start(self, run: str) -> httpx.Response:
        """The last word before user code would start."""
        return self.http.post(f"/runs/{run}/start", json={"control_token": self.control_token})

    def append(self, run: str, offset: int, data: bytes) -> httpx.Response:
        """Sends bytes of the log."""
        headers = {"Taskyard-Control-Token": self.control_token}
        return self.http.post(f"/runs/{run}/logs", params={"offset": offset}, content=data, headers=headers)

    def finish(self, run: str, log_bytes: int = 0) -> httpx.Response:
        """The command ended well."""
        outcome = {"kind": "completed", "reason": "exit", "phase": "running", "exit_code": 0}
        body = {"control_token": self.control_token, "outcome": outcome, "log_bytes": log_bytes}
        return self.http.post(f"/runs/{run}/finish", json=body)

    def run_one(self, *queues: str, wait_seconds: float = 0.0, **measured: float) -> str | None:
        """Claims and ends one task, which used what it `measured`; returns its id, None when there was none."""
        claim = self.claim(*queues, wait_seconds=wait_seconds)
        if claim["run"] is None:
            return None
        run = claim["run"]["id"]
        self.beat(run, **measured)
        self.start(run).raise_for_status()
        self.finish(run).raise_for_status()
        return str(claim["task"]["id"])


def enqueue(http: httpx.Client, queue: str = "default", **spec: Any) -> str:
    """A new queued task's id."""
    answer = http.post("/tasks", json={"spec": {"command": COMMAND, **spec}, "queue": queue})
    answer.raise_for_status()
    return str(answer.json()["id"])
