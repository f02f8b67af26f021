"""When each request is due: the plan's integral, kept through planned and triggered shifts."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import ShiftError
from loadtest.plan import Phase, Plan
from loadtest.profiles import Constant, Ramp, Sine, Steps
from loadtest.timeline import ALL, Arrivals, Share, Timeline

rates = st.floats(0, 50)
lengths = st.floats(0.1, 20)
constants = st.builds(lambda rate, s: Phase("p", Constant(rate), s), rates, lengths)
ramps = st.builds(lambda a, b, s: Phase("r", Ramp(a, b, s), s), rates, rates, lengths)
waves = st.builds(
    lambda a, b, every, s: Phase("w", Sine(a, b, every, "x"), s), rates, rates, lengths, lengths
)
stairs = st.builds(
    lambda a, b, n, s: Phase("s", Steps.stairs(a, b, n, s), s),
    rates,
    rates,
    st.integers(2, 9),
    lengths,
)
spikes = st.builds(
    lambda a, b, s: Phase("b", Steps.spike(a, b, s / 3, s, "x"), s), rates, rates, lengths
)
shapes = st.one_of(constants, ramps, waves, stairs, spikes)
plans = st.lists(shapes, min_size=1, max_size=5).map(
    lambda phases: Plan((*phases, Phase("last", Constant(10), 1)))
)


def rng() -> random.Random:
    return random.Random(0)


def send_times(
    plan: Plan, arrivals: Arrivals, numbers: random.Random, share: Share | None = ALL
) -> Iterator[float]:
    """Every send time of a plan without triggers, as a run left alone would use them."""
    timeline = Timeline(plan, arrivals, numbers, share)
    while not timeline.finished:
        yield from (t for t, _ in timeline.due(timeline.wakes_at, 1000))


@given(plans)
def test_constant_arrivals_count_the_integral_in_order_within_the_plan(plan: Plan) -> None:
    times = list(send_times(plan, "constant", rng()))
    assert plan.requests is not None
    assert plan.seconds is not None
    assert abs(len(times) - plan.requests) <= 0.5 + 1e-6
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < plan.seconds * (1 + 1e-9)


@given(st.integers(1, 1000), st.integers(1, 20))
def test_constant_spacing_is_exact(rate: int, seconds: int) -> None:
    times = list(send_times(Plan.constant(rate, seconds), "constant", rng()))
    assert times == [(n + 0.5) / rate for n in range(rate * seconds)]


@given(plans, st.integers(0, 1000))
def test_poisson_arrivals_are_reproducible_and_in_order(plan: Plan, seed: int) -> None:
    times = list(send_times(plan, "poisson", random.Random(seed)))
    assert times == list(send_times(plan, "poisson", random.Random(seed)))
    assert times == sorted(times)
    assert all(0 <= t < (plan.seconds or 0) * (1 + 1e-9) for t in times)


@given(plans, st.sampled_from(["constant", "poisson"]), st.integers(1, 5))
def test_workers_together_send_exactly_what_one_would(
    plan: Plan, arrivals: Arrivals, workers: int
) -> None:
    shares = [
        list(send_times(plan, arrivals, random.Random(3), Share(k, workers)))
        for k in range(workers)
    ]
    alone = list(send_times(plan, arrivals, random.Random(3)))
    assert sorted(t for share in shares for t in share) == alone
    assert shares == [alone[k::workers] for k in range(workers)]


def test_without_a_share_it_only_keeps_the_phases_time() -> None:
    timeline = Timeline(Plan.parse("a=100@1s,b=10@2s"), "constant", rng(), None)
    assert timeline.due(2.5, 10) == []
    assert timeline.phase.name == "b"
    assert timeline.wakes_at == 3.0
    assert timeline.due(3.0, 10) == []
    assert timeline.finished


def test_poisson_has_the_right_mean_and_spread_also_on_a_ramp() -> None:
    plan = Plan((Phase("up", Ramp(0, 200, 100), 100),))  # integral 10,000
    times = list(send_times(plan, "poisson", random.Random(7)))
    # Five standard deviations of Poisson(10,000) are 500; a quarter of the ramp's requests are
    # due in its first half.
    assert abs(len(times) - 10_000) < 500
    assert abs(sum(t < 50 for t in times) - 2500) < 250
    other = list(send_times(plan, "poisson", random.Random(8)))
    assert other != times


def test_phases_follow_each_other_and_fractions_carry_over() -> None:
    plan = Plan.parse("a=1@500ms,b=1@500ms,c=1@1s")
    assert list(send_times(plan, "constant", rng())) == [0.5, 1.5]
    timeline = Timeline(plan, "constant", rng())
    assert timeline.due(10, 100) == [(0.5, 1), (1.5, 2)]
    assert [(visit.phase.name, visit.start, visit.end) for visit in timeline.visits] == [
        ("a", 0, 0.5),
        ("b", 0.5, 1.0),
        ("c", 1.0, 2.0),
    ]
    assert timeline.finished
    assert timeline.wakes_at == math.inf
    assert timeline.rate(10) == 0


def test_a_triggered_phase_lasts_until_shifted() -> None:
    timeline = Timeline(Plan.parse("low=1@2s,high=10@trigger,after=1@1s"), "constant", rng())
    assert len(timeline.due(1000.01, 100_000)) == 2 + 9980
    assert timeline.phase.name == "high"
    timeline.shift(1000.01, "after", "control")
    assert timeline.phase.name == "after"
    assert timeline.ends_at == 1001.01
    timeline.due(1002, 10)
    assert timeline.finished
    assert [(shift.t, shift.phase, shift.rate, shift.cause) for shift in timeline.shifts] == [
        (0, "low", 1, "plan"),
        (2, "high", 10, "plan"),
        (1000.01, "after", 1, "control"),
    ]


def test_a_shift_does_not_restart_the_spacing() -> None:
    # At 1/s the first is due at 0.5 s. Shifted at 0.25 s to 10/s a quarter of the way to ½ is
    # missing: 0.25 requests at 10/s take 25 ms.
    timeline = Timeline(Plan.parse("low=1@9s,high=10@trigger"), "constant", rng())
    timeline.shift(0.25, "high", "signal")
    due = timeline.due(0.4, 10)
    assert [t for t, _ in due] == pytest.approx([0.275, 0.375])
    assert [visit for _, visit in due] == [1, 1]


def test_the_same_name_twice_means_the_next_one() -> None:
    timeline = Timeline(Plan.parse("low=1@9s,high=1@9s,low=2@9s"), "constant", rng())
    timeline.shift(0.1, "low", "control")
    assert timeline.rate(0.1) == 2
    timeline.shift(0.2, "low", "control")
    assert timeline.rate(0.2) == 1


def test_next_and_previous_stop_at_the_ends() -> None:
    timeline = Timeline(Plan.parse("low=1@9s,high=2@9s"), "constant", rng())
    assert not timeline.step(0.1, -1, "signal")
    assert timeline.step(0.1, 1, "signal")
    assert not timeline.step(0.2, 1, "signal")
    assert timeline.step(0.3, -1, "signal")
    assert timeline.phase.name == "low"
    assert timeline.ends_at == pytest.approx(9.3)


def test_a_new_rate_keeps_the_phases_end() -> None:
    timeline = Timeline(Plan.parse("low=1@9s"), "constant", rng())
    timeline.set_rate(0.4, 100, "control")
    assert timeline.ends_at == 9
    assert len(timeline.due(9, 10_000)) == 860
    with pytest.raises(ShiftError, match="no more requests"):
        timeline.set_rate(9.5, 5, "control")


def test_what_cannot_be_shifted_says_so() -> None:
    timeline = Timeline(Plan.parse("low=1@9s,high=2@9s"), "constant", rng())
    with pytest.raises(ShiftError, match="the plan has low, high"):
        timeline.shift(0.1, "hihg", "control")
    with pytest.raises(ShiftError, match="allowed is 0 to"):
        timeline.set_rate(0.1, math.nan, "control")
    with pytest.raises(ValueError, match="take what is due"):
        timeline.shift(5, "high", "control")


@given(
    plans,
    st.lists(st.tuples(st.floats(0.01, 5), st.sampled_from(["p", "last", None])), max_size=8),
)
def test_any_shifts_keep_order_and_count(plan: Plan, moves: list[tuple[float, str | None]]) -> None:
    timeline = Timeline(plan, "constant", rng())
    now = integral = 0.0
    taken: list[float] = []
    for wait, name in moves:
        now += wait
        while timeline.wakes_at <= now:
            taken += [t for t, _ in timeline.due(now, 3)]
        if timeline.finished:
            break
        if name is None:
            timeline.set_rate(now, 7.0, "control")
        elif name in plan.names:
            timeline.shift(now, name, "control")
    timeline.finish(now)
    assert taken == sorted(taken)
    for visit, after in zip(timeline.visits, timeline.visits[1:], strict=False):
        assert visit.end == after.start
    if not any(name is None for _, name in moves):
        for visit in timeline.visits:
            assert visit.end is not None
            integral += visit.phase.profile.count(visit.end - visit.start)
        assert abs(len(taken) - integral) <= 0.5 + 1e-6
