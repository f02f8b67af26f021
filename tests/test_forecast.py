"""The forecast over whole seasons: what it learns, what it forgets, what it never does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.forecast import SLOTS, Forecast

DAY = 86400.0
SLOT = DAY / SLOTS
MIDNIGHT = 20_000 * DAY
"""Some day's."""


def fed(
    forecast: Forecast,
    demand: Callable[[float], float],
    days: float,
    begin: float = MIDNIGHT,
    step: float = 30.0,
) -> Forecast:
    """With a reading every `step` seconds; `demand` is asked by days since `MIDNIGHT`."""
    for tick in range(round(days * DAY / step)):
        at = begin + tick * step
        forecast = forecast.add(at, demand((at - MIDNIGHT) / DAY))
    return forecast


def by_slot(forecast: Forecast, demands: Iterable[float], first: int) -> Forecast:
    """Whole slots of a constant demand each."""
    for slot, demand in enumerate(demands, first):
        for part in range(5):
            forecast = forecast.add((slot + (part + 0.5) / 5) * SLOT, demand)
    return forecast


def sine(day: float) -> float:
    return 2 - 1.8 * math.cos(2 * math.pi * day)


def expected(forecast: Forecast, day: float, lead_s: float = 0.0) -> float:
    found = forecast.expect(MIDNIGHT + day * DAY, lead_s)
    assert found is not None
    return found


def test_it_learns_a_sine_of_a_day_from_two() -> None:
    forecast = fed(Forecast.start(DAY), sine, 2)
    for hour in range(24):
        day = 2 + hour / 24
        # the highest of five minutes: at most 1.8 × 2π / 288 = 0.04 above their first
        assert sine(day) - 0.04 <= expected(forecast, day) <= sine(day) + 0.04
    assert forecast.error is not None
    assert forecast.error < 0.01


def test_it_looks_ahead_by_the_time_a_launch_takes() -> None:
    """Demand rises from 1 to 4 at 08:00; at 07:58 nothing is known of it without a lead."""
    forecast = fed(Forecast.start(DAY), lambda day: 4.0 if 8 <= day % 1 * 24 < 18 else 1.0, 2)
    before_eight = 2 + (8 - 2 / 60) / 24
    assert expected(forecast, before_eight, 60) == pytest.approx(1)
    assert expected(forecast, before_eight, 180) == pytest.approx(4)
    assert expected(forecast, before_eight, DAY) == pytest.approx(4)
    assert expected(forecast, before_eight, math.inf) == pytest.approx(4)
    assert expected(forecast, before_eight, -60) == pytest.approx(1)


@pytest.mark.parametrize("season_s", [1.0, 45.0, 600.0, DAY, 7 * DAY])
def test_a_constant_load_is_forecast_as_it_is(season_s: float) -> None:
    forecast = Forecast.start(season_s)
    for tick in range(3001):
        forecast = forecast.add(MIDNIGHT + tick * season_s / 1500, 1.7)
    asked = MIDNIGHT + 2 * season_s
    assert forecast.expect(asked, 0) == pytest.approx(1.7)
    assert forecast.expect(asked, season_s) == pytest.approx(1.7)
    assert forecast.error == pytest.approx(0)


def test_before_a_season_has_passed_it_says_nothing() -> None:
    """Begun at noon: the slot of noon is known as soon as it is over, and for the next day."""
    noon = MIDNIGHT + DAY / 2
    forecast = fed(Forecast.start(DAY), sine, 1, begin=noon)
    assert forecast.expect(noon + DAY - SLOT, 0) is None
    # the last slot before noon is not over; the day's other slots are known
    assert forecast.expect(noon + DAY, 0) is not None
    assert forecast.expect(noon + DAY, DAY - 2 * SLOT) is not None
    assert forecast.expect(noon + DAY, DAY) is None
    assert forecast.error is None
    assert Forecast.start(DAY).expect(noon, 60) is None


def test_hours_that_were_never_heard_stay_unknown() -> None:
    """Off from 10:00 to 12:00 on the first day: None there on the second, and a number besides."""
    forecast = fed(Forecast.start(DAY), sine, 10 / 24)
    forecast = fed(forecast, sine, 12 / 24, begin=MIDNIGHT + DAY / 2)
    assert expected(forecast, 1 + 9.9 / 24) == pytest.approx(sine(9.9 / 24), abs=0.1)
    assert forecast.expect(MIDNIGHT + DAY * (1 + 11 / 24), 0) is None
    assert forecast.expect(MIDNIGHT + DAY * (1 + 9.9 / 24), 3600) is None
    assert expected(forecast, 1 + 12.1 / 24) == pytest.approx(sine(12.1 / 24), abs=0.1)


def test_a_slot_that_was_hardly_heard_teaches_nothing() -> None:
    """Two of its fifths are not enough, three are."""
    first = round(MIDNIGHT / SLOT)
    part = SLOT / 5
    forecast = Forecast.start(DAY)
    for at in (0, part, SLOT, SLOT + part, SLOT + 2 * part, 2 * SLOT):
        forecast = forecast.add(MIDNIGHT + at, 1.0)
    assert forecast.expect((first + SLOTS) * SLOT, 0) is None
    assert forecast.expect((first + SLOTS + 1) * SLOT, 0) == 1.0


def test_within_a_slot_the_high_end_of_a_rise_counts_and_a_moments_noise_does_not() -> None:
    rising = Forecast.start(DAY)
    noisy = Forecast.start(DAY)
    for second in range(301):
        rising = rising.add(MIDNIGHT + second, 1 + second / 150)
        noisy = noisy.add(MIDNIGHT + second, 9.0 if second == 100 else 1.0)
    # the mean of the last minute: 1 + 269.5 / 150
    assert expected(rising, 1) == pytest.approx(2.797, abs=0.001)
    # one second of nine in a minute of ones
    assert expected(noisy, 1) == pytest.approx(1 + 8 / 60)


def test_a_changed_pattern_is_learnt_within_three_seasons() -> None:
    """The working hours move from the morning to the evening."""

    def early(day: float) -> float:
        return 4.0 if 6 <= day % 1 * 24 < 12 else 1.0

    def late(day: float) -> float:
        return 4.0 if 14 <= day % 1 * 24 < 20 else 1.0

    forecast = fed(Forecast.start(DAY), early, 4)
    forecast = fed(forecast, late, 3, begin=MIDNIGHT + 4 * DAY)
    assert expected(forecast, 7 + 8 / 24) < 1.5
    assert expected(forecast, 7 + 16 / 24) > 3.5


def test_a_pattern_of_a_week() -> None:
    """Quiet weekends: a season of a day is wrong on each Saturday, one of a week is not."""

    def week(day: float) -> float:
        return 0.5 if day % 7 >= 5 else sine(day)

    forecast = fed(Forecast.start(7 * DAY), week, 14, step=120.0)
    assert expected(forecast, 14 + 2.5) == pytest.approx(3.8, abs=0.05)
    assert expected(forecast, 14 + 5.5) == pytest.approx(0.5, abs=0.05)
    assert forecast.error is not None
    assert forecast.error < 0.02


@pytest.mark.parametrize("odd", [0.0, 20.0])
def test_a_day_that_was_an_exception_fades(odd: float) -> None:
    """An outage or a crowd from 10:00 to 11:00 on the third day: half on the next, then half."""

    def demand(day: float) -> float:
        return odd if 2 + 10 / 24 <= day < 2 + 11 / 24 else 2.0

    forecast = fed(Forecast.start(DAY), demand, 3)
    off = []
    for day in range(3, 8):
        off.append(abs(expected(forecast, day + 10.5 / 24) - 2.0))
        forecast = fed(forecast, demand, 1, begin=MIDNIGHT + day * DAY)
    assert off[0] <= abs(odd - 2) / 2 + 0.01
    assert all(later <= before * 0.6 for before, later in pairwise(off))
    assert off[-1] < abs(odd - 2) / 16


def test_a_day_with_more_than_usual_is_followed() -> None:
    """Half as much again since midnight: expected for the next minutes too, but not for tomorrow
    before the profile has learnt it."""
    forecast = fed(Forecast.start(DAY), sine, 3)
    forecast = fed(forecast, lambda day: 1.5 * sine(day), 9 / 24, begin=MIDNIGHT + 3 * DAY)
    usual, today = sine(9 / 24), 1.5 * sine(9 / 24)
    assert usual + 0.7 * (today - usual) < expected(forecast, 3 + 9 / 24) < today * 1.05
    assert expected(forecast, 3 + 23 / 24) == pytest.approx(sine(23 / 24), abs=0.1)


def test_after_nights_without_any_demand_no_ratio_blows_up() -> None:
    """0 at night, and one night a little: a thousandth more is expected to stay about that."""

    def demand(day: float) -> float:
        return 3.0 if 8 <= day % 1 * 24 < 18 else 0.0

    forecast = fed(Forecast.start(DAY), demand, 3)
    assert expected(forecast, 3 + 2 / 24) == 0
    forecast = fed(forecast, lambda _: 0.001, 7.9 / 24, begin=MIDNIGHT + 3 * DAY)
    assert expected(forecast, 3 + 7.9 / 24) == pytest.approx(0.001, abs=0.001)
    assert expected(forecast, 3 + 7.9 / 24, 3600) == pytest.approx(3, abs=0.01)


def test_a_morning_that_begins_early_is_no_reason_to_expect_twice_the_day() -> None:
    first = round(MIDNIGHT / SLOT)
    forecast = by_slot(Forecast.start(DAY), ([1.0] * 100 + [4.0] * 188) * 2, first)
    early = first + 2 * SLOTS
    forecast = by_slot(forecast, [1.0] * 99 + [4.0], early)
    found = forecast.add((early + 100) * SLOT, 4.0).expect((early + 100) * SLOT, 0)
    assert found == 4.0


def test_the_error_is_what_one_computes_by_hand() -> None:
    """A season of two slots of 30 s. Day 1: 2 and 4. Day 2, expected 2 and 4 + what is added:

    slot 0: expected 2, is 3. Profile 2.5; added from now on: 0.5 × (3 - 2) = 0.5.
    slot 1: expected 4 + 0.95 × 0.5 = 4.475, but never more than was seen: 4. Is 1.
    Then |2 - 3| + |4 - 1| = 4 of 3 + 1 = 4: 1.0.

    Profile 2.5 and 2.5, added: 0.475 + 0.5 × (1 - 4 - 0.475) = -1.2625.
    Day 3, slot 0: expected 2.5 - 0.95 × 1.2625 = 1.300625, is 2. Day 2's slot 0 is a season ago:
    (|1.300625 - 2| + 3) / (2 + 1) = 1.233125.
    """
    forecast = Forecast.start(60.0)

    def add(slot: int, demand: float) -> None:
        nonlocal forecast
        for part in range(5):
            forecast = forecast.add((slot + part / 5) * 30.0 + 1, demand)

    for slot, demand in enumerate([2.0, 4.0, 3.0]):
        add(slot, demand)
    assert forecast.error is None  # the slot is not over
    add(3, 1.0)
    assert forecast.error == pytest.approx(1 / 3)
    add(4, 2.0)
    assert forecast.error == pytest.approx(1.0)
    assert forecast.expect(4 * 30, 0) == pytest.approx(1.300625)
    add(5, 7.0)
    assert forecast.error == pytest.approx(1.233125)


def test_no_error_is_counted_for_a_demand_below_zero() -> None:
    """Day 1: 4 and 1. On day 2 slot 0 is idle: 0.5 × (0 - 4) = -2 is added, and slot 1 is expected
    at 0 rather than at 1 - 0.95 × 2. It is 1 again: (4 + 1) / (0 + 1) = 5."""
    forecast = Forecast.start(60.0)
    for slot, demand in enumerate([4.0, 1.0, 0.0, 1.0, 1.0]):
        for part in range(5):
            forecast = forecast.add((slot + part / 5) * 30.0 + 1, demand)
    assert forecast.error == pytest.approx(5.0)


def test_while_all_is_idle_there_is_no_error_to_speak_of() -> None:
    forecast = fed(Forecast.start(DAY), lambda _: 0.0, 2.5)
    assert forecast.error is None
    assert expected(forecast, 2.5) == 0


def test_errors_older_than_a_season_are_forgotten_where_nothing_came_after() -> None:
    """A day of 1, one of 3 and 1 in turns, all of it unexpected, two days off; then one slot that
    is as expected: (1 + 3) / 2."""
    first = round(MIDNIGHT / SLOT)
    forecast = by_slot(Forecast.start(DAY), [1.0] * SLOTS + [3.0, 1.0] * (SLOTS // 2), first)
    assert forecast.error is not None
    assert forecast.error > 0.5
    forecast = by_slot(forecast, [2.0, 2.0], first + 4 * SLOTS)
    assert forecast.error == pytest.approx(0, abs=1e-6)


def test_memory_is_bounded_whatever_is_added() -> None:
    def numbers(forecast: Forecast) -> int:
        return sum(len(v) for v in forecast.as_dict().values() if isinstance(v, list))

    few = fed(Forecast.start(DAY), sine, 0.1)
    many = fed(few, sine, 4, step=10)
    assert numbers(Forecast.start(DAY)) == numbers(few) == numbers(many) == 2 * SLOTS


def test_asking_and_adding_leave_the_value_as_it_was() -> None:
    forecast = fed(Forecast.start(DAY), sine, 2)
    before = forecast.as_dict()
    forecast.add(MIDNIGHT + 2 * DAY, 9.0)
    forecast.expect(MIDNIGHT + 2 * DAY, 60)
    assert forecast.as_dict() == before


class TestTheClock:
    def test_a_reading_that_is_repeated_or_late_is_left_out(self) -> None:
        forecast = fed(Forecast.start(DAY), sine, 1.5)
        now = MIDNIGHT + 1.5 * DAY
        forecast = forecast.add(now, 1.0)
        assert forecast.add(now, 99.0) == forecast
        assert forecast.add(now - 20, 99.0) == forecast
        assert forecast.add(now - SLOT + 1, 99.0) == forecast

    def test_a_step_back_for_good_goes_on_from_there(self) -> None:
        """By a month: nothing waits for the old time to come again."""
        forecast = fed(Forecast.start(DAY), lambda _: 2.0, 2.5, begin=MIDNIGHT + 30 * DAY)
        forecast = fed(forecast, lambda _: 3.0, 3, begin=MIDNIGHT + 2.25 * DAY)
        assert expected(forecast, 5.25) == pytest.approx(3.0, abs=0.2)

    def test_a_step_back_voids_the_running_slot(self) -> None:
        """Nobody can say which of its readings were of its time."""
        forecast = Forecast.start(DAY)
        first = round(MIDNIGHT / SLOT)
        forecast = by_slot(forecast, [50.0], first)
        back = by_slot(forecast, [1.0, 1.0], first - 10)
        assert back.expect((first + SLOTS) * SLOT, 0) is None
        assert by_slot(forecast, [1.0], first + 10).expect((first + SLOTS) * SLOT, 0) == 50.0

    def test_a_wrong_time_for_a_moment_does_no_harm(self) -> None:
        """A year ahead and back again, in the middle of a slot and of a day."""
        forecast = fed(Forecast.start(DAY), sine, 2.5)
        forecast = forecast.add(MIDNIGHT + 400 * DAY + 7, 50.0)
        forecast = fed(forecast, sine, 1.5, begin=MIDNIGHT + 2.5 * DAY)
        for hour in range(24):
            assert expected(forecast, 4 + hour / 24) == pytest.approx(sine(hour / 24), abs=0.05)
        assert forecast.error is not None
        assert forecast.error < 0.01

    def test_after_a_long_silence_the_profile_stands_and_what_was_added_does_not(self) -> None:
        forecast = fed(Forecast.start(DAY), lambda _: 2.0, 2)
        forecast = fed(forecast, lambda _: 5.0, 0.25, begin=MIDNIGHT + 2 * DAY)
        assert expected(forecast, 2.25) > 4
        assert expected(forecast, 9.25) == pytest.approx(2.0, abs=0.01)

    @pytest.mark.parametrize("wall_s", [math.nan, math.inf, -math.inf, 1e300])
    def test_no_time_at_all(self, wall_s: float) -> None:
        forecast = fed(Forecast.start(DAY), sine, 2)
        assert forecast.add(wall_s, 1.0) == forecast
        assert forecast.expect(wall_s, 60) is None

    @pytest.mark.parametrize("demand", [math.nan, math.inf, -1.0, 1e300])
    def test_no_demand_at_all(self, demand: float) -> None:
        forecast = fed(Forecast.start(DAY), sine, 0.5)
        assert forecast.add(MIDNIGHT + 0.5 * DAY, demand) == forecast

    def test_a_lead_that_is_no_number_counts_as_none(self) -> None:
        forecast = fed(Forecast.start(DAY), sine, 2)
        assert expected(forecast, 2.25, math.nan) == expected(forecast, 2.25)


@pytest.mark.parametrize("season_s", [0.0, -1.0, math.nan, math.inf])
def test_a_season_that_is_none(season_s: float) -> None:
    with pytest.raises(ValueError, match="a season of"):
        Forecast.start(season_s)


class TestKept:
    def test_it_survives_a_restart_through_json(self) -> None:
        forecast = fed(Forecast.start(DAY), sine, 2.3)
        again = Forecast.from_dict(json.loads(json.dumps(forecast.as_dict())), DAY)
        assert again is not None
        assert again.as_dict() == forecast.as_dict()
        assert again.error == forecast.error
        for lead_s in (0.0, 60.0, 3600.0):
            at = MIDNIGHT + 2.31 * DAY
            assert again.expect(at, lead_s) == forecast.expect(at, lead_s)
        # and goes on as if nothing had been, but for the slot that was running
        assert fed(again, sine, 1, begin=MIDNIGHT + 2.3 * DAY).error == pytest.approx(
            fed(forecast, sine, 1, begin=MIDNIGHT + 2.3 * DAY).error, abs=1e-6
        )

    def test_one_that_has_learnt_nothing(self) -> None:
        again = Forecast.from_dict(Forecast.start(600).as_dict())
        assert again == Forecast.start(600)

    def test_of_another_season_or_version(self) -> None:
        data = fed(Forecast.start(DAY), sine, 1).as_dict()
        assert Forecast.from_dict(data, 7 * DAY) is None
        assert Forecast.from_dict({**data, "version": 2}) is None
        assert Forecast.from_dict({**data, "season_s": 600.0}) is None
        assert Forecast.from_dict(data) is not None

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("season_s", math.nan),
            ("season_s", "86400"),
            ("season_s", True),
            ("profile", None),
            ("profile", [1.0]),
            ("profile", [-1.0] * SLOTS),
            ("profile", [math.inf] * SLOTS),
            ("profile", [10**400] * SLOTS),
            ("profile", ["1"] * SLOTS),
            ("compared", {}),
            ("compared", [[1.0]] * SLOTS),
            ("compared", [[1.0, math.nan]] * SLOTS),
            ("compared", [1.0] * SLOTS),
            ("level", math.nan),
            ("level", 1e300),
            ("ceiling", -1.0),
            ("last", 1.5),
            ("last", 10**400),
        ],
    )
    def test_damaged(self, key: str, value: Any) -> None:
        data = fed(Forecast.start(DAY), sine, 2).as_dict()
        assert Forecast.from_dict({**data, key: value}) is None
        del data[key]
        if key != "last":
            assert Forecast.from_dict(data) is None

    @settings(max_examples=100)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        ["version", "season_s", "profile", "compared", "level", "last", "ceiling"]
                    ),
                    inner | st.just(1),
                )
            ),
        )
    )
    def test_garbage_raises_nothing(self, data: object) -> None:
        found = Forecast.from_dict(data)
        assert found is None or isinstance(found, Forecast)


times = st.one_of(
    st.floats(0, 400),
    st.floats(-1e4, 1e4),
    st.floats(),
    st.sampled_from([1e11, -1e11, 0.0, -0.0]),
)
demands = st.floats(0, 100) | st.floats()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([1.0, 50.0, 100.0]),
    st.lists(st.tuples(times, demands), max_size=30),
    st.lists(st.floats(0, 20), min_size=1, max_size=200),
    st.lists(st.tuples(times, times), min_size=1, max_size=5),
)
def test_whatever_it_is_told_it_stays_between_zero_and_the_most_it_saw(
    season_s: float,
    readings: list[tuple[float, float]],
    steps: list[float],
    asked: list[tuple[float, float]],
) -> None:
    """Wild times, then a clock that goes on by some seconds each time."""
    forecast = Forecast.start(season_s)
    at = 0.0
    steady = []
    for number, step in enumerate(steps):
        at += step
        steady.append((at, 10.0 * (number % 3)))
    seen = [demand for _, demand in readings if 0 <= demand <= 1e6]
    most = max([20.0, *seen])
    for wall_s, demand in (*readings, *steady):
        forecast = forecast.add(wall_s, demand)
    for wall_s, lead_s in (*asked, (at, 10.0), (at + season_s, season_s)):
        found = forecast.expect(wall_s, lead_s)
        assert found is None or 0 <= found <= most * (1 + 1e-9)
    assert forecast.error is None or forecast.error >= 0
    again = Forecast.from_dict(json.loads(json.dumps(forecast.as_dict())))
    assert again is not None
    assert again.as_dict() == forecast.as_dict()
