"""Processes of this machine: who one is, and the end of everything that carries a run's mark.

Standard library alone and nothing of ours: the keeper imports it too.
"""

from __future__ import annotations

from dataclasses import dataclass

MARK = "TASKYARD_RUN"
"""The variable that every process of a run inherits; its value is the run's id."""


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """One process for all time: a pid alone is used again."""

    pid: int
    start_ticks: int
    boot_id: str

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        raise NotImplementedError


def boot_id() -> str:
    """A word that changes with every start of this machine."""
    raise NotImplementedError


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a running process, None when there is none."""
    raise NotImplementedError


def sweep(run_id: str, *, seconds: float = 10.0) -> tuple[int, ...]:
    """Kills everything that carries the run's mark until none is left; returns the pids that survived it."""
    raise NotImplementedError
