"""Any story on libvirt's own test driver: the same rules, the same that must hold, and every call
really made. The driver cannot copy or save guests, nor limit one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from tests.fakes import FakeDomain, FakeHypervisor, Fault
from tests.libvirt_stage import LibvirtStage, LibvirtWorld
from tests.story import MAX, STANDBY, Story, wanted
from tests.world import shape


class AnyLibvirtStory(Story):
    """Besides: connections that are lost, and machines of others that come meanwhile."""

    @initialize(
        low=st.integers(0, MAX),
        standby=st.integers(0, STANDBY),
        faults=st.lists(st.sampled_from(list(Fault)), max_size=3),
    )
    def begin(self, low: int, standby: int, faults: list[Fault]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.runner.run(self.makes_its_world(low, standby))
        self.begin_with(self.libvirt, faults)
        assert "test" in self.foreign, "the driver comes with a machine of its own"

    async def makes_its_world(self, low: int, standby: int) -> None:
        self.libvirt = LibvirtWorld(
            Path(self.folder.name), wanted=wanted(low), vm=shape(cpu_limit=0.5, standby=standby)
        )
        await self.stage.open()

    @property
    def stage(self) -> LibvirtStage:
        return self.libvirt.stage

    def others(self, host: FakeHypervisor) -> list[tuple[str, object]]:
        return self.stage.others()

    def suspend_behind_our_back(self, domain: FakeDomain) -> None:
        self.stage.suspend_behind_our_back(domain.name)

    def resume_behind_our_back(self, domain: FakeDomain) -> None:
        self.stage.resume_behind_our_back(domain.name)

    @rule()
    def the_connection_is_lost(self) -> None:
        self.stage.connection.lose()
        self.go(1)

    @precondition(lambda self: len(self.foreign) < 9)
    @rule(named_as_ours=st.booleans())
    def somebody_starts_a_machine(self, named_as_ours: bool) -> None:
        name = f"{'web' if named_as_ours else 'mail'}-{len(self.foreign)}"
        self.stage.add_foreign(name)
        self.foreign[name] = dict(self.stage.others())[name]
        self.go(1)

    async def leave_nothing(self) -> None:
        await self.stage.end()
        self.folder.cleanup()


def test_any_story_ends_well_on_libvirt() -> None:
    run_state_machine_as_test(
        AnyLibvirtStory,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
