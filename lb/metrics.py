"""Every metric's name, and how plain counters become Prometheus families when someone scrapes.

The request path only increments integers (0.12 µs each); everything else happens in `collect`.
Labels are bounded: methods outside the known set count as "other", and a backend that left gives
its durations to backend="(retired)", so that sums never go down while names come and go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
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

from lb.latency import CONTRACT_BUCKETS_S, Latency
from lb.pool import Pool

RETIRED: Final = "(retired)"
NOWHERE: Final = "(none)"
METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"}
)

# Milliseconds for a resumed standby, a second for a snapshot, up to two minutes for a cold boot.
ACTIVATION_BUCKETS_S: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0,
)  # fmt: skip

Labels = tuple[str, ...]


class RequestMetrics:
    """One service's counters. Written by the proxy as requests pass, read at scrape time."""

    __slots__ = (
        "arrived",
        "breaker_open",
        "connections",
        "duration",
        "in_flight",
        "limit",
        "queue_wait",
        "requests",
        "retries",
        "service",
        "tunnels",
        "turned_away",
        "upstream_errors",
        "waiting",
    )

    def __init__(self, service: str) -> None:
        self.service = service
        self.arrived = 0
        """Requests that were led here, whatever became of them."""
        self.in_flight = 0
        self.tunnels = 0
        self.connections = 0
        """Of clients, open. Like the next one, of the whole proxy: no service has its own."""
        self.turned_away = 0
        """Connections closed at once, because there were too many."""
        self.requests: dict[tuple[str, int], int] = {}
        self.duration = Latency()
        self.queue_wait = Latency()
        self.retries: dict[str, int] = {}
        self.upstream_errors: dict[str, int] = {}
        self.waiting: Callable[[], int] = lambda: 0
        """How many wait in line; the proxy says so once it has a line."""
        self.breaker_open: Callable[[], bool] = lambda: False
        self.limit: Callable[[], int | None] = lambda: None
        """How many requests may run at once, where that finds itself; None: where it does not."""

    def finished(self, method: str, code: int, seconds: float, now: float) -> None:
        """A request ended, as seen from the client: 499 where it hung up."""
        key = (method if method in METHODS else "other", code)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.duration.record(seconds, now)

    def retried(self, reason: str) -> None:
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def upstream_error(self, reason: str) -> None:
        self.upstream_errors[reason] = self.upstream_errors.get(reason, 0) + 1

    @property
    def requests_total(self) -> int:
        return sum(self.requests.values())


# ── what the autoscaler supplies, as frozen rows ─────────────────────────────────────────────────


class Histogram:
    """Counts of durations by bucket, for what happens a few times an hour."""

    def __init__(self, bounds: Sequence[float] = ACTIVATION_BUCKETS_S) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_s += seconds

    def row(self) -> HistogramRow:
        return HistogramRow(self._bounds, tuple(accumulate(self._counts)), self._sum_s)


@dataclass(frozen=True, slots=True)
class HistogramRow:
    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    """One more than the bounds: the last counts everything (+Inf)."""
    sum_s: float


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    service: str
    desired: int
    ready: int
    booting: int
    standby: int
    min: int
    max: int


@dataclass(frozen=True, slots=True)
class VmRow:
    """One VM. Views and parts that nobody measured are left out: missing is not zero."""

    vm: str
    cpu_ratio: Mapping[str, float] = field(default_factory=dict)
    """By view: host, vcpu, guest."""
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    """By part: vcpu, overhead. Cumulative."""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AutoscalerRows:
    """Everything the autoscaler shows at one instant."""

    replicas: tuple[ReplicaRow, ...] = ()
    parts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """What each part of the last decision asked for, by (service, part)."""
    modes: Mapping[tuple[str, str], bool] = field(default_factory=dict)
    """Whether it is in force, by (service, mode)."""
    forecasts: Mapping[str, float] = field(default_factory=dict)
    """How many replicas it asks for, or would; by service. Those without one are left out."""
    forecast_errors: Mapping[str, float] = field(default_factory=dict)
    """How far the forecast has been off, as a share of what came, by service."""
    signals: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """autoscaler_signal_ratio by (service, signal)."""
    decisions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (direction, reason), cumulative."""
    last_scale_unix_s: Mapping[str, float] = field(default_factory=dict)
    """By direction."""
    activations: Mapping[str, HistogramRow] = field(default_factory=dict)
    """By path: cold, snapshot, standby."""
    breakers: Mapping[str, bool] = field(default_factory=dict)
    """Whether launches have stopped, by service."""
    host_breakers: Mapping[tuple[str, str], bool] = field(default_factory=dict)
    """The same by (service, host), of hosts that refused the last launch there."""
    calls: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Calls to hosts by (host, outcome), cumulative."""
    hung_calls: Mapping[str, int] = field(default_factory=dict)
    """Calls that have not returned long after their time, by host."""
    rollouts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Replicas by (service, generation) while a rollout goes on: old, new."""
    vms: tuple[VmRow, ...] = ()


AutoscalerSource = Callable[[], AutoscalerRows]


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
    connections.add_metric((), unrouted.connections)
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
        _add_latency(queue, (service,), counters.queue_wait)
        in_flight.add_metric((service,), counters.in_flight)
        queued.add_metric((service,), counters.waiting())
        tunnels.add_metric((service,), counters.tunnels)
        broken.add_metric((service,), 1 if counters.breaker_open() else 0)
        if (most := counters.limit()) is not None:
            limit.add_metric((service,), most)
        for backend in pool:
            labels = (service, backend.name)
            up.add_metric(labels, 1 if backend.available else 0)
            backend_in_flight.add_metric(labels, backend.in_flight)
            _add_latency(upstream, labels, backend.latency)
        _add_latency(upstream, (service, RETIRED), pool.retired_latency())
        for reason, number in counters.retries.items():
            retries.add_metric((service, reason), number)
        for reason, number in counters.upstream_errors.items():
            errors.add_metric((service, reason), number)
        for reason, number in pool.ejections.items():
            ejections.add_metric((service, reason), number)
    if unrouted.requests:
        _add_requests(requests, duration, unrouted)
    yield from (
        requests, duration, upstream, queue, in_flight, queued, up, backend_in_flight, retries,
        errors, ejections, tunnels, broken, limit, connections, refused,
    )  # fmt: skip


def _add_requests(
    requests: CounterMetricFamily, duration: HistogramMetricFamily, counters: RequestMetrics
) -> None:
    for (method, code), number in counters.requests.items():
        requests.add_metric((counters.service, method, str(code)), number)
    _add_latency(duration, (counters.service,), counters.duration)


def _add_latency(family: HistogramMetricFamily, labels: Labels, latency: Latency) -> None:
    _add_histogram(family, labels, CONTRACT_BUCKETS_S, latency.cumulative(), latency.sum_s)


def _add_histogram(
    family: HistogramMetricFamily,
    labels: Labels,
    bounds: Sequence[float],
    cumulative: Sequence[int],
    sum_s: float,
) -> None:
    names = [*(repr(bound) for bound in bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, cumulative, strict=True)), sum_s)


_REPLICAS = {
    "desired": "Replicas that there should be, as decided last",
    "ready": "Replicas that passed their readiness check and are not leaving",
    "booting": "Replicas on their way: asked for, copied, booting or waking",
    "standby": "VMs booted and suspended beside the replicas, to be woken within milliseconds",
    "min": "Fewest replicas the configuration allows",
    "max": "Most replicas the configuration allows; standbys come on top",
}


def collect_autoscaler(rows: AutoscalerRows) -> Iterator[Metric]:
    for word, meaning in _REPLICAS.items():
        replicas = GaugeMetricFamily(f"autoscaler_{word}_replicas", meaning, labels=("service",))
        for row in rows.replicas:
            replicas.add_metric((row.service,), getattr(row, word))
        yield replicas
    yield from _collect_planner(rows)
    decisions = CounterMetricFamily(
        "autoscaler_decisions_total", "Decisions, by why", labels=("direction", "reason")
    )
    for labels, number in rows.decisions.items():
        decisions.add_metric(labels, number)
    last = GaugeMetricFamily(
        "autoscaler_last_scale_timestamp_seconds",
        "When the fleet last changed its size",
        labels=("direction",),
    )
    for direction, unix_s in rows.last_scale_unix_s.items():
        last.add_metric((direction,), unix_s)
    activation = HistogramMetricFamily(
        "autoscaler_vm_activation_seconds", "From the call to serving", labels=("path",)
    )
    for path, histogram in rows.activations.items():
        _add_histogram(activation, (path,), histogram.bounds, histogram.cumulative, histogram.sum_s)
    rollout = GaugeMetricFamily(
        "autoscaler_rollout_replicas",
        "Replicas of the old and of the new image while a rollout goes on",
        labels=("service", "generation"),
    )
    for labels, number in rows.rollouts.items():
        rollout.add_metric(labels, number)
    yield from (decisions, last, activation, rollout)
    yield from _collect_hosts(rows)
    yield from _collect_vms(rows.vms)


def _collect_planner(rows: AutoscalerRows) -> Iterator[Metric]:
    parts = GaugeMetricFamily(
        "autoscaler_part_replicas",
        "Replicas that a part of the last decision asked for",
        labels=("service", "part"),
    )
    for labels, replicas in rows.parts.items():
        parts.add_metric(labels, replicas)
    modes = GaugeMetricFamily(
        "autoscaler_mode", "1 for the mode in force", labels=("service", "mode")
    )
    for labels, in_force in rows.modes.items():
        modes.add_metric(labels, 1 if in_force else 0)
    forecast = GaugeMetricFamily(
        "autoscaler_forecast_replicas",
        "Replicas that the load expected by the time another could serve asks for",
        labels=("service",),
    )
    for service, expected in rows.forecasts.items():
        forecast.add_metric((service,), expected)
    error = GaugeMetricFamily(
        "autoscaler_forecast_error_ratio",
        "How far the forecast has been off, of what came",
        labels=("service",),
    )
    for service, ratio in rows.forecast_errors.items():
        error.add_metric((service,), ratio)
    signals = GaugeMetricFamily(
        "autoscaler_signal_ratio",
        "What a signal says, 1 being its limit",
        labels=("service", "signal"),
    )
    for labels, ratio in rows.signals.items():
        signals.add_metric(labels, ratio)
    yield from (parts, modes, forecast, error, signals)


def _collect_hosts(rows: AutoscalerRows) -> Iterator[Metric]:
    breaker = GaugeMetricFamily(
        "autoscaler_launch_breaker_open",
        "1 where launches have stopped, because too many in a row failed",
        labels=("service",),
    )
    for service, is_open in rows.breakers.items():
        breaker.add_metric((service,), 1 if is_open else 0)
    host_breaker = GaugeMetricFamily(
        "autoscaler_host_launch_breaker_open",
        "1 where launches on one host have stopped; absent where it refused none lately",
        labels=("service", "host"),
    )
    for labels, is_open in rows.host_breakers.items():
        host_breaker.add_metric(labels, 1 if is_open else 0)
    calls = CounterMetricFamily(
        "autoscaler_libvirt_calls_total",
        "Calls to a hypervisor, by what became of them",
        labels=("host", "outcome"),
    )
    for labels, number in rows.calls.items():
        calls.add_metric(labels, number)
    hung = GaugeMetricFamily(
        "autoscaler_libvirt_hung_calls",
        "Calls to a hypervisor that have not returned long after their time: a thread each",
        labels=("host",),
    )
    for host, number in rows.hung_calls.items():
        hung.add_metric((host,), number)
    yield from (breaker, host_breaker, calls, hung)


def _collect_vms(vms: Iterable[VmRow]) -> Iterator[Metric]:
    ratio = GaugeMetricFamily(
        "vm_cpu_ratio", "CPU used of the CPU allowed, as each view sees it", labels=("vm", "view")
    )
    seconds = CounterMetricFamily(
        "vm_cpu_seconds_total", "Host CPU a VM used, by part", labels=("vm", "part")
    )
    memory = GaugeMetricFamily("vm_memory_bytes", "Host memory of a VM", labels=("vm",))
    for row in vms:
        for view, value in row.cpu_ratio.items():
            ratio.add_metric((row.vm, view), value)
        for part, value in row.cpu_seconds.items():
            seconds.add_metric((row.vm, part), value)
        if row.memory_bytes is not None:
            memory.add_metric((row.vm,), row.memory_bytes)
    yield from (ratio, seconds, memory)
