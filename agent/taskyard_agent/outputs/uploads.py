"""Sends the outputs of runs that have ended: some runs at once, some parts at once, for as long as it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from taskyard.client import Client
from taskyard.errors import TaskyardError
from taskyard.wire import ArtifactLimits

from taskyard_agent.outputs.plan import Limits, plan_of, release_tree
from taskyard_agent.outputs.sending import Gone, Halted, Sending

logger = logging.getLogger(__name__)

RUNS_AT_ONCE = 3
LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One run whose outputs are to be sent."""

    run: str
    control_token: str
    directory: Path


class Uploads:
    """The uploads of one agent. May be used from any thread.

    A run's folder is closed once its log is complete and its outputs are sent: `close_run` is called for the one,
    and does what is to be done when both are.
    """

    def __init__(
        self, client: Client, close_run: Callable[[str], None], limits: Limits, users: Collection[int]
    ) -> None:
        self._client = client
        self._close_run = close_run
        self._limits = limits
        self.users = users
        """Whose files can be outputs."""
        self._lock = threading.Lock()
        self._pending: set[str] = set()
        self._logged: set[str] = set()
        """Those of them whose log is complete."""
        self._halted = threading.Event()
        self._moved_at = time.monotonic()
        self._waiting: SimpleQueue[Upload | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def limits(self) -> Limits:
        """This agent's and the server's together; only the agent's while the server does not answer."""
        return self._limits.within(self._servers_limits())

    def _servers_limits(self) -> ArtifactLimits | None:
        try:
            return self._client.info(patience_seconds=0.0).artifacts
        except TaskyardError as error:
            logger.info("the server's limits are not known: %s", error, extra={"action": "limits_unknown"})
            return None

    def send(self, upload: Upload) -> None:
        """Sends them from now on; a repeat changes nothing."""
        with self._lock:
            if upload.run in self._pending:
                return
            self._pending.add(upload.run)
            if len(self._threads) < RUNS_AT_ONCE:
                thread = threading.Thread(target=self._loop, name=f"outputs-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._waiting.put(upload)

    def close_run(self, run_id: str) -> None:
        """The log of a run is complete, or not wanted: its folder is closed, once nothing of it is to be sent."""
        with self._lock:
            if run_id in self._pending:
                self._logged.add(run_id)
                return
        self._close_run(run_id)

    def wait(self, quiet_seconds: float, *, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Waits until all is sent, or for as long as something is being sent; whether all is."""
        self._moved_at = time.monotonic()
        while self._pending and not given_up() and time.monotonic() - self._moved_at < quiet_seconds:
            time.sleep(LOOK_SECONDS)
        return not self._pending

    def stop(self) -> None:
        """Stops sending; the next agent finds the rest in the journal and sends it."""
        self._halted.set()
        for _ in self._threads:
            self._waiting.put(None)

    # --- One run

    def _loop(self) -> None:
        while (upload := self._waiting.get()) is not None and not self._halted.is_set():
            self._carry(upload)

    def _carry(self, upload: Upload) -> None:
        try:
            self._send(upload)
        except Halted:
            return  # it stays in the journal
        except Gone as error:
            logger.warning(
                "the outputs of %s are not wanted: %s", upload.run, error, extra={"action": "outputs_gone"}
            )
        except Exception:
            # The edge of the thread: the run's folder stays, and the next agent tries again.
            logger.exception("outputs of %s", upload.run, extra={"action": "outputs_failed", "run": upload.run})
            return
        self._end(upload)

    def _send(self, upload: Upload) -> None:
        plan = plan_of(upload.directory)
        if plan is None:
            return
        sending = Sending(
            client=self._client,
            run=upload.run,
            control_token=upload.control_token,
            directory=upload.directory,
            users=self.users,
            halted=self._halted,
            moved=self._move,
        )
        kept = sending.all(plan)
        logger.info(
            "kept %d outputs of %s", kept.files, upload.run, extra={"action": "outputs_kept", "run": upload.run}
        )

    def _end(self, upload: Upload) -> None:
        release_tree(upload.directory)
        with self._lock:
            self._pending.discard(upload.run)
            logged = upload.run in self._logged
            self._logged.discard(upload.run)
        if logged:
            self._close_run(upload.run)

    def _move(self) -> None:
        self._moved_at = time.monotonic()
