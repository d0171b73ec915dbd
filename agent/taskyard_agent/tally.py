"""What an agent has done so far, in numbers, and since when it rests."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from taskyard.wire import Outcome


class Tally:
    """Counts the runs and environments of one agent. Every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken = 0
        self._executing: set[str] = set()
        self._executed: Counter[str] = Counter()
        self._environments: Counter[bool] = Counter()
        self._rests_since: float | None = clock()
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls `listener` whenever a run was taken or has ended, before the next one can be claimed."""
        self._listeners.append(listener)

    # --- what happens

    def took(self, run_id: str) -> None:
        """A run begins, or is carried on."""
        with self._lock:
            self._taken += 1
            self._executing.add(run_id)
            self._rests_since = None
        self._tell()

    def ended(self, run_id: str, outcome: Outcome | None) -> None:
        """A run has ended; None where it was not ours any more."""
        with self._lock:
            self._executing.discard(run_id)
            self._executed[outcome.kind.value if outcome else "stale"] += 1
            if not self._executing:
                self._rests_since = self._clock()
        self._tell()

    def provisioned(self, *, reused: bool) -> None:
        """A run has its environment: from the cache, or built."""
        with self._lock:
            self._environments[reused] += 1

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    # --- what is asked

    @property
    def taken(self) -> int:
        """Runs that were begun or carried on."""
        return self._taken

    @property
    def executing(self) -> int:
        """Runs just now."""
        return len(self._executing)

    @property
    def executed(self) -> Mapping[str, int]:
        """Runs that have ended, by the kind of their outcome."""
        return dict(self._executed)

    @property
    def environments(self) -> Mapping[bool, int]:
        """How many environments were found in the cache (True) and how many were built (False)."""
        return dict(self._environments)

    @property
    def rested_seconds(self) -> float | None:
        """How long nothing has run; None while something does."""
        since = self._rests_since
        return None if since is None else self._clock() - since
