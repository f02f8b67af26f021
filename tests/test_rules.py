"""What follows from the operator's wishes before anybody looks at the load."""

from __future__ import annotations

import pytest

from autoscale.rules import Mode, Override, Rules


@pytest.mark.parametrize(
    ("count", "within"), [(-1, 2), (0, 2), (2, 2), (4, 4), (5, 5), (6, 5), (1000, 5)]
)
def test_a_number_is_brought_within_the_bounds(count: int, within: int) -> None:
    assert Rules(min=2, max=5).clamp(count) == within


def test_one_lost_sample_is_forgiven_and_two_are_not() -> None:
    """At an interval of 2 s the newest is 2 s old, 4 s with one lost, 6 s with two."""
    assert 4.0 < Rules(interval_s=2.0).fresh_s < 6.0


def test_an_override_holds_until_its_time_has_come() -> None:
    override = Override(Mode.FIXED, 3, until=1000.0)
    assert override.holds(999.9)
    assert not override.holds(1000.0)


def test_one_without_an_end_holds_for_good() -> None:
    assert Override(Mode.HOLD).holds(4e9)
