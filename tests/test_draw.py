"""Draws by share, whoever is closed, in as many tries as two on average."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.balance import RandomTwo
from lb.draw import Draw
from tests.candidates import Candidate, fleet, slate

CLOSE = 0.03


class Drawn(Draw[Candidate]):
    def pick(self, now: float, key: bytes | None = None) -> Candidate:
        return self.two()[0]


def first(field: Draw[Candidate], picks: int = 6000) -> dict[str, float]:
    counts = Counter(field.pick(0.0).name for _ in range(picks))
    return {member.name: counts[member.name] / picks for member in field.members}


@pytest.mark.parametrize(
    "shares", [(1, 1, 1), (3, 2, 4), (0.1, 1, 1), (256, 1, 3), (0.3, 0.7, 90), (1, 1.5, 1.9)]
)
@pytest.mark.parametrize("closed", [0, 1, 2, 3])
def test_the_first_is_drawn_by_share_among_the_open(shares: tuple[float, ...], closed: int) -> None:
    members = [Candidate(f"b{n}", share=share) for n, share in enumerate(shares)]
    field = Drawn(members, random.Random(5))
    shut = members[closed : closed + 1]
    for member in shut:
        field.close(member)
    whole = sum(member.share for member in members if member not in shut)
    expected = {m.name: 0 if m in shut else m.share / whole for m in members}
    assert first(field) == pytest.approx(expected, abs=CLOSE)
    for member in shut:
        field.reopen(member)
    expected = {m.name: m.share / sum(shares) for m in members}
    assert first(field) == pytest.approx(expected, abs=CLOSE)


def test_the_second_is_drawn_by_share_among_the_others() -> None:
    members = [Candidate("a", 200), Candidate("b", 1), Candidate("c", 3)]
    field = Drawn(members, random.Random(6))
    seconds = Counter(
        two[1].name for two in (field.two() for _ in range(6000)) if two[0].name == "a"
    )
    assert seconds["c"] / seconds.total() == pytest.approx(0.75, abs=CLOSE)
    assert seconds["a"] == 0


class Dice:
    """Says this first, then what chance says."""

    def __init__(self, first: list[float]) -> None:
        self.first = list(first)
        self.rest = random.Random(1)
        self.thrown = 0

    def random(self) -> float:
        self.thrown += 1
        return self.first.pop(0) if self.first else self.rest.random()


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1 - 2**-53]), max_size=6))
def test_whatever_the_dice_say_two_different_ones_are_drawn(first: list[float]) -> None:
    for members in (
        fleet(3),
        [Candidate("a", 1), Candidate("b", 256), Candidate("c", 3)],
        [Candidate("a", share=0.1), Candidate("b")],
    ):
        for worst in members:
            for member in members:
                member.in_flight = 5 if member is worst else 0
            assert slate(RandomTwo(), *members, rng=Dice(first)).pick(0.0) is not worst


def test_where_only_one_is_open_it_is_drawn_twice() -> None:
    for members in (fleet(5), [Candidate(f"b{n}", n + 1) for n in range(5)]):
        field = Drawn(members, random.Random(1))
        for member in members[1:]:
            field.close(member)
        assert field.two() == (members[0], members[0])


@pytest.mark.parametrize("heavy", [1, 256])
def test_it_takes_few_tries_however_many_are_closed_and_whatever_the_shares(heavy: int) -> None:
    dice = Dice([])
    members = [Candidate("heavy", heavy), *fleet(1000), Candidate("half", share=0.5)]
    field = Drawn(members, dice)
    for member in members[3:]:
        field.close(member)
    for _ in range(300):
        field.two()
    assert dice.thrown <= 300 * 2 * 3
