"""When the controller looks, and for whom it does not wait: late hosts, lines that form."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from autoscale.controller import PATIENCE_S, QUICK_S
from autoscale.host import Domain, HostUnreachable
from autoscale.model import EventKind, Reason
from tests.fakes import FakeClock, FakeHypervisor
from tests.world import World, rules


class SlowHost(FakeHypervisor):
    """Answers listings once it may; what it tells is as old as that."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._late: FakeClock = args[0]
        self.may = asyncio.Event()
        self.may.set()
        self.fails = False
        self.stale = False
        """Listings tell what was when they were asked for."""
        self.late_s = 0.0
        """Each listing takes so long."""
        self.pending = 0

    async def observe(self) -> tuple[Domain, ...]:
        self.pending += 1
        then = await super().observe() if self.stale else None
        try:
            await self.may.wait()
            if self.late_s:
                await self._late.wait(asyncio.Event(), self.late_s)
        finally:
            self.pending -= 1
        if self.fails:
            raise HostUnreachable("no answer from libvirt in 20 s")
        return await super().observe() if then is None else then


async def two_hosts(low: int = 2) -> tuple[World, SlowHost]:
    """One replica on each, both ready."""
    world = World(rules(low, 4), hosts=("a", "b"))
    slow = SlowHost(world.clock, "b", first_port=50001)
    world.hosts["b"] = slow
    world._start()
    for host in world.hosts.values():
        host.on_change(lambda _name: world.controller.wake())
    await world.until(lambda: world.fleet.counts().ready == low)
    await world.run(3)
    return world, slow


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.ensure_future(world.controller.run())
    try:
        yield
    finally:
        world.controller.stop()
        await task


async def passes(world: World, seconds: float, step_s: float = 0.125) -> None:
    for _ in range(round(seconds / step_s)):
        world.clock.advance(step_s)
        await world.tasks.settle()


def on(world: World, host: str) -> str:
    (domain,) = world.hosts[host].ours()
    return domain.name


# ── hosts that answer late ───────────────────────────────────────────────────────────────────────


async def test_a_crash_is_news_though_another_host_hangs() -> None:
    world, slow = await two_hosts()
    async with running(world):
        await world.tasks.settle()
        slow.may.clear()
        for wait_s in (0.0, 0.25, PATIENCE_S, 3.0):  # as the host is waited for, and later
            await passes(world, wait_s)
            crashed = on(world, "a")
            at = world.clock.now()
            world.hosts["a"].crash(crashed)
            await world.tasks.settle()
            assert crashed in world.told(EventKind.LEAVE)
            assert world.clock.now() == at
            await world.tasks.settle()
            await passes(world, PATIENCE_S + 0.25)
            assert len(world.hosts["a"].ours()) == 1, "and it is replaced, on the host that answers"
            world.hosts["a"].ours()[0].serves_from = world.clock.now()
            world.probe()
        slow.may.set()


async def test_a_crash_while_its_host_is_being_listed_is_seen_by_the_next_tick() -> None:
    world, slow = await two_hosts()
    slow.stale = True
    async with running(world):
        await world.tasks.settle()
        slow.may.clear()
        await passes(world, 1.0)
        crashed, at = on(world, "b"), world.clock.now()
        slow.crash(crashed)
        await world.tasks.settle()
        slow.may.set()
        await world.tasks.settle()
        await world.tasks.settle()
        assert crashed in world.told(EventKind.LEAVE)
        assert world.clock.now() == at


async def test_a_host_that_hangs_is_asked_once_and_waited_for_once() -> None:
    world, slow = await two_hosts()
    async with running(world):
        await world.tasks.settle()
        slow.may.clear()
        await passes(world, 1.0)  # the tick that asks it
        ticks = world.controller.ticks
        await passes(world, PATIENCE_S)
        assert world.controller.ticks == ticks + 1
        await passes(world, 5.0)
        assert world.controller.ticks >= ticks + 5, "nobody waits for it any more"
        assert slow.pending == 1
        assert tuple(world.controller.signals.hosts) == ("a",)
        assert not world.controller.unreachable, "its call is not over"
        slow.may.set()
        await passes(world, 1.0)
        assert tuple(world.controller.signals.hosts) == ("a", "b")


async def test_what_a_late_host_tells_is_taken_in_when_it_comes() -> None:
    world, slow = await two_hosts()
    lost = on(world, "b")
    async with running(world):
        await world.tasks.settle()
        slow.may.clear()
        await passes(world, 3.0)
        slow.crash(lost)
        await passes(world, 0.5)
        assert lost not in world.told(EventKind.LEAVE)
        slow.may.set()
        await world.tasks.settle()
        await world.tasks.settle()
        assert lost in world.told(EventKind.LEAVE)
        assert world.reasons("vm.launch")[-1] is Reason.REPLACED, "decided upon at once"


async def test_a_host_that_is_always_late_is_heard_all_the_same() -> None:
    world, slow = await two_hosts()
    world.controller.rules = rules(1, 1)
    slow.late_s = PATIENCE_S + 0.5
    async with running(world):
        await passes(world, 30.0)
        assert len(world.told(EventKind.DRAIN)) == 1, "which wants every host to be heard"


async def test_what_a_host_that_is_always_late_tells_is_decided_upon_at_once() -> None:
    world, slow = await two_hosts()
    lost = on(world, "b")
    async with running(world):
        await world.tasks.settle()
        slow.late_s = 3.1  # between two ticks
        await passes(world, 1.0)
        slow.crash(lost)
        launched = len(world.reasons("vm.launch"))
        while lost not in world.told(EventKind.LEAVE):
            assert len(world.reasons("vm.launch")) == launched
            await passes(world, 0.125)
        await world.tasks.settle()
        assert world.reasons("vm.launch")[launched:] == [Reason.REPLACED]


async def test_nobody_leaves_for_good_while_a_host_is_silent() -> None:
    world, slow = await two_hosts()
    world.controller.rules = rules(1, 1)
    slow.may.clear()
    async with running(world):
        await passes(world, 30.0)
        assert world.told(EventKind.DRAIN) == []
        slow.may.set()
        await passes(world, 3.0)
        assert len(world.told(EventKind.DRAIN)) == 1


async def test_those_on_other_hosts_serve_before_a_silent_one_was_ever_listed() -> None:
    world, slow = await two_hosts()
    await world.restart()
    slow.may.clear()
    async with running(world):
        await passes(world, PATIENCE_S + 0.25)
        world.probe()
        assert [one.name for one in world.pool.available] == [on(world, "a")]
        assert world.decisions[-1:] == [] or world.decisions[-1].current == 2, "none decided since"
        assert not world.fleet.all_hosts_seen
        slow.may.set()
        await passes(world, 1.0)
        world.probe()
        assert len(world.pool.available) == 2


async def test_a_silent_host_does_not_keep_it_from_stopping() -> None:
    world, slow = await two_hosts()
    slow.may.clear()
    async with running(world):
        await world.tasks.settle()
    slow.may.set()
    await world.tasks.settle()


async def test_a_call_that_is_over_at_last_says_that_the_host_is_unreachable() -> None:
    world, slow = await two_hosts()
    slow.may.clear()
    async with running(world):
        await passes(world, 5.0)
        slow.fails = True
        slow.may.set()
        await world.tasks.settle()
        assert dict(world.controller.unreachable) == {"b": "no answer from libvirt in 20 s"}
        slow.fails = False


# ── lines that form ──────────────────────────────────────────────────────────────────────────────


async def serving() -> World:
    world = World(rules(1, 4))
    await world.until(lambda: world.fleet.counts().ready == 1)
    await world.run(2)
    return world


async def test_while_somebody_waits_it_looks_four_times_a_second() -> None:
    world = await serving()
    async with running(world):
        await world.tasks.settle()
        ticks = world.controller.ticks
        await passes(world, 4.0)
        assert world.controller.ticks == ticks + 4
        world.queued = 1
        await passes(world, 1.0)
        ticks = world.controller.ticks
        await passes(world, 4.0)
        assert world.controller.ticks == ticks + 4 / QUICK_S
        world.queued = 0
        await passes(world, 1.0)
        ticks = world.controller.ticks
        await passes(world, 4.0)
        assert world.controller.ticks == ticks + 4


async def test_the_first_who_waits_wakes_it_at_once() -> None:
    world = await serving()
    async with running(world):
        await world.tasks.settle()
        ticks, at = world.controller.ticks, world.clock.now()
        world.queued = 1
        world.controller.hurry()
        await world.tasks.settle()
        assert (world.controller.ticks, world.clock.now()) == (ticks + 1, at)
        assert world.controller.signals.queued == 1


async def test_a_line_that_forms_again_and_again_is_looked_at_no_more_often() -> None:
    world = await serving()
    async with running(world):
        await world.tasks.settle()
        ticks = world.controller.ticks
        for _ in range(40):
            world.controller.hurry()
            await world.tasks.settle()
            await passes(world, 0.1, step_s=0.1)
        assert 14 <= world.controller.ticks - ticks <= 17, "in four seconds"


async def test_where_it_looks_more_often_anyway_nothing_gets_slower() -> None:
    world = await serving()
    world.controller.interval_s = 0.125
    world.queued = 1
    async with running(world):
        await world.tasks.settle()
        ticks = world.controller.ticks
        await passes(world, 2.0)
        assert world.controller.ticks == ticks + 16
