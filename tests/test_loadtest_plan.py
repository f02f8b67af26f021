"""The plan's grammar, and the arithmetic of rates: count and its inverse."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest.errors import PlanError
from loadtest.plan import Phase, Plan, format_duration, parse_duration
from loadtest.profiles import Constant, Profile, Ramp, Sine, Steps
from loadtest.trace import parse_trace, read_trace

rates = st.floats(0.01, 10_000)
lengths = st.floats(0.01, 3600)
profiles: st.SearchStrategy[Profile] = st.one_of(
    st.builds(Constant, rates),
    st.builds(Ramp, rates, rates, lengths),
    st.builds(lambda a, b, s: Sine(a, b, s, "x"), st.floats(0, 10_000), rates, lengths),
    st.builds(Steps.stairs, rates, rates, st.integers(2, 40), lengths),
    st.builds(lambda a, b, s: Steps.spike(a, b, s / 7, s, "x"), st.floats(0, 100), rates, lengths),
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
        ("low=20@30s, high=60", "plan column 13, phase 2 ('high=60'): write name=rate"),
        ("up=1..9/1@9s", "'1' steps: allowed is 2 to"),
        ("up=1..9/x@9s", "'x' steps"),
        ("w=20~60@9s", "write a sine as low~high/period"),
        ("w=20~60/0s@9s", "period '0s': must be longer"),
        ("w=20~6x/1s@9s", "rate '6x'"),
        ("b=20^60@9s", "write a spike as base^peak/width"),
        ("b=20^60/9s@9s", "the spike must be shorter"),
        ("b=20^60/1s@trigger", "a spike needs a duration"),
        ("r=day.csv*x@9s", "speed 'x': write how many times"),
        ("r=day.csv@9s", "traces cannot be read here"),
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
    length = profile.seconds if isinstance(profile, Ramp | Steps) else 100.0
    count = profile.count(length) * share
    t = profile.time_of(count)
    assert 0 <= t <= length * (1 + 1e-9)
    assert profile.count(t) == pytest.approx(count, rel=1e-6, abs=1e-6)


straight = profiles.filter(lambda profile: isinstance(profile, Constant | Ramp))


@given(straight, st.floats(0, 7200), st.floats(0, 7200))
def test_count_is_the_integral_of_rate(profile: Profile, a: float, b: float) -> None:
    a, b = sorted((a, b))
    steps = 200
    width = (b - a) / steps
    middle_sum = sum(profile.rate(a + (i + 0.5) * width) for i in range(steps)) * width
    # The midpoint rule is exact on straight lines; only the step with a ramp's end is not.
    highest = max(profile.rate(0), profile.rate(1e9))
    # The differences of two large counts carry their rounding.
    slack = width * highest + 1e-12 * highest * b + 1e-300
    assert profile.count(b) - profile.count(a) == pytest.approx(middle_sum, rel=1e-6, abs=slack)


def test_count_is_the_integral_of_stairs_spikes_and_waves() -> None:
    for text, whole in (
        ("s=10..40/4@8s", 2 * (10 + 20 + 30 + 40)),
        ("s=40/s..10/s/4@8s", 2 * (10 + 20 + 30 + 40)),
        ("b=20^200/5s@1m", 20 * 55 + 200 * 5),
        ("b=0^200/5s@1m", 200 * 5),
        ("w=20~60/30s@5m", 40 * 300),
        ("w=60~20/30s@15s", 40 * 15),
    ):
        plan = Plan.parse(text)
        (phase,) = plan.phases
        assert phase.seconds is not None
        assert plan.requests == pytest.approx(whole)
        fine = 10_000
        width = phase.seconds / fine
        middles = sum(phase.profile.rate((i + 0.5) * width) for i in range(fine)) * width
        assert middles == pytest.approx(whole, rel=1e-3)
        assert str(Plan.parse(str(plan))) == str(plan)
    stairs = Plan.parse("s=10..40/4@8s").phases[0].profile
    assert [stairs.rate(t) for t in (0, 1.9, 2, 4, 7.9, 8)] == [10, 10, 20, 30, 40, 40]
    down = Steps.stairs(11.153637585414618, 0, 7, 1)  # once ended at -2e-15
    assert down.rates[-1] == 0
    assert min(down.rates) >= 0
    spike = Plan.parse("b=0^200/4s@10s").phases[0].profile
    assert [spike.rate(t) for t in (0, 2.9, 3, 6.9, 7, 99)] == [0, 0, 200, 200, 0, 0]
    assert spike.time_of(1) == pytest.approx(3.005)
    assert spike.time_of(801) == math.inf
    wave = Plan.parse("w=20~60/30s@5m").phases[0].profile
    assert [wave.rate(t) for t in (0, 15, 30)] == pytest.approx([20, 60, 20])
    assert Sine(0, 0, 1, "1s").time_of(0.5) == math.inf


def trace(text: str, speed: float = 1.0) -> Plan:
    return Plan.parse(
        "before=1@1s,r=day.csv" + (f"*{speed:g}" if speed != 1 else ""),
        lambda name, speed: parse_trace(text, name, speed),
    )


HEAD = "seconds,requests_per_second\n"


def test_a_trace_keeps_its_rates_and_runs_faster() -> None:
    text = HEAD + "# a comment\n\n100,20\n 160 , 50\n190,0\n"
    plan = trace(text)
    assert plan.seconds == 1 + 120
    assert plan.requests == 1 + 20 * 60 + 50 * 30
    fast = trace(text, 24)
    assert fast.phases[1].seconds == pytest.approx(5)
    assert fast.requests == pytest.approx(1 + (20 * 60 + 50 * 30) / 24)
    assert [fast.phases[1].profile.rate(t) for t in (0, 2.4, 2.6, 4)] == [20, 20, 50, 0]
    assert str(fast) == "before=1@1s,r=day.csv*24@5s"
    cut = Plan.parse("r=day.csv@70s", lambda name, speed: parse_trace(text, name, speed))
    assert cut.requests == 20 * 60 + 50 * 10


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,20\n", "day.csv:1:1: the first row must be seconds,requests_per_second"),
        ("", "day.csv:1:1: the first row"),
        (HEAD, "day.csv:1:1: it has no row after the first"),
        (HEAD + "0,20\n60,\n", "day.csv:3:4: requests_per_second is missing: a trace has no holes"),
        (HEAD + "0,20\n,5\n", "day.csv:3:1: seconds is missing"),
        (HEAD + "0,20\n5\n", "day.csv:3:1: a row is two columns"),
        (HEAD + "0,20\n5,6,7\n", "day.csv:3:1: a row is two columns"),
        (HEAD + "0,20\n\n100,many\n", "day.csv:4:5: requests_per_second is 'many'"),
        (HEAD + "0,-1\n", "day.csv:2:3: requests_per_second is '-1'"),
        (HEAD + "5,1\n5,2\n", "day.csv:3:1: times ascend, and 5 comes after 5"),
        (HEAD + "0,20\n5,2000000\n", "day.csv:3:3: rate 2e+06: allowed is 0 to 1,000,000"),
    ],
)
def test_a_bad_trace_says_where(text: str, says: str) -> None:
    with pytest.raises(PlanError) as wrong:
        trace(text)
    assert says in str(wrong.value)


def test_traces_longer_than_they_are_or_without_an_end_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "short.csv"
    file.write_text(HEAD + "0,20\n9,20\n", "utf-8")
    assert Plan.parse(f"r={file}", read_trace).seconds == 18
    with pytest.raises(PlanError, match="lasts only 18s"):
        Plan.parse(f"r={file}@19s", read_trace)
    with pytest.raises(PlanError, match="not a trigger"):
        Plan.parse(f"r={file}@trigger", read_trace)
    file.write_bytes(HEAD.encode() + b"0,\xff\n")
    with pytest.raises(PlanError, match=r"short\.csv:2: not UTF-8"):
        Plan.parse(f"r={file}", read_trace)
    with pytest.raises(PlanError, match=r"none\.csv: No such file"):
        Plan.parse("r=none.csv", read_trace)


def test_a_rate_of_nothing_is_never_due() -> None:
    assert Constant(0).time_of(0.5) == math.inf
    assert Ramp(10, 0, 1).time_of(5.5) == math.inf
    assert Ramp(0, 10, 1).time_of(0) == 0
