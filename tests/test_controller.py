"""The whole scaler on one clock: load rises, machines follow, things break, and it settles.

A replica has one core, boots in 10 s; target 0.6, grow after 5 s, shrink after 60 s.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from autoscale.controller import LoopClock
from autoscale.forecast import Forecast
from autoscale.model import COLD_START_S, EventKind, Path, Reason, Way
from autoscale.rules import Mode, Override
from tests.fakes import FakeClock, Fault
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
    assert repr(world.fleet) == "<VmFleet web: 1 ready, 0 booting, 0 on standby, 0 leaving>"
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
    assert repr(world.fleet) == "<VmFleet web: 0 ready, 0 booting, 0 on standby, 0 leaving>"


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


async def test_a_reload_forgets_nothing_of_what_was_seen() -> None:
    """Two replicas, one is enough: the minute goes on through reloads, as each calls `keep`."""
    world = await serving(2, wanted=rules(low=2))
    world.controller.rules = rules()
    await world.run(30)
    world.controller.keep()
    took = await world.until(lambda: world.fleet.counts().draining == 1)
    assert took <= 40
