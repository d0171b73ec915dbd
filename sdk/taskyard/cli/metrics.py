"""`metrics`: what a run, or a worker's machine, used."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskyard.asking import seconds
from taskyard.cli import output
from taskyard.cli.session import add_attempt, add_command, add_task, find_run, find_task, open_client
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Series, SeriesPoint

COLUMNS = ("NAME", "MINIMUM", "MEAN", "MAXIMUM", "COURSE")
POINTS = 30
_LEVELS = "▁▂▃▄▅▆▇█"


def add_parser(subparsers: Any) -> None:
    """Adds `metrics`."""
    parser = add_command(subparsers, "metrics", "show what a run or a worker used", metrics)
    add_task(parser, nargs="?")
    parser.add_argument("--worker", metavar="NAME", help="a worker's machine instead of a task")
    add_attempt(parser)
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="how far back, like 90s or 2d; default: the whole run, a worker's last hour",
    )
    parser.add_argument("--until", metavar="TIME", help="up to so long ago; default: the run's end, or now")
    parser.add_argument(
        "--points", type=int, default=POINTS, metavar="N", help="most points per series; default: 30"
    )


def metrics(namespace: argparse.Namespace) -> None:
    """Prints each series with its extremes and its course."""
    if bool(namespace.task) == bool(namespace.worker):
        raise UsageError("name a task, or a worker with --worker NAME")
    if namespace.worker and namespace.attempt is not None:
        raise UsageError("--attempt is for a task; a worker has --since and --until")
    wanted = {"points": namespace.points, "start": _ago(namespace, "since"), "end": _ago(namespace, "until")}
    with open_client(namespace) as client:
        if namespace.worker:
            series = client.worker_metrics(namespace.worker, **wanted)
        else:
            series = client.run_metrics(_run_id(client, namespace), **wanted)
    if namespace.json:
        output.print_json(series)
    else:
        output.print_table(COLUMNS, map(_row, series), empty="nothing was measured")


def _run_id(client: Client, namespace: argparse.Namespace) -> str:
    task = find_task(client, namespace.task)
    run_id = find_run(task, namespace.attempt)
    if run_id is None:
        raise UsageError(f"task {task.id[:8]} has not run yet; see why with: taskyard explain {task.id[:8]}")
    return run_id


def _ago(namespace: argparse.Namespace, name: str) -> float | None:
    """The moment so long ago."""
    text = getattr(namespace, name)
    return None if text is None else time.time() - seconds(text, f"--{name}")


def course(points: Sequence[SeriesPoint]) -> str:
    """The means as a line of little bars."""
    low = min(point.minimum for point in points)
    span = max(point.maximum for point in points) - low
    return "".join(_LEVELS[round((point.mean - low) / span * 7) if span else 0] for point in points)


def _row(series: Series) -> tuple[object, ...]:
    points = series.points
    if not points:
        return (series.name, "", "", "", "")
    mean = sum(point.mean for point in points) / len(points)
    values = (min(p.minimum for p in points), mean, max(p.maximum for p in points))
    return (series.name, *(_amount(series.name, value) for value in values), course(points))


def _amount(name: str, value: float) -> str:
    if "bytes_per_second" in name:
        return f"{output.size(value)}/s"
    if "bytes" in name:
        return output.size(value)
    return f"{value:.1f}" + (" %" if "percent" in name else " °C" if "celsius" in name else "")
