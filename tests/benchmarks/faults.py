"""A long run of random faults: daemons, keepers and the server killed, connections broken."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement
from tests.faults import random_faults


def measure(bench: Bench) -> Iterator[Measurement]:
    """Every acknowledged task must end exactly once, with its log whole; see `random_faults`."""
    tasks = len(bench.times(60, 10))
    seed = random.randrange(1 << 16)
    bench.console.print(f"random faults, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder:
        report = random_faults.run(tasks, seed, Path(folder))
    bench.console.print(str(report))
    metric = f"{tasks} tasks under {sum(report.faults.values())} random faults"
    yield Measurement(
        metric=f"{metric}: ended not exactly once, or with a broken log",
        value=len(report.problems),
        unit="",
        at_most=0,
        peer="ClearML orphans the task for 2 h",
    )
    yield Measurement(metric=f"{metric}: attempts in all", value=report.runs, unit="")
