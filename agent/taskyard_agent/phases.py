"""Times the phases of a run."""

from __future__ import annotations

import dataclasses

from taskyard.wire import Phase, PhaseTime

from .clock import ServerClock


class PhaseLog:
    """Times the phases of one run."""

    def __init__(self, clock: ServerClock, times: tuple[PhaseTime, ...]) -> None:
        self._clock = clock
        self._times = times

    @property
    def current(self) -> Phase:
        """The phase that lasts."""
        return self._times[-1].phase

    @property
    def times(self) -> tuple[PhaseTime, ...]:
        """All phases so far; the last may be open."""
        return self._times

    def enter(self, phase: Phase) -> None:
        """Ends the current phase and begins `phase`."""
        now = self._clock.now()
        self._times = (*self._closed(now), PhaseTime(phase=phase, started_at=now))

    def close(self) -> tuple[PhaseTime, ...]:
        """Ends the current phase and returns all."""
        self._times = self._closed(self._clock.now())
        return self._times

    def _closed(self, now: float) -> tuple[PhaseTime, ...]:
        *before, last = self._times
        if last.seconds is None:
            last = dataclasses.replace(last, seconds=max(0.0, now - last.started_at))
        return (*before, last)
