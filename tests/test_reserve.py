"""What is done next for the reserve, and who of it serves first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoscale.domain_xml import Identity
from autoscale.model import VmState
from autoscale.reserve import Next, Reserve, quickest
from autoscale.vm import Role, Vm

S = VmState
NOW = 100.0
KEY = "generation-1-1x384-8080"


def vm(
    name: str, role: Role = Role.STANDBY, state: VmState = S.STANDBY, host: str = "a", at: float = 0
) -> Vm:
    identity = Identity("ours", "web", "generation-1", 8080, 1.0, 1.7e9)
    return Vm(name, host, identity, at, at, state, role)


def after(
    wanted: int,
    *vms: Vm,
    key: str | None = None,
    calm: bool = True,
    room: int = 9,
    reserve: Reserve | None = None,
) -> Next:
    reserve = reserve or Reserve()
    reserve.wanted = wanted
    return reserve.next(vms, ["a", "b"], key, calm=calm, room=room, now=NOW)


NOTHING = Next()
ONE_MORE = Next(start=Role.STANDBY)


def test_one_that_lacks_is_started() -> None:
    assert after(0) == NOTHING
    assert after(1) == ONE_MORE
    assert after(2, vm("one")) == ONE_MORE
    assert after(1, vm("one")) == NOTHING
    assert after(1, vm("serves", Role.REPLICA, S.READY)) == ONE_MORE


def test_only_when_calm_with_room_and_one_at_a_time() -> None:
    assert after(1, calm=False) == NOTHING
    assert after(1, room=0) == NOTHING
    for role in (Role.STANDBY, Role.TEMPLATE):
        for state in (S.DEFINED, S.BOOTING):
            assert after(3, vm("boots", role, state)) == NOTHING
    assert after(2, vm("leaves", state=S.FAILED)) == ONE_MORE
    assert after(1, vm("leaves", state=S.FAILED)) == NOTHING, "it is still there"


def test_after_a_failure_it_waits() -> None:
    reserve = Reserve()
    reserve.gate = reserve.gate.failed(NOW - 0.5)
    assert after(1, reserve=reserve) == NOTHING
    reserve.gate = reserve.gate.succeeded()
    assert after(1, reserve=reserve) == ONE_MORE


def test_a_surplus_goes_at_once_the_unready_first_then_the_oldest() -> None:
    old, young, boots = vm("old", at=1), vm("young", at=2), vm("boots", state=S.BOOTING, at=3)
    assert after(2, old, young, boots, calm=False, room=0) == Next(drop="boots")
    assert after(1, young, old) == Next(drop="old")
    assert after(0, vm("serves", Role.REPLICA, S.READY)) == NOTHING


def test_a_guest_is_saved_once_the_standbys_are_there_host_by_host() -> None:
    reserve = Reserve()
    assert after(0, key=KEY, reserve=reserve) == NOTHING, "nobody knows what is saved there"
    reserve.snapshots.found("a", [], NOW)
    reserve.snapshots.found("b", [], NOW)
    assert after(1, key=KEY, reserve=reserve) == ONE_MORE
    assert after(0, key=KEY, reserve=reserve) == Next(start=Role.TEMPLATE, host="a")
    saving = vm("saving", Role.TEMPLATE, S.READY)
    assert after(0, saving, key=KEY, reserve=reserve) == NOTHING
    reserve.snapshots.made("a", KEY)
    assert after(0, key=KEY, reserve=reserve) == Next(start=Role.TEMPLATE, host="b")
    reserve.snapshots.made("b", KEY)
    assert after(0, key=KEY, reserve=reserve) == NOTHING
    assert after(0, key=None, reserve=Reserve()) == NOTHING


any_vm = st.builds(
    vm,
    st.uuids().map(str),
    st.sampled_from(list(Role)),
    st.sampled_from([state for state in S if state is not S.GONE]),
    st.sampled_from("abc"),
    st.floats(0, 50),
)


@given(
    st.lists(any_vm, max_size=6),
    st.integers(0, 3),
    st.booleans(),
    st.integers(-2, 3),
    st.booleans(),
)
def test_whatever_there_is(vms: list[Vm], wanted: int, calm: bool, room: int, saved: bool) -> None:
    """At most one thing; nothing starts without calm and room; what is dropped was in reserve, and
    too many were."""
    reserve = Reserve()
    reserve.snapshots.found("a", [KEY] if saved else [], NOW)
    found = after(wanted, *vms, key=KEY, calm=calm, room=room, reserve=reserve)
    waiting = [one.name for one in vms if one.in_reserve]
    assert (found.drop is not None) == (len(waiting) > wanted)
    if found.drop is not None:
        assert found.start is None
        assert found.drop in waiting
    if found.start is not None:
        assert calm
        assert room > 0
    if found.start is Role.TEMPLATE:
        assert (found.host, saved) == ("a", False)
    assert found.start is not Role.REPLICA


@given(st.lists(any_vm, max_size=8))
def test_the_quickest_serves_first(vms: list[Vm]) -> None:
    """Those that rest, those about to, those that boot; only of hosts that answer."""
    found = quickest(vms, ["a", "b"])
    order = [S.STANDBY, S.READY, S.BOOTING]
    ranks = [order.index(one.state) for one in found]
    assert ranks == sorted(ranks)
    assert all(one.in_reserve and one.host in "ab" for one in found)
    left_out = [one for one in vms if one not in found and one.in_reserve and one.host in "ab"]
    assert {one.state for one in left_out} <= {S.DEFINED}, "nobody knows yet whether it exists"
