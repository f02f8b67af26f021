"""What is shown of VMs and hosts: figures join by the VM's name, what nobody knows is absent."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from lb.vm_metrics import VmFacts, VmRow, collect_hosts_up, collect_vms


def samples(families: Iterable[Metric]) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in families
    }


def test_everything_known_of_a_vm() -> None:
    row = VmRow(
        vm="web-1",
        cpu_ratio={"host": 0.9, "guest": 0.7},
        cpu_seconds={"vcpu": 5.0, "overhead": 1.0},
        memory_bytes=1024,
        facts=VmFacts("web", "local", "replica", "cold", "ready"),
        limit_cores=0.4,
        vcpus=1,
        delay_seconds=2.5,
        cpu_time_seconds=6.0,
        most_memory_bytes=4096,
    )
    assert samples(collect_vms([row])) == {
        "vm_cpu_ratio": {("web-1", "host"): 0.9, ("web-1", "guest"): 0.7},
        "vm_cpu_seconds": {("web-1", "vcpu"): 5.0, ("web-1", "overhead"): 1.0},
        "vm_memory_bytes": {("web-1",): 1024},
        "vm_cpu_limit_cores": {("web-1",): 0.4},
        "vm_info": {("web-1", "web", "local", "replica", "cold", "ready"): 1},
        "libvirt_domain_info_virtual_cpus": {("web-1",): 1},
        "libvirt_domain_info_cpu_time_seconds": {("web-1",): 6.0},
        "libvirt_domain_memory_stats_rss_bytes": {("web-1",): 1024},
        "libvirt_domain_info_maximum_memory_bytes": {("web-1",): 4096},
        "libvirt_domain_vcpu_delay_seconds": {("web-1",): 2.5},
    }


def test_what_nobody_measured_is_absent_and_not_nought() -> None:
    found = samples(collect_vms([VmRow("web-1")]))
    assert "vm_cpu_ratio" in found, "the family is there"
    assert not any(found.values())


def test_a_measured_nought_is_there() -> None:
    found = samples(collect_vms([VmRow("web-1", memory_bytes=0, delay_seconds=0.0)]))
    assert found["vm_memory_bytes"] == {("web-1",): 0}
    assert found["libvirt_domain_vcpu_delay_seconds"] == {("web-1",): 0}


def test_hosts_that_answer_and_that_do_not() -> None:
    found = samples(collect_hosts_up({"a": True, "b": False}))
    assert found == {"libvirt_up": {("a",): 1, ("b",): 0}}
