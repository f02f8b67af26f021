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
from autoscale.forecast import Forecast
from autoscale.host import HypervisorError
from autoscale.model import COLD_START_S, EventKind, Path, Reason, Way
from autoscale.rules import Mode, Override, Rules
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
    sentence = world.decision.sentence
    assert sentence == "stay at 1: CPU 0.30 of target 0.60 over 1 s on 1 replica asks for 1"

    world.demand = 0.9
    took = await world.until(lambda: world.fleet.counts().booting == 1)
    assert 6 <= took <= 8, "the window, one interval for the partial seconds, one to see it"
    assert world.reasons("scale.up") == [Reason.BELOW_MIN, Reason.CPU_OVERLOAD]
    await world.until(lambda: world.fleet.counts().ready == 2)
    await world.run(5)
    sentence = world.decision.sentence
    assert sentence == "stay at 2: CPU 0.45 of target 0.60 over 1 s on 2 replicas asks for 2"
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
    assert world.decision.reason is Reason.NOT_SUSTAINED
    world.host.unreachable = False
    await world.run(1)
    assert world.decision.reason is Reason.NOT_SUSTAINED
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


# --- what the planner is given, and what is made of its answer


async def test_what_clients_ask_for_reaches_the_planner() -> None:
    world = await serving(2, wanted=rules(low=2))
    world.arrivals, world.queued, world.latency_p99_s = 20.0, 3, 0.4
    await world.run(4)
    with world.pool.lease():
        await world.run(1)
    signals = world.controller.signals
    assert (signals.in_flight, signals.queued, signals.waiting_s) == (1, 3, 4.0)
    assert signals.arrivals_per_s == 20.0
    assert dict(signals.served_per_s) == dict.fromkeys(world.fleet.ready_names(), 10.0)
    assert signals.latency_p99_s == 0.4
    assert set(signals.host_of) == set(signals.serving) == set(signals.cpu)
    assert (set(signals.host_of.values()), tuple(signals.hosts)) == ({"local"}, ("local",))
    assert signals.wall_s == 1.7e9 + world.clock.now()


async def test_a_host_that_does_not_answer_is_none_where_a_replica_could_start() -> None:
    world = await serving(2, wanted=rules(low=2), hosts=("a", "b"))
    world.hosts["a"].unreachable = True
    await world.run(1)
    assert tuple(world.controller.signals.hosts) == ("b",)


async def test_the_journal_is_told_what_was_wanted_and_how_it_comes() -> None:
    world = await serving(1, wanted=rules(high=2))
    world.demand = 9.0
    await world.until(lambda: world.fleet.counts().ready == 2)
    _, up = [note for note in world.notes if note.kind == "scale.up"]
    assert up.message == [d.sentence for d in world.decisions if d.desired > d.current][1]
    assert up.message.startswith("1 → 2: CPU 1.00 of target 0.60 over ")
    assert up.message.endswith("cold boot serves in 10 s")
    assert up.data == {"from": 1, "to": 2, "wanted": 2, "path": "cold"}


async def test_what_a_boot_took_is_what_the_next_is_expected_to_take() -> None:
    world = World(rules(low=2))
    for host in world.hosts.values():
        host.boot_s = 4.0
    assert world.fleet.counts().ways == (Way(Path.COLD, COLD_START_S),)
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert world.fleet.counts().ways == (Way(Path.COLD, 4.0),)
    ready = [note for note in world.notes if note.kind == "vm.ready"]
    assert [note.data["path"] for note in ready] == ["cold", "cold"]


@pytest.mark.parametrize("when", ["before the first tick", "later"])
async def test_what_an_earlier_process_learned_is_gone_on_from(when: str) -> None:
    world = World()
    before, learned = world.controller.forecast, Forecast.start(86400.0)
    assert before is None
    if when == "later":
        await world.run(5)
    world.controller.remember(learned)
    assert world.controller.forecast is learned
    await world.run(1)
    assert world.controller.forecast is not None
    assert world.controller.forecast.season_s == 86400.0


async def test_a_retirement_that_is_taken_back_forgets_no_forecast() -> None:
    world = await serving(1)
    learned = world.controller.forecast
    assert learned is not None
    world.controller.retire(Reason.OPERATOR)
    await world.run(1)
    world.controller.keep()
    assert world.controller.forecast is learned


@pytest.mark.parametrize("how", ["started again", "moved to another host"])
async def test_the_first_difference_after_a_new_run_is_no_data(how: str) -> None:
    """Its counters may say anything: here they have gone on by an hour of CPU."""
    world = await serving(1)
    world.demand = 0.3
    await world.run(5)
    (domain,) = world.host.ours()
    domain.run += 1
    domain.cpu_s += 3600.0 if how == "moved to another host" else -domain.cpu_s
    await world.run(1)
    assert world.fleet.statuses()[0].signal is None
    assert world.decision.reason is Reason.NO_DATA
    await world.run(1)
    signal = world.fleet.statuses()[0].signal
    assert signal is not None
    assert signal.utilisation == pytest.approx(0.3)
    assert world.reasons("scale.up") == [Reason.BELOW_MIN]


async def test_a_new_replica_goes_where_cores_are_to_spare() -> None:
    """Host a has fewer of ours, but those wait for a core half of the time."""
    world = await serving(3, wanted=rules(low=3), hosts=("a", "b"))
    first, second = (len(host.ours()) for host in world.hosts.values())
    assert (first, second) == (2, 1)
    for domain in world.hosts["b"].ours():
        domain.delay = 0.5
    await world.run(2)
    world.controller.rules = rules(low=4)
    await world.until(lambda: world.fleet.counts().ready == 4)
    assert [len(host.ours()) for host in world.hosts.values()] == [3, 1]


# --- to zero, and back


async def zero(**settings: Any) -> World:
    """One served, and nobody asks for anything any more."""
    world = World(rules(0, 3, idle_after_s=30.0), **settings)
    world.queued = 1
    await world.until(lambda: world.fleet.counts().ready == 1)
    world.queued = 0
    await world.until(lambda: not world.fleet.counts().existing, at_most_s=60)
    return world


async def test_from_zero_to_one_and_back_when_nobody_asks() -> None:
    world = World(rules(0, 3, idle_after_s=30.0))
    await world.run(60)
    assert world.host.asked("create") == []
    assert world.decision.desired == 0
    world.queued = 1
    await world.run(1)
    assert world.fleet.counts().booting == 1, "whoever waits has waited long enough"
    assert world.reasons("vm.launch") == [Reason.FROM_ZERO]
    await world.until(lambda: world.fleet.counts().ready == 1)
    assert len(world.host.asked("create")) == 1, "a queue of a slow boot starts no second one"
    world.queued, world.arrivals, world.demand = 0, 5.0, 0.2
    await world.run(120)
    assert world.fleet.counts().ready == 1
    world.arrivals, world.demand = 0.0, 0.0
    took = await world.until(lambda: not world.fleet.counts().existing)
    assert 30 <= took <= 40
    assert world.reasons("scale.down") == [Reason.IDLE]
    assert world.reasons("scale.up") == [Reason.FROM_ZERO]
    assert world.host.ours() == []
    assert repr(world.fleet) == "<VmFleet web: 0 ready, 0 booting, 0 leaving>"


async def test_at_zero_nothing_is_replaced_and_nothing_is_missed() -> None:
    world = await zero()
    await world.run(300)
    assert len(world.host.asked("create")) == 1
    assert world.decision.desired == 0
    await world.restart()
    await world.run(60)
    assert (world.decision.desired, len(world.host.asked("create"))) == (0, 1)
    world.queued = 2
    await world.until(lambda: world.fleet.counts().ready == 1, at_most_s=20)


async def test_one_that_dies_on_its_way_to_zero_is_not_replaced() -> None:
    world = World(rules(0, 3, idle_after_s=30.0))
    world.queued = 1
    await world.until(lambda: world.fleet.counts().ready == 1)
    world.queued = 0
    lease = world.pool.lease()
    world.controller.rules = rules(0, 3, override=Override(Mode.FIXED, 0))
    await world.run(2)
    (leaving,) = world.told(DRAIN)
    world.host.crash(leaving)
    await world.run(30)
    lease.release()
    assert world.host.ours() == []
    assert len(world.host.asked("create")) == 1


async def test_one_that_dies_when_nobody_wants_it_any_more_is_not_replaced() -> None:
    """It dies in the second in which it is decided that none is needed."""
    world = World(rules(0, 3, idle_after_s=30.0))
    world.queued = 1
    await world.until(lambda: world.fleet.counts().ready == 1)
    world.queued = 0
    world.controller.rules = rules(0, 3, override=Override(Mode.FIXED, 0))
    world.host.crash(world.fleet.ready_names()[0])
    await world.run(5)
    assert (world.host.ours(), world.fleet.counts().existing) == ([], 0)
    world.controller.rules = rules(0, 3)
    world.queued = 1
    await world.run(2)
    assert world.reasons("vm.launch") == [Reason.FROM_ZERO, Reason.FROM_ZERO]


async def test_a_first_boot_that_fails_is_tried_again_for_whoever_waits() -> None:
    world = World(rules(0, 3, idle_after_s=30.0))
    world.host.next_create(Fault.REFUSED)
    world.queued = 1
    await world.until(lambda: world.fleet.counts().ready == 1, at_most_s=20)
    assert world.reasons("vm.launch") == [Reason.FROM_ZERO, Reason.FROM_ZERO]


# --- what an operator wants


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.OBSERVE])
async def test_a_fleet_that_keeps_its_size_replaces_who_dies_all_the_same(mode: Mode) -> None:
    """Healing is not scaling."""
    world = await serving(2, wanted=rules(low=2))
    world.controller.rules = rules(mode=mode)
    world.demand = 9.0
    await world.run(60)
    assert world.fleet.counts().existing == 2
    dead = world.fleet.ready_names()[0]
    world.host.crash(dead)
    await world.run(1)
    await world.until(lambda: world.fleet.counts().ready == 2, at_most_s=30)
    assert dead not in world.fleet.ready_names()
    assert world.reasons("vm.launch")[2:] == [Reason.REPLACED]
    assert world.reasons("scale.up") == [Reason.BELOW_MIN]
    world.demand = 0.0
    await world.run(120)
    assert world.fleet.counts().ready == 2


async def test_an_override_counts_until_its_time_is_over() -> None:
    world = await serving(1)
    until = 1.7e9 + world.clock.now() + 120
    world.controller.rules = rules(override=Override(Mode.FIXED, 3, until))
    await world.until(lambda: world.fleet.counts().ready == 3, at_most_s=30)
    assert world.reasons("scale.up") == [Reason.BELOW_MIN, Reason.OVERRIDE]
    await world.run(60)
    assert world.fleet.counts().ready == 3
    await world.until(lambda: world.fleet.counts().existing == 1, at_most_s=240)
    assert 1.7e9 + world.clock.now() > until


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


def wanted(low: int, **changes: Any) -> Rules:
    return rules(low, MAX, burst=1.5, idle_after_s=60.0, **changes)


class AnyStory(RuleBasedStateMachine):
    """Random load, time, crashes, refusals, hanging and lost calls, unreachable hosts, restarts,
    queues, wishes of an operator.

    After every step: our domains that exist ≤ max, nobody else's was touched, and the pool was told
    of each replica at most one JOIN and one LEAVE by one process. At the end the faults stop, and
    the fleet settles where the load wants it, with no machine left over.
    """

    @initialize(
        hosts=st.integers(1, 2),
        low=st.integers(0, MAX),
        faults=st.lists(st.sampled_from(list(Fault)), max_size=3),
    )
    def begin(self, hosts: int, low: int, faults: list[Fault]) -> None:
        self.runner = asyncio.Runner()
        self.world = World(wanted(low), hosts=("a", "b")[:hosts], vm=shape(cpu_limit=0.5))
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

    @rule(queued=st.sampled_from([0, 1, 40]), arrivals=st.sampled_from([0.0, 5.0, 80.0]))
    def clients_come_and_go(self, queued: int, arrivals: float) -> None:
        self.world.queued, self.world.arrivals = queued, arrivals
        self.go(3)

    @rule(delay=st.sampled_from([0.0, 0.2, 0.9]), host=st.integers(0, 1))
    def a_host_has_no_core_to_spare(self, delay: float, host: int) -> None:
        hosts = list(self.world.hosts.values())
        for domain in hosts[host % len(hosts)].ours():
            domain.delay = delay
        self.go(2)

    @rule(host=st.integers(0, 1), held=st.booleans())
    def limits_go_wrong(self, host: int, held: bool) -> None:
        hosts = list(self.world.hosts.values())
        if held:
            hosts[host % len(hosts)].hold_limits()
        else:
            hosts[host % len(hosts)].limit_fault = HypervisorError("no answer from libvirt")
        self.go(2)

    @rule(
        mode=st.sampled_from(list(Mode)),
        to=st.integers(0, MAX),
        for_s=st.none() | st.integers(1, 60),
    )
    def an_operator_wishes(self, mode: Mode, to: int, for_s: int | None) -> None:
        until = None if for_s is None else 1.7e9 + self.world.clock.now() + for_s
        override = Override(mode, to if mode is Mode.FIXED else None, until)
        self.world.controller.rules = wanted(self.world.rules.min, override=override)
        self.go(2)

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
        how=st.sampled_from(["deaf", "undead", "no counters", "sick", "another run"]),
        seconds=st.integers(1, 40),
    )
    def a_machine_turns_odd(self, which: int, how: str, seconds: int) -> None:
        domains = self.world.domains()
        domain = domains[which % len(domains)]
        domain.ignores_power_button |= how == "deaf"
        domain.will_not_die |= how == "undead"
        domain.has_counters ^= how == "no counters"
        if how == "another run":
            domain.run, domain.cpu_s = domain.run + 1, 0.0
        if how == "sick":
            self.world.unprobed ^= {domain.name}
        self.go(seconds)

    @rule(low=st.integers(0, MAX))
    def the_minimum_is_reloaded(self, low: int) -> None:
        self.world.rules = self.world.controller.rules = wanted(low)
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
        world.demand = world.arrivals = 0.0
        world.queued = 0
        world.controller.rules = world.rules
        # the longest way: a breaker (60 s), a boot (10 s), a minute of low load, steps down 15 s
        # apart, a minute without a request, and twice that for what was not thought of here
        self.go(500, 1.0)
        self.ours_that_exist_are_never_more_than_max()
        self.nobody_elses_machine_is_touched()
        counts = world.fleet.counts()
        assert counts.ready == counts.existing == len(world.domains()) == world.rules.min
        assert world.decision.desired == world.rules.min
        assert {b.name for b in world.pool.available} == {d.name for d in world.domains()}
        assert {d.limit_cores for d in world.domains()} <= {0.5}
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


async def test_a_reload_forgets_nothing_of_what_was_seen() -> None:
    """Two replicas, one is enough: the minute goes on through reloads, as each calls `keep`."""
    world = await serving(2, wanted=rules(low=2))
    world.controller.rules = rules()
    await world.run(30)
    world.controller.keep()
    took = await world.until(lambda: world.fleet.counts().draining == 1)
    assert took <= 40
