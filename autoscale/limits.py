"""Which CPU limit each replica should have now: its shape's, or more while help is on its way.

Owns the relief that a decision grants (`burst`), and which hosts cannot limit at all. It must not
call a hypervisor: `fleet` sets what is asked for here, and asks again each tick until it is so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from autoscale.model import VmState
from autoscale.vm import Vm

FREE_S: Final = 5.0
"""So long after it came into service a replica has no limit: it works off what queued up while it
was missing, and a copy is slow at first, for an emulator has to translate its code anew. Held to
0.4 cores at once, copies brought relief 5 to 9 s after the onset of an overload; after 3 s, 2.6 to
7.3 s (five rounds); after 5 s, 2.6 to 3.3 s (seven)."""


@dataclass(slots=True)
class CpuLimits:
    """The wanted limits of one service's replicas. Mutable, and only `fleet` writes it."""

    burst: float | None = None
    """So many times its limit a replica may use while the limits are lifted; None: never more."""
    lifted: bool = False
    """What the last decision said."""
    unsupported: set[str] = field(default_factory=set)
    """Hosts that said they cannot limit."""

    def allowed_cores(self, vm: Vm, vcpus: int, now: float) -> float:
        """The host cores that its shape gives it, whatever it may use just now; all its vCPUs where
        nothing limits it: on such a host, while it boots and when it has just come."""
        if _is_free(vm, now) or vm.host in self.unsupported:
            return vcpus
        return min(vcpus, vm.identity.cpu_limit)

    def missing(self, vm: Vm, vcpus: int, now: float) -> float | None:
        """The limit in cores that this serving replica should have and has not; None: it has."""
        limit = vm.identity.cpu_limit
        if limit >= vcpus or vm.host in self.unsupported or _is_free(vm, now):
            return None
        if self.lifted and self.burst is not None:
            limit = min(vcpus, self.burst * limit)
        return None if vm.limit_cores == limit else limit


def _is_free(vm: Vm, now: float) -> bool:
    """It starts, or has just come; one that was there before us may have its limit already."""
    if vm.state in (VmState.DEFINED, VmState.BOOTING):
        return True
    just_came = vm.state is VmState.READY and now - vm.since < FREE_S
    return just_came and not vm.adopted and vm.limit_cores is None
