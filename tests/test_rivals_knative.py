"""Knative's autoscaler, tick by tick: a container takes 10 at once, so the target is 7."""

from __future__ import annotations

from autoscale.rivals.knative import KnativePodAutoscaler
from autoscale.rules import Rules
from tests.rival_stories import Story, names


def kpa(replicas: int = 1, least: int = 1, most: int = 10) -> Story:
    autoscaler = KnativePodAutoscaler(Rules(min=least, max=most), container_concurrency=10)
    autoscaler.start(replicas)
    return Story(autoscaler)


def test_the_stable_window_asks_for_its_mean_by_the_target() -> None:
    story = kpa()
    assert story.until(61, concurrency=7, serving=names(1)) == 1
    # one more each second: no panic, and after 30 s the mean is (30 × 7 + 30 × 9) / 60 = 8
    assert story.until(91, concurrency=9, serving=names(1)) == 2


def test_panic_looks_at_six_seconds() -> None:
    story = kpa()
    story.until(60, concurrency=5, serving=names(1))
    assert story.until(61, concurrency=20, serving=names(1)) == 2  # (5 × 5 + 20) / 6 = 7.5
    assert story.until(64, concurrency=20, serving=names(1)) == 2
    assert story.until(65, concurrency=20, serving=names(1)) == 3  # (5 + 5 × 20) / 6 = 17.5


def test_in_panic_nobody_leaves_and_it_ends_after_a_minute() -> None:
    story = kpa()
    story.until(60, concurrency=5, serving=names(1))
    story.until(67, concurrency=20, serving=names(1))
    assert story.until(127, concurrency=5, serving=names(3)) == 3
    assert story.until(128, concurrency=5, serving=names(3)) == 3
    assert story.until(129, concurrency=5, serving=names(3)) == 1


def test_what_waits_counts_like_what_runs() -> None:
    story = kpa()
    story.until(60, concurrency=5, serving=names(1))
    assert story.until(67, concurrency=5, queued=15, serving=names(1)) == 3


def test_it_ticks_every_two_seconds() -> None:
    story = kpa()
    story.until(61, concurrency=5, serving=names(1))
    assert story.until(62, concurrency=60, serving=names(1)) == 1
    assert story.until(63, concurrency=60, serving=names(1)) > 1


def test_it_shrinks_to_no_less_than_half() -> None:
    story = kpa(replicas=8)
    assert story.until(61, concurrency=0, serving=names(8)) == 8, "begins in panic"
    assert story.until(63, concurrency=0, serving=names(8)) == 4
    assert story.until(65, concurrency=0, serving=names(4)) == 2


def test_zero_after_its_grace_and_back_at_once() -> None:
    story = kpa(least=0)
    assert story.until(30, concurrency=0, serving=names(1)) == 1
    assert story.until(31, concurrency=0, serving=names(1)) == 0
    assert story.until(61, concurrency=0) == 0
    assert story.until(62, queued=1) == 1
    assert kpa(least=1).until(600, concurrency=0, serving=names(1)) == 1


def test_max() -> None:
    assert kpa(most=4).until(10, concurrency=1000, serving=names(1)) == 4
