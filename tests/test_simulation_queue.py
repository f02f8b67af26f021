"""The simulator's queue: against the textbook's formulas, and against a plain one step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.simulation.queue import Floats, Queue
from autoscale.simulation.requests import Requests
from autoscale.simulation.scenario import Law
from tests.simulations import flat, scenario

INF = math.inf


# --- a plain one


@dataclass
class Plain:
    """First come, first served, one by one. `free`: when each server gets free."""

    longest: int
    patience_s: float
    free: list[float] = field(default_factory=list)
    waiting: list[tuple[float, float]] = field(default_factory=list)
    latency: dict[float, float] = field(default_factory=dict)
    lost: list[float] = field(default_factory=list)

    def until(self, now: float) -> None:
        """Whoever waits and is called by then, or gives up by then."""
        while self.waiting:
            came, work = self.waiting[0]
            called, gives_up = min(self.free, default=INF), came + self.patience_s
            if min(called, gives_up) > now:
                return
            self.waiting.pop(0)
            if called <= gives_up:
                self.start(came, work, called)
            else:
                self.lost.append(came)

    def start(self, came: float, work: float, at: float) -> None:
        self.free[self.free.index(min(self.free))] = at + work
        self.latency[came] = at + work - came

    def come(self, at: float, work: float) -> None:
        self.until(at)
        if not self.waiting and min(self.free, default=INF) <= at:
            self.start(at, work, at)
        elif len(self.waiting) < self.longest:
            self.waiting.append((at, work))
        else:
            self.lost.append(at)


def by_plain(
    requests: list[tuple[float, float]], servers: list[int], longest: int, patience_s: float
) -> tuple[dict[float, float], list[float]]:
    """Answers by when they came, and when those came that are lost. `servers`: in each second."""
    plain = Plain(longest, patience_s)
    for second, count in enumerate(servers):
        plain.free += [float(second)] * (count - len(plain.free))
        for at, work in requests:
            if second <= at < second + 1:
                plain.come(at, work)
        plain.until(math.nextafter(second + 1.0, 0))
    end = float(len(servers))
    answered = {came: took for came, took in plain.latency.items() if came + took <= end}
    return answered, plain.lost


def by_queue(
    requests: list[tuple[float, float]], servers: list[int], longest: int, patience_s: float
) -> tuple[dict[float, float], list[float]]:
    queue = Queue(longest, patience_s)
    answered: dict[float, float] = {}
    lost: list[float] = []
    times, works = np.array(requests).reshape(-1, 2).T
    for second, count in enumerate(servers):
        here = (times >= second) & (times < second + 1)
        outcome = queue.serve(float(second), second + 1.0, times[here], works[here], count)
        answered |= dict(zip(outcome.arrived.tolist(), outcome.latency.tolist(), strict=True))
        lost += outcome.lost
    return answered, lost


# eighths are exact in binary, so that many things happen at the same instant
eighths = st.integers(1, 24).map(lambda eighth: eighth / 8)


@given(
    gaps=st.lists(st.integers(1, 6).map(lambda gap: gap / 32), max_size=60),
    works=st.lists(eighths, min_size=60, max_size=60),
    servers=st.lists(st.integers(0, 6), min_size=8, max_size=8).map(sorted),
    longest=st.integers(0, 6),
    patience_s=st.sampled_from([0.25, 1.0, INF]),
)
@settings(max_examples=150, deadline=None)
def test_it_is_the_plain_one(
    gaps: list[float],
    works: list[float],
    servers: list[int],
    longest: int,
    patience_s: float,
) -> None:
    requests = list(zip(np.cumsum(gaps).tolist(), works, strict=False))
    drawn = (servers, longest, patience_s)
    assert by_queue(requests, *drawn) == by_plain(requests, *drawn)


@pytest.mark.parametrize("load", [0.3, 0.8, 0.95, 1.3])
def test_it_is_the_plain_one_by_the_hundreds(load: float) -> None:
    """Long enough for both ways of counting to take turns within one stretch."""
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.exponential(1 / 400, 1500)).tolist()
    requests = list(zip(times, rng.exponential(load * 20 / 400, 1500).tolist(), strict=True))
    drawn = ([20, 20, 20, 24, 24], 50, 0.2)
    ours, plain = by_queue(requests, *drawn), by_plain(requests, *drawn)
    assert ours == plain
    assert bool(ours[1]) == (load > 1)


# --- the textbook


def waits(requests: int, servers: int, **given: Any) -> tuple[Floats, float, float]:
    """Of so many requests, arriving at 1/s; and the load and the mean work that were drawn, as the
    formulas are steep in them."""
    played = scenario(flat(1.0, float(requests)), **given)
    times, works = Requests(played).until(played.duration_s)
    outcome = Queue(10**9, INF).serve(0.0, 10.0 * requests, times, works, servers)
    assert len(outcome.latency) == len(times)
    # who is answered is told in the order of starting, which is that of arrival
    wait = np.asarray(outcome.latency - works)
    return wait, float(works.sum() / requests), float(works.mean())


def erlang_c(load: float, servers: int) -> float:
    """Probability of waiting in M/M/c (Erlang 1917): `load` = λ/μ erlang on so many servers."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


@pytest.mark.parametrize(("servers", "rho"), [(1, 0.5), (1, 0.7), (2, 0.7), (10, 0.7), (20, 0.8)])
def test_mean_waits_are_those_of_erlang(servers: int, rho: float) -> None:
    """M/M/c: C(c, a) of all wait, and the mean wait is C(c, a) × mean service / (c − a)."""
    got, load, mean = waits(150_000, servers, service_s=rho * servers, law=Law.EXPONENTIAL, seed=11)
    wait = erlang_c(load, servers)
    assert (got > 1e-9).mean() == pytest.approx(wait, rel=0.05)
    assert got.mean() == pytest.approx(wait * mean / (servers - load), rel=0.1)


@pytest.mark.parametrize(
    ("law", "cv"), [(Law.DETERMINISTIC, 0.0), (Law.GAMMA, 0.5), (Law.LOGNORMAL, 1.5)]
)
def test_mean_waits_are_those_of_pollaczek_and_khinchine(law: Law, cv: float) -> None:
    """M/G/1: mean wait = load × mean service × (1 + cv²) / (2 (1 − load))."""
    got, load, mean = waits(150_000, 1, service_s=0.6, law=law, cv=cv or 1.0, seed=12)
    assert got.mean() == pytest.approx(load * mean * (1 + cv**2) / (2 * (1 - load)), rel=0.05)


# --- by hand


def times(*values: float) -> Floats:
    return np.array(values)


def test_who_waits_is_served_in_order_and_the_servers_time_is_counted() -> None:
    queue = Queue(10, INF)
    outcome = queue.serve(0.0, 2.0, times(0.0, 0.25, 0.5), times(1.0, 0.5, 2.0), 1)
    assert outcome.arrived.tolist() == [0.0, 0.25]
    assert outcome.latency.tolist() == [1.0, 1.25]
    assert (outcome.busy_s, outcome.lost) == (2.0, ())
    assert queue.running.ends.tolist() == [3.5]
    assert queue.waiting_since is None


def test_an_answer_at_the_end_of_a_stretch_is_one_of_it() -> None:
    queue = Queue(10, INF)
    outcome = queue.serve(0.0, 1.0, times(0.25), times(0.75), 1)
    assert (outcome.arrived.tolist(), len(queue.running)) == ([0.25], 0)


def test_it_tells_since_when_somebody_has_been_waiting() -> None:
    queue = Queue(10, INF)
    queue.serve(0.0, 1.0, times(0.0, 0.125, 0.5, 0.75), times(0.25, 0.125, 9.0, 1.0), 1)
    assert queue.waiting_since == 0.75
    queue.serve(1.0, 10.0, times(2.0), times(1.0), 1)
    assert queue.waiting_since == 0.75
    queue.serve(10.0, 20.0, times(), times(), 1)
    after: float | None = queue.waiting_since
    assert after is None


def test_a_full_queue_and_an_end_of_patience_lose_requests() -> None:
    queue = Queue(1, 0.5)
    outcome = queue.serve(0.0, 1.0, times(0.0, 0.125, 0.25), times(4.0, 1.0, 1.0), 1)
    assert outcome.lost == (0.25, 0.125)


def test_without_servers_all_wait() -> None:
    queue = Queue(10, INF)
    queue.serve(0.0, 1.0, times(0.5), times(1.0), 0)
    assert [came for came, _, _ in queue.waiting] == [0.5]
    outcome = queue.serve(1.0, 3.0, times(), times(), 1)
    assert outcome.latency.tolist() == [1.5]


def test_those_put_back_go_first_in_order_and_begin_anew() -> None:
    queue = Queue(10, INF)
    queue.serve(0.0, 1.0, times(0.0, 0.25, 0.5), times(3.0, 3.0, 1.0), 2)
    failed = queue.take(np.array([True, True]))
    queue.put_back(failed, 1.0)
    assert [came for came, _, _ in queue.waiting] == [0.0, 0.25, 0.5]
    assert queue.waiting_since == 0.5
    outcome = queue.serve(1.0, 9.0, times(), times(), 1)
    assert outcome.arrived.tolist() == [0.0, 0.25, 0.5]
    assert outcome.latency.tolist() == [4.0, 6.75, 7.5]


def test_where_nobody_waited_those_put_back_wait_from_then() -> None:
    queue = Queue(10, 2.0)
    queue.serve(0.0, 1.0, times(0.0), times(3.0), 1)
    queue.put_back(queue.take(np.array([True])), 1.0)
    assert queue.waiting_since == 1.0
    # as patient as a new one
    assert queue.serve(1.0, 9.0, times(), times(), 0).lost == (0.0,)
    assert [gives_up for _, _, gives_up in queue.waiting] == []
