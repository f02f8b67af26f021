"""A metric service's view: means of whole periods, of those that served."""

from __future__ import annotations

import pytest

from autoscale.rivals.usage import Usage, round_up
from tests.rival_stories import seen


def test_a_period_gives_its_mean_at_its_end() -> None:
    usage = Usage(5.0)
    given = [usage.take(seen(now, [now / 10]), now) for now in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]
    assert given[:4] == [None] * 4
    assert given[4] is not None
    assert given[4]["vm1"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.4) / 4)
    assert given[5] is None


def test_a_sample_counts_once() -> None:
    usage = Usage(5.0)
    usage.take(seen(1.0, [0.2]), 1.0)
    usage.take(seen(2.0, [0.8]), 2.0)
    usage.take(seen(2.0, [0.8]), 3.0)  # nothing newer than that of second 2
    over = usage.take(seen(5.0, [0.0]), 5.0)
    assert over is not None
    assert over["vm1"] == pytest.approx(0.5)


def test_who_gave_no_sample_has_no_figure() -> None:
    usage = Usage(5.0)
    for now in (1.0, 2.0):
        usage.take(seen(now, {"vm1": 0.5}, serving=("vm1", "vm2")), now)
    assert usage.take(seen(5.0, {}, serving=("vm1", "vm2")), 5.0) == {"vm1": 0.5}


def test_whoever_came_late_did_not_serve_the_whole_period() -> None:
    usage = Usage(5.0)
    usage.take(seen(1.0, [0.5]), 1.0)
    usage.take(seen(3.0, [0.5, 0.5]), 3.0)
    assert usage.whole("vm1", 5.0)
    assert not usage.whole("vm2", 5.0)
    assert usage.whole("vm2", 10.0)
    usage.take(seen(11.0, {"vm1": 0.5}), 11.0)
    assert not usage.whole("vm2", 15.0), "it left"


def test_rounding_up_forgives_floating_point() -> None:
    assert round_up(3 * 0.7 / 0.3) == 7  # 7.000000000000001
    assert round_up(3.01) == 4
