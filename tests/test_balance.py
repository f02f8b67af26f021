"""Policies: fair, by weight, and never picking what is not there."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.balance import POLICIES, LeastRequests, RoundRobin, policy_named

RNG = random.Random(7)


@dataclass
class Candidate:
    name: str
    weight: int = 1
    in_flight: int = 0


candidates = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=12
).map(lambda rows: [Candidate(f"b{n}", w, f) for n, (w, f) in enumerate(rows)])


@given(candidates, st.sampled_from(sorted(POLICIES)))
def test_a_policy_picks_one_of_the_available(available: list[Candidate], name: str) -> None:
    policy = policy_named(name)
    for _ in range(3):
        assert policy.pick(available, RNG) in available


@given(candidates)
def test_least_requests_leaves_nobody_better(available: list[Candidate]) -> None:
    picked = LeastRequests().pick(available, RNG)
    assert all(
        picked.in_flight * other.weight <= other.in_flight * picked.weight for other in available
    )


@given(st.integers(1, 10), st.integers(1, 20))
def test_ties_take_turns(number: int, rounds: int) -> None:
    available = [Candidate(f"b{n}") for n in range(number)]
    policy = LeastRequests()
    counts = Counter(policy.pick(available, RNG).name for _ in range(number * rounds))
    assert set(counts.values()) == {rounds}


def test_idle_backends_are_picked_by_weight() -> None:
    available = [Candidate("small", 1), Candidate("big", 3)]
    policy = LeastRequests()
    rng = random.Random(1)
    counts = Counter(policy.pick(available, rng).name for _ in range(4000))
    assert counts["big"] / 4000 == pytest.approx(0.75, abs=0.05)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 60))
def test_held_requests_spread_by_weight(weights: list[int], held: int) -> None:
    """Requests that never end: no backend gets one more than its share, rounded up."""
    available = [Candidate(f"b{n}", weight) for n, weight in enumerate(weights)]
    policy = LeastRequests()
    for _ in range(held):
        policy.pick(available, RNG).in_flight += 1
    for candidate in available:
        assert candidate.in_flight <= held * candidate.weight / sum(weights) + candidate.weight


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 4))
def test_round_robin_is_exact_over_a_full_cycle(weights: list[int], cycles: int) -> None:
    available = [Candidate(f"b{n}", weight) for n, weight in enumerate(weights)]
    policy = RoundRobin()
    picks = [policy.pick(available, RNG).name for _ in range(sum(weights) * cycles)]
    assert Counter(picks) == {c.name: c.weight * cycles for c in available}


def test_round_robin_is_smooth() -> None:
    available = [Candidate("a", 5), Candidate("b"), Candidate("c")]
    policy = RoundRobin()
    assert "".join(policy.pick(available, RNG).name for _ in range(7)) == "aabacaa"


def test_round_robin_takes_in_a_newcomer_without_a_burst() -> None:
    policy = RoundRobin()
    old = [Candidate("a"), Candidate("b")]
    for _ in range(101):
        policy.pick(old, RNG)
    grown = [*old, Candidate("c")]
    picks = Counter(policy.pick(grown, RNG).name for _ in range(30))
    assert picks == {"a": 10, "b": 10, "c": 10}


def test_an_unknown_policy_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        policy_named("magic")
