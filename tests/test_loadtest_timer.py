"""The fine wake-up: armed, moved, closed."""

from __future__ import annotations

import asyncio

from loadtest.timer import WakeUp


async def test_it_wakes_once_per_arming_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    timer = WakeUp(loop, woken.set)
    try:
        for delay in (0.01, 0.0, -1.0, 0.0000001):
            woken.clear()
            began = loop.time()
            timer.arm(delay)
            await asyncio.wait_for(woken.wait(), 10)
            assert loop.time() - began >= delay - 0.001
    finally:
        timer.close()


async def test_arming_again_moves_it_and_closing_ends_it() -> None:
    loop = asyncio.get_running_loop()
    calls: list[float] = []
    woken = asyncio.Event()

    def wake() -> None:
        calls.append(loop.time())
        woken.set()

    timer = WakeUp(loop, wake)
    timer.arm(3000)
    timer.arm(0.01)
    await asyncio.wait_for(woken.wait(), 10)
    timer.arm(0)
    timer.arm(3000)  # moved before it fired
    await asyncio.sleep(0.02)
    assert len(calls) == 1
    timer.arm(0.01)
    timer.close()
    await asyncio.sleep(0.03)
    assert len(calls) == 1
    timer.close()
