"""What a fresh connection says of its host, gathered into `HostInfo`.

Owns the questions. It must not import libvirt, nor judge the answers: that is `abilities`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoscale import abilities, domain_xml
from autoscale.host import HostInfo

EXPAND_FEATURES = 1
"""`VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES`: the model's features spelt out."""

OrNone = Callable[[Callable[[], Any]], Any]
"""What it returns; None where libvirt gives an error instead."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a host before it is asked."""

    name: str
    uri: str
    network: str
    domain_type: str
    """kvm or qemu as configured, or auto."""
    is_test: bool
    """libvirt's own test driver."""
    local_files: bool
    """Whether its QEMU runs as this user, on this machine's files."""
    agent_fits: bool
    """Whether the path of an agent's socket is short enough."""


@dataclass(frozen=True, slots=True)
class Described:
    """What is kept of the answers."""

    info: HostInfo
    relabels: bool
    """As `domain_xml.host_relabels`."""
    by_fifo: bool
    """Whether its libvirt restores a guest from a FIFO."""


def describe(conn: Any, asked: Asked, or_none: OrNone) -> Described:
    """Raises libvirt's error where the host does not answer what each one can."""
    capabilities = conn.getCapabilities()
    domain_type, why = "test", "libvirt's test driver"
    if not asked.is_test:
        cpu = [domain_xml.host_cpu_xml(capabilities)]
        expanded = or_none(lambda: conn.baselineCPU(cpu, EXPAND_FEATURES)) or ""
        domain_type, why = abilities.domain_type(asked.domain_type, capabilities, expanded)
    node = conn.getInfo()
    version = conn.getLibVersion()
    info = HostInfo(
        name=asked.name,
        uri=asked.uri,
        domain_type=domain_type,
        why=why,
        cores=node[2],
        memory_bytes=node[1] * 1024 * 1024,
        libvirt_version=abilities.version_text(version),
        network=asked.network,
        cpu_limits=not asked.is_test and (os.getuid() == 0 or not asked.local_files),
        copies=abilities.no_copies(
            is_test=asked.is_test,
            local_files=asked.local_files,
            network=asked.network,
            agent_fits=asked.agent_fits,
        ),
    )
    relabels = domain_xml.host_relabels(capabilities)
    return Described(info, relabels, by_fifo=version < abilities.COPIES_BY_FIFO_BEFORE)
