"""The schedule against a clock on a wall that is watched minute by minute."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.rules import Scheduled
from autoscale.schedule import Floor, floor_at

BERLIN = "Europe/Berlin"
MINUTE = timedelta(minutes=1)


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def entry(start: str, end: str, replicas: int = 3, zone: str = BERLIN) -> Scheduled:
    return Scheduled(start, end, zone, replicas)


def floor(start: str, end: str, wall_s: float, zone: str = BERLIN) -> Floor:
    return floor_at((entry(start, end, zone=zone),), wall_s)


WORKING_HOURS = ("0 8 * * mon-fri", "0 18 * * mon-fri")


def test_without_entries_nothing_is_asked_for_ever() -> None:
    assert floor_at((), 1.7e9) == Floor(0, math.inf)


@pytest.mark.parametrize(
    ("now", "replicas", "until"),
    [
        ("2026-01-05 07:59:59", 0, "2026-01-05 08:00"),
        ("2026-01-05 08:00:00", 3, "2026-01-05 18:00"),
        ("2026-01-05 17:59:59", 3, "2026-01-05 18:00"),
        ("2026-01-05 18:00:00", 0, "2026-01-06 08:00"),
        ("2026-01-09 18:00:00", 0, "2026-01-12 08:00"),
    ],
)
def test_working_hours(now: str, replicas: int, until: str) -> None:
    """The 5th is a Monday."""
    assert floor(*WORKING_HOURS, at(now)) == Floor(replicas, at(until))


def test_a_fraction_of_a_second_does_not_hide_the_start() -> None:
    eight = at("2026-01-05 08:00")
    just_before = math.nextafter(eight, 0)
    assert floor(*WORKING_HOURS, just_before) == Floor(0, eight)
    assert floor(*WORKING_HOURS, math.nextafter(eight, math.inf)).replicas == 3


def test_each_entry_in_its_own_time_zone() -> None:
    now = at("2026-01-05 08:30")
    assert floor("0 8 * * *", "0 9 * * *", now, "America/New_York").replicas == 0
    assert floor("0 8 * * *", "0 9 * * *", now + 6 * 3600, "America/New_York").replicas == 3


def test_the_largest_counts_until_any_of_them_changes() -> None:
    entries = (
        entry("0 8 * * *", "0 18 * * *", 2),
        entry("0 12 * * *", "0 13 * * *", 5),
        entry("0 9 * * *", "30 17 * * *", 1),
    )
    assert floor_at(entries, at("2026-01-05 12:30")) == Floor(5, at("2026-01-05 13:00"))
    assert floor_at(entries, at("2026-01-05 13:00")) == Floor(2, at("2026-01-05 17:30"))
    assert floor_at(entries[::-1], at("2026-01-05 12:30")).replicas == 5


def test_where_one_ends_as_it_begins_there_is_no_gap() -> None:
    """Every weekday from midnight to midnight, told as a start and an end that meet."""
    started, ended = "0 0 * * mon-fri", "0 0 * * *"
    assert floor(started, ended, at("2026-01-06 00:00")).replicas == 3
    assert floor(started, ended, at("2026-01-10 00:00")).replicas == 0


def test_one_that_never_ends_and_one_that_never_starts() -> None:
    never = "0 0 */31 2 mon#5"  # the 1st of February as a fifth Monday
    now = at("2026-02-02 12:00")
    assert floor("0 0 2 2 *", never, now) == Floor(3, math.inf)
    assert floor(never, "0 0 2 2 *", now) == Floor(0, math.inf)
    assert floor(never, never, now) == Floor(0, math.inf)


def test_the_29th_of_february_is_found_years_later_and_years_ahead() -> None:
    leap = ("0 0 29 2 *", "0 0 1 3 *")
    assert floor(*leap, at("2024-02-29 12:00")) == Floor(3, at("2024-03-01"))
    assert floor(*leap, at("2027-06-01")) == Floor(0, at("2028-02-29"))
    # no leap year in 2100
    assert floor(*leap, at("2097-06-01")) == Floor(0, at("2104-02-29"))
    since_then = ("0 0 29 2 *", "0 0 28 2 *")
    assert floor(*since_then, at("2026-02-27")) == Floor(0, at("2028-02-29"))
    assert floor(*since_then, at("2025-02-27")) == Floor(3, at("2025-02-28"))


def test_the_last_day_of_a_month() -> None:
    closing = ("0 6 L * *", "0 0 1 * *")
    assert floor(*closing, at("2026-02-28 06:00")) == Floor(3, at("2026-03-01"))
    assert floor(*closing, at("2026-03-01 00:00")) == Floor(0, at("2026-03-31 06:00"))
    thirty_first = ("0 6 31 * *", "0 0 1 * *")
    assert floor(*thirty_first, at("2026-04-01")) == Floor(0, at("2026-05-31 06:00"))


SPRING = "2026-03-29"
AUTUMN = "2026-10-25"


def test_put_forward_a_start_that_is_skipped_comes_with_the_change() -> None:
    """At 02:00 the clock shows 03:00."""
    change = at(f"{SPRING} 03:00")
    assert floor("30 2 * * *", "0 5 * * *", change - 1) == Floor(0, change)
    assert floor("30 2 * * *", "0 5 * * *", change) == Floor(3, at(f"{SPRING} 05:00"))
    assert floor("0 1 * * *", "30 2 * * *", change - 1) == Floor(3, change)
    assert floor("0 1 * * *", "30 2 * * *", change) == Floor(0, at("2026-03-30 01:00"))


def test_put_forward_what_lies_within_the_skipped_hour_does_not_happen() -> None:
    """And does not begin at 03:00 to last for a day."""
    for second in (-1, 0, 60):
        now = at(f"{SPRING} 03:00") + second
        assert floor("0 2 * * *", "30 2 * * *", now).replicas == 0
    after = floor("0 2 * * *", "30 2 * * *", at(f"{SPRING} 03:00"))
    assert after.until_s == at("2026-03-30 02:00")


@pytest.mark.parametrize("start", ["30 2 * * *", "30 */2 * * *"])
def test_put_back_what_began_before_goes_on_through_the_second_hour(start: str) -> None:
    """At 03:00 the clock shows 02:00 again; 02:30 comes twice, and counts once."""
    half_past = at(f"{AUTUMN} 02:30")
    assert floor(start, "5 3 * * *", half_past) == Floor(3, at(f"{AUTUMN} 03:05"))
    assert at(f"{AUTUMN} 03:05") - half_past == 95 * 60
    for minutes in range(95):
        assert floor(start, "5 3 * * *", half_past + minutes * 60).replicas == 3


def test_put_back_what_has_ended_does_not_begin_again() -> None:
    start, end = "15 2 * * *", "45 2 * * *"
    assert floor(start, end, at(f"{AUTUMN} 02:15")) == Floor(3, at(f"{AUTUMN} 02:45"))
    for minute in ("02:00", "02:15", "02:30", "02:59"):
        again = at(f"{AUTUMN} {minute}", fold=1)
        assert floor(start, end, again) == Floor(0, at("2026-10-26 02:15"))


def test_a_day_that_a_zone_left_out() -> None:
    """Samoa crossed the date line: after 29 December 2011 came the 31st."""
    zone = "Pacific/Apia"
    new_year = at("2011-12-31 00:00", zone)
    assert floor("0 12 30 12 *", "0 12 31 12 *", new_year - 1, zone) == Floor(0, new_year)
    assert floor("0 12 30 12 *", "0 12 31 12 *", new_year, zone).replicas == 3


def matches(cron: str, named: datetime) -> bool:
    """Five fields, each a number or a star."""
    minute, hour, day, month, weekday = cron.split()
    values = (named.minute, named.hour, named.day, named.month, named.isoweekday() % 7)
    fields = (minute, hour, day, month, weekday)
    return all(f in ("*", str(v)) for f, v in zip(fields, values, strict=True))


def watch(entries: tuple[Scheduled, ...], begin_s: int, minutes: int) -> list[int]:
    """The floor at each minute, by looking at the clock each minute: whatever it has passed since
    it was last looked at has come; what it showed before comes no more."""
    floors = [0] * minutes
    for one in entries:
        zone = ZoneInfo(one.timezone)
        passed = datetime.fromtimestamp(begin_s, zone).replace(tzinfo=None) - MINUTE
        active = False
        for minute in range(minutes):
            shown = datetime.fromtimestamp(begin_s + 60 * minute, zone).replace(tzinfo=None, fold=0)
            while passed < shown:
                passed += MINUTE
                if matches(one.start, passed):
                    active = True
                elif matches(one.end, passed):
                    active = False
            if active:
                floors[minute] = max(floors[minute], one.replicas)
    return floors


star = st.just("*")
crons = st.builds(
    lambda minute, hour, weekday: f"{minute} {hour} * * {weekday}",
    star | st.integers(0, 59),
    star | st.integers(0, 23) | st.integers(1, 3),
    star | st.integers(0, 6),
)
zones = st.sampled_from([BERLIN, "UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
days = st.sampled_from(
    [datetime(2026, 3, 29), datetime(2026, 10, 25), datetime(2026, 3, 8), datetime(2026, 4, 5)]
) | st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1))
WEEK = 7 * 1440 + 120
"""Minutes after which each of these expressions has come."""


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(Scheduled, crons, crons, zones, st.integers(1, 9)), min_size=1, max_size=2
    ).map(tuple),
    days,
    st.lists(st.integers(0, 2 * 86400 - 1), min_size=1, max_size=20),
)
def test_it_agrees_with_a_clock_that_is_watched(
    entries: tuple[Scheduled, ...], day: datetime, moments: list[int]
) -> None:
    begin_s = int(day.replace(tzinfo=UTC, hour=0, minute=0, second=0).timestamp()) - 60 * WEEK
    minutes = WEEK + 2 * 1440
    floors = watch(entries, begin_s, minutes)
    for moment in moments:
        wall_s = begin_s + 60 * WEEK + moment + 0.5
        found = floor_at(entries, wall_s)
        assert found.until_s > wall_s
        assert found.until_s % 60 == 0
        first = int(wall_s - begin_s) // 60
        until = math.ceil(min(found.until_s - begin_s, 60.0 * minutes) / 60)
        assert set(floors[first:until]) == {found.replicas}


@settings(max_examples=60, deadline=None)
@given(st.builds(Scheduled, crons, crons, zones, st.integers(1, 9)), days)
def test_asking_only_when_told_misses_nothing(one: Scheduled, day: datetime) -> None:
    """What a planner does that keeps each answer until it runs out."""
    wall_s = day.replace(tzinfo=UTC).timestamp()
    for _ in range(5):
        found = floor_at((one,), wall_s)
        assert wall_s < found.until_s < wall_s + 86400 * 8
        assert floor_at((one,), math.nextafter(found.until_s, 0)).replicas == found.replicas
        wall_s = found.until_s
