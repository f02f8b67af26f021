"""Where a guest can be reached, out of what libvirt's sources say of its cards. Pure.

Owns which of several addresses counts. It must not ask libvirt.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import Any

LEASE, AGENT, ARP = 0, 1, 2
"""`virDomainInterfaceAddressesSource`: the network's DHCP server, the guest's agent, the host's
table of neighbours; in this order, since an agent may say anything."""
SOURCES = (LEASE, AGENT, ARP)
IPV4 = 0
"""`VIR_IP_ADDR_TYPE_IPV4`."""


def first_ipv4(interfaces: Mapping[str, Any]) -> str | None:
    """The first that is not a loopback's: an agent tells those too, and they are our own."""
    for interface in interfaces.values():
        for address in interface["addrs"] or ():
            ip: str = address["addr"]
            if address["type"] == IPV4 and not ip.startswith("127."):
                return ip
    return None


def network_of(network: str) -> str | None:
    """The name in `network:NAME`; None for others, which libvirt keeps no reservations for."""
    kind, _, name = network.partition(":")
    return name if kind == "network" else None


def macs(domain: str) -> tuple[str, ...]:
    """The addresses of a domain's cards, in the order of its XML."""
    found = ET.fromstring(domain).iterfind("devices/interface/mac")  # noqa: S314 - libvirt's own
    return tuple(mac.get("address", "") for mac in found)


def reserved(network: str, cards: Iterable[str]) -> str | None:
    """The IPv4 address that a network's XML sets aside for one of these cards:
    `<ip><dhcp><host mac= ip=/>`."""
    wanted = {card.lower() for card in cards if card}
    for host in ET.fromstring(network).iterfind("ip/dhcp/host"):  # noqa: S314 - libvirt's own
        ip = host.get("ip", "")
        if host.get("mac", "").lower() in wanted and "." in ip:
            return ip
    return None


def no_address_fix(network: str) -> str:
    """What to look at where no source told of an address, by the host's `network` setting."""
    kind, _, name = network.partition(":")
    if kind == "network":
        return (
            f"no lease in network {name} and no agent told of one:"
            " see whether that network is active and has DHCP, and addresses left to give"
        )
    if kind == "bridge":
        return (
            f"neither the guest's agent nor the host's ARP table told of one: see whether a DHCP"
            f" server answers on {name}, and whether the image runs qemu-guest-agent"
        )
    return "the host never told where it can be reached: see [[hypervisor]] network"
