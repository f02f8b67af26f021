"""What the proxy counts, and how plain counters become Prometheus families when someone scrapes.

The request path only increments integers (`request_metrics`); everything else happens in `collect`.
Labels are bounded: a backend that left gives its durations to backend="(retired)", so that sums
never go down while names come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from lb.autoscaler_metrics import AutoscalerRows, AutoscalerSource, collect_autoscaler
from lb.errors import UpstreamError
from lb.histogram import add_histogram
from lb.latency import CONTRACT_BUCKETS_S, Latency
from lb.pool import Pool
from lb.request_metrics import RequestMetrics

RETIRED: Final = "(retired)"
NOWHERE: Final = "(none)"

Labels = tuple[str, ...]


def _reasons(kind: type[UpstreamError]) -> Iterator[str]:
    for below in kind.__subclasses__():
        yield below.reason
        yield from _reasons(below)


_NO_ERRORS: Final = dict.fromkeys(_reasons(UpstreamError), 0)
"""What has not happened yet is 0, not absent: `rate` cannot see a counter's first step if the
counter came with it."""
_OUR_FAILURES: Final = (500, 502, 503, 504)
"""What the proxy answers where it has no answer of a backend's; nought for each method seen."""


# ── the registry ─────────────────────────────────────────────────────────────────────────────────


class Metrics(Collector):
    """The process's own registry: pools and autoscaler are folded into it at scrape time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._services: dict[str, tuple[Pool, RequestMetrics]] = {}
        self.unrouted = RequestMetrics(NOWHERE)
        """Of requests that belong to no service: not to be read, or without a route."""
        self._autoscaler: AutoscalerSource | None = None
        self._log_lines_dropped: Callable[[], int] = lambda: 0
        self._workers: Callable[[], tuple[int, int]] = lambda: (1, 0)
        self.registry.register(self)

    def service(self, pool: Pool) -> RequestMetrics:
        """The counters of a pool's service; made on first asking."""
        if pool.service not in self._services:
            self._services[pool.service] = (pool, RequestMetrics(pool.service))
        return self._services[pool.service][1]

    def forget(self, service: str) -> None:
        """It is served no more; one that takes its name later begins at 0, as after a restart."""
        self._services.pop(service, None)

    def autoscaler(self, source: AutoscalerSource) -> None:
        """Ask this for rows at every scrape."""
        self._autoscaler = source

    def access_log(self, dropped: Callable[[], int]) -> None:
        """Ask this at every scrape how many lines were lost."""
        self._log_lines_dropped = dropped

    def workers(self, source: Callable[[], tuple[int, int]]) -> None:
        """Ask this at every scrape how many serve, and how many were replaced so far."""
        self._workers = source

    def render(self) -> tuple[bytes, str]:
        """The body and content type of `/metrics`."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from collect_proxy(self._services.values(), self.unrouted)
        lines = CounterMetricFamily(
            "lb_access_log_dropped_total",
            "Lines of the access log that were lost, because the disk did not keep up",
            labels=(),
        )
        lines.add_metric((), self._log_lines_dropped())
        yield lines
        yield from _collect_workers(*self._workers())
        yield from collect_autoscaler(self._autoscaler() if self._autoscaler else AutoscalerRows())


def collect_proxy(
    services: Iterable[tuple[Pool, RequestMetrics]], unrouted: RequestMetrics
) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "lb_requests_total",
        "Requests answered, as the client saw it; 499: the client hung up first",
        labels=("service", "method", "code"),
    )
    duration = HistogramMetricFamily(
        "lb_request_duration_seconds",
        "From a request's head to the last byte of its answer",
        labels=("service",),
    )
    upstream = HistogramMetricFamily(
        "lb_upstream_duration_seconds",
        "From a request sent to a backend to the last byte of its answer",
        labels=("service", "backend"),
    )
    queue = HistogramMetricFamily(
        "lb_queue_wait_seconds", "How long requests waited for a backend", labels=("service",)
    )
    in_flight = GaugeMetricFamily(
        "lb_inflight_requests", "Requests being served", labels=("service",)
    )
    queued = GaugeMetricFamily(
        "lb_queued_requests", "Requests waiting in line for a backend", labels=("service",)
    )
    up = GaugeMetricFamily(
        "lb_backend_up", "1 where a backend may get requests", labels=("service", "backend")
    )
    backend_in_flight = GaugeMetricFamily(
        "lb_backend_inflight_requests",
        "Requests running on a backend",
        labels=("service", "backend"),
    )
    retries = CounterMetricFamily(
        "lb_retries_total", "Requests sent again, by why", labels=("service", "reason")
    )
    errors = CounterMetricFamily(
        "lb_upstream_errors_total", "Failures of backends, by kind", labels=("service", "reason")
    )
    fast = CounterMetricFamily(
        "lb_fast_lane_requests_total",
        "Requests that the fast lane carried; the others cost several times the CPU",
        labels=("service",),
    )
    tunnels = GaugeMetricFamily(
        "lb_tunnels", "WebSockets and other tunnels that are open", labels=("service",)
    )
    broken = GaugeMetricFamily(
        "lb_breaker_open",
        "1 where a service's breaker lets nothing, or trials only, through",
        labels=("service",),
    )
    limit = GaugeMetricFamily(
        "lb_concurrency_limit",
        "Requests a service may run at once, as adaptive concurrency found; absent where it is off",
        labels=("service",),
    )
    connections = GaugeMetricFamily("lb_client_connections", "Connections of clients", labels=())
    connections.add_metric((), unrouted.connections + unrouted.elsewhere.connections)
    refused = CounterMetricFamily(
        "lb_client_connections_refused_total",
        "Connections closed at once, because there were too many",
        labels=(),
    )
    refused.add_metric((), unrouted.turned_away)
    ejections = CounterMetricFamily(
        "lb_backend_ejections_total",
        "Backends taken out for a while for what requests told, by why",
        labels=("service", "reason"),
    )
    for pool, counters in services:
        service = pool.service
        _add_requests(requests, duration, counters)
        waits = [number + counters.unqueued for number in counters.queue_wait.cumulative()]
        add_histogram(queue, (service,), CONTRACT_BUCKETS_S, waits, counters.queue_wait.sum_s)
        there = counters.elsewhere
        in_flight.add_metric((service,), counters.in_flight + there.in_flight)
        queued.add_metric((service,), counters.waiting() + there.waiting)
        fast.add_metric((service,), counters.fast)
        tunnels.add_metric((service,), counters.tunnels + there.tunnels)
        broken.add_metric((service,), 1 if counters.breaker_open() or there.broken else 0)
        if (most := counters.limit()) is not None:
            limit.add_metric((service,), most + (there.limit or 0))
        for backend in pool:
            labels = (service, backend.name)
            up.add_metric(labels, 1 if backend.available else 0)
            backend_in_flight.add_metric(labels, backend.running)
            _add_latency(upstream, labels, backend.latency)
        _add_latency(upstream, (service, RETIRED), pool.retired_latency())
        for reason, number in {**_NO_ERRORS, "hedge": 0, **counters.retries}.items():
            retries.add_metric((service, reason), number)
        for reason, number in {**_NO_ERRORS, **counters.upstream_errors}.items():
            errors.add_metric((service, reason), number)
        for reason, number in pool.ejections.items():
            ejections.add_metric((service, reason), number)
    if unrouted.requests:
        _add_requests(requests, duration, unrouted)
    yield from (
        requests, duration, upstream, queue, in_flight, queued, up, backend_in_flight, retries,
        errors, ejections, fast, tunnels, broken, limit, connections, refused,
    )  # fmt: skip


def _collect_workers(serving: int, replaced: int) -> Iterator[Metric]:
    workers = GaugeMetricFamily(
        "lb_workers", "Processes that serve clients, the first one included", labels=()
    )
    workers.add_metric((), serving)
    restarts = CounterMetricFamily(
        "lb_worker_restarts_total", "Workers that died and were replaced", labels=()
    )
    restarts.add_metric((), replaced)
    yield from (workers, restarts)


def _add_requests(
    requests: CounterMetricFamily, duration: HistogramMetricFamily, counters: RequestMetrics
) -> None:
    methods = dict.fromkeys(method for method, _ in counters.requests)
    answers = dict.fromkeys(((m, code) for m in methods for code in _OUR_FAILURES), 0)
    for (method, code), number in {**answers, **counters.requests}.items():
        requests.add_metric((counters.service, method, str(code)), number)
    _add_latency(duration, (counters.service,), counters.duration)


def _add_latency(family: HistogramMetricFamily, labels: Labels, latency: Latency) -> None:
    add_histogram(family, labels, CONTRACT_BUCKETS_S, latency.cumulative(), latency.sum_s)
