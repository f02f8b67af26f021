"""When is the new image worse? By numbers that are more than chance."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.canary import WARM_S, Comparison, duration_bounds, share_bounds, why_worse
from autoscale.model import Answers

BOUNDS = tuple(0.01 * step for step in range(1, 101))


def answers(asked: int, bad: int = 0, seconds: float = 0.05, slow: int = 0) -> Answers:
    """So many, all as long but the `slow`, which take 0.9 s."""
    counts = [0] * (len(BOUNDS) + 1)
    counts[round(seconds * 100) - 1] += asked - slow
    counts[89] += slow
    return Answers(asked, bad, tuple(counts), BOUNDS)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (answers(5, 5), answers(40)),
        (answers(100, 20), answers(300, 3)),
        (answers(1000, 40), answers(1000, 5)),
        (answers(10, 10), Answers()),
    ],
)
def test_more_errors_than_chance_explains(new: Answers, old: Answers) -> None:
    assert "requests failed on the new ones" in why_worse(new, old)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (answers(4, 4), answers(400)),  # a few are nobody's fault
        (answers(20, 5), answers(20, 3)),
        (answers(100, 50), answers(100, 50)),  # what everybody suffers from
        (answers(100_000, 600), answers(100_000, 300)),  # sure, and too little to matter
        (answers(10, 5), Answers()),
        (Answers(), answers(100)),
        (Answers(), Answers()),
    ],
)
def test_errors_that_say_nothing(new: Answers, old: Answers) -> None:
    assert why_worse(new, old) == ""


@pytest.mark.parametrize(
    ("new", "old", "words"),
    [
        (answers(40, seconds=0.2), answers(40), "half of the answers"),
        (answers(600, slow=120), answers(600), "5% of the answers"),
    ],
)
def test_slower_by_the_middle_or_by_the_tail(new: Answers, old: Answers, words: str) -> None:
    assert why_worse(new, old).startswith(words)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (answers(19, seconds=0.9), answers(500)),  # too few to say
        (answers(500, seconds=0.9), answers(19)),
        (answers(500, seconds=0.06), answers(500)),
        (answers(500, seconds=0.02), answers(500, seconds=0.01)),  # twice as long, and quick
        (answers(30, slow=3), answers(30)),  # of so few the tail cannot be told
        (answers(500), answers(500, seconds=0.9)),
    ],
)
def test_not_slower(new: Answers, old: Answers) -> None:
    assert why_worse(new, old) == ""


def test_by_chance_alone_a_good_image_is_hardly_ever_refused() -> None:
    """Looked at after each of 200 answers: 40 rollouts of an image that is the same."""
    rng, refused = random.Random(1), 0
    for _ in range(40):
        bad, counts = [0, 0], [[0] * (len(BOUNDS) + 1) for _ in range(2)]
        worse = False
        for asked in range(1, 201):
            for side in (0, 1):
                bad[side] += rng.random() < 0.05
                counts[side][min(99, int(rng.expovariate(10) * 100))] += 1
            new, old = (Answers(asked, bad[s], tuple(counts[s]), BOUNDS) for s in (0, 1))
            worse = worse or bool(why_worse(new, old))
        refused += worse
    assert refused <= 2


@given(of=st.integers(1, 10_000), share=st.floats(0, 1))
def test_the_bounds_of_a_share_enclose_it(of: int, share: float) -> None:
    found = round(share * of)
    least, most = share_bounds(found, of)
    assert 0 <= least <= found / of + 1e-9
    assert found / of - 1e-9 <= most <= 1


@given(counts=st.lists(st.integers(0, 50), min_size=101, max_size=101))
def test_the_bounds_of_a_median_are_in_order(counts: list[int]) -> None:
    bounds = duration_bounds(Answers(sum(counts), 0, tuple(counts), BOUNDS), 0.5)
    assert (bounds is None) == (sum(counts) < 20)
    assert bounds is None or bounds[0] <= bounds[1]


def test_only_what_happened_meanwhile_is_compared() -> None:
    seen = Comparison()
    seen.read("old", answers(1000, 100, seconds=0.9), new=False, served_s=500.0)
    seen.read("new", answers(6, 6), new=True, served_s=0.0)
    seen.read("old", answers(1010, 101, seconds=0.9), new=False, served_s=501.0)
    assert (seen.old().asked, seen.old().bad, sum(seen.old().durations)) == (10, 1, 10)
    assert (seen.new().asked, seen.new().bad) == (6, 6), "a new one's first second counts"
    assert sum(seen.new().durations) == 0, "but not how long it took, while it is cold"
    seen.read("new", answers(20, 6), new=True, served_s=WARM_S)
    seen.read("new", answers(50, 6), new=True, served_s=WARM_S + 1)
    assert sum(seen.new().durations) == 30


def test_whoever_left_has_told_what_he_told() -> None:
    seen = Comparison()
    seen.read("a", answers(5, 5), new=True, served_s=0.0)
    seen.read("b", answers(3, 3), new=True, served_s=0.0)
    assert (seen.new().asked, seen.new().bad) == (8, 8)
