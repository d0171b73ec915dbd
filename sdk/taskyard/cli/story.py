"""`explain`, `story`: why a task waits, and what happened to it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from taskyard.cli import guidance, output
from taskyard.cli.session import add_command, add_task, find_task, open_client

if TYPE_CHECKING:
    from taskyard.wire import Event, PhaseTime, Run

BAR_CELLS = 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def add_parser(subparsers: Any) -> None:
    """Adds both commands."""
    add_task(add_command(subparsers, "explain", "say why a task waits, worker by worker", explain))
    add_task(add_command(subparsers, "story", "show a task's runs, phases and events", story))


def explain(namespace: argparse.Namespace) -> None:
    """Prints the summary and a verdict per worker."""
    with open_client(namespace) as client:
        task = find_task(client, namespace.task)
        found = client.explain(task.id)
    if namespace.json:
        output.print_json(found)
        return
    print(output.clean(found.summary))
    rows = [(verdict.worker, "fits" if verdict.fits else "no", verdict.reason) for verdict in found.workers]
    output.print_table(("WORKER", "FITS", "REASON"), rows)
    output.print_next([pair for pair in guidance.next_commands(task) if not pair[0].startswith("explain")])


def story(namespace: argparse.Namespace) -> None:
    """Prints each run's phases as bars, then the events."""
    with open_client(namespace) as client:
        found = client.story(find_task(client, namespace.task).id)
    if namespace.json:
        output.print_json(found)
        return
    print(f"{found.task.id}  {output.clean(found.task.spec.name)}  {found.task.state}")
    for run in found.runs:
        print(f"\nattempt {run.number} on {output.clean(run.worker)}: {_ending(run)}")
        if run.image_digest:
            print(f"  in the image {output.clean(run.image_digest)}")
        for line in picture(run.phases, time.time()):
            print(f"  {line}")
    print()
    start = found.task.created_at
    output.print_table(
        ("AT", "EVENT", "ATTEMPT", "BY", "DETAIL"),
        [(f"+{output.duration(event.at - start)}", *event_cells(event)) for event in found.events],
    )
    output.print_next(guidance.next_commands(found.task))


def picture(phases: Sequence[PhaseTime], now: float) -> Iterable[str]:
    """One line per phase: its name, its time, and a bar at its place in the whole."""
    spans = [(phase, phase.seconds if phase.seconds is not None else now - phase.started_at) for phase in phases]
    if not spans:
        return
    start = phases[0].started_at
    whole = max(phase.started_at - start + span for phase, span in spans) or 1.0
    for phase, span in spans:
        cells_before = (phase.started_at - start) / whole * BAR_CELLS
        going = " …" if phase.seconds is None else ""
        yield f"{phase.phase:<12}{output.duration(span):>8}  {_bar(cells_before, span / whole * BAR_CELLS)}{going}"


def _bar(before: float, cells: float) -> str:
    """A bar as wide as `cells`, at least a hair; its left edge is rounded to a cell."""
    full, rest = divmod(max(1, round(cells * 8)), 8)
    return " " * int(before) + "█" * full + _EIGHTHS[rest].strip()


def _ending(run: Run) -> str:
    if run.outcome is None:
        return str(run.phase)
    outcome = run.outcome
    details = [str(outcome.why)]
    if outcome.exit_code is not None:
        details.append(f"exit code {outcome.exit_code}")
    if outcome.signal is not None:
        details.append(f"signal {outcome.signal}")
    message = "" if outcome.message in ("", *details) else f": {output.clean(outcome.message)}"
    return f"{outcome.kind} ({', '.join(details)}){message}"


def event_cells(event: Event) -> tuple[object, ...]:
    """Return an event in the columns EVENT, ATTEMPT, BY, DETAIL."""
    return (event.kind, event.run or "", event.by, event.detail)
