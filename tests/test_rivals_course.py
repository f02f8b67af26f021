"""The course's rule, sample by sample."""

from __future__ import annotations

from autoscale.rivals.course import CourseRule
from autoscale.rules import Rules
from tests.rival_stories import Story, names


def course(replicas: int = 1, most: int = 4) -> Story:
    rule = CourseRule(Rules(min=1, max=most))
    rule.start(replicas)
    return Story(rule)


def test_five_samples_above_80_percent_add_one() -> None:
    story = course()
    assert story.play(4, cpu=[0.9]) == 1
    assert story.play(1, cpu=[0.9]) == 2


def test_their_mean_counts() -> None:
    story = course()
    story.play(4, cpu=[0.95])
    assert story.play(1, cpu=[0.2]) == 1  # (4 × 0.95 + 0.2) / 5 is just 0.80
    story = course()
    story.play(4, cpu=[0.95])
    assert story.play(1, cpu=[0.21]) == 2


def test_it_waits_for_the_boot_and_then_samples_anew() -> None:
    story = course()
    story.play(5, cpu=[1.0])
    assert story.play(20, cpu=[1.0], booting=1) == 2
    assert story.play(4, cpu=[1.0, 1.0]) == 2
    assert story.play(1, cpu=[1.0, 1.0]) == 3


def test_below_35_percent_one_leaves_but_not_the_last() -> None:
    story = course(replicas=2)
    assert story.play(5, cpu=[0.34, 0.34]) == 1
    assert story.play(60, cpu=[0.0]) == 1


def test_the_next_leaves_after_five_samples_of_those_that_stay() -> None:
    story = course(replicas=3)
    assert story.play(5, cpu=[0.1] * 3) == 2
    assert story.play(4, cpu=[0.1] * 2) == 2
    assert story.play(1, cpu=[0.1] * 2) == 1


def test_between_its_bounds_nothing_happens() -> None:
    story = course(replicas=2)
    assert story.play(60, cpu=[0.36, 0.36]) == 2
    assert story.play(60, cpu=[0.79, 0.79]) == 2


def test_a_missing_sample_is_none() -> None:
    story = course(replicas=1)
    assert story.play(30, serving=names(1)) == 1
    assert story.play(4, cpu=[1.0]) == 1
    assert story.play(1, cpu=[1.0]) == 2


def test_max() -> None:
    story = course(replicas=4)
    assert story.play(60, cpu=[1.0] * 4) == 4
