"""Policies: fair, by weight, and never picking what is not there."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lb.balance import POLICIES, PeakEwma, RandomTwo, cost, policy_named
from lb.slate import NoChoice, Slate
from tests.candidates import Candidate, answered, ask, candidates, fleet, give, slate, take

NAMES = sorted(POLICIES)
BY_SHARE = [name for name in NAMES if name != "consistent_hash"]


def shares(field: Slate[Candidate], picks: int = 4000) -> dict[str, float]:
    """What part of the requests each gets, one at a time."""
    counts = Counter(ask(field).name for _ in range(picks))
    return {member.name: counts[member.name] / picks for member in field.members}


# ── whatever policy ──────────────────────────────────────────────────────────────────────────────


@given(candidates, st.sampled_from(NAMES), st.data())
def test_a_policy_picks_one_that_is_open(
    members: list[Candidate], name: str, data: st.DataObject
) -> None:
    closed = data.draw(st.sets(st.sampled_from(members), max_size=len(members) - 1))
    field = slate(policy_named(name), *members, closed=closed)
    for now in range(3):
        picked = take(field, float(now), b"key")
        assert picked in members
        assert picked not in closed


@pytest.mark.parametrize("name", NAMES)
def test_equal_backends_get_equal_shares(name: str) -> None:
    for share in shares(slate(policy_named(name), *fleet(5))).values():
        assert share == pytest.approx(0.2, abs=0.045)


@pytest.mark.parametrize("name", BY_SHARE)
def test_idle_backends_are_picked_by_weight(name: str) -> None:
    members = [Candidate(f"b{weight}", weight) for weight in (1, 3, 4)]
    found = shares(slate(policy_named(name), *members))
    for member in members:
        assert found[member.name] == pytest.approx(member.weight / 8, abs=0.04)


@pytest.mark.parametrize("name", BY_SHARE)
def test_one_that_starts_slowly_gets_its_share_and_no_more(name: str) -> None:
    members = [*fleet(3), Candidate("new", share=0.1)]
    found = shares(slate(policy_named(name), *members))
    assert found["new"] == pytest.approx(0.1 / 3.1, abs=0.015)


@pytest.mark.parametrize("name", BY_SHARE)
def test_a_share_that_changed_counts_from_the_next_slate_on(name: str) -> None:
    members = fleet(2)
    policy = policy_named(name)
    ask(slate(policy, *members))
    members[0].share = 9.0
    assert shares(slate(policy, *members))[members[0].name] == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("name", BY_SHARE)
def test_a_slate_for_every_request_changes_nobodys_share(name: str) -> None:
    """As in a slow start, in which shares grow a hundred times."""
    members = [Candidate("a", 3), Candidate("b", 2), Candidate("c")]
    policy, rng = policy_named(name), random.Random(4)
    counts = Counter(ask(slate(policy, *members, rng=rng)).name for _ in range(3000))
    for member in members:
        assert counts[member.name] / 3000 == pytest.approx(member.weight / 6, abs=0.04)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 60),
    st.sampled_from(["least_requests", "consistent_hash"]),
)  # fmt: skip
def test_held_requests_spread_by_weight(weights: list[int], held: int, name: str) -> None:
    """Requests that never end: no backend gets much more than its share."""
    members = [Candidate(f"b{n}", weight) for n, weight in enumerate(weights)]
    field = slate(policy_named(name), *members)
    for number in range(held):
        take(field, key=b"%d" % number)
    slack = 1.25 if name == "consistent_hash" else 1.0
    for member in members:
        fair = held * member.weight / sum(weights)
        assert member.in_flight <= slack * fair + member.weight


def test_an_unknown_policy_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        policy_named("magic")


def test_where_there_is_one_there_is_no_choice() -> None:
    member = Candidate("only")
    field = NoChoice([member])
    assert ask(field) is member
    field.close(member)
    assert field.closed == {member}
    field.reopen(member)
    assert ask(field) is member


class Watched(Candidate):
    """Counts how often anybody is looked at."""

    looks = 0

    def __getattribute__(self, name: str) -> object:
        if name in ("in_flight", "share"):
            Watched.looks += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 3)])
@pytest.mark.parametrize("open_ones", [3, 900])
def test_a_request_looks_at_a_few_however_many_there_are(
    name: str, weights: tuple[int, ...], open_ones: int
) -> None:
    members: list[Candidate] = [Watched(f"b{n}", weights[n % 3]) for n in range(1000)]
    field = slate(policy_named(name), *members, closed=members[open_ones:])
    held = [take(field, key=b"%d" % n) for n in range(open_ones // 2)]
    for member in held[::2]:
        give(field, member)
    Watched.looks = 0
    for number in range(100):
        ask(field, key=b"%d" % number)
        field.close(members[0])
        field.reopen(members[0])
    # 21 probes of a key look at two attributes each
    assert Watched.looks / 100 <= 60


class SlateMachine(RuleBasedStateMachine):
    """Requests come and end, backends close and open, in any order. A plain walk over all of them
    says who might have been picked."""

    @initialize(
        name=st.sampled_from(NAMES),
        rows=st.lists(
            st.tuples(st.sampled_from([0.1, 1.0, 1.0, 1.5, 4.0]), st.integers(0, 4)),
            min_size=2, max_size=6,
        ),
        equal=st.booleans(),
    )  # fmt: skip
    def begin(self, name: str, rows: list[tuple[float, int]], equal: bool) -> None:
        self.name = name
        self.members = [
            Candidate(f"b{n}", 1, running, share=1.0 if equal else share)
            for n, (share, running) in enumerate(rows)
        ]
        self.slate = slate(policy_named(name), *self.members)
        self.closed: set[Candidate] = set()

    def is_open(self) -> bool:
        return len(self.closed) < len(self.members)

    @precondition(is_open)
    @rule(key=st.sampled_from([None, b"k", b"other"]))
    def take(self, key: bytes | None) -> None:
        open_ones = [member for member in self.members if member not in self.closed]
        loads = {member: member.in_flight / member.share for member in open_ones}
        picked = take(self.slate, 1.0, key)
        assert picked in loads
        if self.name == "least_requests":
            assert loads[picked] == min(loads.values())

    @rule(which=st.integers(0, 5))
    def preferred(self, which: int) -> None:
        member = self.members[which % len(self.members)]
        if member not in self.closed:
            member.in_flight += 1
            self.slate.took(member)

    @rule(which=st.integers(0, 5))
    def give(self, which: int) -> None:
        member = self.members[which % len(self.members)]
        if member.in_flight:
            give(self.slate, member)

    @rule(which=st.integers(0, 5))
    def close_or_open(self, which: int) -> None:
        member = self.members[which % len(self.members)]
        if member in self.closed:
            self.closed.remove(member)
            self.slate.reopen(member)
        else:
            self.closed.add(member)
            self.slate.close(member)

    @invariant()
    def the_slate_knows_who_is_closed(self) -> None:
        if hasattr(self, "slate"):
            assert self.slate.closed == self.closed


TestSlateMachine = SlateMachine.TestCase
TestSlateMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# ── random_two ───────────────────────────────────────────────────────────────────────────────────


@given(candidates.filter(lambda members: len(members) > 1), st.integers(0, 2**32))
def test_random_two_never_takes_the_busiest_alone(members: list[Candidate], seed: int) -> None:
    """It looks at two different ones, so the one that is worse than every other is never picked."""
    worst = max(members, key=lambda member: member.in_flight / member.share)
    worst.in_flight += 1000
    field = slate(RandomTwo(), *members, rng=random.Random(seed))
    assert all(field.pick(0.0) is not worst for _ in range(20))


def test_random_two_balances_far_better_than_chance() -> None:
    """1000 requests on 100: at random the fullest has about 20, by two choices about 12."""
    members = fleet(100)
    field = slate(RandomTwo(), *members)
    for _ in range(1000):
        take(field)
    assert max(member.in_flight for member in members) <= 13


def test_the_second_is_drawn_by_share_among_the_others() -> None:
    members = [Candidate("busy", 6, in_flight=99), Candidate("b"), Candidate("c")]
    found = shares(slate(RandomTwo(), *members))
    assert found == pytest.approx({"busy": 0, "b": 0.5, "c": 0.5}, abs=0.03)


def test_random_two_looks_at_open_ones_only() -> None:
    members = fleet(4)
    field = slate(RandomTwo(), *members, closed=members[:3])
    assert {field.pick(0.0) for _ in range(20)} == {members[3]}


# ── peak_ewma ────────────────────────────────────────────────────────────────────────────────────


def test_peak_ewma_goes_by_latency_times_load() -> None:
    slow = Candidate("slow", in_flight=1, peak=answered(0.3))
    fast = Candidate("fast", in_flight=4, peak=answered(0.1))
    field = slate(PeakEwma(), slow, fast)
    assert field.pick(0.0) is fast, "0.3 × 2 > 0.1 × 5"
    fast.in_flight = 6
    assert field.pick(0.0) is slow, "0.3 × 2 < 0.1 × 7"


def test_twice_the_weight_is_half_the_cost() -> None:
    small = Candidate("small", in_flight=1, peak=answered(0.2))
    big = Candidate("big", 2, in_flight=1, peak=answered(0.2))
    assert cost(big, 5.0) == pytest.approx(cost(small, 5.0) / 2)


def test_an_idle_one_that_was_slow_gets_its_next_chance() -> None:
    slow = Candidate("slow", peak=answered(5.0))
    fast = Candidate("fast", in_flight=1, peak=answered(0.1))
    field = slate(PeakEwma(), slow, fast)
    assert field.pick(1.0) is fast
    assert field.pick(60.0) is slow, "5 s × e⁻⁶ = 12 ms"
    slow.in_flight = 1
    assert field.pick(60.0) is fast, "one request is chance enough"


def test_one_that_hangs_does_not_look_faster_for_it() -> None:
    hanging = Candidate("hanging", in_flight=3, peak=answered(0.1))
    assert cost(hanging, 1000.0) == cost(hanging, 0.0)


def test_a_newcomer_gets_one_request_until_it_has_answered() -> None:
    new = Candidate("new")
    others = [Candidate(f"b{n}", in_flight=5, peak=answered(2.0)) for n in range(3)]
    field = slate(PeakEwma(), new, *others, rng=random.Random(5))
    for _ in range(200):
        if field.pick(0.0) is new:
            new.in_flight += 1
            field.took(new)
    assert new.in_flight == 1
