"""Since when at least so much is asked for, against a list of everything that was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.sustained import Sustained

levels = st.integers(-3, 6)
figures = st.lists(
    st.tuples(levels, st.sampled_from([0.0, 0.25, 1.0, 3.0])), min_size=1, max_size=60
)
"""(level, seconds since the one before)"""


def told(gaps: list[tuple[int, float]], begin: float = 100.0) -> list[tuple[int, float]]:
    """The same with times."""
    at, found = begin, []
    for level, gap in gaps:
        at += gap
        found.append((level, at))
    return found


def steps_of(history: list[tuple[int, float]]) -> Sustained:
    steps = Sustained()
    for level, at in history:
        steps = steps.add(level, at)
    return steps


def began(history: list[tuple[int, float]], level: int) -> float | None:
    """By looking at all of it, from the newest back."""
    found = None
    for value, at in reversed(history):
        if value < level:
            break
        found = at
    return found


def test_the_example() -> None:
    """1, 1, 3, 2 at seconds 1 to 4."""
    steps = steps_of([(1, 1.0), (1, 2.0), (3, 3.0), (2, 4.0)])
    assert steps.steps == ((1, 1.0), (2, 3.0))
    assert (steps.began(1), steps.began(2), steps.began(3)) == (1.0, 3.0, None)
    assert (steps.at_least(0.9), steps.at_least(1.0), steps.at_least(2.9)) == (None, 1, 1)
    assert steps.at_least(3.0) == 2


def test_without_a_figure_nothing_lasts() -> None:
    assert Sustained().at_least(1e9) is None
    assert Sustained().began(-1000) is None


def test_what_ended_begins_anew() -> None:
    steps = steps_of([(5, 1.0), (0, 2.0), (5, 3.0)])
    assert (steps.began(5), steps.began(1), steps.began(0)) == (3.0, 3.0, 1.0)


@given(figures, levels)
def test_since_when_as_a_list_of_everything_says(gaps: list[tuple[int, float]], level: int) -> None:
    history = told(gaps)
    assert steps_of(history).began(level) == began(history, level)


@given(figures, st.floats(-5, 5))
def test_how_much_as_a_list_of_everything_says(gaps: list[tuple[int, float]], ago: float) -> None:
    history = told(gaps)
    since = history[-1][1] - ago
    lasting = [
        level
        for level in range(-3, 7)
        if (from_then := began(history, level)) is not None and from_then <= since
    ]
    expected = max(lasting, default=None)
    assert steps_of(history).at_least(since) == expected


@given(st.lists(levels, min_size=1, max_size=60))
def test_with_the_sign_turned_it_is_what_was_never_exceeded(history: list[int]) -> None:
    turned = steps_of([(-level, float(at)) for at, level in enumerate(history)])
    for second in range(len(history)):
        least = turned.at_least(float(second))
        assert least is not None
        assert -least == max(history[second:])


@given(figures)
def test_steps_ascend_and_are_no_more_than_levels(gaps: list[tuple[int, float]]) -> None:
    history = told(gaps)
    steps = steps_of(history).steps
    assert list(steps) == sorted(steps)
    assert len({level for level, _ in steps}) == len(steps)
    assert len(steps) <= len({level for level, _ in history})


@pytest.mark.parametrize("level", [0, 3])
def test_a_day_of_the_same_takes_one_step(level: int) -> None:
    steps = steps_of([(level, float(at)) for at in range(86_400)])
    assert steps.steps == ((level, 0.0),)
