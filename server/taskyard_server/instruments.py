"""What the server counts of its own work: requests, errors, claims, ends, the store's answers, the loop's lag."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

LAG_LOOK_SECONDS = 0.5
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STORE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

disable_created_metrics()  # type: ignore[no-untyped-call] # the time of each counter's first value is noise


class Instruments:
    """One server's counters. Every label has few values: operations, error words, verbs, outcomes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Histogram(
            "taskyard_request_duration_seconds",
            "From the head of a request to the end of its answer; claims and live logs wait on purpose",
            ["operation"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._errors = Counter(
            "taskyard_request_errors", "Answers with an error, by its word", ["code"], registry=self.registry
        )
        self._claims = Counter("taskyard_claims", "Tasks handed out", registry=self.registry)
        self._ended = Counter("taskyard_runs_ended", "Runs that ended", ["outcome"], registry=self.registry)
        self._store = Histogram(
            "taskyard_store_duration_seconds",
            "How long the store took",
            ["verb"],
            buckets=_STORE_BUCKETS,
            registry=self.registry,
        )
        self._store_errors = Counter(
            "taskyard_store_unavailable", "Calls of the store that it could not serve", registry=self.registry
        )
        self._lag = Histogram(
            "taskyard_loop_lag_seconds",
            "How late the event loop was, looked at twice a second",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )

    def request(self, operation: str, seconds: float, error: str | None) -> None:
        """One request was answered."""
        self._requests.labels(operation).observe(seconds)
        if error is not None:
            self._errors.labels(error).inc()

    def claimed(self) -> None:
        """A task was handed out, for the first time to this claim."""
        self._claims.inc()

    def ended(self, outcome: str) -> None:
        """A run ended."""
        self._ended.labels(outcome).inc()

    def stored(self, verb: str, seconds: float, *, unavailable: bool) -> None:
        """The store answered, or could not."""
        self._store.labels(verb).observe(seconds)
        if unavailable:
            self._store_errors.inc()

    async def watch_loop(self) -> None:
        """Measures how late the event loop wakes this task; never ends by itself."""
        while True:
            due = time.monotonic() + LAG_LOOK_SECONDS
            await asyncio.sleep(LAG_LOOK_SECONDS)
            self._lag.observe(max(0.0, time.monotonic() - due))
