"""What the autoscaler shows at one instant, as frozen rows, and those as Prometheus families.

Rows come from `rows`, which knows the autoscaler's parts; here stand names, labels and help texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from autoscale.model import Direction, Reason
from lb.histogram import HistogramRow, add_histogram
from lb.vm_metrics import VmRow, collect_hosts_up, collect_vms

_RESIZINGS: Final = {
    Direction.UP: (
        Reason.CPU_OVERLOAD, Reason.CONCURRENCY, Reason.QUEUE, Reason.LATENCY, Reason.STEP,
        Reason.SCHEDULE, Reason.FORECAST, Reason.FROM_ZERO, Reason.BELOW_MIN, Reason.OVERRIDE,
    ),
    Direction.DOWN: (
        Reason.CPU_LOW, Reason.LOAD_LOW, Reason.STEP, Reason.IDLE, Reason.ABOVE_MAX,
        Reason.OVERRIDE,
    ),
}  # fmt: skip
"""Decisions on another size are few, so each one's first step should be seen."""


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
class AutoscalerRows:
    """Everything the autoscaler shows at one instant."""

    replicas: tuple[ReplicaRow, ...] = ()
    hosts_up: Mapping[str, bool] = field(default_factory=dict)
    """Whether it answers, by hypervisor."""
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
    targets: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """What each is held against, by the same."""
    decisions: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """By (service, direction, reason), cumulative."""
    last_scale_unix_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (service, direction)."""
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
        "autoscaler_decisions_total", "Decisions, by why", labels=("service", "direction", "reason")
    )
    resizings = {
        (row.service, direction.value, reason.value): 0
        for row in rows.replicas
        for direction, reasons in _RESIZINGS.items()
        for reason in reasons
    }
    for why, number in {**resizings, **rows.decisions}.items():
        decisions.add_metric(why, number)
    last = GaugeMetricFamily(
        "autoscaler_last_scale_timestamp_seconds",
        "When the fleet last changed its size",
        labels=("service", "direction"),
    )
    for labels, unix_s in rows.last_scale_unix_s.items():
        last.add_metric(labels, unix_s)
    activation = HistogramMetricFamily(
        "autoscaler_vm_activation_seconds", "From the call to serving", labels=("path",)
    )
    for path, histogram in rows.activations.items():
        add_histogram(activation, (path,), histogram.bounds, histogram.cumulative, histogram.sum_s)
    rollout = GaugeMetricFamily(
        "autoscaler_rollout_replicas",
        "Replicas of the old and of the new image while a rollout goes on",
        labels=("service", "generation"),
    )
    for labels, number in rows.rollouts.items():
        rollout.add_metric(labels, number)
    yield from (decisions, last, activation, rollout)
    yield from _collect_hosts(rows)
    yield from collect_hosts_up(rows.hosts_up)
    yield from collect_vms(rows.vms)


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
    targets = GaugeMetricFamily(
        "autoscaler_signal_target_ratio",
        "Where a signal is wanted, or above which it counts, in the same measure",
        labels=("service", "signal"),
    )
    for labels, ratio in rows.targets.items():
        targets.add_metric(labels, ratio)
    yield from (parts, modes, forecast, error, signals, targets)


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
