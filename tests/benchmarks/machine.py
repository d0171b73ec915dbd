"""What the other numbers were measured on: disk, cores, and what else was going on."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement, p50, percentile

BLOCK = b"x" * 4096


def measure(bench: Bench) -> Iterator[Measurement]:
    """Writes 4 KiB and waits for the disk, as every acknowledged change does."""
    fsyncs = fsync_milliseconds(len(bench.times(300, 100)))
    yield Measurement(metric="fsync of 4 KiB, p50", value=p50(fsyncs), unit="ms")
    yield Measurement(metric="fsync of 4 KiB, p99", value=percentile(fsyncs, 99), unit="ms")
    yield Measurement(metric="cores", value=os.cpu_count() or 1, unit="")
    yield Measurement(metric="load average before the run", value=os.getloadavg()[0], unit="")


def fsync_milliseconds(rounds: int) -> list[float]:
    """How long the disk of the temporary folder takes to hold a block for good."""
    spent = []
    with tempfile.TemporaryFile() as file:
        for _ in range(rounds):
            file.write(BLOCK)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            spent.append((time.perf_counter() - began) * 1000)
    return spent
