"""What is kept of an instant: the figures that metrics show, rates since the instant before."""

from __future__ import annotations

from autoscale.model import Demand
from lb.autoscaler_metrics import AutoscalerRows, ReplicaRow
from lb.sampling import Sampler, Traffic
from lb.series_file import Row
from lb.vm_metrics import VmFacts, VmRow

ROWS = AutoscalerRows(
    replicas=(ReplicaRow("web", 3, 2, 1, 0, 1, 4), ReplicaRow("gone", 1, 1, 0, 0, 1, 1)),
    signals={("web", "cpu"): 0.7, ("gone", "cpu"): 0.1},
    targets={("web", "cpu"): 0.6},
    vms=(
        VmRow(
            "web-1",
            {"host": 0.7, "vcpu": 0.6},
            memory_bytes=4096,
            facts=VmFacts("web", "local", "replica", "cold", "ready"),
        ),
        VmRow("web-2", facts=VmFacts("web", "local", "replica", "cold", "booting")),
        VmRow("web-3", {"host": 0.7}),
    ),
)


def traffic(at: float, arrived: int = 0, failed: int = 0, p99: float | None = None) -> Traffic:
    demand = Demand(at, arrived_total=arrived, queued=4, latency_p50_s=p99, latency_p99_s=p99)
    return Traffic(demand, 5, failed)


def test_an_instant_has_the_service_and_the_vms_that_somebody_measured() -> None:
    service, vm = Sampler().rows(ROWS, {"web": traffic(1.0, p99=0.25)})
    assert service == Row(
        "web",
        "",
        {
            "queued": 4,
            "in_flight": 5,
            "p50_seconds": 0.25,
            "p99_seconds": 0.25,
            "desired": 3,
            "ready": 2,
            "booting": 1,
            "standby": 0,
            "signal_cpu": 0.7,
            "target_cpu": 0.6,
        },
    )
    assert vm == Row("web", "web-1", {"cpu_host": 0.7, "cpu_vcpu": 0.6, "memory_bytes": 4096})


def test_rates_are_since_the_instant_before_and_never_negative() -> None:
    sampler, nothing = Sampler(), AutoscalerRows()

    def rates(*args: float) -> tuple[float | None, float | None]:
        (row,) = sampler.rows(nothing, {"web": traffic(args[0], int(args[1]), int(args[2]))})
        return row.figures.get("requests_per_second"), row.figures.get("errors_per_second")

    assert rates(1.0, 100, 1) == (None, None), "of the first nobody knows since when"
    assert rates(3.0, 150, 2) == (25.0, 0.5)
    assert rates(3.0, 160, 2) == (None, None)
    assert rates(4.0, 10, 0) == (None, None), "another service of that name"
    assert rates(5.0, 12, 0) == (2.0, 0.0)
