"""Which host takes a replica, and which replica leaves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.contention import CONTENDED
from autoscale.domain_xml import Identity
from autoscale.model import BackendLoad, PoolLoad, Signal, VmState
from autoscale.placement import (
    Candidate,
    HostRoom,
    candidates,
    choose_host,
    choose_victim,
    rooms,
)
from autoscale.vm import Vm


def test_the_host_with_the_fewest_replicas_takes_the_next() -> None:
    assert choose_host([HostRoom("a", 2), HostRoom("b", 1)]) == "b"
    assert choose_host([HostRoom("b", 1), HostRoom("a", 1)]) == "a"
    assert choose_host([]) is None


def test_a_host_whose_cores_are_taken_is_the_last_resort() -> None:
    """Fewer replicas are no help where those there wait for a core a quarter of their time."""
    busy = HostRoom("a", 1, CONTENDED)
    assert choose_host([busy, HostRoom("b", 3)]) == "b"
    assert choose_host([busy, HostRoom("b", 3, 0.1)]) == "b"
    assert choose_host([HostRoom("a", 1, CONTENDED - 0.01), HostRoom("b", 3)]) == "a"
    assert choose_host([busy, HostRoom("b", 3, 0.9)]) == "a", "all are: the emptiest"


def vm(name: str, state: VmState, host: str = "a", delay: float | None = None) -> Vm:
    identity = Identity("ours", "web", "generation-1", 8080, 1.0, 1.7e9)
    one = Vm(name, host, identity, 100.0, 100.0, state=state)
    one.signal = Signal(name, 100.0, 0.5, 0.5, 0.5, delay, 1.0) if delay is not None else None
    return one


def test_a_host_is_judged_by_all_that_ours_have_there() -> None:
    vms = [
        vm("web-1", VmState.READY, "a", 0.2),
        vm("web-2", VmState.READY, "a", 0.4),
        vm("web-3", VmState.DRAINING, "a"),
        vm("web-4", VmState.READY, "elsewhere", 0.9),
    ]
    there, empty = rooms({"b", "a"}, vms, {"a"})
    assert (there.name, there.replicas) == ("a", 3)
    assert there.delay == pytest.approx(0.3)
    assert there.copies
    assert empty == HostRoom("b", 0, None, copies=False)


def test_whoever_serves_or_boots_could_leave() -> None:
    vms = [vm(f"web-{state}", state) for state in VmState]
    load = PoolLoad("web", (BackendLoad("web-ready", "ready", healthy=True, in_flight=3),))
    assert candidates(vms, load, 107.0) == [
        Candidate("web-booting", available=False, in_flight=0, age_s=7.0),
        Candidate("web-ready", available=True, in_flight=3, age_s=7.0),
    ]
    assert candidates([], load, 107.0) == []


def test_one_that_gets_no_requests_leaves_before_one_that_does() -> None:
    booting = Candidate("web-new", available=False, in_flight=0, age_s=3)
    idle = Candidate("web-old", available=True, in_flight=0, age_s=1)
    assert choose_victim([idle, booting]) == "web-new"


def test_of_those_serving_the_least_busy_leaves_then_the_youngest() -> None:
    busy = Candidate("web-a", available=True, in_flight=9, age_s=1)
    old = Candidate("web-b", available=True, in_flight=2, age_s=900)
    young = Candidate("web-c", available=True, in_flight=2, age_s=60)
    assert choose_victim([busy, old, young]) == "web-c"
    assert choose_victim([busy, old]) == "web-b"
    assert choose_victim([]) is None


any_candidates = st.lists(
    st.builds(
        Candidate,
        vm=st.text("abc123", min_size=1, max_size=4),
        available=st.booleans(),
        in_flight=st.integers(0, 3),
        age_s=st.integers(0, 3).map(float),
    ),
    unique_by=lambda c: c.vm,
)
any_rooms = st.lists(
    st.builds(HostRoom, name=st.text("ab", min_size=1, max_size=3), replicas=st.integers(0, 3)),
    unique_by=lambda r: r.name,
)


@given(any_candidates, any_rooms, st.randoms(use_true_random=False))
def test_the_order_of_the_list_makes_no_difference(
    leaving: list[Candidate], hosts: list[HostRoom], rng: random.Random
) -> None:
    victim, host = choose_victim(leaving), choose_host(hosts)
    rng.shuffle(leaving)
    rng.shuffle(hosts)
    assert choose_victim(leaving) == victim
    assert choose_host(hosts) == host
