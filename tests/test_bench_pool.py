"""What the pool benchmark measures and what it calls a miss. The run is `./run bench pool`."""

from __future__ import annotations

import random

import pytest

from bench.pool import CASES, Case, Figure, Walk, keys, leases, misses, pool, report, requests
from lb.balance import policy_named


def figure(case: str = "least_requests", backends: int = 10_000, pick_ns: float = 900.0) -> Figure:
    return Figure(case, backends, pick_ns, 2_000.0, 450_000.0, counts=True)


def test_a_slow_pick_of_the_most_is_a_miss() -> None:
    assert misses([figure(), figure(backends=1_000, pick_ns=5_000.0)]) == []
    (missed,) = misses([figure(pick_ns=1_100.0)])
    assert missed == "least_requests: a pick of 10,000 takes 1.10 µs, more than 1"


def test_the_target_holds_for_equal_shares_and_not_for_hashing() -> None:
    held = {str(case) for case in CASES if case.counts}
    assert held == {"least_requests", "round_robin", "random_two", "peak_ewma"}
    slow = Figure("round_robin, weighted", 10_000, 5_000.0, 1.0, 1.0, counts=False)
    assert misses([slow]) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_as_many_are_running_as_there_are_backends(case: Case) -> None:
    members = [*pool(case, 6)]
    slate = policy_named(case.policy).slate(members, random.Random(1))
    requests(slate, keys(case))(50)
    assert sum(member.in_flight for member in members) == 3
    of = pool(case, 6)
    leases(of, keys(case))(50)
    assert of.in_flight == 3
    assert sum(backend.requests_total for backend in of) == 53
    assert {backend.weight for backend in of} == ({1, 2, 3} if case.weighted else {1})


def test_the_walk_finds_the_least_busy_for_its_share() -> None:
    a, b, c = members = [*pool(Case("least_requests", weighted=True), 3)]
    for member, running in zip(members, (1, 1, 2), strict=True):
        member.share, member.in_flight = float(member.weight), running
    assert Walk(members).pick(0.0) is b, "1 ÷ 2 is less than 1 and 2 ÷ 3"
    b.in_flight = 9
    assert Walk(members).pick(0.0) is c
    assert a.in_flight == 1


def test_keys_come_again_unless_they_are_to_be_new() -> None:
    again, new = keys(Case("consistent_hash")), keys(Case("consistent_hash", new_keys=True))
    assert len({next(again) for _ in range(20_500)}) == 10_000
    assert len({next(new) for _ in range(20_500)}) == 20_500


def test_the_report_puts_the_walk_beside_the_picks() -> None:
    lines = report([figure(backends=10, pick_ns=300.0), figure()]).splitlines()
    assert lines[0] == "| ns of CPU, backends: | 10 | 10,000 |"
    assert "| pick, least_requests | 300 | 900 |" in lines
    assert lines[-1] == "| pick, least_requests, ÷ walk | 0.00067 | 0.002 |"
