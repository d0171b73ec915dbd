"""The hours at which an agent takes tasks: `22-6 MON-FRI`, by the clock on the machine's wall."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MINUTES_PER_DAY = 24 * 60
HORIZON_DAYS = 9
"""A week, and what two changes of the clock can add."""
TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?")
EXAMPLE = "write it in quotes, like '22-6 MON-FRI', '8:30-17 TUE,THU' or '0-24 SAT-SUN'"


@dataclass(frozen=True)
class Rule:
    """Stretches of the clock on some days of the week. Past midnight, one belongs to the day it begins on."""

    text: str
    """As the operator wrote it."""
    spans: tuple[tuple[int, int], ...]
    """Minutes after the midnight at which their day begins; an end past 1440 reaches into the next day."""
    days: frozenset[int]
    """0 is Monday."""

    def __str__(self) -> str:
        return self.text

    def holds(self, clock: datetime.datetime) -> bool:
        """Whether the clock on the wall stands within it."""
        minute = clock.hour * 60 + clock.minute
        today, yesterday = clock.weekday() in self.days, (clock.weekday() - 1) % 7 in self.days
        return any(
            (today and begin <= minute < end) or (yesterday and minute + MINUTES_PER_DAY < end)
            for begin, end in self.spans
        )


def rule(text: str) -> Rule:
    """Reads `HOURS [DAYS]`, each a list with commas: `9-12,13:30-18 MON-FRI,SUN`; `*` is all of them.

    Raises ValueError saying what is wrong, with an example.
    """
    hours, *days = text.split() or [""]
    if len(days) > 1:
        raise ValueError(f"{text!r} has more than hours and days; {EXAMPLE}")
    spans = ["0-24"] if hours == "*" else hours.split(",")
    return Rule(text, tuple(_minutes(span) for span in spans), _days(days[0] if days else "*"))


def _minutes(text: str) -> tuple[int, int]:
    begin, found, end = text.partition("-")
    if not found:
        raise ValueError(f"{text!r} is not a range of hours; {EXAMPLE}")
    first, last = _minute(begin), _minute(end)
    if first == MINUTES_PER_DAY:
        first = 0
    if first == last:
        raise ValueError(f"{text!r} begins when it ends; {EXAMPLE}")
    return first, last if last > first else last + MINUTES_PER_DAY


def _minute(text: str) -> int:
    match = TIME.fullmatch(text)
    minute = int(match[1]) * 60 + int(match[2] or 0) if match else -1
    if match is None or int(match[2] or 0) > 59 or minute > MINUTES_PER_DAY:
        raise ValueError(f"{text!r} is not a time from 0 to 24; {EXAMPLE}")
    return minute


def _days(text: str) -> frozenset[int]:
    if text == "*":
        return frozenset(range(7))
    return frozenset(day for part in text.split(",") for day in _run_of_days(part))


def _run_of_days(text: str) -> list[int]:
    """`FRI-MON` goes over the end of the week."""
    first, found, last = text.partition("-")
    begin, end = _day(first), _day(last if found else first)
    return [day % 7 for day in range(begin, (end if end >= begin else end + 7) + 1)]


def _day(text: str) -> int:
    if text.upper() not in DAYS:
        raise ValueError(f"{text!r} is not a day ({' '.join(DAYS)}); {EXAMPLE}")
    return DAYS.index(text.upper())


@dataclass(frozen=True, kw_only=True)
class Hours:
    """When an agent takes tasks: within `up`, or, where that is empty, outside of `down`."""

    up: Sequence[Rule] = ()
    down: Sequence[Rule] = ()
    zone: datetime.tzinfo | None = None
    """None: the machine's own."""

    def open_at(self, at: float) -> bool:
        """Whether tasks are taken at this time (seconds since the epoch)."""
        clock = datetime.datetime.fromtimestamp(at, self.zone)
        if self.up:
            return any(rule.holds(clock) for rule in self.up)
        return not any(rule.holds(clock) for rule in self.down)

    def next_change(self, at: float) -> float | None:
        """The first minute of that clock after `at` that is not like `at`; None when no change is to come.

        Found minute by minute: where the clock is put forward or back, nothing quicker is as sure.
        """
        now = self.open_at(at)
        first = int(at) - datetime.datetime.fromtimestamp(at, self.zone).second + 60
        minutes = range(first, first + HORIZON_DAYS * 86_400, 60)
        return next((float(minute) for minute in minutes if self.open_at(minute) is not now), None)

    def shown(self, at: float) -> str:
        """A time as people of this zone read it: `Mon 22:00`."""
        clock = datetime.datetime.fromtimestamp(at, self.zone)
        return f"{DAYS[clock.weekday()].capitalize()} {clock:%H:%M}"
