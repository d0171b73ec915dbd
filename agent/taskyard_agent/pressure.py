"""How full this machine's memory and disk are, and when that is too much to take more tasks (`--pause-at`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from taskyard.asking import size_in_words

from taskyard_agent import group_memory

FREE_DISK = "free disk"
LEAST_FREE_BYTES = 500 << 20
LEAST_FREE_DIVISOR = 20
RELIEF = 0.05
"""How far below the mark it must fall again: at the mark itself an agent would stop and go with every beat."""


class Pressure:
    """Remembers what was too full when it looked last."""

    def __init__(self, pause_at: float, measures: Mapping[str, Callable[[], float]]) -> None:
        """`measures` answer the part of each that is in use, from 0 to 1."""
        self._pause_at = pause_at
        self._measures = measures
        self._full: set[str] = set()

    def reasons(self) -> dict[str, str | None]:
        """Of each why nothing may be taken now; None where there is room."""
        return {name: self._reason(name, measure()) for name, measure in self._measures.items()}

    def _reason(self, name: str, used: float) -> str | None:
        relieved_at = max(self._pause_at - RELIEF, self._pause_at / 2)
        if used < (relieved_at if name in self._full else self._pause_at):
            self._full.discard(name)
            return None
        self._full.add(name)
        return f"{name} is {used:.0%} full: nothing is taken until it is below {relieved_at:.0%}"


class DiskFloor:
    """Remembers that the disk had less than its least free space."""

    def __init__(self, least_bytes: int, free_bytes: Callable[[], int]) -> None:
        self._least = least_bytes
        self._free_bytes = free_bytes
        self._low = False

    def reasons(self) -> dict[str, str | None]:
        """Return why nothing may be taken now: a task could not even write its log."""
        free = self._free_bytes()
        relieved_at = self._least + self._least // 4
        self._low = free < (relieved_at if self._low else self._least)
        if not self._low:
            return {FREE_DISK: None}
        has, needs = size_in_words(free), size_in_words(relieved_at)
        return {FREE_DISK: f"{has} of disk are free: nothing is taken until it is {needs} (--least-free-disk)"}


def floor_of(disk: Path, least_bytes: int | None) -> DiskFloor:
    """Watches what this user may still write on the disk that holds `disk`; None: what suits its size."""
    if least_bytes is None:
        least_bytes = min(LEAST_FREE_BYTES, psutil.disk_usage(str(disk)).total // LEAST_FREE_DIVISOR)
    return DiskFloor(least_bytes, lambda: psutil.disk_usage(str(disk)).free)


def on_this_machine(pause_at: float, disk: Path) -> Pressure:
    """Watches the memory that is this agent's to use, and the disk that holds `disk`."""
    return Pressure(pause_at, {"memory": memory_in_use, "disk": lambda: disk_in_use(disk)})


def memory_in_use() -> float:
    """The part in use: of the machine's memory or of that of a group that holds this agent, whichever is more."""
    machine: float = psutil.virtual_memory().percent
    return max([machine / 100, *group_memory.in_use()])


def disk_in_use(disk: Path) -> float:
    """As `df` tells it: of what this user may use."""
    percent: float = psutil.disk_usage(str(disk)).percent
    return percent / 100
