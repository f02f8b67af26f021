"""The process's parts folded into rows: for the admin API, and for `/metrics`.

Reads, never changes; no I/O. `service` owns the parts and hands them over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoscale.controller import Controller
from autoscale.host import Domain, HostInfo
from autoscale.model import Decision, Direction, VmStatus
from lb.admin.control import HostRow, ScaleRow, VmRow
from lb.metrics import AutoscalerRows, HistogramRow, ReplicaRow
from lb.metrics import VmRow as VmMetrics


@dataclass(slots=True)
class DecisionLog:
    """What was decided, counted; the newest decision with its wall-clock time."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    last_scale_unix_s: dict[str, float] = field(default_factory=dict)
    newest: Decision | None = None
    newest_at: float | None = None

    def decided(self, decision: Decision, unix_s: float) -> None:
        self.counts[decision.direction.value, decision.reason.value] += 1
        self.newest, self.newest_at = decision, unix_s
        if decision.direction is not Direction.NONE:
            self.last_scale_unix_s[decision.direction.value] = unix_s


def scale_row(service: str, controller: Controller | None, log: DecisionLog) -> ScaleRow:
    """A service's size. Without VMs everything is 0."""
    if controller is None:
        return ScaleRow(service, 0, 0, 0, 0, 0, 0, 0)
    counts, decision = controller.fleet.counts(), log.newest
    return ScaleRow(
        service=service,
        desired=decision.desired if decision else counts.active,
        ready=counts.ready,
        booting=counts.booting,
        standby=counts.standby,
        draining=counts.draining,
        min=controller.rules.min,
        max=controller.rules.max,
        reason=decision.reason.value if decision else None,
        sentence=decision.sentence if decision else None,
        decided_at=log.newest_at,
    )


def vm_row(status: VmStatus) -> VmRow:
    signal, sample = status.signal, status.sample
    limit = sample.limit_cores if sample else None
    return VmRow(
        name=status.name,
        service=status.service,
        state=status.state.value,
        libvirt_state=status.power,
        host=status.host,
        address=status.address,
        age_s=round(status.age_s, 1),
        cpu_host_ratio=signal.utilisation if signal else None,
        cpu_vcpu_ratio=signal.vcpu_cores / limit if signal and limit else None,
        memory_bytes=sample.memory_bytes if sample else None,
        image=status.generation[:12] or None,
    )


def stray_row(host: str, domain: Domain) -> VmRow:
    """A VM of ours that no service of the configuration owns."""
    return VmRow(
        name=domain.name,
        service=domain.identity.service,
        state="stray",
        libvirt_state=domain.power.value,
        host=host,
        memory_bytes=domain.sample.memory_bytes if domain.sample else None,
        image=domain.identity.generation[:12] or None,
    )


def host_row(
    name: str, uri: str, info: HostInfo | None, error: str | None, replicas: int
) -> HostRow:
    return HostRow(
        name=name,
        uri=info.uri if info else uri,
        reachable=info is not None and error is None,
        domain_type=info.domain_type if info else None,
        cores=info.cores if info else None,
        libvirt_version=info.libvirt_version if info else None,
        replicas=replicas,
        error=error,
    )


def autoscaler_rows(
    controllers: Mapping[str, Controller],
    logs: Mapping[str, DecisionLog],
    activations: Mapping[str, HistogramRow],
    guest_cores: Mapping[str, float],
) -> AutoscalerRows:
    """Everything the autoscaler shows at one instant."""
    statuses = [s for c in controllers.values() for s in c.fleet.statuses()]
    decisions: Counter[tuple[str, str]] = Counter()
    last: dict[str, float] = {}
    for log in logs.values():
        decisions.update(log.counts)
        for direction, unix_s in log.last_scale_unix_s.items():
            last[direction] = max(last.get(direction, 0.0), unix_s)
    serving = [s.signal.utilisation for s in statuses if s.signal and s.state == "ready"]
    replicas = []
    for name, controller in controllers.items():
        row = scale_row(name, controller, logs[name])
        replicas.append(
            ReplicaRow(name, row.desired, row.ready, row.booting, row.standby, row.min, row.max)
        )
    return AutoscalerRows(
        replicas=tuple(replicas),
        signals={"cpu": sum(serving) / len(serving)} if serving else {},
        decisions=dict(decisions),
        last_scale_unix_s=last,
        activations=activations,
        vms=tuple(_vm_metrics(s, guest_cores.get(s.name)) for s in statuses),
    )


def _vm_metrics(status: VmStatus, guest_cores: float | None) -> VmMetrics:
    signal, sample = status.signal, status.sample
    if sample is None:
        return VmMetrics(status.name)
    ratios = {}
    if signal is not None:
        ratios["host"] = signal.utilisation
        ratios["vcpu"] = signal.vcpu_cores / sample.limit_cores
    if guest_cores is not None:
        ratios["guest"] = guest_cores / sample.limit_cores
    return VmMetrics(
        vm=status.name,
        cpu_ratio=ratios,
        cpu_seconds={"vcpu": sample.vcpu_s, "overhead": max(0.0, sample.cpu_s - sample.vcpu_s)},
        memory_bytes=sample.memory_bytes,
    )
