"""Running requests, Knative's way: two windows, panic, and what waits; ten requests a replica."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.decision import Part
from autoscale.model import Reason
from autoscale.parts.concurrency import ConcurrencyState, concurrency_part, measure, start
from autoscale.rules import Rules
from autoscale.signals import Signals
from tests.readings import NOW, fleet

RULES = Rules(target_concurrency=10.0, shrink_margin=0.8)


class Seconds:
    """One reading a second."""

    def __init__(self, ready: int = 1, rules: Rules = RULES) -> None:
        self.ready, self.rules, self.now = ready, rules, NOW
        self.state: ConcurrencyState = start(rules)

    def second(
        self, running: int, queued: int = 0, booting: int = 0, drains: float | None = None
    ) -> Part:
        self.now += 1
        there = fleet(self.ready, booting)
        signals = Signals(in_flight=running, queued=queued)
        self.state, worth = measure(self.state, signals, there, drains, self.rules, self.now)
        return concurrency_part(self.state, worth, there, self.rules, self.now)

    def seconds(self, count: int, running: int, **others: Any) -> Part:
        for _ in range(count):
            part = self.second(running, **others)
        return part

    def panics(self) -> bool:
        return self.state.panics(self.now)


@pytest.mark.parametrize(
    ("ready", "running", "asks"),
    [(1, 10, 1), (1, 11, 1), (1, 12, 2), (3, 33, 3), (3, 34, 4), (3, 11, 2), (1, 0, 0)],
)
def test_as_many_as_they_are_for_and_a_tenth_more(ready: int, running: int, asks: int) -> None:
    assert Seconds(ready).second(running).asks == asks


def test_it_asks_by_the_mean_of_a_minute() -> None:
    """Thirty seconds of 5 and thirty of 15: a mean of 10, which one is for."""
    seconds = Seconds()
    seconds.seconds(30, 5)
    assert seconds.seconds(30, 15).asks == 1
    assert seconds.seconds(20, 15).asks == 2


def test_and_by_no_more_than_there_is_now() -> None:
    seconds = Seconds(4)
    seconds.seconds(60, 35)
    part = seconds.second(15)
    assert (part.asks, part.keeps) == (2, 5)  # 3.47 ÷ 0.8


def test_a_margin_is_kept_before_one_leaves() -> None:
    assert Seconds(3).second(16).keeps == 2
    assert Seconds(3).second(17).keeps == 3  # 1.7 ÷ 0.8 = 2.1


def test_its_words() -> None:
    words = Seconds().second(12).words
    assert words == "12.0 requests running or waiting, 12.0 over 60 s, at 10 a replica ask for 2"


# ── what waits ───────────────────────────────────────────────────────────────────────────────────


def test_who_waits_counts_by_the_time_it_takes_to_drain() -> None:
    """100 wait. One works off 100 in the time they may take: that is one replica's worth; where
    nobody knows, they count as ten replicas' requests."""
    assert Seconds().second(10, 100, drains=100.0).asks == 2
    assert Seconds().second(10, 100, drains=50.0).asks == 3
    assert Seconds().second(10, 100).asks == 11


def test_who_waits_for_a_slow_boot_does_not_inflate_the_count() -> None:
    assert Seconds().second(10, 400, booting=2).asks == 3
    # what runs counts all the same
    assert Seconds().second(40, 400, booting=2).asks == 4


# ── panic ────────────────────────────────────────────────────────────────────────────────────────


def test_panic_at_twice_what_they_are_for_by_the_short_window() -> None:
    seconds = Seconds(2)
    seconds.seconds(120, 20)
    seconds.seconds(3, 60)
    assert not seconds.panics(), "six seconds of 20, 20, 20, 60, 60, 60"
    part = seconds.seconds(3, 60)
    assert seconds.panics()
    assert part.asks > 4
    assert part.numbers["over_s"] == 6.0
    assert part.reason is Reason.CONCURRENCY


def test_those_on_their_way_count_so_they_end_no_panic_and_begin_none() -> None:
    seconds = Seconds(1)
    seconds.second(25, booting=1)
    assert not seconds.panics()
    seconds.second(60, booting=1)
    assert seconds.panics()


def test_it_ends_a_minute_after_the_last_reading_above() -> None:
    seconds = Seconds(1)
    seconds.second(20)
    assert seconds.panics()
    left = 0
    while seconds.panics():
        seconds.second(1)
        left += 1
    # of 20, 1: a mean of 10.5 is below 20
    assert left == 60


def test_another_peak_begins_the_minute_anew() -> None:
    seconds = Seconds(1)
    seconds.second(20)
    seconds.seconds(30, 1)
    seconds.seconds(7, 30)
    seconds.seconds(50, 1)
    assert seconds.panics()


def test_with_nobody_there_is_no_panic() -> None:
    """There is nothing to be twice of; the queue brings one from zero."""
    seconds = Seconds(0)
    seconds.second(0, 500)
    assert not seconds.panics()


def test_windows_that_a_reload_changed_count_from_now() -> None:
    seconds = Seconds(1)
    seconds.seconds(60, 30)
    seconds.rules = replace(RULES, stable_window_s=120.0)
    part = seconds.second(1)
    assert (part.asks, seconds.panics()) == (1, False)


@given(
    st.integers(0, 200),
    st.integers(0, 200),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([None, 5.0, 200.0]),
)
def test_more_that_run_or_wait_never_ask_for_fewer(
    running: int, more: int, queued: int, longer: int, ready: int, booting: int, drains: float
) -> None:
    low = Seconds(ready).second(running, queued, booting, drains)
    busier = Seconds(ready).second(running + more, queued, booting, drains)
    waiting = Seconds(ready).second(running, queued + longer, booting, drains)
    assert busier.asks >= low.asks
    assert waiting.asks >= low.asks
    assert busier.keeps >= low.keeps
    assert waiting.keeps >= low.keeps


def test_a_day_takes_no_more_room_than_a_minute() -> None:
    seconds = Seconds(1)
    for second in range(5000):
        seconds.second(second % 40)
    assert len(seconds.state.stable.buckets) <= 14
    assert len(seconds.state.panic.buckets) <= 14
