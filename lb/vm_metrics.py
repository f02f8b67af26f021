"""What is shown of each VM and each hypervisor, as Prometheus families.

Reads frozen rows, never libvirt. Beside the names of our own stand those of the libvirt exporters
in use (kumina's, and those that came from it), where they mean the same: queries written for them
work here. Their label is `domain`, ours is `vm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


@dataclass(frozen=True, slots=True)
class VmFacts:
    """What a VM is; it hardly changes, so other figures are joined with it by their `vm`."""

    service: str
    host: str
    role: str
    path: str
    state: str


@dataclass(frozen=True, slots=True)
class VmRow:
    """One VM. Views and parts that nobody measured are left out: missing is not zero."""

    vm: str
    cpu_ratio: Mapping[str, float] = field(default_factory=dict)
    """By view: host, vcpu, guest."""
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    """By part: vcpu, overhead. Cumulative."""
    memory_bytes: int | None = None
    facts: VmFacts | None = None
    limit_cores: float | None = None
    vcpus: int | None = None
    delay_seconds: float | None = None
    """How long its vCPUs were ready to run and had no core, all together. Cumulative."""
    cpu_time_seconds: float | None = None
    """Of the host, whole: what the parts of `cpu_seconds` come to. Cumulative."""
    most_memory_bytes: int | None = None
    """What the guest is given, which its host may not have needed yet."""


def collect_hosts_up(hosts: Mapping[str, bool]) -> Iterator[Metric]:
    """Whether each hypervisor answers, by its name."""
    up = GaugeMetricFamily("libvirt_up", "1 where a hypervisor answers", labels=("host",))
    for host, answers in hosts.items():
        up.add_metric((host,), 1 if answers else 0)
    yield up


def collect_vms(vms: Iterable[VmRow]) -> Iterator[Metric]:
    ratio = GaugeMetricFamily(
        "vm_cpu_ratio", "CPU used of the CPU allowed, as each view sees it", labels=("vm", "view")
    )
    seconds = CounterMetricFamily(
        "vm_cpu_seconds_total", "Host CPU a VM used, by part", labels=("vm", "part")
    )
    memory = GaugeMetricFamily("vm_memory_bytes", "Host memory of a VM", labels=("vm",))
    limit = GaugeMetricFamily(
        "vm_cpu_limit_cores", "Host cores that a VM may use: 1.0 of its CPU ratio", labels=("vm",)
    )
    info = GaugeMetricFamily(
        "vm_info",
        "1 for each VM; what it is stands in the labels",
        labels=("vm", "service", "host", "role", "path", "state"),
    )
    vcpus = GaugeMetricFamily(
        "libvirt_domain_info_virtual_cpus", "Virtual CPUs of a VM", labels=("domain",)
    )
    cpu_time = CounterMetricFamily(
        "libvirt_domain_info_cpu_time_seconds_total",
        "Host CPU a VM used, all of it",
        labels=("domain",),
    )
    resident = GaugeMetricFamily(
        "libvirt_domain_memory_stats_rss_bytes",
        "Host memory of the process that runs a VM",
        labels=("domain",),
    )
    most = GaugeMetricFamily(
        "libvirt_domain_info_maximum_memory_bytes",
        "Memory that a VM was given",
        labels=("domain",),
    )
    delay = CounterMetricFamily(
        "libvirt_domain_vcpu_delay_seconds_total",
        "How long the virtual CPUs of a VM were ready to run and had no host core, all together",
        labels=("domain",),
    )
    for row in vms:
        for view, value in row.cpu_ratio.items():
            ratio.add_metric((row.vm, view), value)
        for part, value in row.cpu_seconds.items():
            seconds.add_metric((row.vm, part), value)
        if (facts := row.facts) is not None:
            words = (facts.service, facts.host, facts.role, facts.path, facts.state)
            info.add_metric((row.vm, *words), 1)
        for family, figure in (
            (memory, row.memory_bytes), (limit, row.limit_cores), (vcpus, row.vcpus),
            (cpu_time, row.cpu_time_seconds), (resident, row.memory_bytes),
            (most, row.most_memory_bytes), (delay, row.delay_seconds),
        ):  # fmt: skip
            if figure is not None:
                family.add_metric((row.vm,), figure)
    yield from (ratio, seconds, memory, limit, info, vcpus, cpu_time, resident, most, delay)
