"""Measurements beside their targets: as a table, as JSON, and in the documentation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

FILE = Path(__file__).with_name("results.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "performance.md"
BEGIN = "<!-- begin of the table: written by `python -m tests.benchmarks --write-docs` -->"
END = "<!-- end of the table -->"
HEADINGS = ("metric", "value", "target", "met", "best known peer")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number. With neither bound it is there to be known, and promises nothing."""

    metric: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    peer: str = ""
    """The best known elsewhere."""

    @property
    def target(self) -> str:
        """The bound as people write it."""
        if self.at_most is not None:
            return f"≤ {shown(self.at_most, self.unit)}"
        return f"≥ {shown(self.at_least, self.unit)}" if self.at_least is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether it keeps the promise; None where there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def record(self) -> dict[str, Any]:
        """What `results.json` holds of it."""
        return {
            "metric": self.metric,
            "value": round(self.value, 4),
            "unit": self.unit,
            "target": self.target,
            "met": self.met,
            "peer": self.peer,
        }


def shown(value: float, unit: str) -> str:
    """`1,234 /s`, `12.3 ms`, `0.02 %`: three digits that matter."""
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def table(records: Iterable[dict[str, Any]]) -> Table:
    """For a terminal."""
    grid = Table(*HEADINGS, title="What Taskyard promises, and what was measured")
    for record in records:
        metric, value, target, met, peer = _cells(record)
        style = {"yes": "green", "no": "red"}.get(met, "")
        grid.add_row(metric, f"[{style}]{value}[/]" if style else value, target, met, peer)
    return grid


def save(measurements: Iterable[Measurement]) -> list[dict[str, Any]]:
    """Writes `results.json`, replacing what was measured again. Returns all records."""
    known = {one["metric"]: one for one in json.loads(FILE.read_text())} if FILE.exists() else {}
    records = list((known | {one.metric: one.record() for one in measurements}).values())
    FILE.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    return records


def write_document(records: Iterable[dict[str, Any]]) -> None:
    """Replaces the table between the two markers of the documentation."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(record) for record in records)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}")


def _cells(record: dict[str, Any]) -> tuple[str, str, str, str, str]:
    met = {True: "yes", False: "no", None: ""}[record["met"]]
    return record["metric"], shown(record["value"], record["unit"]), record["target"], met, record["peer"]
