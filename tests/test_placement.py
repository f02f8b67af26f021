"""Which host takes a replica, and which replica leaves."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from autoscale.placement import Candidate, HostRoom, choose_host, choose_victim


def test_the_host_with_the_fewest_replicas_takes_the_next() -> None:
    assert choose_host([HostRoom("a", 2), HostRoom("b", 1)]) == "b"
    assert choose_host([HostRoom("b", 1), HostRoom("a", 1)]) == "a"
    assert choose_host([]) is None


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


candidates = st.lists(
    st.builds(
        Candidate,
        vm=st.text("abc123", min_size=1, max_size=4),
        available=st.booleans(),
        in_flight=st.integers(0, 3),
        age_s=st.integers(0, 3).map(float),
    ),
    unique_by=lambda c: c.vm,
)
rooms = st.lists(
    st.builds(HostRoom, name=st.text("ab", min_size=1, max_size=3), replicas=st.integers(0, 3)),
    unique_by=lambda r: r.name,
)


@given(candidates, rooms, st.randoms(use_true_random=False))
def test_the_order_of_the_list_makes_no_difference(
    leaving: list[Candidate], hosts: list[HostRoom], rng: random.Random
) -> None:
    victim, host = choose_victim(leaving), choose_host(hosts)
    rng.shuffle(leaving)
    rng.shuffle(hosts)
    assert choose_victim(leaving) == victim
    assert choose_host(hosts) == host
