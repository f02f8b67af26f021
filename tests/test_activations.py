"""What a way into service is expected to take, from what it took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoscale.activations import KEPT, Activations
from autoscale.model import COLD_START_S, Path, Way

COLD, SNAPSHOT, STANDBY = Path.COLD, Path.SNAPSHOT, Path.STANDBY
seconds = st.floats(0.01, 1000)


def test_until_one_was_measured_each_way_takes_what_is_usual() -> None:
    fresh = Activations()
    assert fresh.ways({COLD: None}) == (Way(COLD, COLD_START_S, None),)
    assert (fresh.expected_s(STANDBY), fresh.expected_s(SNAPSHOT)) == (0.05, 1.5)


def test_of_twenty_the_slowest_one_does_not_count() -> None:
    """Nearest rank: the 19th of 20. Of fewer, the slowest does."""
    activations = Activations()
    for number in range(1, 20):
        activations.add(COLD, float(number))
    assert activations.expected_s(COLD) == 19.0
    activations.add(COLD, 300.0)
    assert activations.expected_s(COLD) == 19.0
    activations.add(COLD, 200.0)
    assert activations.expected_s(COLD) == 200.0, "two of twenty are no accident"


def test_what_is_long_ago_is_forgotten() -> None:
    activations = Activations()
    for _ in range(100):
        activations.add(COLD, 60.0)
    for _ in range(KEPT):
        activations.add(COLD, 4.0)
    assert activations.expected_s(COLD) == 4.0


def test_the_ways_come_cheapest_first_and_only_those_there_are() -> None:
    activations = Activations()
    activations.add(STANDBY, 0.05)
    activations.add(COLD, 7.0)
    assert activations.ways({COLD: None, STANDBY: 2, SNAPSHOT: None}) == (
        Way(STANDBY, 0.05, 2),
        Way(SNAPSHOT, 1.5, None),
        Way(COLD, 7.0, None),
    )
    assert activations.ways({COLD: None, STANDBY: 0}) == (Way(COLD, 7.0, None),)
    assert activations.ways({}) == ()


@given(st.lists(seconds, min_size=1, max_size=60))
def test_it_is_always_one_of_the_newest_and_at_least_their_median(took: list[float]) -> None:
    activations = Activations()
    for each in took:
        activations.add(COLD, each)
    newest = sorted(took[-KEPT:])
    expected = activations.expected_s(COLD)
    assert expected in newest
    assert sum(each <= expected for each in newest) >= 0.95 * len(newest)
    assert sum(each < expected for each in newest) < 0.95 * len(newest)
