"""The adaptive limit before a simulated service: it finds what fits, and stays there.

The service is a small discrete-event simulation: Poisson arrivals, `workers` that serve one request
each, a queue inside. What the limit does not let in is turned away. Seconds are simulated ones.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.adaptive import MEASURE_EVERY_S, AdaptiveLimit
from lb.config_service import AdaptiveConfig

Draw = Callable[[random.Random], float]


def fixed(seconds: float) -> Draw:
    return lambda rng: seconds


def exponential(mean_s: float) -> Draw:
    return lambda rng: rng.expovariate(1 / mean_s)


def two_kinds(fast_s: float, slow_s: float, slow_share: float) -> Draw:
    return lambda rng: slow_s if rng.random() < slow_share else fast_s


def heavy_tailed(median_s: float) -> Draw:
    """Lognormal: the mean is 1.6 medians, one in a hundred takes ten of them."""
    return lambda rng: median_s * rng.lognormvariate(0, 1)


class Service:
    """What happens to whom: `limits` and `latencies` as they were at which time."""

    def __init__(
        self, workers: int, draw: Draw, *, seed: int = 1, config: AdaptiveConfig | None = None
    ) -> None:
        self.workers = workers
        self.draw = draw
        self.adaptive = AdaptiveLimit(config or AdaptiveConfig(enabled=True))
        self.fails = 0.0
        """Share of requests that end in an error, at once."""
        self._rng = random.Random(seed)
        self.now = 1000.0
        self._began = self.now
        self._ends: list[tuple[float, int, float, bool]] = []
        self._queue: deque[float] = deque()
        self._number = itertools.count()
        self.limits: list[tuple[float, int]] = []
        self.latencies: list[float] = []
        self.turned_away = 0

    @property
    def running(self) -> int:
        return len(self._ends) + len(self._queue)

    def serve(self, rate: float, seconds: float) -> None:
        """So many requests a second, for so long."""
        self._began = self.now
        self.limits.clear()
        self.latencies.clear()
        self.turned_away = 0
        until = self.now + seconds
        arrival = self.now + self._rng.expovariate(rate)
        while min(arrival, self._next_end()) < until:
            if arrival < self._next_end():
                self.now = arrival
                arrival += self._rng.expovariate(rate)
                self._arrive()
            else:
                self._end()
        self.now = until

    def _next_end(self) -> float:
        return self._ends[0][0] if self._ends else float("inf")

    def _arrive(self) -> None:
        if self.running >= self.adaptive.limit:
            self.turned_away += 1
        else:
            self._queue.append(self.now)
            self._start()

    def _start(self) -> None:
        while self._queue and len(self._ends) < self.workers:
            failing = self._rng.random() < self.fails
            took = 0.001 if failing else self.draw(self._rng)
            end = (self.now + took, next(self._number), self._queue.popleft(), failing)
            heapq.heappush(self._ends, end)

    def _end(self) -> None:
        running = self.running
        self.now, _, sent_at, failing = heapq.heappop(self._ends)
        self.adaptive.finished(self.now - sent_at, running, failing, self.now)
        self.limits.append((self.now, self.adaptive.limit))
        self.latencies.append(self.now - sent_at)
        self._start()

    # ── what to look at ──────────────────────────────────────────────────────────────────────

    def usual_limit(self) -> float:
        """The median over the time since `serve` began."""
        values = sorted(limit for _, limit in self.limits)
        return values[len(values) // 2]

    def highest_limit(self) -> int:
        return max(limit for _, limit in self.limits)

    def throughput(self) -> float:
        return len(self.latencies) / (self.now - self._began)

    def latency(self, quantile: float) -> float:
        return sorted(self.latencies)[int(quantile * len(self.latencies))]


# ── overload ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [4, 8, 32])
@pytest.mark.parametrize("draw", [fixed(0.02), exponential(0.02)], ids=["fixed", "exponential"])
def test_three_times_overloaded_it_settles_near_capacity_times_latency(
    workers: int, draw: Draw
) -> None:
    service = Service(workers, draw)
    capacity = workers / 0.02
    service.serve(3 * capacity, 3)
    service.serve(3 * capacity, 6)
    # capacity × latency is just the number of workers
    assert workers <= service.usual_limit() <= 3 * workers
    assert service.throughput() >= 0.93 * capacity
    assert service.latency(0.5) <= 3 * 0.02


def test_however_long_the_overload_lasts_it_does_not_take_it_for_normal() -> None:
    service = Service(8, fixed(0.02))
    service.serve(3 * 400, 5)
    early = service.usual_limit()
    service.serve(3 * 400, 150)
    assert service.usual_limit() == pytest.approx(early, abs=3)
    assert service.adaptive.idle_latency_s == pytest.approx(0.02, rel=0.1)


@given(
    seed=st.integers(0, 10_000),
    workers=st.sampled_from([4, 8, 24]),
    draw=st.sampled_from(
        [exponential(0.02), heavy_tailed(0.02), two_kinds(0.005, 0.1, 0.2), fixed(0.3)]
    ),
)
@settings(max_examples=15, deadline=None)
def test_noise_never_lets_it_collapse(seed: int, workers: int, draw: Draw) -> None:
    rng = random.Random(seed)
    mean_s = sum(draw(rng) for _ in range(2000)) / 2000
    capacity = workers / mean_s
    service = Service(workers, draw, seed=seed, config=AdaptiveConfig(enabled=True, min=2))
    service.serve(2 * capacity, 800 * mean_s / workers + 100 * mean_s)
    service.serve(2 * capacity, 4000 * mean_s / workers)
    assert service.throughput() >= 0.75 * capacity
    assert service.usual_limit() >= 0.75 * workers


# ── change ────────────────────────────────────────────────────────────────────────────────────────


def test_a_replica_that_joins_is_used_within_seconds_and_one_that_leaves_is_missed() -> None:
    service = Service(8, fixed(0.02))
    service.serve(3 * 400, 5)
    service.workers = 16
    service.serve(3 * 400, 3)
    service.serve(3 * 400, 3)
    assert service.throughput() >= 0.95 * 800
    service.workers = 8
    service.serve(3 * 400, 3)
    service.serve(3 * 400, 3)
    assert 8 <= service.usual_limit() <= 24
    assert service.throughput() >= 0.9 * 400


@pytest.mark.parametrize("workers", [8, 64])
@pytest.mark.parametrize("slower", [1.8, 2.5, 5.0])
def test_a_service_that_has_become_slower_is_measured_anew_and_used_fully(
    workers: int, slower: float
) -> None:
    service = Service(workers, fixed(0.02))
    service.serve(3 * workers / 0.02, 3)
    service.draw = fixed(0.02 * slower)
    capacity = workers / (0.02 * slower)
    service.serve(3 * capacity, 15)
    service.serve(3 * capacity, 5)
    assert service.throughput() >= 0.9 * capacity
    service.serve(3 * capacity, 2 * MEASURE_EVERY_S if workers == 8 else 5)
    assert service.adaptive.idle_latency_s == pytest.approx(0.02 * slower, rel=0.2)


def test_one_that_has_become_faster_is_held_to_it_after_a_few_measurements() -> None:
    service = Service(8, fixed(0.1))
    service.serve(3 * 80, 20)
    service.draw = fixed(0.02)
    service.serve(3 * 400, 3 * MEASURE_EVERY_S)
    service.serve(3 * 400, 10)
    assert service.adaptive.idle_latency_s == pytest.approx(0.02, rel=0.2)
    assert service.usual_limit() <= 3 * 8


# ── below capacity ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_below_capacity_it_turns_nobody_away_and_does_not_grow_without_bound(load: float) -> None:
    service = Service(8, fixed(0.02))
    service.serve(load * 400, 5)
    service.serve(load * 400, 60)
    assert service.turned_away <= 0.005 * load * 400 * 60
    # one and a quarter of what ever ran at once (25, at the highest of these loads), and its root
    assert service.highest_limit() <= 36


def test_from_idle_it_grows_as_fast_as_it_is_used() -> None:
    service = Service(200, fixed(0.02))
    service.serve(40, 5)
    service.serve(0.9 * 10_000, 4)
    service.serve(0.9 * 10_000, 2)
    assert service.turned_away == 0


# ── failures ──────────────────────────────────────────────────────────────────────────────────────


def test_quick_errors_do_not_pass_for_a_fast_service() -> None:
    service = Service(8, fixed(0.02))
    service.serve(3 * 400, 5)
    before = service.usual_limit()
    service.fails = 0.6
    service.serve(3 * 400, 3)
    assert service.usual_limit() < before
    assert service.adaptive.idle_latency_s == pytest.approx(0.02, rel=0.2)
    service.fails = 0.0
    service.serve(3 * 400, 2)
    service.serve(3 * 400, 2)
    assert service.throughput() >= 0.95 * 400


def test_requests_that_never_end_do_not_keep_it_measuring() -> None:
    adaptive = AdaptiveLimit(AdaptiveConfig(enabled=True, min=2))
    now = 1000.0
    for _ in range(2000):
        now += 0.01
        adaptive.finished(0.02, 30, False, now)  # 29 others run, and will for hours
    assert adaptive.limit > 30


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────


@given(
    finished=st.lists(
        st.tuples(
            st.floats(0, 100, allow_nan=False),
            st.integers(1, 5000),
            st.booleans(),
            st.floats(0, 2, allow_nan=False),
        ),
        max_size=300,
    ),
    low=st.integers(1, 50),
    more=st.integers(0, 500),
)
@settings(max_examples=80, deadline=None)
def test_it_stays_within_its_bounds_whatever_it_is_told(
    finished: list[tuple[float, int, bool, float]], low: int, more: int
) -> None:
    adaptive = AdaptiveLimit(AdaptiveConfig(enabled=True, min=low, max=low + more))
    now = 1000.0
    for latency_s, in_flight, dropped, pause in finished:
        now += pause
        adaptive.finished(latency_s, in_flight, dropped, now)
        assert low <= adaptive.limit <= low + more
        assert 0 <= adaptive.max_wait(now % 3) <= adaptive.config.max_wait


def test_new_bounds_hold_at_once() -> None:
    service = Service(8, fixed(0.02))
    service.serve(3 * 400, 5)
    service.adaptive.config = AdaptiveConfig(enabled=True, min=2, max=5)
    assert service.adaptive.limit == 5
    service.adaptive.config = AdaptiveConfig(enabled=True, min=100)
    assert service.adaptive.limit == 100


# ── waiting ───────────────────────────────────────────────────────────────────────────────────────


def test_a_burst_may_wait_for_two_answers_and_a_standing_line_for_one() -> None:
    service = Service(8, fixed(0.02), config=AdaptiveConfig(enabled=True, max_wait=1.0))
    assert service.adaptive.max_wait(0.0) == 1.0, "before anything is known"
    service.serve(3 * 400, 5)
    assert service.adaptive.max_wait(0.0) == pytest.approx(0.04, rel=0.1)
    assert service.adaptive.max_wait(0.03) == pytest.approx(0.04, rel=0.1)
    assert service.adaptive.max_wait(0.05) == pytest.approx(0.02, rel=0.1)


def test_nobody_waits_longer_than_configured() -> None:
    service = Service(8, fixed(0.5), config=AdaptiveConfig(enabled=True, max_wait=0.3))
    service.serve(3 * 16, 60)
    assert service.adaptive.max_wait(0.0) == service.adaptive.max_wait(9.0) == 0.3
