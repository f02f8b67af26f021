"""Turns by share: exact, smooth, going on over changes; and what is closed loses its own."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lb.rota import Rota, phases_for
from tests.candidates import Candidate, ask, fleet, give

weights = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def rota(*members: Candidate, seed: int = 1, by_load: bool = False) -> Rota[Candidate]:
    return Rota(members, phases_for(members, {}, random.Random(seed)), by_load=by_load)


@given(weights, st.integers(0, 2**32), st.integers(1, 100))
def test_nobody_is_ever_a_turn_ahead_or_behind(numbers: list[int], seed: int, picks: int) -> None:
    """Counted from any moment on, each has between k - 2 and k + 2 where its share is k: one turn
    for where it stands in its period, one for where the others do."""
    members = [Candidate(f"b{n}", weight) for n, weight in enumerate(numbers)]
    field = rota(*members, seed=seed)
    counts = Counter(ask(field).name for _ in range(picks))
    for member in members:
        fair = picks * member.weight / sum(numbers)
        assert abs(counts[member.name] - fair) <= 1 + len(members) * member.weight / sum(numbers)


def test_turns_go_on_when_shares_change() -> None:
    """One whose share grows in small steps, as in a slow start, is neither put off nor preferred
    by each of them."""
    members = [*fleet(3), Candidate("new", share=0.1)]
    field = rota(*members)
    picks: Counter[str] = Counter()
    fair = 0.0
    for step in range(900):
        members[-1].share = 0.1 + step * 0.001
        fair += members[-1].share / (3 + members[-1].share)
        field = Rota(members, field.phases())
        picks[ask(field).name] += 1
    assert abs(picks["new"] - fair) <= 2


def test_one_that_was_closed_makes_up_for_nothing() -> None:
    a, b, c = members = fleet(3)
    field = rota(*members)
    field.close(c)
    assert {ask(field) for _ in range(100)} == {a, b}
    field.reopen(c)
    picks = [ask(field) for _ in range(30)]
    assert Counter(picks) == {a: 10, b: 10, c: 10}


def test_a_preferred_one_has_had_its_turn_and_loses_no_more() -> None:
    a, b = members = fleet(2)
    field = rota(*members)
    for _ in range(1000):
        a.in_flight += 1
        field.took(a)
        give(field, a)
    assert ask(field) is b
    picks = Counter(ask(field) for _ in range(20))
    assert abs(picks[a] - picks[b]) <= 2


def test_it_does_not_grow_with_the_requests() -> None:
    busy, *_ = members = [Candidate("busy", 2, in_flight=9), Candidate("b"), Candidate("c", 3)]
    field = rota(*members, by_load=True)
    for _ in range(1000):
        busy.in_flight += 1
        field.took(busy)
        give(field, busy)
    assert len(field._heap) <= 40
    assert ask(field) is not busy
