"""Target tracking on CPU, and the operator's own steps, in numbers worked out by hand."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.decision import Part
from autoscale.model import Fleet, Reason
from autoscale.parts.cpu import CpuState, cpu_part, for_load
from autoscale.parts.reading import read
from autoscale.rules import Rules, Step
from autoscale.signals import Signals
from tests.readings import NOW, replicas

RULES = Rules(shrink_margin=0.8)
SERVING = Fleet("web", ready=1)


def asked(signals: Signals, rules: Rules = RULES) -> Part | None:
    """By somebody who remembers nothing."""
    seen = read(signals, rules.fresh_s, NOW)
    return cpu_part(seen, CpuState().add(seen, rules, NOW), signals, SERVING, rules, NOW)


def part(*used: float | None, rules: Rules = RULES, **others: Any) -> Part:
    found = asked(replicas(*used, **others), rules)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("used", "asks"),
    [
        ((0.9,), 2),  # 0.9 ÷ 0.6 = 1.5
        ((0.9, 0.9), 3),
        ((1.0, 1.0), 4),
        ((0.6, 0.6, 0.6), 3),
        ((0.66, 0.66), 2),  # within the tolerance
        ((0.67, 0.67), 3),
        ((0.3, 0.3, 0.3), 2),
        ((0.0,), 0),
        ((2.0,), 4),  # its limit is lifted
    ],
)
def test_how_many_carry_it_at_the_target(used: tuple[float, ...], asks: int) -> None:
    assert part(*used).asks == asks


def test_the_tolerance_is_for_growing_only() -> None:
    assert [for_load(work, 0.6, 3, 0.1) for work in (1.79, 1.2, 1.19)] == [3, 2, 2]
    assert for_load(1.98, 0.6, 3, 0.1) == 3
    assert for_load(1.99, 0.6, 3, 0.1) == 4


def test_rounding_errors_start_nobody() -> None:
    """0.1 + 0.2 is more than 0.3 by 4e-17."""
    assert for_load(0.1 + 0.2, 0.1, 1, 0.0) == 3


def test_nothing_is_multiplied_by_zero() -> None:
    assert asked(replicas()) is None
    assert asked(replicas(None, None)) is None


def test_a_margin_is_kept_before_one_leaves() -> None:
    """Two at 0.25: one would be at 0.5 of 0.6, more than 0.8 of the target."""
    assert (part(0.25, 0.25).asks, part(0.25, 0.25).keeps) == (1, 2)
    assert part(0.24, 0.24).keeps == 1
    assert part(0.0, 0.0).keeps == 1


def test_who_is_missing_is_idle_when_growing_and_busy_when_shrinking() -> None:
    found = part(0.5, None)
    assert (found.asks, found.keeps) == (1, 4)  # 0.5 ÷ 0.6; 1.5 ÷ 0.48


def test_how_few_would_do_is_asked_of_ten_seconds() -> None:
    """Nine seconds at 0.2 and one at 1.0: 0.28 ÷ 0.48."""
    state, signals = CpuState(), replicas(0.2)
    for second in range(10):
        now = NOW + second
        signals = replicas(1.0 if second == 9 else 0.2, now=now)
        seen = read(signals, RULES.fresh_s, now)
        state = state.add(seen, RULES, now)
    found = cpu_part(seen, state, signals, SERVING, RULES, now)
    assert found is not None
    assert (found.asks, found.keeps) == (2, 1)


def test_what_works_off_a_queue_is_the_queues_to_count() -> None:
    """20 a second are answered and 10 come in: half of the work is for them."""
    served = {"web-0": 12.0, "web-1": 8.0}
    queue: dict[str, Any] = {"queued": 5, "served_per_s": served, "arrivals_per_s": 10.0}
    assert part(0.9, 0.9, **queue).asks == 2  # 0.9 ÷ 0.6
    assert part(0.9, 0.9, **{**queue, "queued": 0}).asks == 3
    assert part(0.9, 0.9, **{**queue, "arrivals_per_s": 30.0}).asks == 3
    assert part(0.9, 0.9, **{**queue, "arrivals_per_s": None}).asks == 3
    assert part(0.9, 0.9, **{**queue, "served_per_s": {}}).asks == 3


def test_what_those_that_leave_still_answer_is_not_reckoned_with() -> None:
    """All of the work counted here is for what comes in; the other 20 a second are another's."""
    served = {"web-0": 20.0, "gone": 20.0}
    found = part(0.9, queued=1, served_per_s=served, arrivals_per_s=20.0)
    assert found.asks == 2


def test_its_numbers_tell_since_when() -> None:
    """0.7 for a second, then 0.9 for one: 0.8 over 2 s."""
    state = CpuState()
    for second, used in enumerate((0.7, 0.9)):
        signals = replicas(used, now=NOW + second)
        seen = read(signals, RULES.fresh_s, NOW + second)
        state = state.add(seen, RULES, NOW + second)
    found = cpu_part(seen, state, signals, SERVING, RULES, NOW + 1)
    assert found is not None
    assert found.words == "CPU 0.80 of target 0.60 over 2 s on 1 replica asks for 2"


def test_below_the_target_the_count_of_seconds_begins_anew() -> None:
    state = CpuState()
    for second, used in enumerate((0.9, 0.5, 0.9)):
        seen = read(replicas(used, now=NOW + second), RULES.fresh_s, NOW + second)
        state = state.add(seen, RULES, NOW + second)
    assert state.above == (NOW + 1, 0.9, 1)


def test_a_second_without_samples_ends_nothing() -> None:
    state = CpuState()
    for second, used in enumerate((0.9, None, 0.9)):
        seen = read(replicas(used, now=NOW + second), RULES.fresh_s, NOW + second)
        state = state.add(seen, RULES, NOW + second)
    assert state.above == (NOW - 1, 1.8, 2)


@given(
    st.lists(st.none() | st.floats(0, 2), min_size=1, max_size=6),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.booleans(),
)
def test_more_work_never_asks_for_fewer(
    used: list[float | None], more: list[float], stepped: bool
) -> None:
    steps = (Step(0.7, 1), Step(0.9, 2), Step(0.3, -1), Step(0.2, -2)) if stepped else ()
    rules = replace(RULES, steps=steps)
    low = asked(replicas(*used), rules)
    busier = [
        None if each is None else each + extra for each, extra in zip(used, more, strict=False)
    ]
    high = asked(replicas(*busier), rules)
    if low is None or high is None:
        assert low is high
        return
    assert high.asks >= low.asks
    assert high.keeps >= low.keeps


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 50)), min_size=1, max_size=8),
    st.floats(0, 100),
    st.randoms(),
)
def test_the_order_changes_not_even_the_last_bit(
    work: list[tuple[float, float]], arrivals: float, shuffler: random.Random
) -> None:
    signals = replicas(*[used for used, _ in work], queued=1, arrivals_per_s=arrivals)
    rates = {f"web-{i}": rate for i, (_, rate) in enumerate(work)}
    names = list(rates)
    shuffler.shuffle(names)
    one = replace(signals, served_per_s=rates)
    other = replace(
        signals, served_per_s={name: rates[name] for name in names}, serving=tuple(names)
    )
    assert asked(one) == asked(other)


# ── the operator's own steps ─────────────────────────────────────────────────────────────────────

STEPS = replace(RULES, steps=(Step(0.7, 1), Step(0.9, 3), Step(0.3, -1), Step(0.1, -2)))


def test_those_on_their_way_count_within_the_tolerance() -> None:
    """1.9 of work: three at 0.63 each are no overload, two of them would be."""
    seen, signals = read(replicas(0.95, 0.95), 2.5, NOW), replicas(0.95, 0.95)
    state = CpuState().add(seen, RULES, NOW)
    found = cpu_part(seen, state, signals, Fleet("web", ready=2, booting=1), RULES, NOW)
    assert found is not None
    assert found.asks == 3
    assert part(0.95, 0.95).asks == 4


@pytest.mark.parametrize(
    ("used", "asks", "reason"),
    [
        ((0.7,), 1, Reason.STEP),
        ((0.71, 0.71, 0.71), 4, Reason.STEP),
        ((0.95, 0.95, 0.95), 6, Reason.STEP),
        ((0.3, 0.3), 2, Reason.STEP),
        ((0.25, 0.25, 0.25), 2, Reason.STEP),
        ((0.05, 0.05, 0.05), 1, Reason.STEP),
        ((0.05,), 1, Reason.STEP),
    ],
)
def test_the_furthest_step_counts(used: tuple[float, ...], asks: int, reason: Reason) -> None:
    found = part(*used, rules=STEPS)
    assert (found.asks, found.keeps, found.reason) == (asks, asks, reason)


def test_a_step_says_which_bound() -> None:
    words = part(0.95, 0.95, rules=STEPS).words
    assert words == "CPU 0.95 is beyond 0.90, which asks for 5"


def test_with_one_missing_no_step_is_taken_that_it_could_be_against() -> None:
    """Idle, their mean is 0.4; busy, 0.6."""
    assert part(0.8, 0.4, None, rules=STEPS).asks == 3
    assert part(0.0, 0.0, None, rules=STEPS).asks == 3
