"""Which CPU signals can be believed, and what those that are missing stand for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.model import Signal
from autoscale.parts.reading import read
from autoscale.signals import Signals
from tests.readings import NOW, reading, replicas

FRESH_S = 2.5


def of(vm: str, used: float, *, age_s: float = 0.0, interval_s: float = 1.0) -> Signal:
    return Signal(vm, NOW - age_s, used, used, used, None, interval_s)


def test_the_sum_and_the_mean_of_those_that_serve() -> None:
    seen = reading(0.2, 0.5, 0.8)
    assert (seen.serving, seen.fresh, seen.missing) == (3, 3, 0)
    assert seen.work == pytest.approx(1.5)
    assert seen.mean == pytest.approx(0.5)
    assert seen.at_most == seen.work


def test_one_that_is_missing_is_idle_when_growing_and_busy_when_shrinking() -> None:
    seen = reading(0.6, None, 0.6)
    assert (seen.serving, seen.fresh, seen.missing) == (3, 2, 1)
    assert seen.mean == pytest.approx(0.4)
    assert seen.at_most == pytest.approx(2.2)


def test_nobody_serves() -> None:
    seen = reading()
    assert (seen.serving, seen.mean, seen.at_most) == (0, 0.0, 0.0)
    assert (seen.begin, seen.end) == (NOW, NOW)


def test_nobody_is_heard_of() -> None:
    seen = reading(None, None)
    assert (seen.missing, seen.mean, seen.at_most) == (2, 0.0, 2.0)
    assert (seen.begin, seen.end) == (NOW, NOW)


def test_a_sample_is_believed_for_so_long() -> None:
    for age_s, fresh in ((2.5, 1), (2.6, 0)):
        signals = Signals(cpu={"a": of("a", 0.5, age_s=age_s)}, serving=("a",))
        assert read(signals, FRESH_S, NOW).fresh == fresh


def test_one_that_does_not_serve_says_nothing() -> None:
    """It boots, or drains: what it uses is not for requests that come in."""
    signals = Signals(cpu={"a": of("a", 0.5), "b": of("b", 1.0)}, serving=("a",))
    assert read(signals, FRESH_S, NOW).work == 0.5


def test_it_covers_from_the_earliest_beginning_to_the_latest_end() -> None:
    signals = Signals(
        cpu={"a": of("a", 0.5, age_s=0.4), "b": of("b", 0.5, age_s=1.2, interval_s=2.0)},
        serving=("a", "b"),
    )
    seen = read(signals, FRESH_S, NOW)
    assert seen.begin == pytest.approx(NOW - 3.2)
    assert seen.end == pytest.approx(NOW - 0.4)


@given(st.lists(st.none() | st.floats(0, 2), max_size=12), st.randoms())
def test_the_order_changes_not_even_the_last_bit(
    used: list[float | None], shuffler: random.Random
) -> None:
    signals = replicas(*used)
    serving = list(signals.serving)
    shuffler.shuffle(serving)
    cpu = dict(sorted(signals.cpu.items(), reverse=True))
    other = Signals(cpu=cpu, serving=tuple(serving))
    assert read(other, FRESH_S, NOW) == read(signals, FRESH_S, NOW)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=8), st.data())
def test_what_goes_missing_lowers_the_one_and_raises_the_other(
    used: list[float], data: st.DataObject
) -> None:
    """Nobody uses more than all of it, but while its limit is lifted."""
    used = [min(1.0, each) for each in used]
    lost = data.draw(st.integers(0, len(used) - 1))
    all_of_them = reading(*used)
    rest = reading(*[None if i == lost else each for i, each in enumerate(used)])
    assert rest.mean <= all_of_them.mean + 1e-9
    assert rest.at_most >= all_of_them.at_most - 1e-9
