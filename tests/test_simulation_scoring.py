"""The formulas of a score, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autoscale.simulation.result import Change, Series
from autoscale.simulation.scoring import oscillations, reliefs, score
from tests.simulations import scenario, steps


def series(ready: list[int], rates: list[float], **given: Any) -> Series:
    count = len(ready)
    zeros, flags = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_)
    values: dict[str, Any] = dict.fromkeys(Series.__dataclass_fields__, zeros)
    values |= {"offered_per_s": np.array(rates), "ready": np.array(ready), "violated": flags}
    return Series(**(values | given))


def change(at: float, before: int, after: int) -> Change:
    return Change(at, before, after, "")


def test_an_overload_lasts_until_the_replicas_can_do_what_is_offered() -> None:
    """At 0.1 s each a server does 10 requests/s; two servers a replica."""
    rates = [20.0, 21.0, 30.0, 30.0, 40.0, 5.0, 100.0, 100.0]
    played = scenario(steps(*[(rate, 1.0) for rate in rates]), servers=2)
    assert reliefs(played, series([1, 1, 1, 2, 2, 0, 2, 2], rates)) == [2.0, 3.0]
    assert reliefs(played, series([9] * 8, rates)) == []


def test_a_change_of_direction_soon_after_is_an_oscillation() -> None:
    changes = [change(0, 1, 2), change(100, 2, 3), change(400, 3, 2), change(701, 2, 3)]
    assert oscillations(changes) == 1
    assert oscillations([*changes, change(702, 3, 1), change(703, 1, 4)]) == 3
    assert oscillations(changes, soon_s=250) == 0
    assert oscillations([]) == oscillations(changes[:1]) == 0


def test_a_score_counts_what_happened() -> None:
    rates = [20.0] * 4
    played = scenario(steps(*[(rate, 1.0) for rate in rates]))
    told = series(
        [1, 2, 1, 1],
        rates,
        arrived=np.array([5, 6, 7, 8]),
        over=np.array([1, 0, 2, 0]),
        lost=np.array([0, 0, 0, 3]),
        violated=np.array([True, False, True, True]),
    )
    got = score(played, told, [change(1, 1, 2), change(2, 2, 1)], (12.0, 4.0), 2.0)
    assert got.as_dict() == {
        "violating_seconds": 3,
        "requests_total": 26,
        "requests_over": 3,
        "requests_lost": 3,
        "vm_seconds": 12.0,
        "standby_vm_seconds": 4.0,
        "oracle_vm_seconds": 2.0,
        "actions": 2,
        "oscillations": 1,
        "relief_median_s": 1.5,
        "relief_worst_s": 2.0,
    }
    assert got.times_the_oracle == 4.0


def test_without_an_overload_there_is_no_relief() -> None:
    played = scenario(steps((1.0, 2.0)))
    got = score(played, series([1, 1], [1.0, 1.0]), [], (2.0, 0.0), 0.0)
    assert (got.relief_median_s, got.relief_worst_s) == (None, None)
    assert got.times_the_oracle == pytest.approx(float("inf"))
