"""Terminals that tasks' owners open in this agent's runs: each a process here, and two requests to the server."""

from __future__ import annotations

import base64
import contextlib
import logging
import select
import threading
import time

from taskyard.client import Client
from taskyard.errors import Refused, TaskyardError
from taskyard.wire import Terminal, TerminalInput, TerminalOutput, TerminalScreen

from .errors import RunFailed
from .terminal_process import Place, TerminalProcess, TerminalRefused, opened

logger = logging.getLogger(__name__)

MOST = 64
LOOK_SECONDS = 0.2
"""How often the end of a process is looked for that keeps its terminal open, and that of the run."""
AWAY_SECONDS = 40.0
"""A server that cannot be reached for this long has given the terminal up."""
PAUSE_SECONDS = 0.5
WAIT_SECONDS = 20.0


class Terminals:
    """All terminals of one agent. May be used from any thread."""

    def __init__(self, client: Client, *, allowed: bool) -> None:
        self._client = client
        self.allowed = allowed
        """Whether the operator lets owners open any (`--allow-shell`)."""
        self._lock = threading.Lock()
        self._known: dict[str, float] = {}
        """Id → when it was opened: the server repeats an order until the agent has come for it."""
        self._open = 0

    def open(self, order: Terminal, place: Place) -> None:
        """Serves a terminal in a thread of its own; an order that is known already changes nothing."""
        with self._lock:
            if order.id in self._known:
                return
            forgotten = time.monotonic() - 10 * AWAY_SECONDS
            self._known = {key: at for key, at in self._known.items() if at > forgotten}
            self._known[order.id] = time.monotonic()
            allowed = self.allowed and self._open < MOST
            self._open += 1
        session = _Session(self._client, order, place)
        threading.Thread(
            target=self._serve, args=(session, allowed), name=f"terminal-{order.id[:8]}", daemon=True
        ).start()

    def _serve(self, session: _Session, allowed: bool) -> None:
        try:
            if allowed:
                session.serve()
            else:
                session.refuse("this agent allows no terminals, or has too many open")
        except Exception:
            # The edge of the thread: a terminal's surprise is its own.
            logger.exception("a terminal failed", extra={"action": "terminal_failed"})
            session.refuse("the agent made a mistake; its log has the details")
        finally:
            with self._lock:
                self._open -= 1


class _Session:
    """One terminal, from the order to its end."""

    def __init__(self, client: Client, order: Terminal, place: Place) -> None:
        self._client = client
        self._order = order
        self._place = place
        self._offset = 0
        self._over = threading.Event()
        """The person has gone, or the server knows the terminal no more."""
        self._heard_at = time.monotonic()

    def refuse(self, why: str) -> None:
        """Ends it before it began."""
        with contextlib.suppress(TaskyardError):
            self._client.await_keys(self._order.id, self._asked(0, 0.0))
            self._show(b"", TerminalScreen(ended=True, message=why))

    def serve(self) -> None:
        """Starts what the person wants, and passes on what it shows until it ends."""
        run, kind = self._place.run, self._order.kind
        try:
            process = opened(self._order, self._place)
        except (TerminalRefused, RunFailed) as error:
            self.refuse(str(error))
            return
        logger.info(
            "a terminal (%s) is open in run %s", kind, run, extra={"action": "terminal_opened", "run": run}
        )
        typing = threading.Thread(target=self._type, args=(process,), name="keys", daemon=True)
        typing.start()
        try:
            message = self._pass_on(process)
        finally:
            self._over.set()
            code = process.end()
        logger.info("a terminal in run %s ended", run, extra={"action": "terminal_ended", "run": run})
        end = TerminalScreen(ended=True, exit_code=None if message else code, message=message)
        with contextlib.suppress(TaskyardError):
            self._show(b"", end)

    def _pass_on(self, process: TerminalProcess) -> str:
        """Returns why it was cut off; empty where the process ended by itself."""
        while not self._over.is_set():
            readable, _, _ = select.select([process.descriptor], [], [], LOOK_SECONDS)
            if readable:
                data = process.read()
                if not data:
                    return ""
                try:
                    self._show(data, TerminalScreen())
                except TaskyardError as error:
                    return f"what it shows cannot be sent: {error}"
            elif process.exited():
                return ""
            elif self._run_has_ended():
                return "the run has ended"
        return "closed"

    def _run_has_ended(self) -> bool:
        try:
            self._place.command()
        except TerminalRefused:
            return True
        return False

    def _type(self, process: TerminalProcess) -> None:
        offset, size = 0, (self._order.rows, self._order.columns)
        while not self._over.is_set():
            try:
                keys = self._client.await_keys(
                    self._order.id, self._asked(offset, WAIT_SECONDS), patience_seconds=0.0
                )
            except Refused:
                self._over.set()
                return
            except TaskyardError:
                if time.monotonic() - self._heard_at > AWAY_SECONDS:
                    self._over.set()
                self._over.wait(PAUSE_SECONDS)
                continue
            self._heard_at = time.monotonic()
            if (keys.rows, keys.columns) != size:
                size = (keys.rows, keys.columns)
                process.resize(*size)
            data = base64.b64decode(keys.data)[max(0, offset - keys.offset) :]
            process.write(data)
            offset += len(data)
            if keys.closed:
                self._over.set()

    def _asked(self, offset: int, seconds: float) -> TerminalInput:
        return TerminalInput(control_token=self._place.control_token, offset=offset, wait_seconds=seconds)

    def _show(self, data: bytes, end: TerminalScreen) -> None:
        """Sends until the server has it; it waits while the person reads slowly. Raises TaskyardError."""
        while True:
            screen = TerminalScreen(
                offset=self._offset,
                data=base64.b64encode(data).decode(),
                ended=end.ended,
                exit_code=end.exit_code,
                message=end.message,
            )
            output = TerminalOutput(control_token=self._place.control_token, screen=screen)
            taken = self._client.show_output(self._order.id, output, patience_seconds=AWAY_SECONDS).offset
            data, self._offset = data[max(0, taken - self._offset) :], max(taken, self._offset)
            if not data:
                return
