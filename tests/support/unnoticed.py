"""Checks that an agent does not notice what a task of it brings."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

GROWTH_BYTES = 30 << 20
PUNCTUAL_SECONDS = 5.0
"""Half of the time between two beats."""


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Checks that this process neither grows nor stands still meanwhile, as an agent's must not."""
    ends, gaps = threading.Event(), [0.0]

    def tick() -> None:
        before = time.monotonic()
        while not ends.wait(0.05):
            gaps.append(time.monotonic() - before)
            before = time.monotonic()

    ticker = threading.Thread(target=tick)
    ticker.start()
    Path("/proc/self/clear_refs").write_text("5")
    held = peak_bytes()
    try:
        yield
    finally:
        ends.set()
        ticker.join()
    assert peak_bytes() - held <= GROWTH_BYTES
    assert max(gaps) < PUNCTUAL_SECONDS


def peak_bytes() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
