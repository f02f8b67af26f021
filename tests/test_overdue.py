"""When the fast lane gives an exchange up: on a loop whose time is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from lb.overdue import LONGEST_S, TICK_S, TOGETHER_S, Overdue


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of one as a timer needs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[[], None], *_: Any) -> Timer:
        timer = Timer(self.now + delay_s, call)
        self.timers.append(timer)
        return timer

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.timers and min(timer.at for timer in self.timers) <= until:
            timer = min(self.timers, key=lambda timer: timer.at)
            self.timers.remove(timer)
            self.now = timer.at
            if not timer.cancelled:
                timer.call()
        self.now = until


class Exchange:
    def __init__(self, loop: Loop, overdue: Overdue) -> None:
        self._loop = loop
        self._overdue = overdue
        self.began = loop.now
        self.heard_at = 0.0
        self.given_at: float | None = None
        overdue.begin(self)

    def hear(self) -> None:
        self.heard_at = self._loop.now
        self._overdue.heard(self)

    def hand_over(self) -> None:
        self.given_at = self._loop.now
        self._overdue.end(self)


def made() -> tuple[Loop, Overdue]:
    loop = Loop()
    return loop, Overdue(cast(asyncio.AbstractEventLoop, loop))


def test_who_waits_long_is_handed_over_within_a_tick() -> None:
    loop, overdue = made()
    one = Exchange(loop, overdue)
    loop.run(LONGEST_S - TICK_S)
    assert tuple(overdue.running) == (one,)
    loop.run(2.5 * TICK_S)
    assert one.given_at is not None
    assert len(overdue.running) == 0


def test_the_rest_of_an_answer_is_waited_for_less_long() -> None:
    loop, overdue = made()
    whole, partial = Exchange(loop, overdue), Exchange(loop, overdue)
    partial.hear()
    loop.run(TOGETHER_S + 1.5 * TICK_S)
    assert whole.given_at is None
    assert partial.given_at is not None
    assert tuple(overdue.running) == (whole,)


def test_who_ends_in_time_is_left_alone() -> None:
    loop, overdue = made()
    one, other = Exchange(loop, overdue), Exchange(loop, overdue)
    one.hear()
    overdue.end(one)
    overdue.end(other)
    loop.run(10)
    assert (one.given_at, other.given_at) == (None, None)


def test_nothing_ticks_while_nothing_runs() -> None:
    loop, overdue = made()
    assert loop.timers == []
    overdue.end(Exchange(loop, overdue))
    loop.run(2 * TICK_S)
    assert loop.timers == []
    again = Exchange(loop, overdue)
    loop.run(1)
    assert again.given_at is not None


def test_closed_it_ticks_no_more() -> None:
    loop, overdue = made()
    overdue.end(Exchange(loop, overdue))
    overdue.close()
    assert all(timer.cancelled for timer in loop.timers)


@given(st.lists(st.tuples(st.floats(0, 0.4), st.booleans(), st.floats(0, 0.8)), max_size=30))
def test_each_is_handed_over_once_and_in_time(
    story: list[tuple[float, bool, float]],
) -> None:
    """(when the next begins, is a part of its answer heard at once, when it ends)"""
    loop, overdue = made()
    begun: list[tuple[Exchange, float]] = []
    for pause_s, hears, lasts_s in story:
        exchange = Exchange(loop, overdue)
        if hears:
            exchange.hear()
        begun.append((exchange, loop.now + lasts_s))
        until = loop.now + pause_s
        for other, ends_at in sorted(begun, key=lambda pair: pair[1]):
            if loop.now <= ends_at <= until and other.given_at is None:
                loop.run(ends_at - loop.now)
                if other.given_at is None and other in tuple(overdue.running):
                    overdue.end(other)
        loop.run(max(0.0, until - loop.now))
        for other in cast(tuple[Exchange, ...], tuple(overdue.running)):
            limit_s = TOGETHER_S if other.heard_at else LONGEST_S
            assert loop.now - other.began <= limit_s + TICK_S + 1e-6
    loop.run(2)
    assert len(overdue.running) == 0
