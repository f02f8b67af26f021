"""Deadlines that are moved on: each fires once, at the last time that was set, or never."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from functools import partial

from lb.deadline import FIRST_S, TICK_S, Deadline, Wheel


class Loop:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(at, callback)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        callback()

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.armed if timer.at <= end]:
            timer = min(due, key=lambda one: one.at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.callback()
        self.now = end

    @property
    def armed(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Owner:
    def __init__(self, told: Callable[[], object]) -> None:
        self._told = told

    def expired(self) -> None:
        self._told()


def wheel() -> tuple[Wheel, Loop]:
    loop = Loop()
    return Wheel(loop), loop  # type: ignore[arg-type]


def deadline() -> tuple[Deadline, Loop, list[float]]:
    on, loop = wheel()
    fired: list[float] = []
    return Deadline(on, Owner(lambda: fired.append(loop.now))), loop, fired


def in_time(fired: list[float], *expected: float) -> bool:
    """Each never early, and late by a tick at most."""
    return len(fired) == len(expected) and all(
        due <= at <= due + TICK_S + 1e-9 for at, due in zip(fired, expected, strict=True)
    )


def test_it_fires_once_when_its_time_has_come() -> None:
    one, loop, fired = deadline()
    one.after(5)
    loop.advance(4.9)
    assert fired == []
    loop.advance(60)
    assert in_time(fired, 105.0)


def test_moved_on_it_fires_at_the_last_time_only_and_with_few_timers() -> None:
    one, loop, fired = deadline()
    for _ in range(100):
        one.after(5)
        loop.advance(1)
    assert fired == []
    assert len(loop.armed) == 1
    loop.advance(60)
    assert in_time(fired, 204.0)


def test_it_may_be_moved_to_sooner() -> None:
    one, loop, fired = deadline()
    one.after(60)
    one.after(1)
    loop.advance(2)
    assert in_time(fired, 101.0)
    loop.advance(100)
    assert in_time(fired, 101.0)


def test_cleared_or_set_to_0_it_never_fires() -> None:
    one, loop, fired = deadline()
    one.after(5)
    one.clear()
    loop.advance(10)
    one.after(5)
    one.after(0)
    loop.advance(10)
    assert fired == []
    one.after(1)
    loop.advance(2)
    assert in_time(fired, 121.0)


def deadlines() -> list[Deadline]:
    return [one for one in gc.get_objects() if type(one) is Deadline]


def test_closed_it_never_fires_and_nothing_is_kept_of_it() -> None:
    on, loop = wheel()
    fired: list[float] = []
    one = Deadline(on, Owner(lambda: fired.append(loop.now)))
    # where it is compiled, no weak reference can be had of one
    others = len(deadlines())
    one.after(5)
    one.close()
    del one
    assert len(deadlines()) == others - 1
    loop.advance(10)
    assert fired == []


def test_who_leaves_soon_is_in_no_slot_far_off() -> None:
    on, loop = wheel()
    for _ in range(200):
        loop.advance(0.1)
        one = Deadline(on, Owner(lambda: None))
        one.after(600)
        one.close()
    assert len(on._slots) <= FIRST_S / TICK_S + 2


def test_one_far_off_is_looked_at_once_before() -> None:
    on, loop = wheel()
    fired: list[float] = []
    one = Deadline(on, Owner(lambda: fired.append(loop.now)))
    began = loop.now
    one.after(600)
    loop.advance(599)
    assert fired == []
    loop.advance(2)
    assert in_time(fired, began + 600)


def test_many_have_one_timer_and_each_its_time() -> None:
    on, loop = wheel()
    fired: list[int] = []
    many = [Deadline(on, Owner(partial(fired.append, number))) for number in range(50)]
    for number, one in enumerate(many):
        one.after(50 - number)
    assert len(loop.armed) == 1
    loop.advance(60)
    assert fired == list(reversed(range(50)))
    assert loop.armed == []


def test_a_closed_wheel_has_no_timer() -> None:
    on, loop = wheel()
    fired: list[float] = []
    Deadline(on, Owner(lambda: fired.append(loop.now))).after(5)
    on.close()
    assert loop.armed == []
    loop.advance(10)
    assert fired == []


async def test_on_a_real_loop() -> None:
    fired = asyncio.Event()
    on = Wheel(asyncio.get_running_loop())
    one = Deadline(on, Owner(fired.set))
    one.after(0.01)
    async with asyncio.timeout(10):
        await fired.wait()
    on.close()
