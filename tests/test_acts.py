"""What is asked for one VM, in which order, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from autoscale.acts import REHEARSALS, Acts, Told
from autoscale.domain_xml import Identity
from autoscale.host import HypervisorError, LimitUnsupported, PowerState, SnapshotUnusable
from autoscale.model import VmState
from autoscale.reserve import LOW_WEIGHT, USUAL_WEIGHT
from autoscale.vm import COPIED, Role, Vm
from tests.fakes import OURS, FakeClock, FakeHypervisor, Fault, Odd, Saved, Tasks
from tests.world import FILES, shape

KEY = "generation-1-1x384-8080"
UUID_1 = UUID(int=1, version=4)


class Desk(Told):
    """Acts on one fake host, and what was told of them: the words, in order."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.host = FakeHypervisor(self.clock, boot_s=0.0, restore_s=0.0)
        self.tasks = Tasks()
        self.words: list[str] = []
        self.ready = True
        self.acts = Acts({"local": self.host}, self, self.tasks, self._check, lambda: bytes(32))

    def vm(self, role: Role = Role.REPLICA, *, copied: bool = False) -> Vm:
        identity = Identity(OURS, "web", "", 8080, 1.0, 1.7e9, role=role.value)
        if copied:
            identity = identity.with_phase(COPIED)
        vm = Vm("web-1", "local", identity, 0.0, 0.0, role=role)
        vm.introduced = not copied
        return vm

    async def create(self, vm: Vm, key: str | None = None) -> None:
        await self.run(vm, self.acts.create(vm, UUID_1, shape(), lambda: FILES, key))

    async def started(self, role: Role = Role.REPLICA) -> Vm:
        vm = self.vm(role)
        await self.create(vm)
        self.words.clear()
        self.host.calls.clear()
        return vm

    async def run(self, vm: Vm, work: Coroutine[Any, Any, None]) -> None:
        """Through `do`; nothing may come out of it, and it must end."""
        self.acts.do(vm, work, "work")
        await self.tasks.settle()
        assert not vm.busy
        assert not self.tasks.running
        assert self.tasks.errors == []

    def asked(self) -> list[str]:
        return [verb for verb, _ in self.host.calls]

    async def _check(self, address: str) -> bool:
        self.words.append(f"checked {address}")
        return self.ready

    def created(self, vm: Vm) -> None:
        self.words.append("created")

    def not_created(self, vm: Vm, error: Exception, *, exists: bool) -> None:
        self.words.append(f"not created: {error}, {exists}")

    def no_copy(self, vm: Vm, error: SnapshotUnusable) -> None:
        self.words.append("no copy")

    def has_address(self, vm: Vm, address: str) -> None:
        self.words.append(f"at {address}")

    def woken(self, vm: Vm) -> None:
        self.words.append("woken")

    def rests(self, vm: Vm) -> None:
        self.words.append("rests")

    def saved(self, vm: Vm, key: str) -> None:
        self.words.append(f"saved {key}")

    def not_saved(self, vm: Vm, key: str, error: HypervisorError) -> None:
        self.words.append(f"not saved {key}")

    def no_limits(self, vm: Vm, error: LimitUnsupported) -> None:
        self.words.append("no limits")


@pytest.fixture
def desk() -> Desk:
    return Desk()


AT = "127.0.0.1:40001"

# --- starting


async def test_a_replica_is_created_and_its_address_told(desk: Desk) -> None:
    vm = desk.vm()
    await desk.create(vm)
    assert desk.words == ["created", f"at {AT}"], "whether it is ready, the pool's probes say"
    assert (vm.identity.host_port, vm.identity.generation) == (40001, "generation-1")
    assert desk.asked() == ["create", "address"]


@pytest.mark.parametrize("role", [Role.STANDBY, Role.TEMPLATE])
async def test_one_for_later_has_a_low_weight_from_the_start_and_is_checked(
    desk: Desk, role: Role
) -> None:
    vm = desk.vm(role)
    await desk.create(vm)
    assert desk.asked() == ["create", "set_cpu_weight", "address"]
    assert desk.host.domains["web-1"].weight == LOW_WEIGHT
    assert desk.words == ["created", f"checked {AT}", f"at {AT}"]
    assert vm.checked


async def test_a_copy_is_introduced_before_anybody_hears_of_it(desk: Desk) -> None:
    desk.host.guests[KEY] = Saved("web-0", 1)
    vm = desk.vm(copied=True)
    await desk.create(vm, KEY)
    assert desk.asked() == ["restore", "address", "introduce"]
    assert desk.words == ["created", f"at {AT}"]
    assert desk.host.domains["web-1"].called == "web-1"
    assert (vm.introduced, vm.checked) == (True, True)


async def test_a_copy_that_cannot_be_introduced_yet_is_not_told_of(desk: Desk) -> None:
    desk.host.guests[KEY] = Saved("web-0", 1)
    desk.host.deaf = True
    vm = desk.vm(copied=True)
    await desk.create(vm, KEY)
    assert desk.words == ["created"]
    assert not vm.introduced
    desk.host.deaf = False
    await desk.run(vm, desk.acts.prepare(vm))
    assert desk.words[1:] == [f"at {AT}"]
    await desk.run(vm, desk.acts.prepare(vm))
    assert desk.asked().count("introduce") == 2, "once it went well, once is enough"


async def test_without_an_address_nothing_is_told(desk: Desk) -> None:
    desk.host.addresses = False
    await desk.create(desk.vm())
    assert desk.words == ["created"]


async def test_what_cannot_be_copied_is_no_failure_and_what_is_refused_does_not_exist(
    desk: Desk,
) -> None:
    await desk.create(desk.vm(copied=True), KEY)
    assert desk.words == ["no copy"]
    desk.host.next_create(Fault.REFUSED)
    await desk.create(desk.vm())
    assert desk.words[1:] == ["not created: local refuses web-1: no more memory, False"]
    desk.host.next_create(Fault.LOST)
    await desk.create(desk.vm())
    assert desk.words[2:] == ["not created: local: no answer from libvirt in 20 s, True"]


# --- waiting, waking, saving


async def test_it_is_marked_before_it_is_suspended(desk: Desk) -> None:
    """For a successor: suspended, and a replica by its metadata, it would be woken."""
    vm = await desk.started()
    vm.role = Role.STANDBY
    await desk.run(vm, desk.acts.rest(vm))
    assert desk.asked() == ["set_identity", "set_time", "suspend"]
    assert desk.words == ["rests"]
    identity = desk.host.domains["web-1"].identity
    assert identity is not None
    assert (identity.role, identity.phase, identity.generation) == (
        "standby",
        "serving",
        "generation-1",
    )
    await desk.run(vm, desk.acts.rest(vm))
    assert desk.asked()[3:] == ["set_time", "suspend"], "its metadata says so already"


async def test_what_its_waking_will_do_is_done_before_it_sleeps(desk: Desk) -> None:
    """The first time costs the most: an emulator translates what it has never run."""
    vm = await desk.started(Role.STANDBY)
    vm.address = AT
    await desk.run(vm, desk.acts.rest(vm))
    assert desk.words == [*[f"checked {AT}"] * REHEARSALS, "rests"]
    assert desk.asked()[-3:] == ["set_time", "set_time", "suspend"]


async def test_one_that_does_not_answer_is_not_asked_again(desk: Desk) -> None:
    vm = await desk.started(Role.STANDBY)
    vm.address = AT
    desk.ready = False
    await desk.run(vm, desk.acts.rest(vm))
    assert desk.words == [f"checked {AT}", "rests"]


@pytest.mark.parametrize("at", ["set_identity", "set_time", "suspend"])
async def test_called_for_while_it_goes_to_rest_it_is_awake_in_the_end(desk: Desk, at: str) -> None:
    vm = await desk.started()
    vm.role, vm.address = Role.STANDBY, AT
    desk.host.hold_calls(at)
    desk.acts.do(vm, desk.acts.rest(vm), "suspend")
    await desk.tasks.settle()
    vm.role, vm.state = Role.REPLICA, VmState.STANDBY  # as the fleet has it then
    desk.host.release_calls(at)
    await desk.tasks.settle()
    assert desk.words[-1] == "woken"
    assert ("rests" in desk.words) == (at == "suspend")
    assert desk.host.domains["web-1"].power is PowerState.RUNNING


async def test_woken_is_told_once_it_runs_its_clock_is_set_and_it_can_be_reached(
    desk: Desk,
) -> None:
    vm = await desk.started(Role.STANDBY)
    await desk.run(vm, desk.acts.rest(vm))
    vm.address = AT
    await desk.run(vm, desk.acts.wake(vm))
    assert desk.words == ["rests", "woken"]
    assert desk.host.domains["web-1"].power is PowerState.RUNNING
    assert desk.asked()[-2:] == ["resume", "set_time"], "its clock stood still"
    desk.words.clear()
    vm.address = None
    desk.host.addresses = False
    await desk.run(vm, desk.acts.wake(vm))
    assert desk.words == []
    desk.host.addresses = True
    await desk.run(vm, desk.acts.wake(vm))
    assert desk.words == ["woken"]
    assert str(vm.address) == AT


async def test_a_guest_without_an_agent_wakes_all_the_same(desk: Desk) -> None:
    """An image of the user's own need not have one: its clock is its own business then."""
    vm = await desk.started(Role.STANDBY)
    vm.address = AT
    desk.host.next_call("set_time", Odd.FAILS)
    await desk.run(vm, desk.acts.wake(vm))
    assert desk.words == ["woken"]


@pytest.mark.parametrize("odd", list(Odd))
async def test_a_wake_or_a_rest_that_fails_tells_nothing(desk: Desk, odd: Odd) -> None:
    vm = await desk.started(Role.STANDBY)
    desk.host.next_call("resume", odd)
    desk.host.next_call("suspend", odd)
    await desk.run(vm, desk.acts.wake(vm))
    await desk.run(vm, desk.acts.rest(vm))
    assert desk.words == []


async def test_saved_or_not(desk: Desk) -> None:
    vm = await desk.started(Role.TEMPLATE)
    desk.host.next_call("save", Odd.FAILS)
    await desk.run(vm, desk.acts.save(vm, KEY))
    await desk.run(vm, desk.acts.save(vm, KEY))
    assert desk.words == [f"not saved {KEY}", f"saved {KEY}"]


# --- settings


async def test_a_weight_that_could_not_be_set_is_not_believed_in(desk: Desk) -> None:
    vm = await desk.started()
    desk.host.next_call("set_cpu_weight", Odd.DONE_ALL_THE_SAME)
    await desk.run(vm, desk.acts.weigh(vm, LOW_WEIGHT))
    assert vm.weight == LOW_WEIGHT, "it may be in force: so it is put back one day"
    desk.host.next_call("set_cpu_weight", Odd.FAILS)
    await desk.run(vm, desk.acts.weigh(vm, USUAL_WEIGHT))
    assert vm.weight == LOW_WEIGHT
    await desk.run(vm, desk.acts.weigh(vm, USUAL_WEIGHT))
    assert (vm.weight, desk.host.domains["web-1"].weight) == (USUAL_WEIGHT, USUAL_WEIGHT)


async def test_a_host_that_neither_weighs_nor_limits(desk: Desk) -> None:
    vm = await desk.started()
    desk.host.limits = False
    await desk.run(vm, desk.acts.weigh(vm, LOW_WEIGHT))
    await desk.run(vm, desk.acts.limit(vm, 0.4))
    assert (desk.words, vm.limit_cores) == (["no limits"], None)


async def test_marking_says_what_it_is_and_that_it_serves(desk: Desk) -> None:
    vm = await desk.started()
    await desk.run(vm, desk.acts.mark(vm))
    assert desk.asked() == [], "so it is"
    vm.identity = replace(vm.identity, phase=COPIED)
    await desk.run(vm, desk.acts.mark(vm))
    assert desk.asked() == ["set_identity"]
    vm.role = Role.STANDBY
    await desk.run(vm, desk.acts.mark_draining(vm))
    identity = desk.host.domains["web-1"].identity
    assert identity is not None
    assert (identity.phase, identity.role) == ("draining", "standby")


async def test_whoever_is_gone_meanwhile_is_no_error(desk: Desk) -> None:
    vm = await desk.started()
    desk.host.domains.clear()
    await desk.run(vm, desk.acts.wake(vm))
    await desk.run(vm, desk.acts.weigh(vm, LOW_WEIGHT))
    assert desk.words == []


async def test_one_call_at_a_time_is_what_busy_says(desk: Desk) -> None:
    vm = await desk.started()
    desk.host.hold_calls("suspend")
    desk.acts.do(vm, desk.acts.rest(vm), "suspend")
    await desk.tasks.settle()
    assert vm.busy
    desk.host.release_calls("suspend")
    await asyncio.sleep(0)
    await desk.tasks.settle()
    assert not vm.busy
