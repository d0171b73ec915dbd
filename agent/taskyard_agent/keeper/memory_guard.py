"""A run's memory limit: the kernel's where there is a control group for it, else looked after here.

Standard library alone: the keeper uses it.
"""

from __future__ import annotations

import os
import time

from taskyard_agent.keeper import cgroups, processes

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from collections.abc import Iterable

PAUSES = (0.02, 1.0)
"""Shortest and longest time between two looks, in seconds."""
HELD_FIELDS = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
SHARED_OUT_FIELDS = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")


class MemoryGuard:
    """Tells when a run holds more than it was given. Mapped files count as nothing: the kernel can drop them."""

    def __init__(self, limit: int, cgroup: str) -> None:
        self._limit = limit
        self._cgroup = cgroup
        self.events = cgroups.limit_memory(cgroup, limit)
        """Becomes urgent (POLLPRI) once the kernel has ended something of the run; None: it does not look."""
        self._held = 0
        self._looked_at = time.monotonic()
        self._pause = PAUSES[0]

    @property
    def due_at(self) -> float | None:
        """When to look next, on the monotonic clock; None when the kernel looks."""
        return None if self.events is not None else self._looked_at + self._pause

    def complaint(self) -> str:
        """What is wrong with the run's memory just now, in a line; empty when nothing is."""
        if self.events is not None:
            return self._told("used all") if cgroups.memory_kills(self.events) else ""
        if time.monotonic() < self._looked_at + self._pause:
            return ""
        self._look()
        return self._told(f"used {size_text(self._held)}") if self._held > self._limit else ""

    def _told(self, used: str) -> str:
        return f"{used} of the {size_text(self._limit)} it was given; ask for more with --memory"

    def _look(self) -> None:
        """Looks soon again while the run grows so fast that it could pass the limit."""
        now = time.monotonic()
        held = held_bytes(self._members(), self._limit)
        growth = (held - self._held) / max(now - self._looked_at, 1e-3)
        soon = (self._limit - held) / growth / 2 if growth > 0 else PAUSES[1]
        self._pause = max(PAUSES[0], min(soon, 2 * self._pause, PAUSES[1]))
        self._held, self._looked_at = held, now

    def _members(self) -> set[int]:
        """All but the keeper. Without a group everything that runs on the machine has to be gone through."""
        return (cgroups.members(self._cgroup) or processes.descendants(os.getpid())) - {os.getpid()}


def held_bytes(pids: Iterable[int], limit: int) -> int:
    """What processes hold together, or, as long as it stays below `limit`, a cheaper and larger number.

    What several share is divided among them only when it matters: that has the kernel walk all their pages.
    """
    pids = tuple(pids)
    if not processes.LINUX:
        return processes.resident_bytes(pids)
    held = sum(_sum_of(f"/proc/{pid}/status", HELD_FIELDS) or 0 for pid in pids)
    return held if held <= limit else sum(map(_divided, pids))


def _divided(pid: int) -> int:
    divided = _sum_of(f"/proc/{pid}/smaps_rollup", SHARED_OUT_FIELDS)
    return divided if divided is not None else _sum_of(f"/proc/{pid}/status", HELD_FIELDS) or 0


def _sum_of(path: str, fields: tuple[bytes, ...]) -> int | None:
    """The sum of lines like `RssAnon:  112 kB`; None when the process is gone or out of reach."""
    try:
        with open(path, "rb") as file:
            return 1024 * sum(int(line.split()[1]) for line in file if line.startswith(fields))
    except OSError:
        return None


def size_text(size: int) -> str:
    """`2.1 GiB`, by powers of 1024, as sizes are given in settings."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
