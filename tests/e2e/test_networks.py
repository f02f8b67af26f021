"""Replicas on a libvirt host's networks: addresses by lease and by agent, under a real libvirtd.

All traffic stays in the network namespace of a host that the test makes (`hosts.PhysicalHost`).
"""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import leftovers
from tests.e2e.hosts import PhysicalHost
from tests.e2e.machine import Machine, until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root: a libvirtd, bridges and namespaces of its own"
    ),
]

LEASE, AGENT = 0, 1  # VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_…
PAUSED = 1  # VIR_DOMAIN_START_PAUSED

NAT = """<network><name>default</name><forward mode='nat'/>
<bridge name='virbr0' stp='on' delay='0'/>
<ip address='10.78.0.1' netmask='255.255.255.0'><dhcp>
<range start='10.78.0.100' end='10.78.0.200'/></dhcp></ip></network>"""

FOREIGN = """<domain type='qemu'><name>database</name><memory unit='MiB'>32</memory>
<vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"""


@pytest.fixture
def host() -> Iterator[PhysicalHost]:
    with PhysicalHost() as made:
        yield made


@pytest.fixture
def foreign(host: PhysicalHost) -> Iterator[None]:
    """A VM that is not ours runs beside them, and is as it was when they are gone."""
    domain = host.api(lambda conn: conn.createXML(FOREIGN, PAUSED))

    def seen() -> tuple[Any, ...]:
        return domain.XMLDesc(0), domain.state(), domain.schedulerParameters()

    before = host.api(lambda _conn: seen())
    yield
    assert host.api(lambda _conn: seen()) == before


def service(host: PhysicalHost, network: str, replicas: int) -> str:
    return f"""[service.web.scale]
min = {replicas}
max = {replicas}
[[hypervisor]]
name = "box"
uri = "{host.uri}"
network = "{network}"
"""


def addresses(host: PhysicalHost, vm: str, source: int) -> list[str]:
    """What libvirt itself says, asked past our adapter."""
    interfaces = host.api(lambda conn: conn.lookupByName(vm).interfaceAddresses(source))
    return [a["addr"] for interface in interfaces.values() for a in interface["addrs"]]


def vcpu_quota(host: PhysicalHost, vm: str) -> int:
    parameters = host.api(lambda conn: conn.lookupByName(vm).schedulerParameters())
    return int(parameters["vcpu_quota"])


def cores_used(host: PhysicalHost, vm: str, address: str, seconds: float) -> float:
    """How many host cores the VM takes while it is asked for more than it can do."""

    def cpu_seconds() -> float:
        stats = host.api(lambda conn: conn.lookupByName(vm).getCPUStats(True))
        return float(stats[0]["cpu_time"]) / 1e9

    before, started = cpu_seconds(), time.monotonic()
    while (took := time.monotonic() - started) < seconds:
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("GET", "/render?work=20")
        assert connection.getresponse().status == 200
        connection.close()
    return (cpu_seconds() - before) / took


def assert_nothing_left(host: PhysicalHost, up: Machine) -> None:
    assert leftovers.processes(up.home) == {}
    assert leftovers.files(up.home) == []
    assert host.api(lambda conn: [d.name() for d in conn.listAllDomains()]) == ["database"]
    assert [group.name for group in host.cgroups() if "database" not in group.name] == []
    assert "vnet" not in host.run("ip", "-o", "link")


@pytest.mark.usefixtures("foreign")
def test_replicas_on_a_nat_network_are_found_by_their_lease(
    host: PhysicalHost, machine: Callable[..., Machine]
) -> None:
    """The network comes after `lbctl up`: until then the host refuses, and says why."""
    up = machine(service(host, "network:default", 1), "cpu_limit = 0.4")
    with host.inside():
        up.start("--retire-vms")
        refused = until(lambda: up.events("vm.failed"), 60, "nobody missed the network")[0]
        assert refused["reason"] == "launch_failed"
        assert "no network with matching name 'default'" in refused["message"]
        host.api(lambda conn: conn.networkDefineXML(NAT).create())

        (backend,) = up.wait_ready(1)
        leases = host.api(lambda conn: conn.networkLookupByName("default").DHCPLeases())
        assert [f"{lease['ipaddr']}:8080" for lease in leases] == [backend["address"]]
        assert addresses(host, backend["name"], LEASE) == [leases[0]["ipaddr"]]
        assert up.get() == (200, backend["name"])

        until(lambda: vcpu_quota(host, backend["name"]) == 40_000, 10, "no CPU limit")
        assert 0.1 < cores_used(host, backend["name"], backend["address"], 4) < 0.5

        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
    assert_nothing_left(host, up)


@pytest.mark.usefixtures("foreign")
def test_replicas_on_a_bridge_tell_their_address_by_agent(
    host: PhysicalHost, machine: Callable[..., Machine]
) -> None:
    """Two share one image, and a successor finds them at the addresses they have."""
    leases = bridge(host)
    up = machine(service(host, "bridge:br0", 2), "cpu_limit = 0.4")
    with host.inside():
        up.start()
        found = {b["name"]: b["address"] for b in up.wait_ready(2)}
        for name, address in found.items():
            assert addresses(host, name, LEASE) == [], "libvirt knows no leases of others"
            told = addresses(host, name, AGENT)
            assert [f"{ip}:8080" for ip in told] == [address]
            assert told[0] in leases.read_text(encoding="utf-8")
        assert {up.get() for _ in range(20)} == {(200, name) for name in found}
        for name in found:
            until(lambda vm=name: vcpu_quota(host, vm) == 40_000, 10, "no CPU limit")  # type: ignore[misc]

        up.kill()
        up.start("--retire-vms")
        assert {b["name"]: b["address"] for b in up.wait_ready(2, 30)} == found
        assert len(up.events("vm.launch")) == 2
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
    assert_nothing_left(host, up)


def bridge(host: PhysicalHost) -> Path:
    """br0 with somebody else's DHCP server on it; the file of its leases."""
    host.run("ip", "link", "add", "br0", "type", "bridge")
    host.run("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
    host.run("ip", "link", "set", "br0", "up")
    leases = host.root / "leases"
    host.spawn(
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0"),
        *("--interface=br0", "--bind-interfaces", f"--dhcp-leasefile={leases}", "--pid-file="),
        "--dhcp-range=10.77.0.100,10.77.0.200,255.255.255.0",
    )
    return leases


def test_a_host_that_cannot_start_leaves_nothing_behind() -> None:
    broken = PhysicalHost(qemu_conf="user = \n")
    with pytest.raises(AssertionError, match="libvirtd ended"), broken:
        pass
    assert not broken.root.exists()
    assert not Path("/run/netns", broken.name).exists()
