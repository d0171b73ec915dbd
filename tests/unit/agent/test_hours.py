"""Hours of work, against a clock that is read minute by minute: over midnight, week ends, changes of the clock."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taskyard_agent.life.hours import DAYS, Hours, rule

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Santiago")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: datetime.tzinfo = BERLIN) -> float:
    """A time by the clock of a zone; 2026-03-02 is a Monday."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def up(*rules: str) -> Hours:
    return Hours(up=[rule(text) for text in rules], zone=BERLIN)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("17-20 TUE", "2026-03-03T17:00", "2026-03-03T20:00"),
        ("17-20 TUE", "2026-03-03T19:59", "2026-03-04T18:00"),
        ("22-6 MON-FRI", "2026-03-07T05:59", "2026-03-02T05:59"),  # Saturday belongs to Friday, Monday to Sunday
        ("22-6 MON-FRI", "2026-03-06T23:00", "2026-03-07T22:00"),
        ("0-24 FRI-MON", "2026-03-01T12:00", "2026-03-03T00:00"),
        ("22-24", "2026-03-04T23:59", "2026-03-04T00:00"),
        ("22-0", "2026-03-04T23:59", "2026-03-04T00:00"),
        ("22:30-6:15", "2026-03-04T06:14", "2026-03-04T22:29"),
        ("9-12,13-18 MON,WED", "2026-03-04T13:00", "2026-03-04T12:00"),
        ("* SUN", "2026-03-08T00:00", "2026-03-09T00:00"),
        ("9-17 *", "2026-03-08T09:00", "2026-03-08T17:00"),
        ("9-17 sat-sun", "2026-03-08T09:00", "2026-03-09T09:00"),
    ],
)
def test_a_range_holds_from_its_first_minute_to_before_its_last(text: str, inside: str, outside: str) -> None:
    assert up(text).open_at(at(inside))
    assert not up(text).open_at(at(outside))


def test_several_rules_add_up() -> None:
    hours = up("22-6 MON-FRI", "0-24 SAT-SUN")

    assert hours.open_at(at("2026-03-07T12:00"))
    assert not hours.open_at(at("2026-03-06T12:00"))


def test_down_times_are_the_other_way_round() -> None:
    hours = Hours(down=[rule("9-17 MON-FRI")], zone=BERLIN)

    assert not hours.open_at(at("2026-03-02T09:00"))
    assert hours.next_change(at("2026-03-02T09:00")) == at("2026-03-02T17:00")


def test_the_next_change_may_lie_beyond_a_week_end() -> None:
    assert up("22-6 MON-FRI").next_change(at("2026-03-07T07:00")) == at("2026-03-09T22:00")


def test_hours_without_an_end_never_change() -> None:
    assert up("*").next_change(at("2026-03-02T09:00")) is None


def test_an_hour_that_the_clock_skips_is_no_working_time() -> None:
    hours = up("2-3 SUN")  # on 2026-03-29 the clock goes from 2 to 3

    assert hours.next_change(at("2026-03-28T12:00")) == at("2026-04-05T02:00")


def test_an_hour_that_the_clock_repeats_is_worked_twice() -> None:
    hours = up("2-3 SUN")  # on 2026-10-25 the clock goes from 3 back to 2
    begin = at("2026-10-25T02:00")

    assert hours.next_change(begin) == begin + 2 * 3600


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "''"),
        ("TUE", "'TUE' is not a range of hours"),
        ("17-20 TUESDAY", "'TUESDAY' is not a day (MON TUE"),
        ("17-25", "'25' is not a time"),
        ("17:60-20", "'17:60' is not a time"),
        ("24:30-3", "'24:30' is not a time"),
        ("9-9", "begins when it ends"),
        ("9 - 17 MON", "more than hours and days"),
        ("9-17 MON-", "'' is not a day"),
        ("-3-5", "is not a time"),
    ],
)
def test_a_bad_rule_is_refused_with_what_is_wrong_and_an_example(text: str, wrong: str) -> None:
    with pytest.raises(ValueError) as refused:
        rule(text)

    assert wrong in str(refused.value)
    assert "22-6 MON-FRI" in str(refused.value)


MINUTES = st.integers(0, 1439)


@st.composite
def rules(draw: st.DrawFn) -> tuple[str, int, int, list[int]]:
    begin, end = draw(MINUTES), draw(MINUTES)
    end = end + 1 if end == begin else end
    first, last = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    text = f"{begin // 60}:{begin % 60:02}-{end // 60}:{end % 60:02} {DAYS[first]}-{DAYS[last]}"
    days = [first]
    while days[-1] != last:
        days.append((days[-1] + 1) % 7)
    return text, begin, end, days


def week_of(begin: int, end: int, days: list[int]) -> set[int]:
    """The minutes of the week that a rule covers, walked one by one."""
    covered, length = set(), (end - begin) % 1440 or 1440
    for day in days:
        covered |= {(day * 1440 + begin + step) % (7 * 1440) for step in range(length)}
    return covered


@given(rules(), st.sampled_from(ZONES), st.integers(0, 366 * 1440), st.booleans())
@settings(deadline=None, max_examples=60)
def test_hours_are_those_of_a_clock_that_is_read_every_minute(
    drawn: tuple[str, int, int, list[int]], zone_name: str, minute: int, is_up: bool
) -> None:
    text, begin, end, days = drawn
    zone = ZoneInfo(zone_name)
    hours = Hours(up=[rule(text)], zone=zone) if is_up else Hours(down=[rule(text)], zone=zone)
    week, now = week_of(begin, end, days), at("2026-01-01T00:00", zone) + minute * 60

    def oracle(seconds: float) -> bool:
        clock = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).astimezone(zone)
        return (clock.weekday() * 1440 + clock.hour * 60 + clock.minute in week) is is_up

    change = hours.next_change(now)

    assert hours.open_at(now) is oracle(now)
    for step in range(1, 8 * 1440):
        if oracle(now + step * 60) is not oracle(now):
            assert change == now + step * 60
            return
    assert change is None or change > now + 8 * 86_400
