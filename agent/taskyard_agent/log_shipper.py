"""Ships the spools of all runs to the server, in one thread; the server's offset is the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from taskyard.wire import LogPosition


class Append(Protocol):
    """Sends bytes of a run's log. Raises taskyard.errors.Unavailable (retry) or Stale (give up)."""

    def __call__(self, run_id: str, control_token: str, offset: int, data: bytes) -> LogPosition: ...


class LogShipper:
    """Follows the spools of runs. `on_stale` and `on_complete` are called in the shipper's thread."""

    def __init__(
        self,
        append: Append,
        *,
        on_stale: Callable[[str], None] = lambda run_id: None,
        on_complete: Callable[[str], None] = lambda run_id: None,
    ) -> None: ...

    def start(self) -> None:
        """Starts the thread."""
        raise NotImplementedError

    def close(self) -> None:
        """Stops the thread after the request in progress; what was not sent stays in the spools."""
        raise NotImplementedError

    def follow(self, run_id: str, control_token: str, path: Path) -> None:
        """Ships the spool at `path`, from the offset that the server answers, until `end` or `forget`."""
        raise NotImplementedError

    def wake(self) -> None:
        """There are new bytes from this process; keepers say so themselves."""
        raise NotImplementedError

    def flush(self, run_id: str, timeout: float) -> bool:
        """Waits until the server holds what the spool holds now; whether it does."""
        raise NotImplementedError

    def end(self, run_id: str, final_length: int) -> None:
        """The spool grows no more: ships it up to this length, then calls `on_complete` and forgets the run."""
        raise NotImplementedError

    def forget(self, run_id: str) -> None:
        """Ships no more of this run."""
        raise NotImplementedError

    def position(self, run_id: str) -> int:
        """How many bytes the server is known to hold; 0 before its first answer."""
        raise NotImplementedError
