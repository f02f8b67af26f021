"""One timer that is moved on: it fires once, at the last time that was set, or never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lb.deadline import Deadline


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


def deadline() -> tuple[Deadline, Loop, list[float]]:
    loop, fired = Loop(), list[float]()
    return Deadline(loop, lambda: fired.append(loop.now)), loop, fired  # type: ignore[arg-type]


def test_it_fires_once_when_its_time_has_come() -> None:
    one, loop, fired = deadline()
    one.after(5)
    loop.advance(4.9)
    assert fired == []
    loop.advance(60)
    assert fired == [105.0]


def test_moved_on_it_fires_at_the_last_time_only_and_with_few_timers() -> None:
    one, loop, fired = deadline()
    for _ in range(100):
        one.after(5)
        loop.advance(1)
    assert fired == []
    assert len(loop.timers) == 1
    loop.advance(60)
    assert fired == [204.0]


def test_it_may_be_moved_to_sooner() -> None:
    one, loop, fired = deadline()
    one.after(60)
    one.after(1)
    loop.advance(2)
    assert fired == [101.0]
    loop.advance(100)
    assert fired == [101.0]


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
    assert fired == [121.0]


def test_closed_it_lets_go_of_its_timer() -> None:
    one, loop, fired = deadline()
    one.after(5)
    one.close()
    assert loop.armed == []
    loop.advance(10)
    assert fired == []


async def test_on_a_real_loop() -> None:
    fired = asyncio.Event()
    one = Deadline(asyncio.get_running_loop(), fired.set)
    one.after(0.01)
    async with asyncio.timeout(10):
        await fired.wait()
