"""What every benchmark is given: how much to measure, and where to say how far it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from tests.benchmarks.results import Measurement

T = TypeVar("T")


class Bench:
    """One run of the benchmarks."""

    def __init__(self, *, quick: bool, console: Console) -> None:
        self.quick = quick
        self.console = console
        self._name = ""

    @contextlib.contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Around one benchmark: its name stands beside its progress."""
        self._name = name
        began = time.monotonic()
        yield
        self.console.print(f"{name}: {time.monotonic() - began:.1f} s", style="dim")

    def times(self, full: int, quick: int) -> range:
        """As many rounds as this run has time for."""
        return range(quick if self.quick else full)

    def progress(self, rounds: Iterable[T], what: str = "") -> Iterable[T]:
        """Shows how far the rounds are, on a terminal."""
        label = f"{self._name} {what}".strip()
        return track(rounds, label, console=self.console, transient=True, disable=not self.console.is_terminal)


Measure = Callable[[Bench], Iterable[Measurement]]
