"""What holds of every decision, whatever the load: found by hypothesis, over made-up histories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.decision import Decision
from autoscale.model import Direction, Fleet, Path, Reason, Signal, Way
from autoscale.policy import decide
from autoscale.rules import Forecasting, Mode, Override, RateLimit, Rules, Step
from autoscale.signals import Signals
from autoscale.state import State
from tests.planning import COLD, NOW, WALL, Story, plain

ALL_WAYS = (Way(Path.STANDBY, 0.05, 2), Way(Path.SNAPSHOT, 1.5), *COLD)

utilisations = st.one_of(st.none(), st.floats(0, 2.5))
bounds = st.tuples(st.integers(0, 4), st.integers(1, 6)).map(lambda b: (b[0], b[0] + b[1]))


@st.composite
def some_rules(draw: st.DrawFn) -> Rules:
    """Every knob anywhere within what the configuration allows."""
    low, high = draw(bounds)
    grow = draw(st.floats(2, 30))
    snapshot = draw(st.floats(0, grow))
    steps = draw(st.sampled_from([(), (Step(0.7, 1), Step(0.9, 2), Step(0.3, -1))]))
    override = draw(
        st.none()
        | st.builds(
            Override,
            st.sampled_from(Mode),
            st.none() | st.integers(low, high),
            st.none() | st.floats(WALL + NOW, WALL + NOW + 300),
        )
    )
    return Rules(
        min=low,
        max=high,
        mode=draw(st.sampled_from([Mode.AUTO, Mode.AUTO, Mode.OBSERVE, Mode.HOLD])),
        target_cpu=draw(st.floats(0.1, 0.9)),
        tolerance=draw(st.floats(0, 0.1)),
        standby_window_s=draw(st.floats(0, snapshot)),
        snapshot_window_s=snapshot,
        grow_window_s=grow,
        grow_limit=RateLimit(draw(st.integers(1, 4)), draw(st.floats(0, 200)), 15.0),
        shrink_window_s=draw(st.floats(2, 120)),
        shrink_margin=draw(st.floats(0.2, 0.99)),
        shrink_limit=RateLimit(draw(st.integers(1, 4)), draw(st.floats(0, 200)), 15.0),
        min_change=draw(st.integers(1, 2)),
        target_concurrency=draw(st.floats(1, 100)),
        latency_p99_s=draw(st.none() | st.floats(0.1, 2)),
        idle_after_s=draw(st.floats(1, 100)),
        burst=draw(st.none() | st.floats(1.1, 4)),
        steps=steps,
        forecast=draw(st.sampled_from(Forecasting)),
        season_s=600.0,
        override=override,
    )


@st.composite
def moments(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "work": draw(st.lists(utilisations, max_size=6)),
        "seconds": draw(st.sampled_from([0.2, 1.0, 1.0, 1.0, 3.0, 40.0])),
        "booting": draw(st.integers(0, 2)),
        "draining": draw(st.integers(0, 2)),
        "unavailable": draw(st.sampled_from([0, 0, 0, 1])),
        "failures": draw(st.sampled_from([0, 0, 0, 3])),
        "queued": draw(st.sampled_from([0, 0, 1, 40, 900])),
        "in_flight": draw(st.integers(0, 200)),
        "arrivals": draw(st.floats(0, 400)),
        "p99_s": draw(st.none() | st.floats(0, 5)),
        "delay": draw(st.sampled_from([None, 0.0, 0.1, 0.6])),
    }


def tell(story: Story, moment: dict[str, Any]) -> Decision:
    others = {key: value for key, value in moment.items() if key != "work"}
    return story.tick(*moment["work"], **others)


@given(some_rules(), st.integers(0, 9), st.lists(moments(), max_size=60), st.none() | some_rules())
@settings(max_examples=120)
def test_bounds_hold_and_every_decision_can_be_told(
    rules: Rules, found: int, told: list[dict[str, Any]], reloaded: Rules | None
) -> None:
    story = Story(rules, found, ways=ALL_WAYS)
    for number, moment in enumerate(told):
        if number == 30 and reloaded is not None:
            story.rules = reloaded
        decision = tell(story, moment)
        assert story.rules.min <= decision.desired <= story.rules.max
        assert isinstance(decision.reason, Reason)
        shown = decision.as_dict()
        assert shown["sentence"].partition(": ")[2]
        assert all(part["words"] for part in shown["parts"])
        # whoever changes the size says why, by a part or a guard of that name
        if decision.direction is not Direction.NONE:
            named = {p.reason for p in decision.parts} | {g.reason for g in decision.guards}
            assert decision.reason in named


@given(some_rules(), st.lists(moments(), max_size=80))
@settings(max_examples=120)
def test_the_direction_does_not_flip_within_its_window(
    rules: Rules, told: list[dict[str, Any]]
) -> None:
    """What the load decides; to and from zero, and what operators say, follow other clocks."""
    rules = replace(rules, override=None, mode=Mode.AUTO, min=max(1, rules.min))
    rules = replace(rules, forecast=Forecasting.OFF, max=max(rules.max, rules.min + 1))
    story = Story(rules, 3, ways=ALL_WAYS)
    last: tuple[Direction, float] | None = None
    for moment in told:
        decision = tell(story, moment)
        if decision.direction is Direction.NONE or decision.reason in (
            Reason.BELOW_MIN,
            Reason.ABOVE_MAX,
        ):
            continue
        if last is not None and last[0] is not decision.direction:
            up = decision.direction is Direction.UP
            window_s = rules.standby_window_s if up else rules.shrink_window_s
            assert story.now - last[1] >= window_s - 1e-6
        last = (decision.direction, story.now)


@given(
    some_rules(),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(1, 90),
)
@settings(max_examples=150)
def test_more_load_never_asks_for_fewer(
    rules: Rules, less: list[float], extra: list[float], queued: int, running: int, ticks: int
) -> None:
    """Twice the same story, once with more of everything."""
    rules = replace(rules, override=None, mode=Mode.AUTO, latency_p99_s=None)
    more = [min(1.0, u + e) for u, e in zip(less, extra * 5, strict=False)]
    calm, busy = Story(rules, len(less)), Story(rules, len(less))
    for _ in range(ticks):
        low = calm.tick(*less, arrivals=sum(less) * 20, in_flight=running)
        high = busy.tick(*more, arrivals=sum(more) * 20, in_flight=2 * running, queued=queued)
        assert low.wanted is not None
        assert high.wanted is not None
        assert high.wanted >= low.wanted
    assert high.desired >= low.desired


@given(st.floats(0, 6), st.integers(1, 6), st.integers(1, 3))
@settings(max_examples=60)
def test_a_constant_load_settles_and_then_nothing_changes(
    work: float, begin: int, low: int
) -> None:
    story = Story(plain(low, 6), begin)
    story.loads(600, work)
    settled = story.state.desired
    for _ in range(300):
        assert story.load(work).direction is Direction.NONE
    # and where it stands is right: not above the target unless at max, not one too many
    assert work / settled <= 0.66 + 1e-9 or settled == 6
    assert settled == low or work / (settled - 1) > 0.48 - 1e-9


@given(
    st.floats(0.1, 4.99),
    st.floats(0.67, 1.05),
    st.floats(0, 0.5),
    st.floats(0, 1),
    st.lists(st.integers(0, 5), max_size=60),
    st.integers(0, 5),
    st.sets(st.integers(5, 20)),
)
@settings(max_examples=200)
def test_a_spike_shorter_than_the_window_starts_nothing(
    length: float,
    peak: float,
    rest: float,
    phase: float,
    early: list[int],
    lost_after: int,
    untrusted: set[int],
) -> None:
    """However the samples fall: early ticks that an event caused, lost samples at its end, seconds
    without a signal that can be trusted. Requests wait and run as long as the spike lasts."""
    rules, state = plain(), State.start(1, plain())
    names, begin = ("web-0",), NOW + 10 + phase
    newest = Signal("web-0", NOW, rest, rest, rest)
    for second in range(40):
        at = NOW + second
        hot = max(0.0, min(at, begin + length) - max(at - 1, begin))
        load = peak * hot + rest * (1 - hot)
        # losing up to two samples just as the spike ends is the worst moment
        if not 0 <= at - (begin + length) <= lost_after - 3:
            newest = Signal("web-0", at, load, load, load, interval_s=at - newest.at or 1.0)
        extra = early[second] if second < len(early) else 0
        for part in range(extra + 1):
            now = at + part / (extra + 1)
            spike = begin <= now < begin + length
            signals = Signals(
                cpu={} if second in untrusted else {"web-0": newest},
                serving=names,
                in_flight=64 if spike else 1,
                queued=300 if spike else 0,
                arrivals_per_s=80.0 * hot + 5,
                served_per_s={"web-0": 20 * load},
                wall_s=WALL + now,
            )
            decision, state = decide(signals, Fleet("web", ready=1), state, rules, now)
            assert decision.desired == 1


@pytest.mark.parametrize(("way", "window_s"), [(ALL_WAYS[0], 0.5), (ALL_WAYS[1], 0.5)])
@given(length=st.floats(0.1, 0.49), phase=st.floats(0, 1))
@settings(max_examples=40)
def test_nor_does_a_shorter_one_wake_or_restore(
    way: Way, window_s: float, length: float, phase: float
) -> None:
    story, begin = Story(ways=(way,)), NOW + 20 + phase
    length = min(length, window_s - 0.01)
    for _ in range(120):
        now = story.now + 0.25
        spike = begin <= now < begin + length
        decision = story.tick(
            1.0 if spike else 0.3,
            seconds=0.25,
            queued=200 if spike else 0,
            in_flight=64 if spike else 1,
            arrivals=90 if spike else 6,
        )
        assert decision.desired == 1


@given(st.integers(2, 5), st.data())
@settings(max_examples=50)
def test_missing_data_never_shrinks(replicas: int, data: st.DataObject) -> None:
    story = Story(plain(high=5), replicas)
    for _ in range(100):
        missing = data.draw(st.integers(0, replicas - 1))
        decision = story.tick(*(None if i == missing else 0.0 for i in range(replicas)))
        assert decision.desired == replicas
    assert story.ticks(100, *[None] * replicas).reason is Reason.NO_DATA
    assert {d.direction for d in story.decisions} == {Direction.NONE}


@given(st.lists(st.floats(0, 1.1), min_size=2, max_size=5), st.integers(1, 90), st.integers(0, 4))
@settings(max_examples=80)
def test_a_sample_that_goes_missing_moves_nothing(
    work: list[float], before: int, which: int
) -> None:
    """Told or not told, the fleet gets no smaller by it, and no larger."""
    whole, holed = Story(plain(high=9), len(work)), Story(plain(high=9), len(work))
    whole.ticks(before, *work)
    holed.ticks(before, *work)
    seen = whole.tick(*work)
    hidden = holed.tick(*(None if i == which % len(work) else u for i, u in enumerate(work)))
    assert hidden.desired <= max(seen.desired, hidden.current)
    assert hidden.desired >= min(seen.desired, hidden.current)


@given(
    st.lists(utilisations, min_size=1, max_size=5), st.permutations(range(5)), st.integers(1, 80)
)
@settings(max_examples=80)
def test_permuting_the_machines_changes_nothing(
    work: list[float | None], order: list[int], ticks: int
) -> None:
    """Not one word, not one digit."""
    one = Story(plain(high=8), len(work))
    other = Story(plain(high=8), len(work))
    shuffled = [work[i] for i in order if i < len(work)]
    arrivals = 20.0 * len(work)
    for _ in range(ticks):
        a = one.tick(*work, queued=5, arrivals=arrivals, delay=0.1)
        b = other.tick(*shuffled, queued=5, arrivals=arrivals, delay=0.1)
        assert a.as_dict() == b.as_dict()


def test_a_day_of_steps_leaves_no_more_behind_than_an_hour() -> None:
    """The state's size, in objects reachable from it, once every window is full."""
    story = Story(plain(low=0, high=12, forecast=Forecasting.OBSERVE, idle_after_s=100.0))
    sizes = []
    for step in range(24):
        for second in range(400):
            story.load(4 + 4 * ((step + second // 100) % 3 - 1), p99_s=0.2, in_flight=second % 90)
        story.decisions.clear()
        sizes.append(_objects(story.state._replace(forecast=None)))
    assert max(sizes[12:]) <= max(sizes[:12]) + 8


def _objects(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(_objects(item) for item in value.values())
    if isinstance(value, tuple):
        return 1 + sum(_objects(item) for item in value)
    return 1
