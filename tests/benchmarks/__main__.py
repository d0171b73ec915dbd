"""What the design promises, measured on real processes: `python -m tests.benchmarks [names …] [--quick]`."""

from __future__ import annotations

import argparse
import sys

import pytest
from rich.console import Console

from tests.benchmarks import (
    builds,
    claims,
    command_line,
    environments,
    faults,
    first_line,
    idle,
    logs,
    machine,
    parked,
    results,
)
from tests.benchmarks.bench import Bench, Measure

BENCHMARKS: dict[str, Measure] = {
    "machine": machine.measure,
    "command-line": command_line.measure,
    "first-line": first_line.measure_cached,
    "snapshot": first_line.measure_snapshot,
    "container": first_line.measure_container,
    "reading": command_line.measure_reading,
    "first-task": command_line.measure_first_task,
    "environment": environments.measure,
    "build": builds.measure,
    "cancel": first_line.measure_cancel,
    "claims": claims.measure_sqlite,
    "claims-mongodb": claims.measure_mongodb,
    "logs": logs.measure,
    "idle": idle.measure,
    "parked": parked.measure,
    "faults": faults.measure,
}


def main() -> int:
    """Runs the benchmarks that were named, else all."""
    options = _parser().parse_args()
    console = Console(stderr=True)
    bench = Bench(quick=options.quick, console=console)
    if not options.names:
        results.FILE.unlink(missing_ok=True)
    measured: list[results.Measurement] = []
    for name in options.names or BENCHMARKS:
        fresh = _measure(name, bench)
        measured += fresh
        records = results.save(fresh)  # after each, so that a run that is cut short keeps what it has
        if options.write_docs:
            results.write_document(records)
    Console(width=None if sys.stdout.isatty() else 160).print(results.table(one.record() for one in measured))
    return 0


def _measure(name: str, bench: Bench) -> list[results.Measurement]:
    with bench.named(name):
        try:
            return list(BENCHMARKS[name](bench))
        except pytest.skip.Exception as reason:
            bench.console.print(f"{name} is left out: {reason}")
    return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller queues")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the table in docs/explanation")
    return parser


if __name__ == "__main__":
    sys.exit(main())
