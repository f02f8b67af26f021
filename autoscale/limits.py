"""Which CPU limit each replica should have now: its shape's, or more while help is on its way.

Owns the relief that a decision grants (`burst`), and which hosts cannot limit at all. It must not
call a hypervisor: `fleet` sets what is asked for here, and asks again each tick until it is so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autoscale.model import VmState
from autoscale.vm import Vm


@dataclass(slots=True)
class CpuLimits:
    """The wanted limits of one service's replicas. Mutable, and only `fleet` writes it."""

    burst: float | None = None
    """So many times its limit a replica may use while the limits are lifted; None: never more."""
    lifted: bool = False
    """What the last decision said."""
    unsupported: set[str] = field(default_factory=set)
    """Hosts that said they cannot limit."""

    def allowed_cores(self, vm: Vm, vcpus: int) -> float:
        """The host cores that its shape gives it, whatever it may use just now; all its vCPUs where
        nothing limits it: on such a host, and while it boots."""
        starting = vm.state in (VmState.DEFINED, VmState.BOOTING)
        if starting or vm.host in self.unsupported:
            return vcpus
        return min(vcpus, vm.identity.cpu_limit)

    def missing(self, vm: Vm, vcpus: int) -> float | None:
        """The limit in cores that this serving replica should have and has not; None: it has."""
        limit = vm.identity.cpu_limit
        if limit >= vcpus or vm.host in self.unsupported:
            return None
        if self.lifted and self.burst is not None:
            limit = min(vcpus, self.burst * limit)
        return None if vm.limit_cores == limit else limit
