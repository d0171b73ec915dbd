"""How much slower this machine is than an idle one, moment by moment: others use its processors, too."""

from __future__ import annotations

import threading
import time
from types import TracebackType

EVERY_SECONDS = 0.25
WORK_SECONDS = 0.004


class Slowness:
    """As a context manager it does a little work again and again, and compares its time with its CPU time."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Slowness:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """Return how many times longer work took between two moments (as of `time.time`); 1 on an idle machine."""
        found = [ratio for at, ratio in self._samples if start - 1.0 <= at <= end + 1.0]
        return max(1.0, sum(found) / len(found)) if found else 1.0

    def _measure(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            began, worked = time.monotonic(), time.thread_time()
            while time.thread_time() - worked < WORK_SECONDS:
                pass
            took = time.monotonic() - began
            self._samples.append((time.time(), took / (time.thread_time() - worked)))
