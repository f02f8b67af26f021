"""What is remembered: within the bounds at the start, and no more of it however long it goes on."""

from __future__ import annotations

import random

import pytest

from autoscale.model import Path, Way
from autoscale.rules import Forecasting, RateLimit, Rules, Scheduled
from autoscale.state import State
from tests.planning import Story, plain


@pytest.mark.parametrize(("active", "desired"), [(0, 0), (3, 3), (9, 9)])
def test_it_begins_with_those_there_are(active: int, desired: int) -> None:
    assert State.start(active, Rules(min=2, max=5)).desired == desired


def test_without_history_nothing_is_known() -> None:
    state = State.start(2, Rules())
    assert state.pace.kept(0.0, 1e9) is None
    assert state.capacity.usual is None
    assert state.forecast is None


def size(value: object) -> int:
    """How many values it is made of."""
    if isinstance(value, dict):
        return sum(size(v) for v in value.values())
    if isinstance(value, tuple):
        return 1 + sum(size(v) for v in value)
    return 1


def test_hours_leave_no_more_behind_than_minutes() -> None:
    noise = random.Random(7)
    rules = plain(
        high=6,
        grow_limit=RateLimit(4, 100.0, 15.0),
        shrink_limit=RateLimit(1, 50.0, 15.0),
        shrink_window_s=20.0,
        latency_p99_s=0.3,
        idle_after_s=30.0,
        forecast=Forecasting.ACT,
        season_s=600.0,
        schedule=(Scheduled("*/7 * * * *", "*/11 * * * *", "UTC", 2),),
    )
    story = Story(rules, ways=(Way(Path.STANDBY, 0.1, 1), Way(Path.COLD, 10.0)))
    sizes = []
    for second in range(6000):
        work = max(0.0, noise.gauss(2.0, 1.5)) if second % 500 < 400 else 0.0
        story.load(work, in_flight=int(work * 30), p99_s=noise.choice([None, 0.1, 0.5]))
        # the forecast's own bound is test_forecast's
        sizes.append(size(story.state._replace(forecast=None)))
    assert max(sizes[3000:]) <= 1.2 * max(sizes[:1500])
    assert max(sizes) < 600
