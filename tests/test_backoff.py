"""The launch gate: how long it waits, when it stops, what opens it again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoscale.backoff import (
    BREAKER_AFTER,
    LONGEST_WAIT_S,
    PROBE_AFTER_S,
    LaunchGate,
    Reconnect,
)

NOW = 1000.0


def test_a_new_gate_lets_through_at_once() -> None:
    gate = LaunchGate()
    assert gate.allows(NOW)
    assert not gate.is_open


def test_it_waits_1_2_4_8_seconds_then_the_breakers_minute() -> None:
    gate, waits = LaunchGate(), []
    for _ in range(6):
        gate = gate.failed(NOW)
        waits.append(gate.not_before - NOW)
    assert waits == [1, 2, 4, 8, 60, 60]


def test_the_breaker_lets_one_try_through_after_a_minute_and_a_success_closes_it() -> None:
    gate = LaunchGate()
    for _ in range(BREAKER_AFTER):
        gate = gate.failed(NOW)
    assert gate.is_open
    assert not gate.allows(NOW + 59.9)
    assert gate.allows(NOW + 60)
    assert gate.succeeded() == LaunchGate()
    assert not gate.succeeded().is_open


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=40))
def test_it_never_waits_longer_than_the_breaker_and_never_less_than_before(
    story: list[tuple[float, bool]],
) -> None:
    gate, now, longest = LaunchGate(), NOW, 0.0
    for pause, works in story:
        now += pause
        gate = gate.succeeded() if works else gate.failed(now)
        wait = gate.not_before - now if not works else 0.0
        assert wait <= PROBE_AFTER_S + 1e-6
        assert gate.is_open or wait <= LONGEST_WAIT_S + 1e-6
        assert works or wait >= longest - 1e-6
        longest = 0.0 if works else wait
        assert gate.is_open == (gate.failures >= BREAKER_AFTER)


# --- connections


def test_a_connection_is_tried_again_after_2_4_8_16_then_30_s() -> None:
    retry, waits = Reconnect(), []
    assert retry.allows(NOW)
    for _ in range(6):
        retry = retry.failed(NOW, jitter=0.0)
        waits.append(retry.not_before - NOW)
        assert not retry.allows(retry.not_before - 0.1)
        assert retry.allows(retry.not_before)
    assert waits == [2, 4, 8, 16, 30, 30]


@given(st.integers(0, 5000), st.floats(0, 1))
def test_jitter_takes_half_of_a_wait_at_most_and_nothing_of_the_first(
    failures: int, jitter: float
) -> None:
    whole = Reconnect(failures).failed(NOW, 0.0).not_before - NOW
    wait = Reconnect(failures).failed(NOW, jitter).not_before - NOW
    assert whole / 2 - 1e-6 <= wait <= whole <= 30
    assert failures or wait == whole == 2
