"""What a host can do for our guests, judged by what its libvirt says: domain type, CPU limits,
copies. Pure.

Owns the verdicts that stand in `HostInfo`. It must not ask libvirt.
"""

from __future__ import annotations

from autoscale.domain_xml import host_offers_kvm

COPIES_BY_FIFO_BEFORE = 11_000_000
"""libvirt's version number. From there on it opens a file twice that it restores from."""


def domain_type(configured: str, capabilities: str, expanded_cpu: str) -> tuple[str, str]:
    """kvm or qemu for a real hypervisor, and why. `expanded_cpu` as `host_offers_kvm` wants it."""
    if configured != "auto":
        return configured, "as configured"
    if host_offers_kvm(capabilities, expanded_cpu):
        return "kvm", "libvirt offers it and the CPU has vmx or svm"
    return "qemu", "software emulation: the host's CPU shows neither vmx nor svm to KVM"


def no_copies(*, is_test: bool, local_files: bool, network: str, agent_fits: bool) -> str:
    """Why no copies can be started of a saved guest there; empty: they can."""
    if is_test:
        return "libvirt's test driver has no guests to copy"
    if not local_files:
        return "the libvirt of a system or of another host does not read our files"
    if network != "user":
        return f"on {network} its address lies inside a guest: a copy would have the same one"
    if not agent_fits:
        return "the path of the guests' agent sockets is too long: set LBCTL_HOME to a shorter one"
    return ""


def version_text(number: int) -> str:
    """libvirt's version number as people write it."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
