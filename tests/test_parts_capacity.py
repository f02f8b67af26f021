"""What a replica can answer, learned from what it answered: X ÷ U."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.parts.capacity import Capacity
from autoscale.signals import Signals
from tests.readings import NOW, replicas

FRESH_S = 2.5


def served(*rates: float, used: tuple[float | None, ...], reading_s: float = 1.0) -> Signals:
    names = tuple(f"web-{i}" for i in range(len(rates)))
    return replicas(*used, served_per_s=dict(zip(names, rates, strict=True)), reading_s=reading_s)


def of(capacity: Capacity, vm: str) -> float | None:
    """What is remembered of this one; of one that nobody knows, what is usual."""
    answered, used = capacity.busy.get(vm, (0.0, 0.0))
    return answered / used if used else capacity.usual


def learned(seconds: int, *rates: float, used: tuple[float | None, ...]) -> Capacity:
    capacity = Capacity()
    for _ in range(seconds):
        capacity = capacity.learn(served(*rates, used=used), FRESH_S, NOW)
    return capacity


def test_ten_a_second_at_half_of_the_time_make_twenty() -> None:
    capacity = learned(5, 10.0, used=(0.5,))
    assert capacity.usual == pytest.approx(20.0)
    assert of(capacity, "web-0") == pytest.approx(20.0)


def test_the_usual_one_is_what_all_answer_for_what_all_use() -> None:
    """One answers 20 a second, a busier one 10; of a third nothing is known."""
    capacity = learned(3, 10.0, 8.0, 5.0, used=(0.5, 0.8, None))
    assert capacity.usual == pytest.approx(18 / 1.3)
    assert of(capacity, "web-1") == pytest.approx(10.0)
    assert of(capacity, "web-2") == pytest.approx(18 / 1.3)


def test_two_busy_seconds_are_needed() -> None:
    assert learned(1, 10.0, used=(1.0,)).usual is None
    assert learned(3, 10.0, used=(1.0,)).usual == pytest.approx(10.0)


def test_where_somebody_always_waits_what_is_answered_is_what_can_be() -> None:
    """A fifth of its CPU, and a queue that never ends: it waits for something else."""
    capacity = learned(3, 10.0, used=(0.2,))
    queued = replace(served(10.0, used=(0.2,)), waiting_s=30.0, queued=9)
    for _ in range(100):
        capacity = capacity.learn(queued, FRESH_S, NOW)
    assert capacity.usual == pytest.approx(10.0, rel=0.02)


def test_who_joined_while_others_waited_did_not_answer_all_the_time() -> None:
    """Two answers within the last fifth of the second, which is all that it was there."""
    before = learned(10, 10.0, used=(1.0,))
    both = replace(served(10.0, 2.0, used=(1.0, 0.2)), waiting_s=30.0, queued=9)
    capacity = before.learn(both, FRESH_S, NOW)
    assert of(capacity, "web-1") == pytest.approx(10.0)
    assert capacity.usual == pytest.approx(10.0)


def test_nothing_is_known_before_anybody_worked() -> None:
    assert of(Capacity(), "web-0") is None
    idle = Capacity().learn(served(1.0, used=(0.05,)), FRESH_S, NOW)
    assert idle.usual is None, "timers and health checks are most of that"
    silent = Capacity().learn(served(0.0, used=(0.9,)), FRESH_S, NOW)
    assert silent.usual is None, "busy with something else"


def test_what_is_old_or_has_no_rate_teaches_nothing() -> None:
    signals = served(10.0, used=(0.5,))
    assert Capacity().learn(signals, FRESH_S, NOW + 3).usual is None
    assert Capacity().learn(replace(signals, served_per_s={}), FRESH_S, NOW).usual is None


def test_once_learned_it_is_kept_while_all_are_idle_or_gone() -> None:
    capacity = learned(5, 10.0, used=(0.5,))
    assert capacity.learn(served(0.0, used=(0.0,)), FRESH_S, NOW).usual == pytest.approx(20.0)
    gone = capacity.learn(Signals(), FRESH_S, NOW)
    assert gone.usual == pytest.approx(20.0)
    assert not gone.busy


def test_a_busy_second_weighs_more_than_a_quiet_one() -> None:
    """12 a second at 0.6, five times, then 1 a second at 0.1: mostly the former."""
    capacity = learned(5, 12.0, used=(0.6,))
    weight = capacity.busy["web-0"][1] / 0.6
    capacity = capacity.learn(served(1.0, used=(0.1,)), FRESH_S, NOW)
    faded, new = weight * 0.95, 0.05
    assert capacity.usual == pytest.approx((12 * faded + new) / (0.6 * faded + 0.1 * new))


def test_a_deployment_that_makes_requests_dearer_is_learned_within_a_minute() -> None:
    capacity = Capacity()
    for _ in range(100):
        capacity = capacity.learn(served(10.0, used=(0.5,)), FRESH_S, NOW)
    for _ in range(60):
        capacity = capacity.learn(served(10.0, used=(1.0,)), FRESH_S, NOW)
    assert capacity.usual == pytest.approx(10.0, rel=0.05)


def test_a_long_reading_counts_for_all_of_it() -> None:
    """Nothing of before is left after one of 30 s."""
    capacity = Capacity().learn(served(10.0, used=(0.5,)), FRESH_S, NOW)
    capacity = capacity.learn(served(10.0, used=(1.0,), reading_s=30.0), FRESH_S, NOW)
    assert capacity.usual == pytest.approx(10.0)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1.5)), min_size=1, max_size=8),
    st.randoms(),
)
def test_the_order_of_the_machines_changes_nothing(
    work: list[tuple[float, float]], shuffler: random.Random
) -> None:
    signals = served(*[rate for rate, _ in work], used=tuple(used for _, used in work))
    serving = list(signals.serving)
    shuffler.shuffle(serving)
    other = replace(
        signals,
        serving=tuple(serving),
        served_per_s=dict(reversed(list(signals.served_per_s.items()))),
    )
    assert Capacity().learn(other, FRESH_S, NOW) == Capacity().learn(signals, FRESH_S, NOW)


def test_machines_that_come_and_go_leave_nothing_behind() -> None:
    capacity = Capacity()
    for number in range(200):
        name = f"web-{number}"
        signals = served(10.0, used=(0.5,))
        signals = replace(
            signals,
            cpu={name: signals.cpu["web-0"]},
            serving=(name,),
            served_per_s={name: 10.0},
        )
        capacity = capacity.learn(signals, FRESH_S, NOW)
    assert list(capacity.busy) == ["web-199"]
