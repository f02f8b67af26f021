"""Everybody in turn: exact, smooth, and going on whoever comes and goes."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lb.round_robin import RoundRobin
from tests.candidates import Candidate, ask, fleet, slate


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 4))
def test_round_robin_is_exact_over_a_full_cycle(weights: list[int], cycles: int) -> None:
    members = [Candidate(f"b{n}", weight) for n, weight in enumerate(weights)]
    policy = RoundRobin()
    picks = [ask(slate(policy, *members)).name for _ in range(sum(weights) * cycles)]
    assert Counter(picks) == {c.name: c.weight * cycles for c in members}


@given(st.integers(0, 2**32))
def test_round_robin_is_smooth(seed: int) -> None:
    rng = random.Random(seed)
    field = slate(RoundRobin(), Candidate("a", 5), Candidate("b"), Candidate("c"), rng=rng)
    picks = "".join(ask(field).name for _ in range(70))
    assert "aaaaa" not in picks
    for pair in ("bb", "bc", "cb", "cc"):
        assert pair not in picks


def test_round_robin_takes_in_a_newcomer_without_a_burst() -> None:
    policy = RoundRobin()
    old = [Candidate("a"), Candidate("b")]
    for _ in range(101):
        ask(slate(policy, *old))
    field = slate(policy, *old, Candidate("c"))
    picks = Counter(ask(field).name for _ in range(30))
    assert picks == {"a": 10, "b": 10, "c": 10}


def test_one_that_was_closed_makes_up_for_nothing() -> None:
    a, b, c = members = fleet(3)
    field = slate(RoundRobin(), *members)
    field.close(c)
    assert {ask(field) for _ in range(100)} == {a, b}
    field.reopen(c)
    assert Counter(ask(field) for _ in range(30)) == {a: 10, b: 10, c: 10}


@given(st.integers(0, 2**32), st.integers(0, 9))
def test_turns_go_on_when_shares_become_equal_and_unequal_again(seed: int, asked: int) -> None:
    """As at the end of a slow start, and at the beginning of the next."""
    members = fleet(2)
    policy, rng = RoundRobin(), random.Random(seed)
    field = slate(policy, *members, rng=rng)
    for _ in range(asked):
        last = ask(field)
    for share in (0.999, 1.0, 0.999):
        members[1].share = share
        field = slate(policy, *members, rng=rng)
        following = ask(field)
        assert asked == 0 or following is not last
        last, asked = following, 1


def test_one_that_was_preferred_has_had_its_turn() -> None:
    a, b, c = members = fleet(3)
    field = slate(RoundRobin(), *members)
    first = field.pick(0.0)
    first.in_flight += 1
    field.took(first)
    assert {ask(field), ask(field)} == {a, b, c} - {first}
