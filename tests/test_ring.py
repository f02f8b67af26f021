"""Consistent hashing: a key stays where it is unless it must move, and nobody gets too much."""

from __future__ import annotations

import random
from collections import Counter
from math import ceil
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config_service import HashConfig
from lb.ring import REMEMBERED, REMEMBERED_BYTES, ConsistentHash, Ring, hash_key
from tests.candidates import Candidate, fleet, give, slate, take

KEYS = [b"198.51.100.%d" % n for n in range(200)]

members_by_weight = st.dictionaries(
    st.text(min_size=1, max_size=8), st.integers(1, 4), min_size=2, max_size=12
).map(lambda weights: [Candidate(name, weight) for name, weight in weights.items()])


def owners(
    members: list[Candidate], policy: ConsistentHash | None = None
) -> dict[bytes, Candidate]:
    field = slate(policy or ConsistentHash(), *members)
    return {key: field.pick(0.0, key) for key in KEYS}


@given(members_by_weight, st.data())
def test_one_that_leaves_gives_away_its_own_keys_only(
    members: list[Candidate], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(members))
    policy = ConsistentHash()
    before = owners(members, policy)
    after = owners([m for m in members if m is not gone], policy)
    assert all(after[key] is owner for key, owner in before.items() if owner is not gone)
    back = owners(members, policy)
    assert back == before, "and gets them back"


@given(members_by_weight)
def test_one_that_comes_takes_keys_only_for_itself(members: list[Candidate]) -> None:
    new = Candidate("newcomer!", 2)
    before, after = owners(members), owners([*members, new])
    assert all(after[key] in (owner, new) for key, owner in before.items())


def test_one_that_comes_takes_its_share() -> None:
    members = fleet(9)
    policy = ConsistentHash()
    keys = [b"%d" % n for n in range(4000)]
    field, grown = slate(policy, *members), slate(policy, *members, Candidate("new"))
    moved = sum(grown.pick(0.0, key) is not field.pick(0.0, key) for key in keys)
    assert moved / len(keys) == pytest.approx(1 / 10, abs=0.03)


def test_keys_are_spread_by_weight() -> None:
    members = [Candidate(f"b{n}", 1 + n % 3) for n in range(12)]
    field = slate(ConsistentHash(), *members)
    counts = Counter(field.pick(0.0, b"%d" % n).name for n in range(12000))
    for member in members:
        fair = 12000 * member.weight / sum(m.weight for m in members)
        assert counts[member.name] == pytest.approx(fair, rel=0.25)


@given(members_by_weight)
def test_the_order_of_joining_does_not_matter(members: list[Candidate]) -> None:
    policy = ConsistentHash()
    before = owners(members, policy)
    assert owners(members[::-1], policy) == owners(members[::-1]) == before


def test_places_are_the_same_in_every_process() -> None:
    """Else a restart would scatter every client. These are what the hash gave when it was made."""
    field = slate(ConsistentHash(), *fleet(4))
    found = "".join(field.pick(0.0, key).name[7] for key in KEYS)
    assert found.startswith("323323221302321230003101012112013332111011102332121330311330")
    assert crc32(found.encode()) == 1544437261


def test_keys_are_forgotten_before_they_are_too_many_and_keep_their_owners() -> None:
    ring = Ring([("a", 1), ("b", 2), ("c", 1)], {})
    long = b"x" * (REMEMBERED_BYTES + 1)
    before = {key: ring.owners(key) for key in (*KEYS, long)}
    assert set(ring.remembered) == set(KEYS), "no long ones"
    for number in range(REMEMBERED + 100):
        ring.owners(b"%d" % number)
        assert len(ring.remembered) <= REMEMBERED
    assert {key: ring.owners(key) for key in (*KEYS, long)} == before


@given(
    members_by_weight, st.floats(1.05, 3), st.integers(1, 80), st.integers(1, 4),
    st.sampled_from([0.1, 0.55, 1.0]),
)  # fmt: skip
def test_nobody_gets_more_than_so_many_times_its_share(
    members: list[Candidate], load: float, requests: int, keys: int, warmth: float
) -> None:
    """Requests that never end, of few keys: the bound of Mirrokni, Thorup and Zadimoghaddam."""
    members[0].share *= warmth
    total = sum(member.share for member in members)
    field = slate(ConsistentHash(load), *members)
    for number in range(requests):
        member = take(field, key=b"%d" % (number % keys))
        assert member.in_flight - 1 < ceil(load * (number + 1) * member.share / total)


def test_requests_that_ended_count_no_more() -> None:
    members = fleet(4)
    field = slate(ConsistentHash(), *members)
    hot = take(field, key=b"hot")
    others = [take(field, key=b"%d" % number) for number in range(40)]
    assert take(field, key=b"hot") is hot
    for member in others:
        give(field, member)
    assert take(field, key=b"hot") is not hot, "2 of 2 are more than 1.25 × 3 ÷ 4, rounded up"


def test_what_a_full_one_sends_on_goes_to_many() -> None:
    members = fleet(20)
    field = slate(ConsistentHash(), *members)
    keys = [b"%d" % n for n in range(3000)]
    hot = members[0]
    mine = [key for key in keys if field.pick(0.0, key) is hot]
    field.close(hot)
    elsewhere = {field.pick(0.0, key).name for key in mine}
    assert hot.name not in elsewhere
    assert len(elsewhere) >= 15
    field.reopen(hot)
    assert all(field.pick(0.0, key) is hot for key in mine)


def test_where_all_nearest_are_full_the_least_busy_of_the_rest_is_taken() -> None:
    members = fleet(200)
    *full, busy, last = members
    busy.in_flight = 1
    field = slate(ConsistentHash(1000.0), *members, closed=full)
    picks = [field.pick(0.0, key) for key in KEYS]
    assert set(picks) == {busy, last}, "a few keys have the busy one near them"
    assert picks.count(last) > 150


def test_slow_start_lowers_the_bound_and_moves_no_key() -> None:
    members = fleet(4)
    policy = ConsistentHash()
    before = owners(members, policy)
    new = members[0]
    new.share = 0.1
    assert owners(members, policy) == before
    for member in members:
        member.in_flight = 3
    mine = [key for key, owner in before.items() if owner is new]
    picks = owners(members, policy)
    assert all(picks[key] is not new for key in mine), "3 is more than 1.25 × 13 × 0.1 / 3.1"
    new.in_flight = 0
    for member in members[1:]:
        member.in_flight = 5
    picks = owners(members, policy)
    theirs = [key for key, owner in before.items() if owner is not new]
    assert all(picks[key] is before[key] for key in theirs), "5 is less than 1.25 × 16 / 3.1"


def test_a_request_without_a_key_goes_anywhere() -> None:
    field = slate(ConsistentHash(), *fleet(4), rng=random.Random(2))
    assert len({field.pick(0.0).name for _ in range(60)}) == 4


FIELDS = [
    (b"Host", b"x"),
    (b"X-User", b"ann"),
    (b"x-user", b"ben"),
    (b"Cookie", b"a=1; session=s3; session=s4"),
]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (HashConfig(), b"192.0.2.1"),
        (HashConfig(by="header", name="x-user"), b"ann"),
        (HashConfig(by="header", name="X-Other"), b"192.0.2.1"),
        (HashConfig(by="cookie", name="session"), b"s3"),
        (HashConfig(by="cookie", name="Session"), b"192.0.2.1"),
    ],
)
def test_what_a_key_is_made_of(config: HashConfig, key: bytes) -> None:
    assert hash_key(config, FIELDS, b"192.0.2.1") == key
