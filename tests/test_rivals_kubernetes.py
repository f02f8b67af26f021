"""Kubernetes' autoscaler, sync by sync."""

from __future__ import annotations

from autoscale.rivals.kubernetes import HorizontalPodAutoscaler
from autoscale.rules import Rules
from tests.rival_stories import Story


def hpa(replicas: int = 1, least: int = 1, most: int = 20) -> HorizontalPodAutoscaler:
    autoscaler = HorizontalPodAutoscaler(Rules(min=least, max=most, target_cpu=0.6))
    autoscaler.start(replicas)
    return autoscaler


def test_it_looks_every_15_seconds() -> None:
    story = Story(hpa(2))
    assert story.until(14, cpu=[0.9] * 2) == 2
    assert story.until(15, cpu=[0.9] * 2) == 3  # ceil(2 × 0.9 / 0.6)


def test_within_ten_percent_nothing_changes() -> None:
    story = Story(hpa(10))
    assert story.until(600, cpu=[0.655] * 10) == 10
    assert story.until(1200, cpu=[0.545] * 10) == 10
    assert story.until(1215, cpu=[0.67] * 10) == 12  # 11.2


def test_up_by_four_or_to_twice_as_many_at_once() -> None:
    # seven times the target: only where the limit was lifted
    assert Story(hpa(1)).until(15, cpu=[4.2]) == 5
    assert Story(hpa(6)).until(15, cpu=[4.2] * 6) == 12


def test_down_only_to_the_most_of_five_minutes() -> None:
    story = Story(hpa(4))
    assert story.until(300, cpu=[0.3] * 4) == 4
    assert story.until(315, cpu=[0.3] * 4) == 2
    story = Story(hpa(4))
    story.until(149, cpu=[0.3] * 4)
    story.until(164, cpu=[0.4] * 4)
    # at 165 that asks for 3, which counts until 465
    assert story.until(315, cpu=[0.3] * 4) == 3
    assert story.until(464, cpu=[0.4] * 3) == 3
    assert story.until(465, cpu=[0.4] * 3) == 2


def test_those_that_boot_are_idle_for_growing() -> None:
    autoscaler = hpa()
    assert autoscaler.recommend([0.9, 0.9], ignored=0, missing=0, current=2) == 3
    assert autoscaler.recommend([0.9, 0.9], ignored=1, missing=0, current=3) == 3  # ratio 1.0
    assert autoscaler.recommend([1.0, 1.0], ignored=1, missing=0, current=3) == 4  # 3.33
    assert autoscaler.recommend([0.7, 0.7], ignored=3, missing=0, current=5) == 5  # flips


def test_those_that_boot_are_left_out_for_shrinking() -> None:
    assert hpa().recommend([0.3, 0.3, 0.3, 0.3], ignored=1, missing=0, current=5) == 2


def test_those_without_a_metric_are_busy_for_shrinking_and_idle_for_growing() -> None:
    autoscaler = hpa()
    assert autoscaler.recommend([0.2] * 4, ignored=0, missing=1, current=5) == 3  # (0.8 + 1) / 0.6
    assert autoscaler.recommend([0.5] * 2, ignored=0, missing=2, current=4) == 4  # flips
    assert autoscaler.recommend([1.0] * 4, ignored=0, missing=1, current=5) == 7  # 4 / 0.6


def test_without_any_metric_nothing_is_recommended() -> None:
    assert hpa().recommend([], ignored=1, missing=1, current=2) is None


def test_a_new_pod_counts_once_it_served_a_whole_window() -> None:
    story = Story(hpa(1))
    assert story.until(15, cpu=[1.0]) == 2
    assert story.until(20, cpu=[1.0], booting=1) == 2
    # served since 21: at 30 it is taken for idle, (1.0 + 0) / 2 / 0.6 flips: nothing
    assert story.until(30, cpu=[1.0, 1.0]) == 2
    assert story.until(44, cpu=[1.0, 1.0]) == 2
    # at 45 its window still began before it did
    assert story.until(60, cpu=[1.0, 1.0]) == 4


def test_min_and_max_and_never_zero() -> None:
    assert Story(hpa(3, most=3)).until(15, cpu=[1.0] * 3) == 3
    assert Story(hpa(3, least=2)).until(600, cpu=[0.0] * 3) == 2
    assert Story(hpa(1, least=0)).until(600, cpu=[0.0]) == 1
