"""The breaker's table, told as stories over time, and what holds whatever happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lb.breaker import Breaker, BreakerState
from lb.config_service import BreakerConfig
from lb.errors import BreakerOpenError, NoBackendError

CONFIG = BreakerConfig(enabled=True, failures=0.5, min_requests=10, window=10.0, open=5.0, trials=2)


def feed(breaker: Breaker, now: float, *, good: int = 0, bad: int = 0) -> None:
    """Requests that are admitted and end at this instant."""
    for ok in [True] * good + [False] * bad:
        assert breaker.admit(now) is None
        breaker.done(ok, now, now)


def opened(now: float = 100.0, config: BreakerConfig = CONFIG) -> Breaker:
    breaker = Breaker(config)
    feed(breaker, now, bad=config.min_requests)
    assert breaker.state is BreakerState.OPEN
    return breaker


# ── closed ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("good", "bad", "state"),
    [
        (0, 9, BreakerState.CLOSED),  # too few to judge
        (5, 5, BreakerState.OPEN),
        (6, 5, BreakerState.CLOSED),
        (100, 99, BreakerState.CLOSED),
    ],
)
def test_it_opens_by_the_share_that_failed(good: int, bad: int, state: BreakerState) -> None:
    breaker = Breaker(CONFIG)
    feed(breaker, 100.0, good=good, bad=bad)
    assert breaker.state is state


def test_what_failed_long_ago_is_forgotten() -> None:
    breaker = Breaker(CONFIG)
    feed(breaker, 100.0, bad=9)
    feed(breaker, 110.0, bad=9)
    assert breaker.admit(110.0) is None
    feed(breaker, 110.5, bad=1)
    assert breaker.state is BreakerState.OPEN


def test_switched_off_it_counts_nothing() -> None:
    breaker = Breaker(BreakerConfig())
    feed(breaker, 100.0, bad=1000)
    assert (breaker.state, breaker.admit(100.0)) == (BreakerState.CLOSED, None)


# ── open ──────────────────────────────────────────────────────────────────────────────────────────


def test_open_it_says_how_long_to_stay_away() -> None:
    breaker = opened(100.0)
    assert breaker.admit(100.0) == 5.0
    assert breaker.admit(104.5) == 0.5
    assert breaker.admit(105.0) is None
    assert breaker.state is BreakerState.HALF_OPEN


def test_those_who_end_while_it_is_open_change_nothing() -> None:
    breaker = Breaker(CONFIG)
    feed(breaker, 100.0, bad=10)
    for _ in range(100):
        breaker.done(True, 102.0, 99.0)
    assert breaker.admit(104.0) == 1.0


# ── half open ─────────────────────────────────────────────────────────────────────────────────────


def test_half_open_a_few_at_a_time_go_through() -> None:
    breaker = opened(100.0)
    assert [breaker.admit(at) for at in (105.0, 105.5, 106.0)] == [None, None, 4.0]
    breaker.done(True, 106.0, 105.0)
    assert breaker.admit(106.0) is None
    assert breaker.admit(106.0) == 4.5


def test_enough_good_ones_in_a_row_close_it_with_a_clean_slate() -> None:
    breaker = opened(100.0)
    for at in (105.0, 105.5):
        assert breaker.admit(at) is None
        breaker.done(True, at + 0.1, at)
    assert breaker.state is BreakerState.CLOSED
    feed(breaker, 106.0, bad=9)
    assert breaker.state is BreakerState.CLOSED


def test_one_bad_one_opens_it_for_another_while() -> None:
    breaker = opened(100.0)
    assert breaker.admit(105.0) is None
    assert breaker.admit(105.0) is None
    breaker.done(True, 105.1, 105.0)
    breaker.done(False, 105.2, 105.0)
    assert breaker.admit(105.2) == 5.0
    assert breaker.admit(110.2) is None
    breaker.done(True, 110.3, 110.2)
    assert breaker.state is BreakerState.HALF_OPEN, "the good one of before does not count"


def test_requests_from_before_it_opened_are_no_trials() -> None:
    breaker = opened(100.0)
    assert breaker.admit(105.0) is None
    for _ in range(10):
        breaker.done(True, 105.5, 99.0)
    breaker.done(False, 105.6, 99.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(105.7) is None
    assert breaker.admit(105.7) is not None, "their end gave back no place"


def test_a_trial_whose_client_left_gives_its_place_back() -> None:
    breaker = opened(100.0)
    assert breaker.admit(105.0) is None
    assert breaker.admit(105.5) is None
    breaker.forgotten(105.0)
    assert breaker.admit(106.0) is None
    assert breaker.admit(106.0) == 4.5
    assert breaker.state is BreakerState.HALF_OPEN


def test_trials_that_hang_hold_it_for_no_longer_than_an_open_one_waits() -> None:
    breaker = opened(100.0)
    assert [breaker.admit(105.0), breaker.admit(105.0)] == [None, None]
    assert breaker.admit(109.9) == pytest.approx(0.1)
    assert breaker.admit(110.0) is None
    breaker.done(False, 110.5, 105.0)
    assert breaker.state is BreakerState.OPEN, "the late word of one that hung is a word"


# ── new rules ─────────────────────────────────────────────────────────────────────────────────────


def test_switched_off_while_open_it_lets_everybody_pass() -> None:
    breaker = opened(100.0)
    breaker.config = BreakerConfig(enabled=False)
    assert breaker.admit(100.0) is None
    breaker.config = CONFIG
    assert breaker.state is BreakerState.CLOSED


def test_new_rules_keep_what_was_counted_by_the_same_window() -> None:
    breaker = Breaker(CONFIG)
    feed(breaker, 100.0, bad=9)
    breaker.config = CONFIG.model_copy(update={"open": 7.0})
    feed(breaker, 100.0, bad=1)
    assert breaker.admit(100.0) == 7.0
    breaker = Breaker(CONFIG)
    feed(breaker, 100.0, bad=9)
    breaker.config = CONFIG.model_copy(update={"window": 60.0})
    feed(breaker, 100.0, bad=9)
    assert breaker.state is BreakerState.CLOSED


def test_the_error_says_when_to_come_back_in_whole_seconds() -> None:
    assert BreakerOpenError("open", retry_after_s=4.2).retry_after_s == 5
    assert BreakerOpenError("open", retry_after_s=0.01).retry_after_s == 1
    assert BreakerOpenError("open").retry_after_s == NoBackendError.retry_after_s == 1
    assert str(BreakerOpenError("open", retry_after_s=3)) == "open"


# ── whatever happens ──────────────────────────────────────────────────────────────────────────────


class BreakerMachine(RuleBasedStateMachine):
    """Requests come, end well or badly, get lost, and time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.breaker = Breaker(CONFIG)
        self.told: list[Callable[[Breaker], object]] = []
        """All that the breaker was told, for another one."""
        self.running: list[float] = []
        self.trials: list[float] = []

    @rule(seconds=st.sampled_from([0.001, 0.5, 2.0, 5.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def come(self) -> None:
        before = self.breaker.state
        now = self.now
        self.told.append(lambda breaker: breaker.admit(now))
        wait = self.breaker.admit(now)
        if wait is not None:
            assert before is not BreakerState.CLOSED
            assert 0 < wait <= CONFIG.open + 1e-9
            return
        self.running.append(self.now)
        if self.breaker.state is BreakerState.HALF_OPEN:
            if before is not BreakerState.HALF_OPEN:
                self.trials = []
            self.trials = [at for at in self.trials if self.now - at < CONFIG.open]
            self.trials.append(self.now)
            assert len(self.trials) <= CONFIG.trials

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 50), ok=st.booleans())
    def end(self, number: int, ok: bool) -> None:
        at = self._leaves(number)
        now = self.now
        self.told.append(lambda breaker: breaker.done(ok, now, at))
        self.breaker.done(ok, now, at)

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 50))
    def forget(self, number: int) -> None:
        at = self._leaves(number)
        self.told.append(lambda breaker: breaker.forgotten(at))
        self.breaker.forgotten(at)

    def _leaves(self, number: int) -> float:
        at = self.running.pop(number % len(self.running))
        if at in self.trials:
            self.trials.remove(at)
        return at

    @invariant()
    def nobody_is_kept_out_for_ever(self) -> None:
        later = Breaker(CONFIG)
        for tell in self.told:
            tell(later)
        assert later.state is self.breaker.state
        assert later.admit(self.now + CONFIG.open) is None


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
