"""Whatever happens, in whatever order: what may befall the whole scaler, and what must hold.

`Story` is told on the scripted hypervisor (`test_fleet_any_story`) and on libvirt's own test driver
(`test_fleet_any_libvirt_story`): each makes its world, and adds what only it can do.

A replica has one core and may use half of it, boots in 10 s, answers 1 s after it was copied; grow
after 3 s, shrink after 60 s. What must hold after each step, and at the end, stands in `Story`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from autoscale.domain_xml import Identity
from autoscale.host import PowerState
from autoscale.model import Reason
from autoscale.reserve import USUAL_WEIGHT
from autoscale.rules import Mode, Override, Rules
from autoscale.snapshots import key_of
from autoscale.vm import Role, Vm
from lb.pool import Lease
from tests.fakes import OURS, FakeDomain, FakeHypervisor, Fault, Odd
from tests.world import FILES, World, rules

MAX = 3
"""The most that any story grants."""
STANDBY = 2
VERBS = ("suspend", "resume", "save", "saved", "set_identity", "set_cpu_weight")

FOREIGN = {
    "database": None,
    "api": Identity(OURS, "api", "generation-1", 8080, 1.0, 1.7e9),
    "web": Identity("theirs", "web", "generation-1", 8080, 1.0, 1.7e9),
}
"""Machines on each host that are not this fleet's: of somebody else, of another service of ours, of
another instance of the product."""

IN_ORDER = re.compile(r"(J+(DJ+)*D?L)*(J+(DJ+)*D?)?D?")
"""What a pool may hear of one name: joined, drained, taken back, left, joined again; and a drain of
one that never came so far."""

some_host = st.integers(0, 1)
some_machine = st.integers(0, 9)


def wanted(low: int, high: int = MAX, **changes: Any) -> Rules:
    return rules(low, high, burst=1.5, idle_after_s=60.0, **changes)


class Story(RuleBasedStateMachine):
    """Random load, time, crashes, refusals, hanging and lost calls, unreachable hosts, restarts,
    queues, wishes of an operator, reloads.

    After every step: no more replicas than max, no more machines of ours than max + standby + 1;
    nobody else's was touched; the pool was told of each in order; whoever may get a request exists,
    runs, serves, and knows its name. At the end the faults stop: the fleet settles where the load
    wants it, the reserve is full, each host that can has a saved guest, and nothing is left over.

    A subclass makes the world in its first rule, and gives it to `begin_with`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

    def begin_with(self, world: World, faults: list[Fault]) -> None:
        """With machines of others' on each host, and the first starts going wrong like this."""
        self.world = world
        self.leases: list[Lease] = []
        self.most_replicas = self.most = 0
        self.hosts: list[FakeHypervisor] = list(self.world.hosts.values())
        for number, host in enumerate(self.hosts):
            host.on_change(lambda _vm: self.world.controller.wake())
            for name, identity in FOREIGN.items():
                host.add_foreign(f"{name}-{number}", identity)
            for fault in faults:
                host.next_create(fault)
        self.foreign = {name: look for host in self.hosts for name, look in self.others(host)}

    def others(self, host: FakeHypervisor) -> list[tuple[str, object]]:
        """Every machine there that is not ours, and what would change if it were touched."""
        ours = {domain.name for domain in host.ours()}
        return [(n, (id(d), d.power)) for n, d in host.domains.items() if n not in ours]

    def suspend_behind_our_back(self, domain: FakeDomain) -> None:
        domain.use(0.0)
        domain.power = PowerState.PAUSED

    def resume_behind_our_back(self, domain: FakeDomain) -> None:
        domain.power = PowerState.RUNNING

    def go(self, seconds: float, step_s: float = 1.0) -> None:
        self.runner.run(self.world.run(seconds, step_s))

    def host(self, number: int) -> FakeHypervisor:
        return self.hosts[number % len(self.hosts)]

    def vms(self) -> list[Vm]:
        found = (self.world.fleet.get(status.name) for status in self.world.fleet.statuses())
        return [vm for vm in found if vm is not None]

    # --- time and load

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

    @precondition(lambda self: self.world.pool.available)
    @rule(seconds=st.integers(0, 30))
    def requests_take_long(self, seconds: int) -> None:
        self.leases += [self.world.pool.lease() for _ in self.world.pool.available]
        self.go(seconds)

    @rule()
    def requests_end(self) -> None:
        while self.leases:
            self.leases.pop().release()
        self.go(1)

    # --- wishes

    @rule(
        mode=st.sampled_from(list(Mode)),
        to=st.integers(0, MAX),
        for_s=st.none() | st.integers(1, 60),
    )
    def an_operator_wishes(self, mode: Mode, to: int, for_s: int | None) -> None:
        until = None if for_s is None else 1.7e9 + self.world.clock.now() + for_s
        to = min(to, self.world.rules.max)
        override = Override(mode, to if mode is Mode.FIXED else None, until)
        self.world.controller.rules = replace(self.world.rules, override=override)
        self.go(2)

    @rule(low=st.integers(0, MAX), high=st.integers(1, MAX))
    def bounds_are_reloaded(self, low: int, high: int) -> None:
        self.world.rules = wanted(min(low, high), high)
        self.world.reload()
        self.go(3)

    @rule(standby=st.integers(0, STANDBY))
    def the_reserve_is_reloaded(self, standby: int) -> None:
        self.world.reload(standby=standby)
        self.go(3)

    @rule(generation=st.sampled_from(["generation-1", "generation-2"]))
    def an_image_is_built(self, generation: str) -> None:
        files = replace(FILES, generation=generation)
        self.world.boot_files = lambda: files
        self.go(2)

    @rule(seconds=st.integers(0, 30))
    def retired_and_taken_back(self, seconds: int) -> None:
        self.world.controller.retire()
        self.go(seconds)
        self.world.controller.keep()
        self.go(1)

    @precondition(lambda self: self.vms())
    @rule(which=some_machine)
    def an_operator_retires_one(self, which: int) -> None:
        vms = self.vms()
        vm = vms[which % len(vms)]
        if vm.alive:
            self.world.fleet.retire(vm.name, Reason.OPERATOR)
            self.world.controller.wake()
        self.go(1)

    # --- faults

    @rule(fault=st.sampled_from(list(Fault)), times=st.integers(1, 3), host=some_host)
    def starts_go_wrong(self, fault: Fault, times: int, host: int) -> None:
        self.host(host).next_create(fault, times)

    @rule(
        verb=st.sampled_from(VERBS),
        odd=st.sampled_from(list(Odd)),
        times=st.integers(1, 3),
        host=some_host,
    )
    def calls_go_wrong(self, verb: str, odd: Odd, times: int, host: int) -> None:
        self.host(host).next_call(verb, odd, times)

    @rule(verb=st.sampled_from(("create", *VERBS)), host=some_host, seconds=st.integers(1, 12))
    def calls_hang(self, verb: str, host: int, seconds: int) -> None:
        self.host(host).hold_calls(verb)
        self.go(seconds)

    @rule()
    def hanging_calls_are_answered(self) -> None:
        for host in self.hosts:
            for verb in ("create", *VERBS):
                host.release_calls(verb)
        self.go(1)

    @rule(host=some_host)
    def a_host_is_away(self, host: int) -> None:
        self.host(host).unreachable = True
        self.go(2)

    @rule()
    def hosts_are_back(self) -> None:
        for host in self.hosts:
            host.unreachable = False
        self.go(1)

    @precondition(lambda self: self.world.domains())
    @rule(which=some_machine, leaves=st.booleans())
    def a_machine_dies(self, which: int, leaves: bool) -> None:
        domains = self.world.domains()
        name = domains[which % len(domains)].name
        for host in self.hosts:
            if name in host.domains:
                host.crash(name, leaves=leaves)
        self.go(1)

    @precondition(lambda self: self.world.domains())
    @rule(which=some_machine, fault=st.sampled_from(list(Fault)), seconds=st.integers(1, 40))
    def a_machine_dies_and_its_successors_fail(
        self, which: int, fault: Fault, seconds: int
    ) -> None:
        for host in self.hosts:
            host.next_create(fault, 2)
        self.a_machine_dies(which, leaves=True)
        self.go(seconds)

    @precondition(lambda self: self.world.domains())
    @rule(
        which=some_machine,
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

    @rule()
    def somebody_resumes_whatever_sleeps(self) -> None:
        for domain in self.world.domains():
            if domain.power is PowerState.PAUSED:
                self.resume_behind_our_back(domain)
        self.go(1)

    @precondition(lambda self: self.world.domains())
    @rule(which=some_machine)
    def somebody_suspends_one(self, which: int) -> None:
        domains = self.world.domains()
        domain = domains[which % len(domains)]
        # one that still boots, a successor would take for a standby that is ready: its metadata
        # says no more
        if domain.serving():
            self.suspend_behind_our_back(domain)
        self.go(1)

    @rule(seconds=st.integers(0, 3))
    def killed_and_started_again(self, seconds: int) -> None:
        self.leases.clear()
        self.runner.run(self.world.restart())
        # where its predecessor was kept from writing that one rests, it finds a replica too many
        roles = [d.identity.role for d in self.world.domains() if d.identity]
        self.most_replicas = max(self.most_replicas, roles.count("replica"))
        self.world.events.clear()
        self.go(seconds)

    # --- what must hold

    @invariant()
    def no_more_exist_than_may(self) -> None:
        """Where a reload lowered the bounds, at least none are added."""
        high, standby = self.world.rules.max, self.world.shape.standby
        replicas = sum(vm.role is Role.REPLICA for vm in self.vms())
        ours = len(self.world.domains())
        assert replicas <= max(high, self.most_replicas), self.vms()
        assert ours <= max(high + standby + 1, self.most), self.world.domains()
        assert self.world.fleet.counts().existing <= max(high + standby + 1, self.most)
        if self.world.fleet.all_hosts_seen:  # else it does not know them yet
            self.most_replicas = replicas
            self.most = max(ours, self.world.fleet.counts().existing)

    @invariant()
    def nobody_elses_machine_is_touched(self) -> None:
        there = {name: look for host in self.hosts for name, look in self.others(host)}
        asked = {name for h in self.hosts for _, name in h.calls}
        for name, look in self.foreign.items():
            assert there.get(name) == look, name
            assert name not in asked
            assert name not in self.world.pool

    @invariant()
    def the_pool_is_told_in_order(self) -> None:
        told: dict[str, str] = {}
        for event in self.world.events:
            told[event.backend] = told.get(event.backend, "") + event.kind[0].upper()
        for name, word in told.items():
            assert IN_ORDER.fullmatch(word), (name, word)

    @invariant()
    def who_may_be_picked_is_there_runs_and_knows_its_name(self) -> None:
        known = {vm.name: vm for vm in self.vms()}
        assert {backend.name for backend in self.world.pool} <= known.keys()
        for backend in self.world.pool.available:
            assert known[backend.name].serves_or_will, known[backend.name]
            domain = self.world.domain(backend.name)
            if domain is not None:
                assert domain.power is not PowerState.PAUSED
                assert domain.called == backend.name

    # --- the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):  # else it ended before it began
                self.everything_works_again()
        finally:
            if hasattr(self, "world"):
                self.runner.run(self.world.tasks.cancel())
                self.runner.run(self.leave_nothing())
            self.runner.close()

    async def leave_nothing(self) -> None:
        """What the world has beyond this process's memory goes."""

    def everything_works_again(self) -> None:
        world = self.world
        self.requests_end()
        for host in self.hosts:
            host.forget_faults()
        for domain in world.domains():
            domain.has_counters = True
        world.unprobed, world.deaf = set(), False
        world.demand = world.arrivals = 0.0
        world.queued = 0
        world.controller.rules = world.rules
        self.settle()
        launched = self.launched()
        self.go(100)
        self.settle()  # a saved guest that was no good is made anew ten minutes later
        assert self.launched() == launched, "settled is settled"
        self.nobody_elses_machine_is_touched()
        self.the_pool_is_told_in_order()
        assert not world.tasks.running

    def settle(self) -> None:
        # the longest way: ten minutes until a guest is saved again, three breakers (60 s), boots
        # (10 s), a minute of low load, steps down 15 s apart, a minute without a request
        for _ in range(150):
            self.go(8)
            self.no_more_exist_than_may()
            if not self.unsettled():
                return
        raise AssertionError((self.unsettled(), self.vms(), self.world.said()[-8:]))

    def launched(self) -> int:
        """How many replicas and standbys were launched or woken, templates left out."""
        return sum(
            note.kind in ("vm.launch", "vm.wake") and "(template" not in note.message
            for note in self.world.notes
        )

    def unsettled(self) -> str:
        """What is not yet as it should be for ever; empty: nothing."""
        world, low, standby = self.world, self.world.rules.min, self.world.shape.standby
        counts, domains = world.fleet.counts(), world.domains()
        asleep = {d.name for d in domains if d.power is PowerState.PAUSED}
        awake = {d.name for d in domains if d.power is PowerState.RUNNING}
        key = key_of("web", world.boot_files(), world.shape)
        can = [host for host in self.hosts if not host.copies]
        roles = {d.name: d.identity.role for d in domains if d.identity}
        phases = {d.identity.phase for d in domains if d.identity}
        facts = {
            "the decision": world.decision.desired == low,
            "ready": counts.ready == low,
            "on standby": counts.standby == standby == len(asleep),
            "left over": counts.existing == len(domains) == low + standby,
            "the pool": {b.name for b in world.pool.available} == awake,
            "limits": not all(host.limits for host in self.hosts)
            or {d.limit_cores for d in domains if d.name in awake} <= {0.5},
            "weights": {d.weight for d in domains} <= {USUAL_WEIGHT},
            "roles": {n for n, role in roles.items() if role == "standby"} == asleep,
            "phases": phases <= {"serving"},
            "standbys out of date": {
                d.identity.generation for d in domains if d.identity and d.name in asleep
            }
            <= {world.boot_files().generation},
            "saved guests": not world.shape.snapshot or all(set(h.guests) == {key} for h in can),
        }
        return ", ".join(name for name, well in facts.items() if not well)
