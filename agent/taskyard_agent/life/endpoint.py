"""What monitoring asks an agent over HTTP: `/health`, and `/metrics` for Prometheus."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from taskyard.wire import Sample, WorkerState

from taskyard_agent.errors import SettingsError
from taskyard_agent.lease import Lease
from taskyard_agent.tally import Tally
from taskyard_agent.worker import Worker

logger = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
"""A server that was heard within this time is in reach: as long as a lease lasts."""
LOOK_SECONDS = 0.5
MOST_AT_ONCE = 32
"""Connections that are served; each takes a thread."""
ANSWER_SECONDS = 10.0
"""A connection that asks more slowly is closed, whatever it sends meanwhile."""


class Vitals(Collector):
    """An agent's state, read whenever somebody asks: what is not asked for costs nothing."""

    def __init__(self, worker: Worker, tally: Tally, lease: Lease, *, lives: Callable[[], bool]) -> None:
        self._worker = worker
        self._tally = tally
        self._lease = lease
        self._lives = lives

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether it works and is in touch with its server, and what there is to say of it."""
        age = self._beat_age()
        in_touch = age is not None and age < SILENT_SECONDS
        healthy = self._lives() and in_touch
        report = self._worker.report()
        return healthy, {
            "status": "ok" if healthy else "silent" if self._lives() else "stuck",
            "last_beat_age_seconds": None if age is None else round(age, 3),
            "executing": self._tally.executing,
            "worker": {
                "name": report.name,
                "state": report.state.value,
                "paused_reason": report.paused_reason,
            },
        }

    def collect(self) -> Iterator[Metric]:
        """Called by Prometheus's library at each scrape."""
        yield from self._states()
        yield _gauge("taskyard_runs_executing", "Runs just now", self._tally.executing)
        executed = CounterMetricFamily("taskyard_runs_executed", "Runs that have ended", labels=["outcome"])
        for outcome, count in self._tally.executed.items():
            executed.add_metric([outcome], count)
        yield executed
        yield CounterMetricFamily("taskyard_claims", "Runs begun or carried on", value=self._tally.taken)
        environments = CounterMetricFamily("taskyard_environments", "Environments provided", labels=["source"])
        for reused, source in ((True, "cache"), (False, "built")):
            environments.add_metric([source], self._tally.environments.get(reused, 0))
        yield environments
        age = self._beat_age()
        if age is not None:
            yield _gauge("taskyard_last_beat_age_seconds", "Since the server last answered a beat", age)
        yield from _measured(self._lease.measured)

    def _states(self) -> Iterator[Metric]:
        states = GaugeMetricFamily("taskyard_worker_state", "1 for the state it is in", labels=["worker", "state"])
        for state in WorkerState:
            states.add_metric([self._worker.name, state.value], float(self._worker.state is state))
        yield states

    def _beat_age(self) -> float | None:
        at = self._lease.acknowledged_at
        return None if at is None else time.monotonic() - at


def _measured(samples: Sequence[Sample]) -> Iterator[Metric]:
    """The latest measurements, as `taskyard_cpu_percent{subject="worker:a"}`, those of a GPU with its index."""
    families: dict[str, GaugeMetricFamily] = {}
    for sample in samples:
        name, _, gpu = sample.name.partition(":")
        labels = ["subject", "gpu"] if gpu else ["subject"]
        text = f"Measured: {name.replace('_', ' ')}"
        family = families.setdefault(name, GaugeMetricFamily(f"taskyard_{name}", text, labels=labels))
        family.add_metric([sample.subject, gpu][: len(labels)], sample.value)
    yield from families.values()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


@contextlib.contextmanager
def served(address: tuple[str, int] | None, vitals: Vitals) -> Iterator[None]:
    """Answers at the address as long as this lasts; with none, does nothing. Raises SettingsError."""
    if address is None:
        yield
        return
    try:
        server = _Server(address, vitals)
    except OSError as error:
        raise SettingsError(f"--http {address[0]}:{address[1]}: {error.strerror}; give another port") from error
    thread = threading.Thread(target=server.serve_forever, args=(LOOK_SECONDS,), name="http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], vitals: Vitals) -> None:
        self.vitals = vitals
        self.registry = CollectorRegistry()
        self.registry.register(vitals)
        self._begun: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._begun) >= MOST_AT_ONCE:
            self.shutdown_request(request)
            return
        self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called at every look: hangs up on who takes too long, which ends its thread."""
        for request, begun in list(self._begun.items()):
            if time.monotonic() - begun > ANSWER_SECONDS:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of those that hang up; anything else is logged."""
        if not isinstance(sys.exc_info()[1], OSError):
            logger.exception("monitoring was not answered", extra={"action": "http_failed"})


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = ANSWER_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        elif path == "/health":
            healthy, record = self.server.vitals.health()
            self._answer(200 if healthy else 503, "application/json", json.dumps(record).encode())
        else:
            self._answer(404, "text/plain", b"there are /health and /metrics\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Says nothing: it is asked every few seconds."""
