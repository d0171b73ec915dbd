"""The columns of `ps`: what a task can be asked for by name, for a table, for CSV and for sorting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from taskyard.cli import output
from taskyard.cli.tasks import note, run_seconds, short
from taskyard.errors import NotFound, UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Task

USUAL = ("id", "name", "state", "queue", "worker", "created", "time", "note")
PARAMETER, METRIC, LAST_LINE = "param.", "metric.", "last-line"
_LAST_LINE_BYTES = 4096
Value = Callable[["Task"], Any]


def _worker(task: Task) -> str:
    return task.run.worker if task.run and task.state not in ("draft", "queued", "waiting") else ""


_PLAIN: dict[str, tuple[Value, Callable[[Any], object]]] = {
    "id": (short, str),
    "name": (lambda task: task.spec.name, str),
    "state": (lambda task: str(task.state), str),
    "queue": (lambda task: task.queue or "", str),
    "worker": (_worker, str),
    "created": (lambda task: task.created_at, output.ago),
    "time": (lambda task: run_seconds(task.run), output.duration),
    "note": (note, str),
    "project": (lambda task: task.spec.project, str),
    "tags": (lambda task: " ".join(task.spec.tags), str),
    "by": (lambda task: task.created_by, str),
    "attempts": (lambda task: task.run_count, str),
    "started": (lambda task: task.run.started_at if task.run else None, output.moment),
    "ended": (lambda task: task.run.ended_at if task.run else None, output.moment),
    "exit": (lambda task: task.run.outcome.exit_code if task.run and task.run.outcome else None, str),
    "gpus": (lambda task: task.spec.resources.gpus, str),
    "python": (lambda task: task.run.python if task.run else None, str),
}
"""Name → the value to sort by, and how it is shown to a person."""
HELP = f"of {', '.join(_PLAIN)}, {LAST_LINE}, {PARAMETER}NAME (a parameter), {METRIC}NAME (the latest measurement)"


class Columns:
    """Reads the named columns of tasks; what a task itself does not hold is asked of the server, once a task."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked: dict[tuple[str, str], Any] = {}

    def value(self, name: str, task: Task) -> Any:
        """Return the value, a number where it is one; None where the task has none."""
        if name in _PLAIN:
            return _PLAIN[name][0](task)
        if name.startswith(PARAMETER):
            return parameters(task).get(name.removeprefix(PARAMETER))
        key = (task.id, name)
        if key not in self._asked:
            self._asked[key] = self._last_line(task) if name == LAST_LINE else self._measured(name, task)
        return self._asked[key]

    def shown(self, name: str, task: Task, *, exact: bool = False) -> object:
        """Return the value for a person; `exact`: for a program, times in seconds."""
        value = self.value(name, task)
        if value is None:
            return ""
        if name == "id" and exact:
            return task.id
        if name in _PLAIN:
            return value if exact else _PLAIN[name][1](value)
        if name.startswith(METRIC) and not exact:
            return output.size(value) if "bytes" in name else f"{value:.4g}"
        return as_cell(value)

    def _last_line(self, task: Task) -> str | None:
        if task.run is None:
            return None
        try:
            data = self._client.tail_log(task.run.id, 1).data
        except NotFound:  # deleted since it was listed
            return None
        return data[-_LAST_LINE_BYTES:].decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]

    def _measured(self, name: str, task: Task) -> float | None:
        if task.run is None or task.run.started_at is None:
            return None
        try:
            series = self._client.run_metrics(task.run.id, names=(name.removeprefix(METRIC),))
        except NotFound:
            return None
        points = series[0].points if series else ()
        return points[-1].mean if points else None


def check(names: Sequence[str], flag: str) -> None:
    """Raise UsageError for a name that is no column's."""
    for name in names:
        prefixed = any(name.startswith(prefix) and name != prefix for prefix in (PARAMETER, METRIC))
        if name not in _PLAIN and name != LAST_LINE and not prefixed:
            raise UsageError(f"{flag}: there is no column {name!r}; give some {HELP}")


def parameters(task: Task) -> dict[str, Any]:
    """Return the parameters by name; those of other sections than the command line's by `section/name`."""
    from taskyard.wire import typed_parameters

    found: dict[str, Any] = {}
    for section, pairs in typed_parameters(task.spec).items():
        for name, value in pairs.items():
            found[name if section == "Args" else f"{section}/{name}"] = value
    return found


def differing(tasks: Sequence[Task]) -> list[str]:
    """Return the columns of the parameters that are not the same in all of these tasks."""
    each = [parameters(task) for task in tasks]
    names = dict.fromkeys(name for found in each for name in found)
    return [PARAMETER + name for name in names if len({as_cell(found.get(name)) for found in each}) > 1]


def title(name: str) -> str:
    """Return the head of a column."""
    return name.removeprefix(PARAMETER).removeprefix(METRIC) if "." in name else name.upper().replace("-", " ")


def as_cell(value: Any) -> str:
    """Return a parameter's value as it was typed."""
    from taskyard.wire import as_text

    return "" if value is None else as_text(value)


def sorting_key(value: Any) -> tuple[int, float, str]:
    """Return what to sort by: numbers by size, then texts, then what is not there."""
    if value is None or value == "":
        return (2, 0.0, "")
    try:
        number = float(value)
    except (TypeError, ValueError):
        return (1, 0.0, as_cell(value))
    return (1, 0.0, as_cell(value)) if math.isnan(number) else (0, number, "")
