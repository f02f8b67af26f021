"""How many may start now, and why they start."""

from __future__ import annotations

from autoscale.backoff import BREAKER_AFTER
from autoscale.decision import Decision
from autoscale.launches import Launches, Pause
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


# --- hosts


def refuse(launches: Launches, host: str, now: float = NOW, *, serves: bool = True) -> bool:
    return launches.refused(host, now, f"{host} is full", hosts=("a", "b"), serves=serves)


def test_a_host_that_refused_waits_1_2_4_8_s_then_a_minute() -> None:
    launches, now, waits = Launches(), NOW, []
    for _ in range(6):
        refuse(launches, "a", now)
        (pause,) = launches.pauses(now)
        waits.append(pause.wait_s)
        assert not launches.takes("a", now + pause.wait_s - 0.1, asked=False)
        assert launches.takes("b", now, asked=True), "another host is asked as before"
        now += pause.wait_s
        assert launches.takes("a", now, asked=False)
    assert waits == [1, 2, 4, 8, 60, 60]


def test_a_host_that_refused_is_asked_for_one_at_a_time_until_it_starts_one() -> None:
    launches = Launches()
    assert launches.takes("a", NOW, asked=True)
    refuse(launches, "a")
    assert not launches.takes("a", NOW + 1, asked=True)
    assert launches.taken("a") is False, "its breaker was not open: nothing to tell"
    assert launches.takes("a", NOW, asked=True)
    for _ in range(BREAKER_AFTER):
        refuse(launches, "a")
    assert launches.taken("a") is True
    assert launches.pauses(NOW) == ()


def test_where_the_last_host_refuses_it_is_no_hosts_trouble() -> None:
    launches = Launches()
    assert refuse(launches, "a") is False
    assert refuse(launches, "a") is False
    assert refuse(launches, "b") is True
    launches.taken("a")
    assert refuse(launches, "b") is False, "one of them starts some"


def test_what_was_refused_to_the_reserve_holds_up_no_replica() -> None:
    launches = Launches()
    refuse(launches, "a", serves=False)
    assert launches.takes("a", NOW, asked=False)
    assert not launches.takes("a", NOW, asked=False, serves=False)
    assert launches.taken("a") is False
    assert launches.takes("a", NOW, asked=False, serves=False)


def test_what_waits_is_told_with_its_last_failure() -> None:
    launches = Launches()
    assert launches.pauses(NOW) == ()
    for _ in range(BREAKER_AFTER):
        launches.failed(NOW, "no image")
    refuse(launches, "b")
    assert launches.pauses(NOW + 10) == (
        Pause(None, BREAKER_AFTER, is_open=True, wait_s=50.0, why="no image"),
        Pause("b", 1, is_open=False, wait_s=0.0, why="b is full"),
    )
    assert launches.succeeded() is True
    assert launches.succeeded() is False


def test_a_host_is_told_of_at_its_first_refusal_and_at_its_fifth() -> None:
    launches, said = Launches(), []
    for _ in range(7):
        refuse(launches, "a")
        said.append(launches.host_words("a", NOW, serves=True))
    assert said[0] == "no launch on a for 1 s, and longer each time: a is full"
    assert said[4] == (
        "5 launches in a row failed on a: none there for 60 s, then one to try; the last: a is full"
    )
    assert [words is None for words in said] == [False, True, True, True, False, True, True]
