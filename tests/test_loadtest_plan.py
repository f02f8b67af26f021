"""The plan's grammar, and the arithmetic of rates: count and its inverse."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest.errors import PlanError
from loadtest.plan import Constant, Phase, Plan, Profile, Ramp, format_duration, parse_duration

rates = st.floats(0.01, 10_000)
lengths = st.floats(0.01, 3600)
profiles: st.SearchStrategy[Profile] = st.one_of(
    st.builds(Constant, rates), st.builds(Ramp, rates, rates, lengths)
)


def test_the_plan_from_the_contract() -> None:
    plan = Plan.parse("low=20@30s,high=60@60s")
    assert plan.phases == (
        Phase("low", Constant(20), 30),
        Phase("high", Constant(60), 60),
    )
    assert plan.seconds == 90
    assert plan.requests == 20 * 30 + 60 * 60


def test_ramps_triggers_units_and_repeated_names() -> None:
    plan = Plan.parse(" low = 20/s @ 1m30s , climb=10..80@500ms,high=60@trigger,low=5@2h")
    assert [phase.seconds for phase in plan.phases] == [90, 0.5, None, 7200]
    assert plan.phases[1].profile == Ramp(10, 80, 0.5)
    assert plan.names == ("low", "climb", "high", "low")
    assert plan.seconds is None
    assert plan.requests is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "phase 1 ('')"),
        ("low=20@30s,", "phase 2 ('')"),
        ("low=20@30s,high=6x@60s", "phase 2 ('high=6x@60s'): rate '6x'"),
        ("low=20", "name=rate@duration"),
        ("low=20@30", "duration '30': write a number with a unit"),
        ("low=20@0s", "longer than nothing"),
        ("low=-1@3s", "allowed is 0 to"),
        ("low=nan@3s", "allowed is 0 to"),
        ("low=2000000@3s", "allowed is 0 to 1,000,000"),
        ("l w=20@30s", "name 'l w'"),
        ("up=1..9@trigger", "a ramp needs a duration"),
        ("low=0.1@1s", "no request at all"),
    ],
)
def test_a_bad_plan_says_where(text: str, says: str) -> None:
    with pytest.raises(PlanError) as wrong:
        Plan.parse(text)
    assert says in str(wrong.value)
    assert "\n" not in str(wrong.value)


@given(st.integers(1, 10**9))
def test_a_duration_reads_back(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-12)


@example([(1.0, 899.9999999999995)])
@given(st.lists(st.tuples(rates, st.none() | lengths), min_size=1, max_size=4))
def test_a_plan_reads_back(parts: list[tuple[float, float | None]]) -> None:
    plan = Plan((*(Phase("p", Constant(rate), s) for rate, s in parts), Phase("q", Constant(9), 9)))
    again = Plan.parse(str(plan))
    assert str(again) == str(plan)


@given(profiles, st.floats(0, 1))
def test_time_of_inverts_count(profile: Profile, share: float) -> None:
    length = profile.seconds if isinstance(profile, Ramp) else 100.0
    count = profile.count(length) * share
    t = profile.time_of(count)
    assert 0 <= t <= length * (1 + 1e-9)
    assert profile.count(t) == pytest.approx(count, rel=1e-6, abs=1e-6)


@given(profiles, st.floats(0, 7200), st.floats(0, 7200))
def test_count_is_the_integral_of_rate(profile: Profile, a: float, b: float) -> None:
    a, b = sorted((a, b))
    steps = 200
    width = (b - a) / steps
    middle_sum = sum(profile.rate(a + (i + 0.5) * width) for i in range(steps)) * width
    # The midpoint rule is exact on straight lines; only the step with a ramp's end is not.
    slack = width * max(profile.rate(0), profile.rate(1e9)) + 1e-300  # below, floats underflow
    assert profile.count(b) - profile.count(a) == pytest.approx(middle_sum, rel=1e-6, abs=slack)


def test_a_rate_of_nothing_is_never_due() -> None:
    assert Constant(0).time_of(0.5) == math.inf
    assert Ramp(10, 0, 1).time_of(5.5) == math.inf
    assert Ramp(0, 10, 1).time_of(0) == 0
