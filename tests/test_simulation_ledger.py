"""The books of a simulation: each request counts for the second in which it arrived."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autoscale.simulation.ledger import Ledger, nearest_rank
from autoscale.simulation.queue import Outcome
from autoscale.simulation.result import Series
from tests.simulations import flat, scenario


def answered(*came_and_took: tuple[float, float], lost: tuple[float, ...] = ()) -> Outcome:
    came, took = np.array(came_and_took).reshape(-1, 2).T
    return Outcome(came, took, lost, 0.0)


def ledger(seconds: float = 4.0) -> Ledger:
    return Ledger(scenario(flat(2.0, seconds), objective_p99_s=1.0))


def finished(books: Ledger, *unfinished: tuple[float, float]) -> Series:
    came, took = np.array(unfinished).reshape(-1, 2).T
    return books.finish(came, took)


def test_a_late_answer_counts_for_the_second_of_its_arrival() -> None:
    books = ledger()
    books.came(0, 2)
    books.became(answered((0.25, 0.5)))
    books.close(0, ready=1)
    books.came(1, 1)
    books.close(1, ready=2)
    books.became(answered((0.5, 1.75), (1.5, 0.5)))
    books.close(2, ready=3, desired=4)
    series = finished(books)
    assert series.arrived.tolist() == [2, 1, 0, 0]
    assert series.p99_s[:2].tolist() == [1.75, 0.5]
    assert np.isnan(series.p99_s[2:]).all()
    assert series.over.tolist() == [1, 0, 0, 0]
    assert series.violated.tolist() == [True, False, False, False]
    assert series.ready.tolist() == [1, 2, 3, 0]
    assert series.desired.tolist() == [0, 0, 4, 0]


def test_a_lost_request_violates_its_second() -> None:
    books = ledger()
    books.came(1, 2)
    books.became(answered((1.5, 0.5), lost=(1.25,)))
    books.close(1)
    series = finished(books)
    assert series.lost.tolist() == [0, 1, 0, 0]
    assert series.violated.tolist() == [False, True, False, False]
    assert series.p99_s[1] == 0.5


def test_one_of_a_hundred_may_be_over() -> None:
    books = ledger()
    books.came(0, 100)
    books.came(1, 99)
    books.became(answered(*[(0.5, 0.5)] * 99, (0.5, 7.0)))
    books.became(answered(*[(1.5, 0.5)] * 98, (1.5, 7.0)))
    books.close(1)
    series = finished(books)
    assert series.over.tolist() == [1, 1, 0, 0]
    assert series.violated.tolist() == [False, True, False, False]


def test_what_is_unfinished_counts_as_long_as_it_took() -> None:
    books = ledger()
    books.came(0, 2)
    books.came(3, 1)
    books.became(answered((0.25, 0.5)))
    books.close(3)
    series = finished(books, (0.5, 3.5), (3.5, 0.5))
    assert series.over.tolist() == [1, 0, 0, 0]
    assert series.p99_s[3] == 0.5
    assert books.answered_total == 1


def test_utilisation_is_of_the_servers_that_were_there() -> None:
    books = ledger()
    books.worked(0.5, 1.0)
    books.worked(1.0, 2.0)
    books.close(0)
    books.worked(0.0, 0.0)
    books.close(1)
    series = finished(books)
    assert series.utilisation[0] == 0.5
    assert math.isnan(series.utilisation[1])


def test_the_last_second_may_be_cut_short() -> None:
    books = ledger(2.5)
    assert books.seconds == 3
    assert books.offered.tolist() == pytest.approx([2.0, 2.0, 2.0])


def test_the_nearest_rank() -> None:
    values = np.arange(1.0, 201.0)
    assert nearest_rank(values, 0.99) == 198.0
    assert nearest_rank(values[:100], 0.99) == 99.0
    assert nearest_rank(values[:99], 0.99) == 99.0
    assert nearest_rank(values[:1], 0.99) == 1.0
