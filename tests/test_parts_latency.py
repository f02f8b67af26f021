"""Trials for latency: who asks for one, how it is judged, and that none goes on for ever."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.decision import Part
from autoscale.model import Reason
from autoscale.parts.latency import LatencyState, latency_part
from tests.readings import NOW, fleet

TARGET_S = 0.5
SLOW, FINE = 0.9, 0.1


@dataclass
class Trials:
    """A planner of nothing but latency: what it asks for is wanted at once, and what it no longer
    keeps leaves at once. `comes`: whether what is wanted serves by the next second."""

    base: int = 1
    ready: int = 1
    comes: bool = True
    now: float = NOW
    state: LatencyState = field(default_factory=LatencyState)
    wanted: list[int] = field(default_factory=list)

    def second(
        self, p99_s: float | None, work: float | None = 0.5, *, enough: bool = True
    ) -> Part | None:
        self.now += 1
        self.state = self.state.judge(p99_s, fleet(self.ready), self.base, work, self.now)
        part = latency_part(self.state, p99_s, TARGET_S, self.base, self.now, enough=enough)
        if part is not None and part.asks > self.base:
            assert p99_s is not None
            self.base = part.asks
            self.state = self.state.tried(self.base, p99_s, self.now)
        elif part is None or part.keeps < self.base:
            self.base = max(1, part.keeps if part is not None else 1)
        self.ready = self.base if self.comes else min(self.ready, self.base)
        self.wanted.append(self.base)
        return part

    def seconds(
        self, count: int, p99_s: float | None, work: float | None = 0.5, *, enough: bool = True
    ) -> Part | None:
        for _ in range(count):
            part = self.second(p99_s, work, enough=enough)
        return part


def tried(base: int = 1) -> Trials:
    """One that has just asked for one more, because it was slow."""
    trials = Trials(base=base, ready=base)
    trials.seconds(60, FINE)
    trials.base = trials.ready = base
    part = trials.second(SLOW)
    assert part is not None
    assert (part.asks, part.reason) == (base + 1, Reason.LATENCY)
    return trials


def test_without_an_objective_or_a_request_it_says_nothing() -> None:
    assert latency_part(LatencyState(), 9.0, None, 1, NOW, enough=True) is None
    assert latency_part(LatencyState(), None, TARGET_S, 1, NOW, enough=True) is None


@pytest.mark.parametrize(
    ("p99_s", "enough", "asks", "keeps"),
    [
        (0.9, True, 3, 2),
        (0.9, False, 0, 2),  # somebody else asks for more: that first
        (0.5, True, 0, 2),
        (0.41, True, 0, 2),  # near it nobody leaves
        (0.39, True, 0, 0),
    ],
)
def test_one_more_where_it_is_slow(p99_s: float, enough: bool, asks: int, keeps: int) -> None:
    part = latency_part(LatencyState(), p99_s, TARGET_S, 2, NOW, enough=enough)
    assert part == Part(Reason.LATENCY, asks, keeps, {"p99_s": p99_s, "target_s": TARGET_S})


def test_a_trial_is_kept_until_it_is_judged_twenty_seconds_after_it_serves() -> None:
    trials = tried()
    trials.comes, trials.ready = False, 1
    trials.seconds(40, SLOW)
    assert trials.base == 2, "it boots"
    trials.comes, trials.ready = True, 2
    trials.seconds(20, SLOW)
    assert trials.base == 2
    trials.seconds(2, SLOW)
    assert trials.base == 1, "it helped nobody"


def test_one_that_helped_is_kept_while_there_is_as_much_to_do() -> None:
    trials = tried()
    trials.seconds(300, FINE, 0.5)
    assert trials.base == 2
    trials.seconds(300, FINE, 0.41)
    assert trials.base == 2
    trials.seconds(60, FINE, 0.2)
    assert trials.base == 1


def test_better_by_less_than_a_tenth_is_noise() -> None:
    """It was 0.9 before, and stays above the target: the third is tried only where the second
    helped."""
    for p99_s, replicas in ((0.82, 1), (0.80, 3)):
        trials = tried()
        trials.seconds(22, p99_s)
        assert trials.base == replicas


def test_where_it_helped_and_is_still_slow_another_one_is_tried() -> None:
    trials = tried()
    trials.seconds(25, 0.7)
    assert trials.base == 3
    trials.seconds(25, 0.69)
    assert trials.base == 2, "the third did not help, the second did"


def test_after_one_that_did_not_help_nobody_is_tried_for_ten_minutes() -> None:
    trials = tried()
    trials.seconds(22, SLOW)
    trials.wanted.clear()
    trials.seconds(597, SLOW)
    assert set(trials.wanted) == {1}
    trials.seconds(3, SLOW)
    assert trials.base == 2


def test_a_crash_within_the_trial_begins_the_twenty_seconds_anew() -> None:
    trials = tried()
    trials.seconds(15, SLOW)
    trials.ready, trials.comes = 1, False
    trials.second(SLOW)
    trials.ready, trials.comes = 2, True
    trials.seconds(20, SLOW)
    assert trials.base == 2
    trials.seconds(2, SLOW)
    assert trials.base == 1


# ── no dead ends ─────────────────────────────────────────────────────────────────────────────────


def test_a_replica_that_never_comes_is_not_asked_for_for_ever() -> None:
    trials = tried()
    trials.comes, trials.ready = False, 1
    trials.seconds(598, FINE)
    assert trials.base == 2
    trials.seconds(3, FINE)
    assert trials.base == 1
    trials.seconds(500, SLOW)
    assert trials.base == 1, "as good as futile"


def test_what_others_took_back_is_forgotten() -> None:
    """By an operator, or a maximum that was lowered: there is nothing to go back to."""
    trials = tried(base=2)
    trials.base = trials.ready = 1
    part = trials.second(FINE)
    assert part is not None
    assert (part.asks, part.keeps) == (0, 0)
    # and it may be tried again: nothing was learned
    part = trials.second(SLOW)
    assert part is not None
    assert part.asks == 2


def test_a_trial_that_nobody_asked_anything_of_is_forgotten_with_its_replica() -> None:
    trials = tried(base=2)
    trials.seconds(100, None, 0.0)
    assert trials.base == 1
    trials.seconds(10, FINE, 0.1)
    assert trials.base == 1


def test_what_was_won_before_needs_no_second_trial() -> None:
    """An operator let it go, and his hour is over: it comes back, and is not called futile because
    nothing was slow when it was missing."""
    trials = tried()
    trials.seconds(30, FINE)
    trials.base = trials.ready = 1
    part = trials.second(FINE)
    assert part is not None
    assert part.asks == 2
    trials.seconds(60, FINE)
    assert trials.base == 2
    trials.second(SLOW)
    assert trials.base == 3, "so another one may be tried where it is slow again"


def test_noise_does_not_lose_what_was_won() -> None:
    """Ten requests a second of a tenth: one second's work is a third off. The second replica is
    needed all along; lost to noise, it would go and come for ever."""
    noise = random.Random(1)
    trials = Trials()
    for second in range(3000):
        work = max(0.0, noise.gauss(0.6, 0.2))
        trials.second(SLOW if trials.base == 1 and second > 60 else FINE, work)
    assert (trials.base, sum(a != b for a, b in pairwise(trials.wanted))) == (2, 1)


def test_what_was_won_with_nothing_to_do_is_given_back() -> None:
    """By a slow answer or two: the work was 0 then, and is never less."""
    trials = Trials()
    trials.seconds(60, FINE, 0.0)
    trials.second(SLOW, 0.0)
    trials.seconds(60, FINE, 0.0)
    assert trials.base == 1


def test_what_was_won_at_work_that_nobody_could_measure_is_given_back() -> None:
    trials = Trials()
    trials.seconds(60, FINE, None)
    trials.second(SLOW, None)
    trials.seconds(30, FINE, None)
    assert trials.base == 2
    trials.second(FINE, 0.5)
    assert trials.base == 1


def test_missing_samples_do_not_lose_what_was_won() -> None:
    trials = tried()
    trials.seconds(30, FINE)
    trials.seconds(300, FINE, None)
    assert trials.base == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 0.01, 0.45, 0.9, 3.0]),
            st.none() | st.floats(0, 3),
            st.booleans(),
            st.sampled_from([1, 5, 30, 200]),
        ),
        max_size=25,
    ),
    st.integers(1, 4),
)
def test_whatever_happened_with_nothing_to_do_all_of_them_may_go(
    told: list[tuple[float | None, float | None, bool, int]], base: int
) -> None:
    trials = Trials(base=base, ready=base)
    for p99_s, work, comes, count in told:
        trials.comes = comes
        trials.seconds(count, p99_s, work)
    trials.seconds(700, 0.01, 0.0)
    assert trials.base == 1


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.9, 3.0]), st.integers(1, 100)), max_size=20))
def test_trials_are_rare(told: list[tuple[float, int]]) -> None:
    """At most one at a time, and each lasts for as long as its judgement takes."""
    trials = Trials()
    for p99_s, count in told:
        trials.seconds(count, p99_s)
    grown = [second for second, (a, b) in enumerate(pairwise(trials.wanted)) if b > a]
    assert all(b - a >= 20 for a, b in pairwise(grown))
