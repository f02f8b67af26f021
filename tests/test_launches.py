"""How many may start now, and why they start."""

from __future__ import annotations

from autoscale.backoff import BREAKER_AFTER
from autoscale.decision import Decision
from autoscale.launches import Launches
from autoscale.model import Reason

NOW = 100.0


def decision(current: int, desired: int, reason: Reason = Reason.CPU_OVERLOAD) -> Decision:
    return Decision("web", NOW, current, desired, reason)


def test_as_many_as_are_missing_and_there_is_room_for() -> None:
    launches = Launches()
    assert launches.how_many(3, room=2, booting=5, now=NOW) == 2
    assert launches.how_many(1, room=2, booting=0, now=NOW) == 1
    assert launches.how_many(3, room=0, booting=0, now=NOW) == 0
    assert launches.how_many(3, room=-1, booting=0, now=NOW) == 0


def test_after_a_failure_one_at_a_time_and_not_at_once() -> None:
    launches = Launches()
    launches.failed(NOW)
    assert launches.how_many(3, room=3, booting=0, now=NOW) == 0
    assert launches.how_many(3, room=3, booting=0, now=NOW + 1) == 1
    assert launches.how_many(3, room=3, booting=1, now=NOW + 1) == 0
    launches.succeeded()
    assert launches.how_many(3, room=3, booting=1, now=NOW + 1) == 3


def test_they_start_for_what_was_last_decided() -> None:
    launches = Launches()
    assert launches.next_reason() is Reason.BELOW_MIN
    launches.decided(decision(0, 1, Reason.FROM_ZERO), 1)
    assert launches.next_reason() is Reason.FROM_ZERO
    launches.decided(decision(1, 1, Reason.STEADY), 1)
    assert launches.next_reason() is Reason.FROM_ZERO, "it failed, and is tried again"
    launches.decided(decision(2, 1, Reason.CPU_LOW), 0)
    assert launches.next_reason() is Reason.BELOW_MIN


def test_the_lost_are_replaced_first_and_each_once() -> None:
    launches = Launches()
    launches.lost()
    launches.decided(decision(1, 3), 3)
    assert [launches.next_reason() for _ in range(3)] == [
        Reason.REPLACED,
        Reason.CPU_OVERLOAD,
        Reason.CPU_OVERLOAD,
    ]


def test_one_lost_that_nobody_wants_any_more_is_not_replaced() -> None:
    launches = Launches()
    launches.lost()
    launches.decided(decision(1, 0, Reason.IDLE), 0)
    launches.decided(decision(0, 1, Reason.FROM_ZERO), 1)
    assert launches.next_reason() is Reason.FROM_ZERO


def test_an_open_breaker_is_said_once_each_time() -> None:
    launches = Launches()
    for _ in range(BREAKER_AFTER - 1):
        launches.failed(NOW)
        assert launches.breaker_words(NOW) is None
    for _ in range(2):
        launches.failed(NOW)
        words = launches.breaker_words(NOW)
        assert words is not None
        assert words.startswith(f"{BREAKER_AFTER} launches in a row failed: no more for 60 s")
        assert launches.breaker_words(NOW + 1) is None
        launches.succeeded()
        for _ in range(BREAKER_AFTER - 1):
            launches.failed(NOW)


def test_a_breaker_that_lets_one_through_says_nothing() -> None:
    launches = Launches()
    for _ in range(BREAKER_AFTER):
        launches.failed(NOW)
    assert launches.breaker_words(NOW + 61) is None
