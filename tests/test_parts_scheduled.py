"""The schedule's floor: in time before it begins, and until it is over."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.parts.scheduled import ScheduleState
from autoscale.rules import Scheduled
from autoscale.schedule import floor_at

OFFICE = (Scheduled("0 8 * * *", "0 18 * * *", "UTC", 3),)
LEAD_S = 120.0


def unix(text: str) -> float:
    return datetime.fromisoformat(f"2026-11-20 {text}").replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("at", "replicas"),
    [
        ("07:57:59", 0),
        ("07:58:00", 3),
        ("08:00:00", 3),
        ("17:58:00", 3),
        ("17:59:59", 3),
        ("18:00:00", 0),
    ],
)
def test_ready_when_it_begins_and_there_until_it_ends(at: str, replicas: int) -> None:
    now = unix(at)
    state = ScheduleState().at(OFFICE, now, LEAD_S)
    assert state.replicas(now, LEAD_S) == replicas


def test_from_second_to_second_it_says_what_it_would_say_anew() -> None:
    state = ScheduleState()
    for second in range(0, 86_400 * 2, 37):
        now = unix("00:00:00") + second
        state = state.at(OFFICE, now, LEAD_S)
        anew = ScheduleState().at(OFFICE, now, LEAD_S)
        assert state.replicas(now, LEAD_S) == anew.replicas(now, LEAD_S)


def test_another_schedule_counts_at_once() -> None:
    now = unix("12:00:00")
    state = ScheduleState().at(OFFICE, now, LEAD_S)
    more = (Scheduled("0 8 * * *", "0 18 * * *", "UTC", 5),)
    assert state.at(more, now + 1, LEAD_S).replicas(now + 1, LEAD_S) == 5
    assert state.at((), now + 2, LEAD_S).replicas(now + 2, LEAD_S) == 0


def test_a_clock_that_steps_back_is_believed() -> None:
    state = ScheduleState().at(OFFICE, unix("19:00:00"), LEAD_S)
    earlier = unix("11:00:00")
    assert state.at(OFFICE, earlier, LEAD_S).replicas(earlier, LEAD_S) == 3


def test_the_expressions_are_read_only_where_something_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def counted(entries: tuple[Scheduled, ...], wall_s: float) -> object:
        asked.append(wall_s)
        return floor_at(entries, wall_s)

    monkeypatch.setattr("autoscale.parts.scheduled.floor_at", counted)
    state = ScheduleState()
    for second in range(86_400):
        state = state.at(OFFICE, unix("00:00:00") + second, LEAD_S)
    assert len(asked) <= 4


@given(st.integers(0, 86_400), st.lists(st.sampled_from([1, 50, 400, 40_000, -90]), max_size=20))
def test_it_is_never_below_the_floor_of_now(begin: int, steps: list[int]) -> None:
    now, state = unix("00:00:00") + begin, ScheduleState()
    for step in steps:
        now += step
        state = state.at(OFFICE, now, LEAD_S)
        replicas = state.replicas(now, LEAD_S)
        assert replicas == max(
            floor_at(OFFICE, now).replicas, floor_at(OFFICE, now + LEAD_S).replicas
        )
