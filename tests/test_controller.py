"""The whole scaler on one clock: load rises, machines follow, things break, and it settles.

A replica has one core, boots in 10 s; target 0.6, grow after 5 s, shrink after 60 s.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from autoscale.controller import LoopClock
from autoscale.domain_xml import Identity
from autoscale.model import EventKind, Reason
from tests.fakes import OURS, FakeClock, Fault
from tests.world import World, rules, shape

JOIN, DRAIN, LEAVE = EventKind.JOIN, EventKind.DRAIN, EventKind.LEAVE


async def serving(count: int, **settings: Any) -> World:
    world = World(**settings)
    await world.until(lambda: world.fleet.counts().ready == count)
    await world.run(3)
    return world


async def test_low_high_low_one_replica_two_and_one_again() -> None:
    """0.3 cores, then 0.9 (90 % of one replica), then 0.3 again."""
    world = await serving(1)
    world.demand = 0.3
    await world.run(30)
    assert world.decision.sentence == "stay at 1: CPU 0.30 of target 0.60 on 1"

    world.demand = 0.9
    took = await world.until(lambda: world.fleet.counts().booting == 1)
    assert 6 <= took <= 8, "the window, one interval for the partial seconds, one to see it"
    assert world.reasons("scale.up") == [Reason.CPU_OVERLOAD]
    await world.until(lambda: world.fleet.counts().ready == 2)
    await world.run(5)
    assert world.decision.sentence == "stay at 2: CPU 0.45 of target 0.60 on 2"
    await world.run(300)
    assert world.fleet.counts().existing == 2

    world.demand = 0.3
    took = await world.until(lambda: world.fleet.counts().existing == 1)
    assert 60 <= took <= 75
    assert world.reasons("scale.down") == [Reason.CPU_LOW]
    await world.run(300)
    assert repr(world.fleet) == "<VmFleet web: 1 ready, 0 booting, 0 leaving>"
    assert [e.kind for e in world.events] == [JOIN, JOIN, DRAIN, LEAVE]
    assert [e.reason for e in world.events[1:]] == [
        Reason.CPU_OVERLOAD,
        Reason.CPU_LOW,
        Reason.DRAINED,
    ]


async def test_a_limited_replica_is_overloaded_by_what_it_may_use() -> None:
    """0.3 cores of demand on a replica limited to 0.4: 75 %, though the host is hardly busy."""
    world = await serving(1, vm=shape(cpu_limit=0.4))
    world.demand = 0.3
    await world.until(lambda: world.fleet.counts().ready == 2, at_most_s=30)
    await world.run(2)
    assert world.fleet.statuses()[0].signal.utilisation == pytest.approx(0.375)  # type: ignore[union-attr]


async def test_overload_beyond_max_ends_at_max() -> None:
    world = await serving(1, wanted=rules(high=3))
    world.demand = 50.0
    await world.run(600)
    assert world.fleet.counts().ready == 3
    assert world.host.peak == 3
    assert world.decision.reason is Reason.AT_MAX


async def test_a_refused_scale_up_is_tried_again_for_the_same_reason() -> None:
    world = await serving(1)
    world.demand = 0.9
    world.host.next_create(Fault.REFUSED)
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert world.reasons("vm.launch") == [
        Reason.BELOW_MIN,
        Reason.CPU_OVERLOAD,
        Reason.CPU_OVERLOAD,
    ]


async def test_a_lost_sample_is_forgiven() -> None:
    """The host does not answer for one second of an overload: the window goes on."""
    world = await serving(1)
    world.demand = 0.9
    await world.run(4)
    world.host.unreachable = True
    await world.run(1)
    assert world.decision.reason is Reason.STEADY
    world.host.unreachable = False
    await world.run(1)
    assert world.decision.reason is Reason.STEADY
    took = await world.until(lambda: world.fleet.counts().booting == 1)
    assert took <= 3


async def test_without_counters_nothing_is_decided() -> None:
    world = await serving(2, wanted=rules(low=2))
    world.controller.rules = rules(low=1)
    for domain in world.host.ours():
        domain.has_counters = False
    await world.run(300)
    assert world.decision.reason is Reason.NO_DATA
    assert world.fleet.counts().ready == 2


async def test_an_unreachable_host_is_said_once_and_once_again_when_it_is_back() -> None:
    world = await serving(1)
    world.host.unreachable = True
    await world.run(30)
    assert dict(world.controller.unreachable) == {"local": "local: no answer from libvirt in 20 s"}
    assert world.decision.reason is Reason.NO_DATA
    world.host.unreachable = False
    await world.run(3)
    assert not world.controller.unreachable
    assert world.said()[-2:] == [
        ("host.unreachable", Reason.HYPERVISOR_UNREACHABLE),
        ("host.back", Reason.HYPERVISOR_BACK),
    ]


async def test_ticks_that_an_event_caused_are_not_mistaken_for_samples() -> None:
    """Twenty ticks within one second, each 50 ms apart: the figure stays that of the load."""
    world = await serving(1)
    world.demand = 0.3
    await world.run(5)
    await world.run(3, step_s=0.05)
    signal = world.fleet.statuses()[0].signal
    assert signal is not None
    assert signal.utilisation == pytest.approx(0.3)
    assert signal.interval_s >= 0.5


async def test_ticking_twice_at_one_instant_does_no_harm() -> None:
    world = await serving(1)
    world.demand = 0.9
    for _ in range(40):
        world.clock.advance(1)
        for _ in range(3):
            await world.tick()
    assert world.fleet.counts().ready == 2
    assert len(world.host.asked("create")) == 2


async def test_a_reloaded_maximum_takes_effect_with_the_next_tick() -> None:
    world = await serving(3, wanted=rules(low=3))
    world.controller.rules = rules(high=1)
    world.fleet.max_existing = 1
    await world.run(1)
    assert world.decision.reason is Reason.ABOVE_MAX
    await world.until(lambda: world.fleet.counts().existing == 1)
    assert len(world.host.ours()) == 1


# --- running by itself


async def test_it_ticks_every_second_and_at_once_when_woken() -> None:
    world = World()
    running = asyncio.ensure_future(world.controller.run())
    await world.tasks.settle()
    assert world.controller.ticks == 1
    world.clock.advance(0.5)
    await world.tasks.settle()
    assert world.controller.ticks == 1
    world.clock.advance(0.5)
    await world.tasks.settle()
    assert world.controller.ticks == 2
    world.controller.wake()
    await world.tasks.settle()
    assert world.controller.ticks == 3
    world.controller.stop()
    await running
    assert world.host.ours() != [], "the machines live on"


async def test_retired_it_ends_once_no_vm_is_left() -> None:
    world = await serving(2, wanted=rules(low=2))
    world.controller.retire()
    running = asyncio.ensure_future(world.controller.run())
    for _ in range(30):
        await world.tasks.settle()
        world.clock.advance(1)
        world.probe()
    assert running.done()
    await running
    assert world.host.ours() == []


async def test_a_retirement_that_is_taken_back_grows_again() -> None:
    world = await serving(2, wanted=rules(low=2))
    before = {domain.name for domain in world.host.ours()}
    world.controller.retire(Reason.OPERATOR)
    await world.tick()
    assert world.reasons("vm.draining") == [Reason.OPERATOR] * 2
    world.controller.keep()
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert {domain.name for domain in world.host.ours()}.isdisjoint(before), "those drained on"


async def test_one_bad_tick_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    def missing() -> Any:
        raise RuntimeError("a bug")

    world = World()
    world.fleet._load = missing
    running = asyncio.ensure_future(world.controller.run())
    await world.tasks.settle()
    assert "a tick of the scaler failed" in caplog.text
    world.fleet._load = world._load
    world.clock.advance(1)
    await world.tasks.settle()
    assert world.host.asked("create") != []
    world.controller.stop()
    await running


async def test_the_real_clock_waits_no_longer_than_it_must() -> None:
    clock, wake = LoopClock(), asyncio.Event()
    await clock.wait(wake, 0.0)
    wake.set()
    await clock.wait(wake, 3600.0)
    assert clock.now() == pytest.approx(time.monotonic(), abs=5), "the clock of fleet and adapter"


async def test_the_fake_clock_does_the_same_in_its_own_time() -> None:
    clock, wake = FakeClock(), asyncio.Event()
    waiting = asyncio.ensure_future(clock.wait(wake, 1.0))
    await asyncio.sleep(0)
    clock.advance(0.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.1)
    await waiting


# --- whatever happens

MAX = 3


class AnyStory(RuleBasedStateMachine):
    """Random load, time, crashes, refusals, hanging and lost calls, unreachable hosts, restarts.

    After every step: our domains that exist ≤ max, nobody else's was touched, and the pool was told
    of each replica at most one JOIN and one LEAVE by one process. At the end the faults stop, and
    the fleet settles where the load wants it, with no machine left over.
    """

    @initialize(
        hosts=st.integers(1, 2),
        low=st.integers(1, MAX),
        faults=st.lists(st.sampled_from(list(Fault)), max_size=3),
    )
    def begin(self, hosts: int, low: int, faults: list[Fault]) -> None:
        self.runner = asyncio.Runner()
        self.world = World(rules(low, MAX), hosts=("a", "b")[:hosts])
        for number, host in enumerate(self.world.hosts.values()):
            host.add_foreign(f"database-{number}")
            host.add_foreign(
                f"api-{number}", Identity(OURS, "api", "generation-1", 8080, 1.0, 1.7e9)
            )
            host.add_foreign(
                f"web-{number}", Identity("theirs", "web", "generation-1", 8080, 1.0, 1.7e9)
            )
            for fault in faults:
                host.next_create(fault)
        self.foreign = {n: d for h in self.world.hosts.values() for n, d in h.domains.items()}

    def go(self, seconds: float, step_s: float = 1.0) -> None:
        self.runner.run(self.world.run(seconds, step_s))

    @rule(seconds=st.sampled_from([1, 1, 3, 10, 45]))
    def time_passes(self, seconds: int) -> None:
        self.go(seconds)

    @rule(times=st.integers(1, 5))
    def woken_early(self, times: int) -> None:
        self.go(0.1 * times, 0.1)

    @rule(cores=st.sampled_from([0.0, 0.2, 0.7, 1.5, 9.0]))
    def load_changes(self, cores: float) -> None:
        self.world.demand = cores
        self.go(8)

    @rule(fault=st.sampled_from(list(Fault)), times=st.integers(1, 3), host=st.integers(0, 1))
    def creations_go_wrong(self, fault: Fault, times: int, host: int) -> None:
        hosts = list(self.world.hosts.values())
        hosts[host % len(hosts)].next_create(fault, times)

    @rule(host=st.integers(0, 1))
    def creations_hang(self, host: int) -> None:
        hosts = list(self.world.hosts.values())
        hosts[host % len(hosts)].hold_creates()
        self.go(1)

    @rule()
    def hanging_creations_are_answered(self) -> None:
        for host in self.world.hosts.values():
            host.release_creates()
        self.go(1)

    @rule(host=st.integers(0, 1))
    def a_host_is_away(self, host: int) -> None:
        hosts = list(self.world.hosts.values())
        hosts[host % len(hosts)].unreachable = True
        self.go(2)

    @rule()
    def hosts_are_back(self) -> None:
        for host in self.world.hosts.values():
            host.unreachable = False
        self.go(1)

    @precondition(lambda self: self.world.domains())
    @rule(which=st.integers(0, 9), leaves=st.booleans())
    def a_machine_dies(self, which: int, leaves: bool) -> None:
        domains = self.world.domains()
        name = domains[which % len(domains)].name
        for host in self.world.hosts.values():
            if name in host.domains:
                host.crash(name, leaves=leaves)
        self.go(1)

    @precondition(lambda self: self.world.domains())
    @rule(which=st.integers(0, 9), fault=st.sampled_from(list(Fault)), seconds=st.integers(1, 40))
    def a_machine_dies_and_its_successors_fail(
        self, which: int, fault: Fault, seconds: int
    ) -> None:
        for host in self.world.hosts.values():
            host.next_create(fault, 2)
        self.a_machine_dies(which, leaves=True)
        self.go(seconds)

    @precondition(lambda self: self.world.domains())
    @rule(
        which=st.integers(0, 9),
        how=st.sampled_from(["deaf", "undead", "no counters", "sick"]),
        seconds=st.integers(1, 40),
    )
    def a_machine_turns_odd(self, which: int, how: str, seconds: int) -> None:
        domains = self.world.domains()
        domain = domains[which % len(domains)]
        domain.ignores_power_button |= how == "deaf"
        domain.will_not_die |= how == "undead"
        domain.has_counters ^= how == "no counters"
        if how == "sick":
            self.world.unprobed ^= {domain.name}
        self.go(seconds)

    @rule(low=st.integers(1, MAX))
    def the_minimum_is_reloaded(self, low: int) -> None:
        self.world.rules = self.world.controller.rules = rules(low, MAX)
        self.go(3)

    @rule()
    def killed_and_started_again(self) -> None:
        self.runner.run(self.world.restart())
        self.world.events.clear()
        self.go(1)

    @invariant()
    def ours_that_exist_are_never_more_than_max(self) -> None:
        assert len(self.world.domains()) <= MAX, [d.name for d in self.world.domains()]
        assert self.world.fleet.counts().existing <= MAX

    @invariant()
    def nobody_elses_machine_is_touched(self) -> None:
        there = {n: d for h in self.world.hosts.values() for n, d in h.domains.items()}
        asked = {name for h in self.world.hosts.values() for _, name in h.calls}
        for name, domain in self.foreign.items():
            assert there.get(name) is domain
            assert name not in asked
            assert name not in self.world.pool

    @invariant()
    def the_pool_is_told_each_thing_once_and_in_order(self) -> None:
        told: dict[str, list[EventKind]] = {}
        for event in self.world.events:
            told.setdefault(event.backend, []).append(event.kind)
        for kinds in told.values():
            assert kinds in (
                [JOIN],
                [JOIN, DRAIN],
                [JOIN, LEAVE],
                [JOIN, DRAIN, LEAVE],
                # those that never got so far as to join
                [DRAIN],
                [LEAVE],
                [DRAIN, LEAVE],
            ), told

    @invariant()
    def who_may_be_picked_is_there(self) -> None:
        assert {b.name for b in self.world.pool} <= {s.name for s in self.world.fleet.statuses()}

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.everything_works_again()
        finally:
            self.runner.run(self.world.tasks.cancel())
            self.runner.close()

    def everything_works_again(self) -> None:
        world = self.world
        for host in world.hosts.values():
            host.forget_faults()
        for domain in world.domains():
            domain.has_counters = True
        world.unprobed = set()
        world.demand = 0.0
        # the longest way: a breaker (300 s), a boot that hangs, two steps down of 60 s each
        self.go(1000, 1.0)
        self.ours_that_exist_are_never_more_than_max()
        self.nobody_elses_machine_is_touched()
        counts = world.fleet.counts()
        assert counts.ready == counts.existing == len(world.domains()) == world.rules.min
        assert world.decision.desired == world.rules.min
        assert {b.name for b in world.pool.available} == {d.name for d in world.domains()}
        assert not world.tasks.running


def test_any_story_ends_well() -> None:
    run_state_machine_as_test(
        AnyStory,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
