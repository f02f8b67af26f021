"""EC2's policies, minute by minute. The step sizes are those of the user guide's worked example."""

from __future__ import annotations

import pytest

from autoscale.rivals.ec2 import StepScaling, TargetTracking
from autoscale.rules import Rules
from tests.rival_stories import Story, names

MINUTE = 60


def tracking(replicas: int, most: int = 20, target: float = 0.6) -> Story:
    policy = TargetTracking(Rules(min=1, max=most, target_cpu=target))
    policy.start(replicas)
    return Story(policy)


def steps(replicas: int) -> Story:
    policy = StepScaling(Rules(min=1, max=20, target_cpu=0.6))
    policy.start(replicas)
    return Story(policy)


def test_three_minutes_above_the_target_scale_out_in_proportion() -> None:
    story = tracking(4)
    assert story.until(3 * MINUTE - 1, cpu=[0.9] * 4) == 4
    assert story.until(3 * MINUTE, cpu=[0.9] * 4) == 6  # 4 × 0.9 / 0.6


def test_a_minute_below_in_between_starts_the_count_anew() -> None:
    story = tracking(4)
    story.until(2 * MINUTE, cpu=[0.9] * 4)
    story.until(3 * MINUTE, cpu=[0.5] * 4)
    assert story.until(6 * MINUTE - 1, cpu=[0.9] * 4) == 4
    assert story.until(6 * MINUTE, cpu=[0.9] * 4) == 6


def test_more_than_100_percent_is_100() -> None:
    story = tracking(3)
    assert story.until(3 * MINUTE, cpu=[1.8] * 3) == 5  # 3 × 1.0 / 0.6


def test_during_a_warm_up_only_the_difference_is_added() -> None:
    story = tracking(2)
    assert story.until(3 * MINUTE, cpu=[0.9] * 2) == 3
    assert story.until(4 * MINUTE, cpu=[0.9] * 2, booting=1) == 3
    assert story.until(5 * MINUTE, cpu=[1.0] * 2, booting=1) == 4  # 2 × 1.0 / 0.6, not 3 × …


def test_who_warms_up_is_not_averaged() -> None:
    story = tracking(2)
    story.until(3 * MINUTE, cpu=[0.9] * 2)
    story.until(3 * MINUTE + 30, cpu=[0.9] * 2, booting=1)
    # two at 0.9 and a cold one at 0: were it averaged, 0.6 would be no alarm
    assert story.until(4 * MINUTE, cpu=[0.9, 0.9, 0.0]) == 3
    # warm since 4:30, and from then on it counts: 3 × 0.9 / 0.6
    assert story.until(5 * MINUTE, cpu=[0.9] * 3) == 5


def test_fifteen_minutes_below_90_percent_of_the_target_scale_in() -> None:
    story = tracking(4)
    assert story.until(15 * MINUTE - 1, cpu=[0.3] * 4) == 4
    assert story.until(15 * MINUTE, cpu=[0.3] * 4) == 2  # 4 × 0.3 / 0.6


def test_less_than_ten_percent_below_the_target_is_no_alarm() -> None:
    story = tracking(20)
    assert story.until(30 * MINUTE, cpu=[0.545] * 20) == 20
    assert story.until(45 * MINUTE, cpu=[0.535] * 20) == 18


def test_those_that_are_still_leaving_are_not_taken_back() -> None:
    story = tracking(4)
    assert story.until(15 * MINUTE, cpu=[0.3] * 4) == 2
    assert story.until(17 * MINUTE, cpu=[0.3] * 4) == 2


def test_nobody_leaves_while_one_comes() -> None:
    story = tracking(4)
    assert story.until(15 * MINUTE, cpu=[0.3] * 4, booting=1) == 4
    assert story.until(16 * MINUTE, cpu=[0.3] * 4) == 2


def test_the_last_one_stays() -> None:
    story = tracking(1)
    assert story.until(20 * MINUTE, cpu=[0.0]) == 1


def test_without_figures_nothing_changes() -> None:
    story = tracking(3)
    assert story.until(20 * MINUTE, serving=names(3)) == 3


@pytest.mark.parametrize(
    ("cpu", "wanted"),
    [
        (0.59, 10),
        (0.60, 11),  # 10 % of 10
        (0.69, 11),
        (0.70, 13),  # 30 % of 10
        (0.41, 10),
        (0.40, 9),
        (0.31, 9),
        (0.30, 7),
    ],
)
def test_steps_by_how_far_beyond(cpu: float, wanted: int) -> None:
    story = steps(10)
    assert story.until(2 * MINUTE - 1, cpu=[cpu] * 10) == 10
    assert story.until(2 * MINUTE, cpu=[cpu] * 10) == wanted


def test_a_percentage_of_few_is_at_least_one() -> None:
    story = steps(2)
    assert story.until(2 * MINUTE, cpu=[0.9] * 2) == 3


def test_a_larger_step_during_a_warm_up_adds_the_difference() -> None:
    """The guide: 10 at 60 % become 11; at 70 % while that one warms up, 13 and not 14."""
    story = steps(10)
    assert story.until(2 * MINUTE, cpu=[0.62] * 10) == 11
    assert story.until(3 * MINUTE, cpu=[0.62] * 10, booting=1) == 11
    assert story.until(4 * MINUTE, cpu=[0.72] * 10, booting=1) == 13
