"""Counters that add up: whatever each worker counted, told in whatever pieces, the sum is the same
as if one had counted it all."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb import counted
from lb.backend import Backend
from lb.counted import Count, Elsewhere
from lb.latency import BOUNDS_S
from lb.request_metrics import RequestMetrics

NOW = 1000.0

events = st.one_of(
    st.tuples(
        st.just("finished"), st.sampled_from(["GET", "POST", "odd"]),
        st.sampled_from([200, 404, 503]), st.floats(0, 200, allow_subnormal=False),
    ),
    st.tuples(st.just("retried"), st.sampled_from(["timeout", "reset"])),
    st.tuples(st.just("error"), st.sampled_from(["timeout", "reset"])),
    st.tuples(st.just("arrived")),
    st.tuples(st.just("waited"), st.floats(0, 20, allow_subnormal=False)),
    st.tuples(st.just("turned_away")),
)  # fmt: skip


def count(counters: RequestMetrics, event: tuple[object, ...]) -> None:
    match event:
        case ("finished", str(method), int(code), float(seconds)):
            counters.finished(method, code, seconds, NOW)
        case ("retried", str(reason)):
            counters.retried(reason)
        case ("error", str(reason)):
            counters.upstream_error(reason)
        case ("arrived",):
            counters.arrived += 1
        case ("waited", float(seconds)):
            counters.queue_wait.record(seconds, NOW)
        case ("turned_away",):
            counters.turned_away += 1


@dataclass
class Counting:
    """A worker, as far as it counts, and what the first process has heard of it."""

    counters: RequestMetrics = field(default_factory=lambda: RequestMetrics("web"))
    told: Count = field(default_factory=dict)
    heard: Count = field(default_factory=dict)

    def report(self, to: RequestMetrics) -> None:
        totals = counted.of_requests(self.counters)
        message = counted.changed(self.told, totals)
        self.told = totals
        counted.add_to_requests(to, counted.grown(self.heard, message), NOW)
        self.heard.update(message)
        # a total told once more counts nothing more
        assert not counted.grown(self.heard, message)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), events), max_size=40))
def test_the_sum_is_what_one_would_have_counted(
    story: list[tuple[int, bool, tuple[object, ...]]],
) -> None:
    alone, whole = RequestMetrics("web"), RequestMetrics("web")
    workers = [Counting() for _ in range(4)]
    for number, reports, event in story:
        count(alone, event)
        count(workers[number].counters, event)
        if reports:
            workers[number].report(whole)
    for worker in workers:
        worker.report(whole)
    assert whole.requests == alone.requests
    assert whole.retries == alone.retries
    assert whole.upstream_errors == alone.upstream_errors
    assert (whole.arrived, whole.turned_away) == (alone.arrived, alone.turned_away)
    for mine, theirs in (
        (whole.duration, alone.duration),
        (whole.queue_wait, alone.queue_wait),
    ):
        assert mine.counts() == theirs.counts()
        assert mine.cumulative() == theirs.cumulative()
        assert mine.sum_s == pytest.approx(theirs.sum_s)
        assert mine.quantiles((0.5, 0.99), NOW) == theirs.quantiles((0.5, 0.99), NOW)
        assert mine.rate(NOW + 1) == theirs.rate(NOW + 1)


def test_a_backends_figures_add_up_and_its_durations_may_be_counted_elsewhere() -> None:
    there, here, left = (Backend("a", "a:80") for _ in range(3))
    there.requests_total, there.bad_total = 5, 2
    there.failures = {"reset": 2}
    there.latency.record(0.25, NOW)
    growth = counted.grown({}, counted.of_backend(there))
    counted.add_to_backend(here, left.latency, growth, NOW)
    counted.add_to_backend(here, left.latency, growth, NOW)
    assert (here.requests_total, here.bad_total, here.failures) == (10, 4, {"reset": 4})
    assert (here.latency.count, left.latency.count) == (0, 2)
    assert left.latency.sum_s == 0.5


def test_only_what_changed_is_told() -> None:
    counters = RequestMetrics("web")
    counters.finished("GET", 200, 0.1, NOW)
    before = counted.of_requests(counters)
    assert counted.changed(before, counted.of_requests(counters)) == {}
    counters.finished("GET", 404, 0.1, NOW)
    assert set(counted.changed(before, counted.of_requests(counters))) == {
        "requests GET 404", f"duration {bisect_left(BOUNDS_S, 0.1)}", "duration sum",
    }  # fmt: skip


def test_what_others_have_now_adds_up() -> None:
    whole = Elsewhere()
    whole.add(Elsewhere(in_flight=2, waiting=1, waiting_s=3.0, connections=4))
    whole.add(Elsewhere(in_flight=1, tunnels=1, waiting_s=0.5, broken=True, limit=7))
    whole.add(Elsewhere(limit=5))
    assert whole == Elsewhere(
        in_flight=3, tunnels=1, waiting=1, waiting_s=3.0, broken=True, limit=12, connections=4
    )
    assert Elsewhere(**whole.as_dict()) == whole  # type: ignore[arg-type]
