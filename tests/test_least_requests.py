"""The fewest running requests: nobody has fewer, and ties take turns."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.least_requests import LeastRequests, Levels
from tests.candidates import Candidate, ask, candidates, fleet, give, slate, take


@given(candidates)
def test_nobody_is_better_than_who_is_picked(members: list[Candidate]) -> None:
    picked = slate(LeastRequests(), *members).pick(0.0)
    assert all(
        picked.in_flight * other.share <= other.in_flight * picked.share for other in members
    )


@given(st.integers(1, 10), st.integers(1, 20), st.integers(0, 9))
def test_an_idle_fleet_goes_round(number: int, rounds: int, first: int) -> None:
    members = fleet(number)
    field = Levels(members, first % number)
    picks = [ask(field) for _ in range(number * rounds)]
    assert picks == [members[(first + n) % number] for n in range(number * rounds)]


def test_ties_take_turns_also_among_the_busy() -> None:
    members = fleet(4)
    field = slate(LeastRequests(), *members)
    for _ in range(20):
        take(field)
    picks = [ask(field) for _ in range(12)]
    assert Counter(picks) == dict.fromkeys(members, 3)
    assert len(set(picks[:4])) == 4, "all of them before the first again"


def test_whoever_was_free_for_longest_comes_first() -> None:
    members = fleet(3)
    field = Levels(members)
    a, b, c = (take(field) for _ in range(3))
    for member in (b, c, a):
        give(field, member)
    assert [take(field) for _ in range(3)] == [b, c, a]


def test_slates_begin_anywhere() -> None:
    """So that balancers that start together do not all begin with the same backend."""
    members = fleet(8)
    rng = random.Random(2)
    begun = {slate(LeastRequests(), *members, rng=rng).pick(0.0) for _ in range(100)}
    assert begun == set(members)


def test_one_that_closes_and_opens_is_found_at_its_level_again() -> None:
    a, b, c = members = [Candidate(name, in_flight=n) for n, name in enumerate("abc")]
    field = Levels(members)
    field.close(a)
    assert field.pick(0.0) is b
    field.close(b)
    assert field.pick(0.0) is c
    b.in_flight = 5
    for running in (4, 3, 2, 1, 0):
        b.in_flight = running
        field.gave(b)
    assert field.pick(0.0) is c, "it is still closed"
    field.reopen(b)
    assert field.pick(0.0) is b
    field.reopen(a)
    assert {take(field), take(field)} == {a, b}


@pytest.mark.parametrize("busy_for", [1, 50])
def test_one_that_was_busy_while_others_took_turns_makes_up_for_nothing(busy_for: int) -> None:
    """With unequal shares, where turns go by when each is due."""
    big, small = Candidate("big", 2), Candidate("small")
    field = slate(LeastRequests(), big, small)
    while (held := take(field)) is not small:
        give(field, held)
    for _ in range(busy_for):
        assert ask(field) is big
    give(field, small)
    picks = Counter(ask(field).name for _ in range(30))
    assert picks["small"] <= 11
