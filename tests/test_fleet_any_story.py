"""Any story on the scripted hypervisor: what no other host can be told to do is added here."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from autoscale.host import HypervisorError
from tests.fakes import Fault
from tests.story import MAX, STANDBY, Story, some_host, wanted
from tests.world import World, shape


class AnyStory(Story):
    """Besides: hosts that have no core to spare, or cannot limit one; saved guests, and copies."""

    @initialize(
        hosts=st.integers(1, 2),
        low=st.integers(0, MAX),
        standby=st.integers(0, STANDBY),
        snapshot=st.booleans(),
        cannot_copy=st.booleans(),
        faults=st.lists(st.sampled_from(list(Fault)), max_size=3),
    )
    def begin(
        self,
        hosts: int,
        low: int,
        standby: int,
        snapshot: bool,
        cannot_copy: bool,
        faults: list[Fault],
    ) -> None:
        world = World(
            wanted(low),
            hosts=("a", "b")[:hosts],
            vm=shape(cpu_limit=0.5, standby=standby, snapshot=snapshot),
        )
        if cannot_copy:
            list(world.hosts.values())[-1].copies = "its libvirt is not known"
        self.begin_with(world, faults)

    @rule(delay=st.sampled_from([0.0, 0.2, 0.9]), host=some_host)
    def a_host_has_no_core_to_spare(self, delay: float, host: int) -> None:
        for domain in self.host(host).ours():
            domain.delay = delay
        self.go(2)

    @rule(snapshot=st.booleans())
    def copies_are_reloaded(self, snapshot: bool) -> None:
        self.world.shape = replace(self.world.shape, snapshot=snapshot)
        self.world.reload()
        self.go(3)

    @rule(host=some_host, held=st.booleans())
    def limits_go_wrong(self, host: int, held: bool) -> None:
        if held:
            self.host(host).hold_limits()
        else:
            self.host(host).limit_fault = HypervisorError("no answer from libvirt")
        self.go(2)

    @rule(host=some_host, lost=st.booleans())
    def what_is_saved_is_no_good(self, host: int, lost: bool) -> None:
        if lost:
            self.host(host).guests.clear()
        else:
            self.host(host).unusable = True
        self.go(1)

    @rule(deaf=st.booleans())
    def copies_hear_nothing_or_do(self, deaf: bool) -> None:
        self.world.deaf = deaf
        self.go(2)


def test_any_story_ends_well() -> None:
    run_state_machine_as_test(
        AnyStory,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
