"""When the latest runs of tasks began and ended, read without decoding the tasks."""

from __future__ import annotations

from dataclasses import dataclass

from taskyard_server.schemas import adapter


@dataclass(frozen=True, kw_only=True)
class RunTimes:
    """The times of one run; see `wire.Run`."""

    id: str
    claimed_at: float
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    run: RunTimes


@dataclass(frozen=True, kw_only=True)
class _Attempts:
    runs: tuple[_Attempt, ...] = ()


_ATTEMPTS = adapter(_Attempts)


def latest(body: bytes) -> RunTimes | None:
    """Those of the latest run of a task, whose record is encoded in `body`; None where it never ran."""
    runs = _ATTEMPTS.validate_json(body).runs
    return runs[-1].run if runs else None
