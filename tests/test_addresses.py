"""Which address counts, and what a network has set aside for a card."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest

from autoscale import addresses

NETWORK = """<network><name>default</name><ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>
<range start='10.0.0.100' end='10.0.0.200'/>
<host mac='52:54:00:00:00:01' name='one' ip='10.0.0.11'/>
<host mac='52:54:00:AA:00:02' ip='10.0.0.12'/></dhcp></ip>
<ip family='ipv6' address='fd00::1' prefix='64'><dhcp>
<host mac='52:54:00:00:00:03' ip='fd00::13'/></dhcp></ip></network>"""
DOMAIN = """<domain type='qemu'><name>web-1</name><devices>
<interface type='network'><mac address='52:54:00:aa:00:02'/></interface>
<interface type='bridge'><source bridge='br0'/></interface>
<interface type='network'><mac address='52:54:00:00:00:09'/></interface></devices></domain>"""


def test_the_numbers_are_libvirts() -> None:
    assert addresses.SOURCES == (
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    )
    assert addresses.IPV4 == libvirt.VIR_IP_ADDR_TYPE_IPV4


def card(*ips: str) -> dict[str, Any]:
    return {"addrs": [{"addr": ip, "type": 1 if ":" in ip else 0} for ip in ips] or None}


def test_the_first_ipv4_address_that_is_no_loopback_counts() -> None:
    told = {"lo": card("127.0.0.1"), "eth0": card("fe80::1", "10.0.0.5"), "eth1": card("10.0.0.6")}
    assert addresses.first_ipv4(told) == "10.0.0.5"
    assert addresses.first_ipv4({"lo": card("127.0.0.1"), "eth0": card()}) is None
    assert addresses.first_ipv4({}) is None


@pytest.mark.parametrize(
    ("network", "name"),
    [("network:default", "default"), ("network:", ""), ("bridge:br0", None), ("user", None)],
)
def test_only_libvirts_networks_have_reservations(network: str, name: str | None) -> None:
    assert addresses.network_of(network) == name


def test_a_reservation_is_found_by_the_card_in_any_case() -> None:
    cards = addresses.macs(DOMAIN)
    assert cards == ("52:54:00:aa:00:02", "52:54:00:00:00:09")
    assert addresses.reserved(NETWORK, cards) == "10.0.0.12"


def test_no_reservation_for_another_card_or_another_protocol() -> None:
    assert addresses.reserved(NETWORK, ["52:54:00:00:00:03"]) is None, "IPv6"
    assert addresses.reserved(NETWORK, ["52:54:00:00:00:77", ""]) is None
    assert addresses.reserved("<network/>", ["52:54:00:00:00:01"]) is None
