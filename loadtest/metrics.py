"""A running test's Prometheus metrics: their names, and the small server that shows them.

The request path touches plain integers; everything here happens when somebody scrapes, and costs
the test's loop less than a millisecond.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from loadtest.connection import KINDS
from loadtest.errors import InputError
from loadtest.stats import Tally, upper_us
from loadtest.status import Figures

BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
# A tester keeps to its plan within a millisecond: its own lag needs figures below that.
LAG_BUCKETS_S = (0.0001, 0.00025, 0.0005, *BUCKETS_S)


class Counted(Protocol):
    """The part of a running test that a scrape reaches."""

    def figures(self) -> Figures:
        """Everything counted so far."""


class TestCollector:
    """Folds the figures into families."""

    __test__ = False  # its name is no test's

    def __init__(self, test: Counted) -> None:
        self._test = test

    def collect(self) -> Iterator[Metric]:
        figures = self._test.figures()
        counts = figures.counts
        for name, words, value in (
            ("intended", "Requests that were due by the plan.", counts.intended),
            ("sent", "Requests whose bytes went to a socket.", counts.sent),
            ("completed", "Requests with a complete answer of any status.", counts.completed),
        ):
            yield CounterMetricFamily(f"loadtest_{name}_requests", words, value=value)
        dropped = CounterMetricFamily(
            "loadtest_dropped_requests",
            "Requests that were due and not sent, by reason.",
            labels=("reason",),
        )
        for reason, count in {"max_in_flight": 0, **figures.dropped}.items():
            dropped.add_metric((reason,), count)
        yield dropped
        errors = CounterMetricFamily(
            "loadtest_request_errors",
            "Requests without an answer, and answers of status 400 and above, by kind.",
            labels=("kind",),
        )
        # From nought on: a series that begins with its first burst has no rate for it.
        for kind, count in {**dict.fromkeys(KINDS, 0), **figures.errors}.items():
            errors.add_metric((kind,), count)
        yield errors
        yield GaugeMetricFamily(
            "loadtest_target_rate", "Requests per second that the plan asks for now.", figures.rate
        )
        yield GaugeMetricFamily(
            "loadtest_inflight_requests", "Requests under way.", figures.in_flight
        )
        yield _histogram(
            "loadtest_send_lag_seconds",
            "How late the tester took up a request.",
            figures.lag,
            LAG_BUCKETS_S,
        )
        yield _histogram(
            "loadtest_request_duration_seconds",
            "From the moment a request was due to its whole answer.",
            figures.latency,
            BUCKETS_S,
        )


def exposition(test: Counted) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TestCollector(test))
    return generate_latest(registry)


@asynccontextmanager
async def serve_metrics(test: Counted, host: str, port: int) -> AsyncIterator[int]:
    """`GET /metrics` within; gives the port. Raises InputError where it cannot listen."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=exposition(test), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as wrong:
            reason = wrong.strerror or str(wrong)
            raise InputError(f"--metrics-listen {host}:{port}: {reason}") from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _histogram(
    name: str, words: str, tally: Tally, bounds: Sequence[float]
) -> HistogramMetricFamily:
    """A bucket of ours belongs to the first bound that is not below its upper edge."""
    counts = [0] * (len(bounds) + 1)
    total = 0.0
    at = 0
    for bucket in sorted(tally.counts):
        upper = upper_us(bucket) / 1e6
        while at < len(bounds) and upper > bounds[at]:
            at += 1
        counts[at] += tally.counts[bucket]
        total += upper * tally.counts[bucket]
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    seen = 0
    buckets = []
    for bound, count in zip(names, counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    family = HistogramMetricFamily(name, words)
    family.add_metric((), buckets, sum_value=total)
    return family
