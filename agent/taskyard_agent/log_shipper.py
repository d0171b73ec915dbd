"""Ships the spools of all runs to the server, in one thread; the server's offset is the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from taskyard.wire import LogPosition

from taskyard_agent.errors import AgentError


class Append(Protocol):
    """Sends bytes of a run's log. Raises taskyard.errors.Unavailable (retry) or Stale (give up)."""

    def __call__(self, run_id: str, offset: int, data: bytes, *, control_token: str) -> LogPosition: ...


class ShipperStopped(AgentError):
    """The agent stops: what was not sent stays in the spool, for the next daemon."""


class LogShipper:
    """Follows the spools of runs."""

    def __init__(self, append: Append) -> None:
        self._append = append

    def start(self) -> None:
        """Starts the thread."""
        raise NotImplementedError

    def close(self) -> None:
        """Stops the thread after the request in progress; what was not sent stays in the spools."""
        raise NotImplementedError

    def follow(
        self, run_id: str, control_token: str, path: Path, on_stale: Callable[[], None] = lambda: None
    ) -> None:
        """Ships the spool at `path`, from the offset that the server answers, until `end` or `forget`.

        `on_stale` is called once, in a thread of its own, when the run turns out not to be this agent's any more.
        """
        raise NotImplementedError

    def wake(self) -> None:
        """There are new bytes from this process; keepers say so themselves."""
        raise NotImplementedError

    def flush(self, run_id: str, timeout: float) -> bool:
        """Waits until the server holds what the spool holds now; whether it does."""
        raise NotImplementedError

    def end(self, run_id: str, final_length: int) -> bool:
        """Waits until the server holds the spool up to this length and forgets the run.

        Returns False when the run is stale: its tail will never be held. Raises ShipperStopped.
        """
        raise NotImplementedError

    def forget(self, run_id: str) -> None:
        """Ships no more of this run."""
        raise NotImplementedError

    def position(self, run_id: str) -> int:
        """How many bytes the server is known to hold; 0 before its first answer."""
        raise NotImplementedError
