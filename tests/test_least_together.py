"""The fewest requests on all workers together: of a few that are drawn, the least busy."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from lb.backend import Backend
from lb.balance import policy_named
from lb.config_service import HashConfig
from lb.least_together import CHOICES, LeastTogether, policies_of
from lb.slate import Slate


class Counts:
    """What this worker wrote, beside what the others have."""

    def __init__(self) -> None:
        self.own: dict[int, int] = {}
        self.others: dict[int, int] = {}

    def put(self, slot: int, running: int) -> None:
        self.own[slot] = running

    def running(self, slot: int) -> int:
        return self.own.get(slot, 0) + self.others.get(slot, 0)


def made(
    number: int, *, weights: dict[int, int] | None = None, slots: int | None = None
) -> tuple[Slate[Backend], list[Backend], Counts]:
    """`slots`: so many of them have one."""
    backends = [Backend(f"b{n}", f"b{n}:80", weight=(weights or {}).get(n, 1))
                for n in range(number)]  # fmt: skip
    places: dict[object, int] = dict(zip(backends[:slots], range(number), strict=False))
    counts = Counts()
    slate = LeastTogether(counts, places.get).slate(backends, random.Random(1))
    return slate, backends, counts


def take(slate: Slate[Backend]) -> Backend:
    backend = slate.pick(0.0)
    backend.in_flight += 1
    slate.took(backend)
    return backend


def test_what_runs_elsewhere_counts_like_what_runs_here() -> None:
    slate, backends, counts = made(3)
    counts.others = {0: 2, 1: 2, 2: 0}
    assert [take(slate) for _ in range(2)] == [backends[2]] * 2
    counts.others = {0: 0, 1: 5, 2: 0}
    assert take(slate) is backends[0]
    assert counts.own[0] == 1
    backends[0].in_flight -= 1
    slate.gave(backends[0])
    assert counts.own[0] == 0


def test_the_idle_ones_get_about_as_many_each() -> None:
    slate, backends, _ = made(5)
    picked = Counter(slate.pick(0.0).name for _ in range(5000))
    assert len(picked) == len(backends)
    assert min(picked.values()) > 800


def test_of_many_a_busy_one_is_hardly_ever_taken() -> None:
    slate, backends, counts = made(200)
    counts.others = dict.fromkeys(range(100), 5)
    picked = Counter(backends.index(slate.pick(0.0)) < 100 for _ in range(2000))
    # all of those drawn are busy once in 2 ** 8
    assert picked[True] < 2000 * 3 * 0.5**CHOICES


def test_shares_count() -> None:
    slate, backends, _ = made(3, weights={0: 4})
    for _ in range(60):
        take(slate)
    assert [backend.in_flight for backend in backends] == [40, 10, 10]
    idle, _, _ = made(3, weights={0: 4})
    picked = Counter(idle.pick(0.0).name for _ in range(3000))
    assert 1700 < picked["b0"] < 2300


def test_one_without_a_slot_is_known_by_what_runs_here() -> None:
    slate, backends, counts = made(2, slots=1)
    counts.others = {0: 1}
    assert take(slate) is backends[1]
    take(slate)
    assert sorted(backend.in_flight for backend in backends) in ([0, 2], [1, 1])
    assert set(counts.own) == {0}


def test_a_new_slate_writes_what_is_so() -> None:
    _, backends, counts = made(2)
    backends[0].in_flight = 3
    places: dict[object, int] = {backends[0]: 0, backends[1]: 1}
    LeastTogether(counts, places.get).slate(backends, random.Random(1))
    assert counts.own == {0: 3, 1: 0}


@settings(max_examples=60)
@given(st.integers(2, 20), st.lists(st.tuples(st.booleans(), st.integers(0, 19)), max_size=40))
def test_who_is_closed_is_never_picked(number: int, story: list[tuple[bool, int]]) -> None:
    slate, backends, _ = made(number)
    for close, index in story:
        backend = backends[index % number]
        if close and backend not in slate.closed and len(slate.closed) < number - 1:
            slate.close(backend)
        elif not close and backend in slate.closed:
            slate.reopen(backend)
        assert slate.pick(0.0) not in slate.closed
    open_ones = {backend.name for backend in backends if backend not in slate.closed}
    assert {slate.pick(0.0).name for _ in range(300)} <= open_ones


def test_only_least_requests_goes_by_it_and_only_where_there_are_others() -> None:
    several = policies_of(Counts(), lambda _backend: None)
    assert isinstance(several("least_requests", HashConfig()), LeastTogether)
    assert several("least_requests", HashConfig()).name == "least_requests"
    for name in ("round_robin", "random_two", "peak_ewma", "consistent_hash"):
        alone = policy_named(name)
        assert type(several(name, HashConfig())) is type(alone)
    one = policies_of(None, lambda _backend: None)
    assert type(one("least_requests", HashConfig())) is type(policy_named("least_requests"))
