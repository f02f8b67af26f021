"""Rollouts whatever happens: images that are no good or gone, crashes, orders, load or none,
lifetimes, silent hosts, protected ones, restarts.

After every step: no more machines of ours than max + standby + 1; the pool was told of each in
order; nobody was drained for a rollout who was needed, nor for one that is worse; a restart wants
no more than before. Once the hosts do as they are told and an
operator lets it go on, the rollout ends, and every replica is of one image.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

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

from autoscale.model import EventKind, Reason, ScaleEvent, VmState
from autoscale.rollout import ImpossibleStep, Phase
from autoscale.rules import Rules
from autoscale.vm import Vm
from tests.fakes import Fault
from tests.rollouts import NEW, RolloutWorld, fixed
from tests.world import rules, shape

MAX = 3
IN_ORDER = re.compile(r"(J+(D+J+)*D*L)*(J+(D+J+)*)?D*")
FOR_A_TURN = (Reason.ROLLOUT, Reason.ROLLBACK, Reason.MAX_LIFETIME)


class WatchedWorld(RolloutWorld):
    """Notes whoever is drained although he is needed, or cannot be told; and the most machines."""

    def __init__(
        self, wanted: Rules, standby: int, lifetime_s: float | None, hosts: tuple[str, ...]
    ) -> None:
        self.wrongly_drained: list[tuple[str, str]] = []
        self.most = 0
        self.asked_s = 0
        """So long requests have come, and somebody was there for them."""
        vm = shape(image="old", standby=standby, max_lifetime_s=lifetime_s)
        super().__init__(wanted, vm=vm, hosts=hosts)

    async def tick(self) -> None:
        self.asked_s = self.asked_s + 1 if self.arrivals and self.pool.available else 0
        await super().tick()
        self.most = max(self.most, len(self.domains()))

    def _emit(self, event: ScaleEvent) -> None:
        serving = {backend.name for backend in self.pool.available}
        if event.kind is EventKind.DRAIN and (why := self._why_wrong(event, serving)):
            self.wrongly_drained.append((event.backend, why))
        super()._emit(event)

    def _why_wrong(self, event: ScaleEvent, serving: set[str]) -> str:
        vm, rollout = self.fleet.get(event.backend), self.fleet.turnover.rollout
        assert vm is not None
        desired, left = self.decision.desired, serving - {event.backend}
        if event.reason in FOR_A_TURN:
            if event.backend in serving and len(left) < desired:
                return "he was needed"
            if self.hosts[vm.host].unreachable:
                return "his host does not answer"
        ordered = self.controller.rules.override is not None
        if not ordered and not left and event.backend in serving and self.asked_s > 2:
            return "he was the last, and requests come"
        if rollout is not None and rollout.phase is Phase.ROLLING_BACK:
            alive = [vm for vm in self.vms() if vm.serves_or_will]
            good = sum(vm.generation != rollout.generation for vm in alive)
            spared = sum(vm.protected and vm.generation == rollout.generation for vm in alive)
            if vm.generation != rollout.generation and good < desired <= MAX - spared:
                return "he is good, and went for one that is not"
        return ""

    def vms(self) -> list[Vm]:
        found = (self.fleet.get(status.name) for status in self.fleet.statuses())
        return [vm for vm in found if vm is not None]


class AnyRollout(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

    @initialize(
        wanted=st.one_of(st.none(), st.integers(0, MAX)),
        standby=st.integers(0, 1),
        lifetime_s=st.sampled_from([None, 90]),
        surge=st.integers(0, 5),
        hosts=st.sampled_from([("a",), ("a", "b")]),
    )
    def begin(
        self,
        wanted: int | None,
        standby: int,
        lifetime_s: float | None,
        surge: int,
        hosts: tuple[str, ...],
    ) -> None:
        """`wanted`: by an order; None: the planner decides, and may want nobody."""
        orders = rules(0, MAX) if wanted is None else fixed(wanted, high=MAX)
        self.world = WatchedWorld(orders, standby, lifetime_s, hosts)
        self.standby = standby
        self.go(15)
        if surge:
            self.world.begin("new", max_surge=surge)

    def go(self, seconds: float) -> None:
        self.runner.run(self.world.run(seconds))

    # --- what happens

    @rule(seconds=st.sampled_from([1, 3, 12, 40]))
    def time_passes(self, seconds: int) -> None:
        self.go(seconds)

    @rule(surge=st.integers(1, 2), pause_at=st.sampled_from([None, 0.3, 0.7]))
    def a_rollout_begins(self, surge: int, pause_at: float | None) -> None:
        if self.world.fleet.turnover.replaceable:
            image = "old" if self.world.standing == "new" else "new"
            self.world.begin(image, max_surge=surge, pause_at=pause_at)
        self.go(2)

    @rule(what=st.sampled_from(["pause", "resume", "resume", "undo"]))
    def an_operator_says(self, what: str) -> None:
        with contextlib.suppress(ImpossibleStep):
            getattr(self.world.fleet.turnover, what)()
        self.go(1)

    @rule(bad=st.sampled_from([0.0, 0.02, 0.5, 1.0]), seconds=st.sampled_from([0.05, 0.06, 0.3]))
    def the_new_image_is_so(self, bad: float, seconds: float) -> None:
        self.world.bad[NEW], self.world.seconds[NEW] = bad, seconds
        self.go(3)

    @rule(fault=st.sampled_from([None, *Fault]))
    def the_new_image_starts_so(self, fault: Fault | None) -> None:
        for host in self.world.hosts.values():
            host.broken = {} if fault is None else {NEW: fault}
        self.go(3)

    @rule(fault=st.sampled_from(list(Fault)), times=st.integers(1, 2))
    def starts_go_wrong(self, fault: Fault, times: int) -> None:
        self.world.host.next_create(fault, times)

    @rule(image=st.sampled_from(["old", "new"]), gone=st.booleans())
    def an_image_is_removed_or_comes_back(self, image: str, gone: bool) -> None:
        (self.world.gone.add if gone else self.world.gone.discard)(image)
        self.go(3)

    @precondition(lambda self: len(self.world.hosts) > 1)
    @rule(which=st.sampled_from(["a", "b"]), silent=st.booleans())
    def a_host_falls_silent_or_answers_again(self, which: str, silent: bool) -> None:
        self.world.hosts[which].unreachable = silent
        self.go(3)

    @rule(wanted=st.integers(0, MAX))
    def the_load_changes(self, wanted: int) -> None:
        if self.world.rules.override is not None:
            self.world.controller.rules = self.world.rules = fixed(wanted, high=MAX)
        self.world.demand = 0.5 * wanted
        self.go(4)

    @rule(rate=st.sampled_from([0.0, 5.0, 60.0]))
    def requests_come(self, rate: float) -> None:
        self.world.rate = self.world.arrivals = rate
        self.go(2)

    @precondition(lambda self: self.world.domains())
    @rule(which=st.integers(0, 9), leaves=st.booleans())
    def one_crashes(self, which: int, leaves: bool) -> None:
        domains = self.world.domains()
        name = domains[which % len(domains)].name
        next(h for h in self.world.hosts.values() if name in h.domains).crash(name, leaves=leaves)
        self.go(2)

    @rule(which=st.integers(0, 9), protected=st.booleans())
    def one_is_protected(self, which: int, protected: bool) -> None:
        replicas = [vm for vm in self.world.vms() if vm.serves_or_will]
        if replicas:
            vm = replicas[which % len(replicas)]
            self.runner.run(self.protect(vm.name, protected))
        self.go(1)

    async def protect(self, name: str, protected: bool) -> None:
        self.world.fleet.protect(name, protected)

    @precondition(lambda self: self.world.phase == "running")
    @rule(spared=st.booleans(), silent=st.booleans())
    def an_operator_takes_it_back(self, spared: bool, silent: bool) -> None:
        """With a new one that he protects, or with a host that does not answer."""
        self.go(15)
        new = [vm for vm in self.world.vms() if self.world.fleet.turnover.is_new(vm)]
        if spared and new and new[0].serves_or_will:
            self.runner.run(self.protect(new[0].name, True))
        if silent and new:
            others = [host for host in self.world.hosts if host != new[0].host]
            for name in others:
                self.world.hosts[name].unreachable = True
        with contextlib.suppress(ImpossibleStep):
            self.world.fleet.turnover.undo()
        self.go(20)

    @precondition(lambda self: len(self.world.pool.available) > 1)
    @rule()
    def one_stops_answering_for_a_while(self) -> None:
        name = self.world.pool.available[0].name
        self.world.unprobed.add(name)
        self.go(4)
        self.world.unprobed.clear()
        self.go(1)

    @rule()
    def the_process_is_killed(self) -> None:
        before, all_ = self.world.decisions[-1].desired, self.world.vms()
        still = all(vm.state in (VmState.READY, VmState.STANDBY) for vm in all_)
        spared = any(vm.protected for vm in all_)
        answers = not any(host.unreachable for host in self.world.hosts.values())
        decided = len(self.world.decisions)
        self.runner.run(self.world.restart())
        self.go(1)
        if still and answers and not spared and len(self.world.decisions) > decided:
            assert self.world.decisions[decided].current <= before, "one more by a restart"

    # --- what must hold

    @invariant()
    def never_too_many(self) -> None:
        if hasattr(self, "world"):
            assert self.world.most <= MAX + self.standby + 1

    @invariant()
    def nobody_was_drained_who_was_needed(self) -> None:
        if hasattr(self, "world"):
            assert self.world.wrongly_drained == []

    @invariant()
    def a_silent_host_keeps_no_bad_one_on_another(self) -> None:
        if not hasattr(self, "world") or self.world.phase != "rolling_back":
            return
        rollout, silent = self.world.fleet.turnover.rollout, self.world.hosts
        assert rollout is not None
        serving = {backend.name for backend in self.world.pool.available}
        ready = [vm for vm in self.world.vms() if vm.state is VmState.READY and vm.serves_or_will]
        bad = [vm for vm in ready if vm.generation == rollout.generation and not vm.protected]
        good = [vm for vm in ready if vm.name in serving and vm.generation != rollout.generation]
        settled = all(self.world.clock.now() - vm.since > 8 for vm in [*good, *bad])
        if settled and self.world.controller.decision and len(good) >= self.world.decision.desired:
            stays = [vm.name for vm in bad if not silent[vm.host].unreachable]
            assert not stays

    @invariant()
    def told_in_order(self) -> None:
        if hasattr(self, "world"):
            for name in {event.backend for event in self.world.events}:
                heard = "".join(e.kind.name[0] for e in self.world.events if e.backend == name)
                # a successor tells its own, new pool of whoever it found
                assert IN_ORDER.fullmatch(heard), (name, heard)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.end_well()
                self.runner.run(self.world.tasks.cancel())
        finally:
            self.runner.close()

    def end_well(self) -> None:
        world = self.world
        for host in world.hosts.values():
            host.forget_faults()
            host.broken = {}
        world.rate = world.arrivals = 20.0
        if world.rules.override is None:
            world.controller.rules = world.rules = fixed(2, high=MAX)
        world.shape = world.fleet.shape = shape(image="old", standby=self.standby)
        # a successor of a killed process knows who is protected once each host has answered it
        self.runner.run(world.until(lambda: world.fleet.all_hosts_seen))
        for vm in world.vms():
            self.runner.run(self.protect(vm.name, False))
        wanted = world.rules.override
        assert wanted is not None
        world.notes.clear()
        self.runner.run(world.until(lambda: self.is_over(wanted.to or 0), 1500.0))

    def is_over(self, wanted: int) -> bool:
        """It ended, and there are as many as are wanted, all of the image that holds."""
        rollout = self.world.fleet.turnover.rollout
        if self.world.phase == "paused":
            self.world.fleet.turnover.resume()
        if rollout is None or rollout.phase is not Phase.ROLLING_BACK or not rollout.approved:
            # else it has to find that out by itself
            self.world.gone.discard(self.world.standing)
        if rollout is not None and rollout.stranded:
            return len(self.world.generations()) == wanted  # whoever serves goes on
        generation = self.world.images[self.world.standing].generation
        ended = self.world.phase in ("", "done", "failed", "undone")
        return ended and self.world.generations() == [generation] * wanted


@pytest.mark.timeout(120)
def test_any_rollout_ends_with_one_image() -> None:
    run_state_machine_as_test(
        AnyRollout,
        settings=settings(
            max_examples=100,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
