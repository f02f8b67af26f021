"""Numbers in memory that several processes share: each writes its own, everybody reads the sum."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.tally import MOST, Tally


@contextlib.contextmanager
def workers(of: int) -> Iterator[list[Tally]]:
    """One tally as each of so many workers has it."""
    first = Tally.make(of)
    them = [first, *(Tally(os.dup(first.file), number, of) for number in range(1, of))]
    try:
        yield them
    finally:
        for one in them:
            one.close()


@settings(max_examples=40)
@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 2000)), max_size=30),
)
def test_everybody_reads_the_sum_of_what_each_has_written(
    of: int, story: list[tuple[int, int, int]]
) -> None:
    now: dict[tuple[int, int], int] = {}
    with workers(of) as them:
        for number, slot, running in story:
            them[number % of].put(slot, running)
            now[number % of, slot] = running
        for one in them:
            for slot in range(4):
                mine = sum(running for (_, where), running in now.items() if where == slot)
                assert one.running(slot) == mine


@pytest.mark.parametrize("of", [1, 2, 4, 5, 64])
def test_more_than_fits_is_as_many_as_fit_and_spoils_no_other(of: int) -> None:
    with workers(of) as them:
        for one in them:
            one.put(7, 10**6)
        assert them[0].running(7) > 60_000
        assert (them[0].running(6), them[0].running(8)) == (0, 0)
        them[0].put(7, 3)
        for one in them[1:]:
            one.put(7, 0)
        assert them[-1].running(7) == 3


@pytest.mark.parametrize("of", [3, 6])
def test_who_dies_has_nothing_running_and_a_slot_that_is_free_is_empty(of: int) -> None:
    with workers(of) as them:
        for one in them:
            for slot in (0, 5, MOST - 1):
                one.put(slot, 2)
        them[0].died(1)
        assert [them[0].running(slot) for slot in (0, 5, MOST - 1)] == [2 * (of - 1)] * 3
        them[0].free(5)
        assert [them[-1].running(slot) for slot in (0, 5, MOST - 1)] == [
            2 * (of - 1), 0, 2 * (of - 1),
        ]  # fmt: skip
