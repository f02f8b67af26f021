"""An hour of everything that our exporters can show, as a Prometheus would have scraped it.

The figures go through the exporters themselves, so that names and labels are theirs. One story: a
service with VMs on two hosts grows at half past and answers quicker from then on; some requests
fail; a load test runs; a second service has static backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from guest.webapp import Webapp
from lb.autoscaler_metrics import AutoscalerRows, ReplicaRow
from lb.balance import policy_named
from lb.config import HealthConfig
from lb.histogram import Histogram
from lb.metrics import Metrics
from lb.pool import Pool, Report
from lb.request_metrics import RequestMetrics
from lb.vm_metrics import VmFacts, VmRow

STEP_S: Final = 15
STEPS: Final = 240
GROWS_AT: Final = 120
"""The step at which one replica becomes two."""
SLOW_S, QUICK_S = 0.8, 0.04
RATE: Final = 20
"""Requests a second."""
CPU_BEFORE, CPU_AFTER = 0.95, 0.55
HOSTS: Final = {"web-1": "left", "web-2": "right"}
PROXY: Final = {"job": "lbctl", "instance": "127.0.0.1:9900"}
TESTER: Final = {"job": "loadtest", "instance": "127.0.0.1:9901"}


@dataclass(frozen=True)
class History:
    """`text` is OpenMetrics with a time at each sample; all times are Unix seconds."""

    text: str
    start: float
    grew: float
    end: float


class Proxy:
    """`lbctl`'s own exporter, fed by a story instead of by requests."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._now = start
        self.metrics = Metrics()
        self.web = self._service("web", ("web-1",))
        self.shop = self._service("shop", ("10.0.0.1:80", "10.0.0.2:80"))
        self._cold, self._copied = Histogram(), Histogram()
        self.rows = AutoscalerRows()
        self.metrics.autoscaler(lambda: self.rows)

    def _service(self, name: str, backends: Iterable[str]) -> tuple[Pool, RequestMetrics]:
        pool = Pool(name, policy_named("least_requests"), HealthConfig(), clock=lambda: self._now)
        for backend in backends:
            pool.add_static(backend)
            pool.observe(Report(backend, backend, ok=True))
        return pool, self.metrics.service(pool)

    def step(self, number: int, now: float) -> None:
        """Another `STEP_S` seconds have passed."""
        self._now = now
        grown = number >= GROWS_AT
        if number == GROWS_AT:
            self.web[0].add_static("web-2")
            self.web[0].observe(Report("web-2", "web-2", ok=True))
            self._copied.observe(1.0)
        for pool, counters in (self.web, self.shop):
            took_s = QUICK_S if grown else SLOW_S
            for turn in range(RATE * STEP_S // 20):
                for backend in [backend.name for backend in pool]:
                    with pool.lease(prefer=backend) as lease:
                        lease.answered(took_s, now, 200)
                    counters.finished("GET", 200, took_s, now)
                    counters.queue_wait.record(took_s / 2, now)
                if turn == 0 and number % 8 == 0:
                    counters.finished("GET", 503, took_s, now)
                    counters.upstream_error("reset")
                    counters.retried("reset")
            counters.in_flight = 3
            counters.limit = lambda: 40
            counters.waiting = lambda: 2
        self.rows = self._autoscaler(number, grown)

    def _autoscaler(self, number: int, grown: bool) -> AutoscalerRows:
        vms = ("web-1", "web-2") if grown else ("web-1",)
        wanted = len(vms)
        passed_s = number * STEP_S
        return AutoscalerRows(
            replicas=(
                ReplicaRow("web", desired=wanted, ready=wanted, booting=0, standby=1, min=1, max=4),
            ),
            hosts_up={"left": True, "right": True},
            parts={("web", "cpu_overload"): wanted, ("web", "queue"): 1},
            modes={("web", "auto"): True, ("web", "hold"): False},
            forecasts={"web": 2},
            forecast_errors={"web": 0.1},
            signals={("web", "cpu"): _cpu(grown), ("web", "delay"): 0.05},
            targets={("web", "cpu"): 0.6, ("web", "delay"): 0.25},
            decisions={
                ("web", "none", "steady"): passed_s,
                ("web", "up", "cpu_overload"): wanted - 1,
            },
            last_scale_unix_s={
                ("web", "up"): self._start + (GROWS_AT * STEP_S - 1 if grown else 0)
            },
            activations={"cold": self._cold.row(), "snapshot": self._copied.row()},
            breakers={"web": False},
            host_breakers={("web", "left"): False},
            calls={(h, o): n * passed_s for h in ("left", "right") for o, n in OUTCOMES.items()},
            hung_calls={"left": 0, "right": 0},
            rollouts={("web", "old"): 1, ("web", "new"): wanted - 1},
            vms=tuple(
                VmRow(
                    vm=vm,
                    cpu_ratio={
                        "host": _cpu(grown),
                        "vcpu": _cpu(grown) - 0.05,
                        "guest": _cpu(grown) - 0.1,
                    },
                    cpu_seconds={"vcpu": 0.3 * passed_s, "overhead": 0.02 * passed_s},
                    cpu_time_seconds=0.32 * passed_s,
                    memory_bytes=200 << 20,
                    facts=VmFacts("web", HOSTS[vm], "replica", "cold", "ready"),
                    limit_cores=0.4,
                    vcpus=1,
                    delay_seconds=0.01 * passed_s,
                    most_memory_bytes=384 << 20,
                )
                for vm in vms
            ),
        )


OUTCOMES: Final[Mapping[str, int]] = {"ok": 1, "error": 0, "lost": 0, "timeout": 0}


def _cpu(grown: bool) -> float:
    return CPU_AFTER if grown else CPU_BEFORE


def load_tester(number: int) -> Iterator[tuple[str, dict[str, str], float]]:
    """A load test's figures, by the names that CONTRACT and docs/loadtest.md promise."""
    sent = number * STEP_S * RATE
    for word in ("intended", "sent", "completed"):
        yield f"loadtest_{word}_requests_total", {}, sent
    yield "loadtest_dropped_requests_total", {"reason": "max_in_flight"}, 0
    yield "loadtest_request_errors_total", {"kind": "status_503"}, number // 8
    yield "loadtest_target_rate", {}, RATE
    yield "loadtest_inflight_requests", {}, 4
    for name in ("loadtest_send_lag_seconds", "loadtest_request_duration_seconds"):
        for bound, share in (("0.001", 0.9), ("0.1", 1.0), ("+Inf", 1.0)):
            yield f"{name}_bucket", {"le": bound}, share * sent
        yield f"{name}_count", {}, sent
        yield f"{name}_sum", {}, 0.001 * sent


def history(start: float) -> History:
    """Sample after sample, oldest first."""
    proxy, guest = Proxy(start), Webapp("web-1")
    lines: list[str] = []
    for number in range(STEPS + 1):
        now = start + number * STEP_S
        proxy.step(number, now)
        lines += (_line(s, PROXY, now) for s in _samples(proxy.metrics.collect()))
        for _ in range(RATE * STEP_S):
            guest.figures.observe("/render", 200, 0.02)
        labels = {"job": "guests", "instance": "127.0.0.1:40001"} | {
            "service": "web", "vm": "web-1", "host": "left"
        }  # fmt: skip
        lines += (_line(s, labels, now) for s in _samples(guest.figures.collect()))
        lines += (
            _line(Sample(name, own, value), TESTER, now) for name, own, value in load_tester(number)
        )
        for job in (PROXY, labels, TESTER):
            lines.append(_line(Sample("up", {}, 1), job, now))
    guest.worker.close()
    text = "\n".join([*lines, "# EOF", ""])
    end = start + STEPS * STEP_S
    return History(text, start, start + GROWS_AT * STEP_S, end)


def _samples(families: Iterable[Metric]) -> Iterator[Sample]:
    for family in families:
        yield from family.samples


def _line(sample: Sample, more: Mapping[str, str], now: float) -> str:
    labels = {**sample.labels, **more}
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{sample.name}{{{inside}}} {float(sample.value)} {now:.3f}"
