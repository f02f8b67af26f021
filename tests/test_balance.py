"""Policies: fair, by weight, and never picking what is not there."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.balance import (
    POLICIES,
    LeastRequests,
    PeakEwma,
    RandomTwo,
    RoundRobin,
    cost,
    policy_named,
)
from lb.slate import Policy, Slate
from tests.candidates import Candidate, answered, candidates, fleet, slate

RNG = random.Random(7)
NAMES = sorted(POLICIES)


def shares(policy: Policy, field: Slate[Candidate], picks: int = 4000) -> dict[str, float]:
    """What part of the picks each gets."""
    rng = random.Random(1)
    counts = Counter(policy.pick(field, rng, 0.0).name for _ in range(picks))
    return {member.name: counts[member.name] / picks for member in field.members}


# ── whatever policy ──────────────────────────────────────────────────────────────────────────────


@given(candidates, st.sampled_from(NAMES), st.data())
def test_a_policy_picks_one_that_is_open(
    members: list[Candidate], name: str, data: st.DataObject
) -> None:
    closed = data.draw(st.sets(st.sampled_from(members), max_size=len(members) - 1))
    field = Slate(members, set(closed), sum(m.in_flight for m in members))
    policy = policy_named(name)
    for now in range(3):
        picked = policy.pick(field, RNG, float(now), b"key")
        assert picked in members
        assert picked not in closed


@pytest.mark.parametrize("name", NAMES)
def test_equal_backends_get_equal_shares(name: str) -> None:
    for share in shares(policy_named(name), slate(*fleet(5))).values():
        assert share == pytest.approx(0.2, abs=0.045)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "consistent_hash"])
def test_idle_backends_are_picked_by_weight(name: str) -> None:
    members = [Candidate(f"b{weight}", weight) for weight in (1, 3, 4)]
    found = shares(policy_named(name), slate(*members))
    for member in members:
        assert found[member.name] == pytest.approx(member.weight / 8, abs=0.04)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "consistent_hash"])
def test_one_that_starts_slowly_gets_its_share_and_no_more(name: str) -> None:
    members = [*fleet(3), Candidate("new", share=0.1)]
    assert shares(policy_named(name), slate(*members))["new"] == pytest.approx(0.1 / 3.1, abs=0.015)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "consistent_hash"])
def test_a_share_that_changed_counts_from_the_next_slate_on(name: str) -> None:
    members = fleet(2)
    policy = policy_named(name)
    policy.pick(slate(*members), RNG, 0.0)
    members[0].share = 9.0
    assert shares(policy, slate(*members))[members[0].name] == pytest.approx(0.9, abs=0.02)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 60),
    st.sampled_from(["least_requests", "consistent_hash"]),
)  # fmt: skip
def test_held_requests_spread_by_weight(weights: list[int], held: int, name: str) -> None:
    """Requests that never end: no backend gets much more than its share."""
    members = [Candidate(f"b{n}", weight) for n, weight in enumerate(weights)]
    policy = policy_named(name)
    for number in range(held):
        policy.pick(slate(*members), RNG, 0.0, b"%d" % number).in_flight += 1
    slack = 1.25 if name == "consistent_hash" else 1.0
    for member in members:
        fair = held * member.weight / sum(weights)
        assert member.in_flight <= slack * fair + member.weight


def test_an_unknown_policy_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        policy_named("magic")


def test_a_slate_with_more_of_them_closed_is_else_the_same() -> None:
    a, b, c = members = fleet(3)
    whole = Slate(members, {a}, 7)
    less = whole.without({b})
    assert (less.members, less.closed, less.running) == (members, {a, b}, 7)
    assert less.members is whole.members
    assert (whole.open(), less.open()) == ([b, c], [c])


# ── least_requests ───────────────────────────────────────────────────────────────────────────────


@given(candidates)
def test_least_requests_leaves_nobody_better(members: list[Candidate]) -> None:
    picked = LeastRequests().pick(slate(*members), RNG, 0.0)
    assert all(
        picked.in_flight * other.share <= other.in_flight * picked.share for other in members
    )


@given(st.integers(1, 10), st.integers(1, 20))
def test_ties_take_turns(number: int, rounds: int) -> None:
    field = slate(*fleet(number))
    policy = LeastRequests()
    counts = Counter(policy.pick(field, RNG, 0.0).name for _ in range(number * rounds))
    assert set(counts.values()) == {rounds}


# ── round_robin ──────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 4))
def test_round_robin_is_exact_over_a_full_cycle(weights: list[int], cycles: int) -> None:
    members = [Candidate(f"b{n}", weight) for n, weight in enumerate(weights)]
    policy = RoundRobin()
    picks = [policy.pick(slate(*members), RNG, 0.0).name for _ in range(sum(weights) * cycles)]
    assert Counter(picks) == {c.name: c.weight * cycles for c in members}


def test_round_robin_is_smooth() -> None:
    field = slate(Candidate("a", 5), Candidate("b"), Candidate("c"))
    policy = RoundRobin()
    assert "".join(policy.pick(field, RNG, 0.0).name for _ in range(7)) == "aabacaa"


def test_round_robin_takes_in_a_newcomer_without_a_burst() -> None:
    policy = RoundRobin()
    old = [Candidate("a"), Candidate("b")]
    for _ in range(101):
        policy.pick(slate(*old), RNG, 0.0)
    grown = slate(*old, Candidate("c"))
    picks = Counter(policy.pick(grown, RNG, 0.0).name for _ in range(30))
    assert picks == {"a": 10, "b": 10, "c": 10}


# ── random_two ───────────────────────────────────────────────────────────────────────────────────


@given(candidates.filter(lambda members: len(members) > 1), st.integers(0, 2**32))
def test_random_two_never_takes_the_busiest_alone(members: list[Candidate], seed: int) -> None:
    """It looks at two different ones, so the one that is worse than every other is never picked."""
    worst = max(members, key=lambda member: member.in_flight / member.share)
    worst.in_flight += 1000
    field = slate(*members)
    policy, rng = RandomTwo(), random.Random(seed)
    assert all(policy.pick(field, rng, 0.0) is not worst for _ in range(20))


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1 - 2**-53]), min_size=2, max_size=2))
def test_whatever_the_dice_say_two_different_ones_are_drawn(dice: list[float]) -> None:
    class Dice:
        def random(self) -> float:
            return left.pop(0)

    for members in (
        fleet(3),
        [Candidate("a", 1), Candidate("b", 256), Candidate("c", 3)],
        [Candidate("a", share=0.1), Candidate("b")],  # 1.1 - (1.1 - 0.1) is more than 0.1
    ):
        for worst in members:
            left = list(dice)
            for member in members:
                member.in_flight = 5 if member is worst else 0
            assert RandomTwo().pick(slate(*members), Dice(), 0.0) is not worst


def test_random_two_balances_far_better_than_chance() -> None:
    """1000 requests on 100: at random the fullest has about 20, by two choices about 12."""
    members = fleet(100)
    field = slate(*members)
    policy, rng = RandomTwo(), random.Random(3)
    for _ in range(1000):
        policy.pick(field, rng, 0.0).in_flight += 1
    assert max(member.in_flight for member in members) <= 13


def test_the_second_is_drawn_by_share_among_the_others() -> None:
    members = [Candidate("busy", 6, in_flight=99), Candidate("b"), Candidate("c")]
    found = shares(RandomTwo(), slate(*members))
    assert found == pytest.approx({"busy": 0, "b": 0.5, "c": 0.5}, abs=0.03)


def test_random_two_looks_at_open_ones_only() -> None:
    members = fleet(4)
    field = slate(*members, closed=tuple(members[:3]))
    assert {RandomTwo().pick(field, RNG, 0.0) for _ in range(20)} == {members[3]}


# ── peak_ewma ────────────────────────────────────────────────────────────────────────────────────


def test_peak_ewma_goes_by_latency_times_load() -> None:
    slow = Candidate("slow", in_flight=1, peak=answered(0.3))
    fast = Candidate("fast", in_flight=4, peak=answered(0.1))
    policy = PeakEwma()
    assert policy.pick(slate(slow, fast), RNG, 0.0) is fast, "0.3 × 2 > 0.1 × 5"
    fast.in_flight = 6
    assert policy.pick(slate(slow, fast), RNG, 0.0) is slow, "0.3 × 2 < 0.1 × 7"


def test_twice_the_weight_is_half_the_cost() -> None:
    small = Candidate("small", in_flight=1, peak=answered(0.2))
    big = Candidate("big", 2, in_flight=1, peak=answered(0.2))
    assert cost(big, 5.0) == pytest.approx(cost(small, 5.0) / 2)


def test_an_idle_one_that_was_slow_gets_its_next_chance() -> None:
    slow = Candidate("slow", peak=answered(5.0))
    fast = Candidate("fast", in_flight=1, peak=answered(0.1))
    policy = PeakEwma()
    assert policy.pick(slate(slow, fast), RNG, 1.0) is fast
    assert policy.pick(slate(slow, fast), RNG, 60.0) is slow, "5 s × e⁻⁶ = 12 ms"
    slow.in_flight = 1
    assert policy.pick(slate(slow, fast), RNG, 60.0) is fast, "one request is chance enough"


def test_one_that_hangs_does_not_look_faster_for_it() -> None:
    hanging = Candidate("hanging", in_flight=3, peak=answered(0.1))
    assert cost(hanging, 1000.0) == cost(hanging, 0.0)


def test_a_newcomer_gets_one_request_until_it_has_answered() -> None:
    new = Candidate("new")
    others = [Candidate(f"b{n}", in_flight=5, peak=answered(2.0)) for n in range(3)]
    field = slate(new, *others)
    policy, rng = PeakEwma(), random.Random(5)
    for _ in range(200):
        picked = policy.pick(field, rng, 0.0)
        if picked is new:
            picked.in_flight += 1
    assert new.in_flight == 1
