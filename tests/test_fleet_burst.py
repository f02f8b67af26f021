"""Relief at once: CPU limits that are lifted while a replica is on its way, and put back after.

Here the test decides, not the planner. A replica has one vCPU and may use 0.4 cores of it, or with
a burst of 2 twice that; a boot takes 10 s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoscale import policy
from autoscale.decision import Decision
from autoscale.host import HypervisorError, PowerState
from autoscale.limits import FREE_S
from autoscale.model import Reason
from tests.fakes import FakeDomain, Fault
from tests.world import World, rules, shape


class Steered(World):
    """A world whose fleet has the size that the test says."""

    to = 1
    burst = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        super().__init__(rules(0, burst=2.0), vm=shape(cpu_limit=0.4), **settings)
        monkeypatch.setattr(policy, "decide", self.decide)

    def decide(self, _signals: Any, fleet: Any, state: Any, _rules: Any, now: float) -> Any:
        decision = Decision("web", now, fleet.active, self.to, Reason.STEADY, burst=self.burst)
        return decision, state

    async def serving(self, count: int) -> None:
        self.to = count
        await self.until(lambda: self.fleet.counts().ready == count)
        await self.run(FREE_S)

    def limits(self) -> list[float | None]:
        """In force, of those that serve, the oldest first."""
        serving = self.fleet.ready_names()
        return [d.limit_cores for d in self.domains() if d.name in serving]

    def asked(self) -> int:
        return sum(len(host.asked("set_cpu_limit")) for host in self.hosts.values())


async def test_limits_are_lifted_when_a_replica_is_launched_and_put_back_when_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Steered(monkeypatch)
    await world.serving(1)
    assert world.limits() == [0.4]
    world.to, world.burst = 2, True
    await world.run(1)
    assert (world.limits(), world.fleet.counts().booting) == ([0.8], 1)
    await world.until(lambda: world.fleet.counts().ready == 2)
    world.burst = False
    await world.run(1)
    assert world.limits() == [0.4, None], "who has just come works off what queued up"
    await world.run(FREE_S)
    assert world.limits() == [0.4, 0.4]
    calls = world.asked()
    await world.run(20)
    assert world.asked() == calls, "what is as it should be is not asked for again"


async def test_a_boot_goes_on_without_a_limit_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Steered(monkeypatch)
    await world.serving(1)
    world.to, world.burst = 2, True
    await world.run(5)
    (booting,) = [d for d in world.domains() if d.name not in world.fleet.ready_names()]
    assert booting.limit_cores is None


async def test_they_are_put_back_when_the_launch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner gives up: it wants one again, and no relief."""
    world = Steered(monkeypatch)
    await world.serving(1)
    world.host.next_create(Fault.REFUSED, times=9)
    world.to, world.burst = 2, True
    await world.run(1)
    assert (world.limits(), world.fleet.counts().existing) == ([0.8], 1)
    world.to, world.burst = 1, False
    await world.run(1)
    assert world.limits() == [0.4]


async def test_they_are_put_back_when_nobody_wants_the_replica_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Steered(monkeypatch)
    await world.serving(1)
    world.to, world.burst = 2, True
    await world.run(3)
    world.to, world.burst = 1, False
    await world.run(1)
    assert (world.limits(), world.fleet.counts().booting) == ([0.4], 0)


async def test_without_the_setting_nothing_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Steered(monkeypatch)
    world.fleet.burst = None
    await world.serving(1)
    world.burst = True
    await world.run(3)
    assert world.limits() == [0.4]
    world.fleet.burst = 9.0  # a reload
    await world.run(1)
    assert world.limits() == [1.0], "never beyond its vCPUs"


async def test_on_a_host_without_limits_nobody_tries_to_lift_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Steered(monkeypatch, hosts=("a", "b"))
    world.hosts["a"].limits = False
    await world.serving(2)
    asked = len(world.hosts["a"].asked("set_cpu_limit"))
    world.burst = True
    await world.run(3)
    assert len(world.hosts["a"].asked("set_cpu_limit")) == asked == 1
    assert [d.limit_cores for d in world.hosts["b"].ours()] == [0.8]


async def test_a_limit_that_could_not_be_set_is_set_by_the_next_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Steered(monkeypatch)
    await world.serving(1)
    world.burst = True
    world.host.unreachable = True
    await world.run(2)
    world.host.unreachable = False
    await world.run(2)
    assert world.limits() == [0.8]


async def test_after_a_call_without_an_answer_nobody_knows_the_limit_so_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was lifted all the same, and in the next second there is no need for that any more: who
    believed that the old limit still held would leave it lifted for ever."""
    world = Steered(monkeypatch)
    await world.serving(1)
    world.host.limit_fault = HypervisorError("no answer from libvirt in 20 s")
    world.burst = True
    await world.run(1)
    assert world.limits() == [0.8]
    assert world.fleet.statuses()[0].limit_cores is None
    world.burst = False
    await world.run(1)
    assert world.limits() == [0.4]


async def test_a_successor_puts_back_what_its_predecessor_lifted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Steered(monkeypatch)
    await world.serving(1)
    world.burst = True
    await world.run(1)
    world.burst = False
    await world.restart()
    assert world.limits() == []
    await world.until(lambda: world.fleet.counts().ready == 1)
    await world.run(1)
    assert world.limits() == [0.4]


async def test_one_call_for_a_replica_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lifted and put back within one slow call: the last word counts, once that call is over."""
    world = Steered(monkeypatch)
    await world.serving(1)
    world.host.hold_limits()
    calls = world.asked()
    world.burst = True
    await world.run(3)
    world.burst = False
    await world.run(3)
    assert world.asked() == calls + 1
    world.host.release_limits()
    await world.run(1)
    assert world.limits() == [0.4]


def domain(world: World) -> FakeDomain:
    return world.host.ours()[0]


async def test_a_lifted_limit_does_not_make_a_busy_replica_look_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0.8 cores in use are twice what its shape allows, before, during and after."""
    world = Steered(monkeypatch)
    await world.serving(1)
    world.demand = 0.8
    seen = []
    for burst in (False, True, False):
        world.burst = burst
        await world.run(3)
        seen.append(world.controller.signals.cpu[domain(world).name].utilisation)
    assert seen == pytest.approx([1.0, 2.0, 1.0])


async def test_the_planner_grants_relief_while_help_is_on_its_way() -> None:
    """The whole story, decided by the planner: 0.7 cores wanted of a replica that may use 0.4."""
    world = World(rules(burst=2.0), vm=shape(cpu_limit=0.4))
    await world.until(lambda: world.fleet.counts().ready == 1)
    await world.run(FREE_S)
    world.demand = 0.7
    await world.until(lambda: world.fleet.counts().booting)
    await world.run(1)
    assert world.decision.burst
    assert domain(world).limit_cores == 0.8
    await world.until(lambda: not world.fleet.counts().booting and not world.decision.burst)
    await world.run(FREE_S)
    assert {d.limit_cores for d in world.domains()} == {0.4}


async def test_who_wakes_has_no_limit_at_first_even_if_it_had_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It served, rested, and is called for again: its limit was lifted before it slept."""
    world = Steered(monkeypatch)
    await world.serving(2)
    assert world.limits() == [0.4, 0.4]
    world.fleet.shape = replace(world.fleet.shape, standby=1)
    world.to = 1
    await world.until(lambda: world.fleet.counts().standby == 1)
    (asleep,) = [d for d in world.domains() if d.power is PowerState.PAUSED]
    assert asleep.limit_cores is None
    world.to = 2
    await world.run(1)
    assert (asleep.power, asleep.limit_cores) == (PowerState.RUNNING, None)
    await world.run(FREE_S)
    assert world.limits() == [0.4, 0.4]
