"""The simulation of several workers: repeatable, right where theory knows, and its table."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from bench.parts.workers_spread import SERVICE_S, Setting, Spread, simulate
from bench.spread import ANYONE, LOADS, OWN, WAYS, compare, report, settings

SMALL = Setting(workers=1, backends=4, load=0.7, requests=6_000)


def test_a_game_is_repeatable() -> None:
    told = replace(SMALL, workers=3, told_every_s=0.05)
    assert simulate(told) == simulate(told) != simulate(replace(told, seed=2))


def test_picking_anyone_makes_queues_of_which_theory_knows_the_length() -> None:
    """M/M/1: service ÷ (1 - load)."""
    found = simulate(replace(SMALL, load=0.5, choices=1, requests=40_000))
    assert found.mean_s == pytest.approx(2 * SERVICE_S, rel=0.1)


def test_a_fleet_that_idles_answers_in_the_service_time() -> None:
    found = simulate(replace(SMALL, backends=64, load=0.01, requests=20_000))
    assert found.mean_s == pytest.approx(SERVICE_S, rel=0.05)
    assert found.p99_s == pytest.approx(4.605 * SERVICE_S, rel=0.15), "ln 100"


def test_the_less_each_knows_the_longer_it_takes() -> None:
    busy = replace(SMALL, load=0.9, requests=20_000)
    means = [
        simulate(replace(busy, workers=workers, choices=choices)).mean_s
        for workers, choices in ((1, None), (4, None), (4, 2), (4, 1))
    ]
    assert all(less < more for less, more in pairwise(means))


def test_what_they_see_at_once_is_as_good_as_one_worker() -> None:
    one = simulate(replace(SMALL, choices=2))
    assert simulate(replace(SMALL, choices=2, workers=8, told_every_s=0.0)) == one


def test_what_is_told_often_helps_and_what_is_told_late_harms() -> None:
    busy = replace(SMALL, workers=8, backends=16, requests=20_000)
    often, never, late = (
        simulate(replace(busy, told_every_s=every_s)).mean_s for every_s in (0.005, None, 1.0)
    )
    assert often < never < late


def test_best_of_as_many_as_there_are_is_the_best_of_all() -> None:
    assert simulate(replace(SMALL, choices=4)) == simulate(SMALL)


def test_each_figure_is_beside_its_own_ideal() -> None:
    played = []
    for way, setting in settings(10):
        mean_s = setting.load * (1 if way is OWN and setting.workers == 1 else setting.workers + 1)
        played.append((way, setting, Spread(2.0, mean_s, 3.0)))
    figures = compare(played)
    assert {f.mean for f in figures if f.workers == 8} == {9.0}
    assert {f.imbalance for f in figures} == {1.0}
    assert {f.mean for f in figures if f.way == ANYONE.words} == {2.0}
    text = report(figures)
    assert len(text.splitlines()) == 2 + 3 + 3 * len(WAYS)
    assert f"64 at {LOADS[-1]:.0%} |" in text
    assert "| 8 | least_requests, its own | 1.00 / 9.00 / 1.00 |" in text
