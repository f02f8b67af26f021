"""How every service is at one instant, as the figures that are kept over time. Pure.

Folds what metrics show anyway: the autoscaler's rows and each site's counters. Rates are those
since the call before, so each series has a sampler of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoscale.model import Demand
from lb.autoscaler_metrics import AutoscalerRows
from lb.series_file import Row
from lb.site import Site


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one service, at `demand.at` of the same monotonic clock each time."""

    demand: Demand
    in_flight: int
    failed_total: int
    """Requests answered 5xx since the start."""

    @classmethod
    def of(cls, site: Site) -> Traffic:
        counters = site.counters
        failed = sum(n for (_, code), n in counters.requests.items() if code >= 500)
        return cls(site.demand(), counters.in_flight + counters.elsewhere.in_flight, failed)


class Sampler:
    """Remembers the totals of the call before."""

    def __init__(self) -> None:
        self._before: dict[str, Traffic] = {}

    def rows(self, shown: AutoscalerRows, traffic: Mapping[str, Traffic]) -> list[Row]:
        """A row for each service in `traffic`, and for each VM."""
        figures = {service: self._of_traffic(service, now) for service, now in traffic.items()}
        self._before = dict(traffic)
        for row in shown.replicas:
            if row.service in figures:
                for word in ("desired", "ready", "booting", "standby"):
                    figures[row.service][word] = getattr(row, word)
        for prefix, ratios in (("signal", shown.signals), ("target", shown.targets)):
            for (service, signal), ratio in ratios.items():
                if service in figures:
                    figures[service][f"{prefix}_{signal}"] = ratio
        found = [Row(service, "", known) for service, known in figures.items()]
        for vm in shown.vms:
            if vm.facts is None:
                continue
            known = {f"cpu_{view}": ratio for view, ratio in vm.cpu_ratio.items()}
            if vm.memory_bytes is not None:
                known["memory_bytes"] = vm.memory_bytes
            if known:
                found.append(Row(vm.facts.service, vm.vm, known))
        return found

    def _of_traffic(self, service: str, now: Traffic) -> dict[str, float]:
        demand, before = now.demand, self._before.get(service)
        figures: dict[str, float] = {"queued": demand.queued, "in_flight": now.in_flight}
        if before is not None and demand.at > before.demand.at:
            past_s = demand.at - before.demand.at
            for name, more in (
                ("requests_per_second", demand.arrived_total - before.demand.arrived_total),
                ("errors_per_second", now.failed_total - before.failed_total),
            ):
                if more >= 0:  # else another service of that name, which begins at 0
                    figures[name] = more / past_s
        if demand.latency_p50_s is not None:
            figures["p50_seconds"] = demand.latency_p50_s
        if demand.latency_p99_s is not None:
            figures["p99_seconds"] = demand.latency_p99_s
        return figures
