"""What is kept in reserve beside those that serve: standbys, and a saved guest to copy.

Says what to do next for it, one thing at a time and only while nothing else is going on: it is
never filled at the price of serving replicas. It must not start or end anything itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from autoscale.backoff import LaunchGate
from autoscale.model import VmState
from autoscale.snapshots import Snapshots
from autoscale.vm import Role, Vm

LOW_WEIGHT = 64
"""Share of host cores of what boots for later; those that serve have libvirt's usual 1024."""
USUAL_WEIGHT = 1024


@dataclass(frozen=True, slots=True)
class Next:
    """What to do: start one of a role, on a host if that matters, or let one go."""

    start: Role | None = None
    host: str | None = None
    drop: str | None = None


@dataclass(slots=True)
class Reserve:
    """`wanted` standbys. Mutable, and only `fleet` writes it."""

    wanted: int = 0
    gate: LaunchGate = field(default_factory=LaunchGate)
    """Those that serve have one of their own: a standby that fails to boot must not stop them."""
    snapshots: Snapshots = field(default_factory=Snapshots)

    def next(
        self,
        vms: Collection[Vm],
        hosts: Collection[str],
        key: str | None,
        *,
        calm: bool,
        room: int,
        now: float,
        stale: Collection[str] = (),
    ) -> Next:
        """`key`: of the saved guest that replicas could be copied from, None where there is to be
        none. `calm`: those that serve are as many as they should be. `room`: VMs that may still
        exist. `stale`: names of standbys that should be others; one of them at a time makes room
        for a fresh one, and the next one stays until that is there."""
        waiting = [vm for vm in vms if vm.in_reserve]
        if len(waiting) > self.wanted:
            return Next(drop=_surplus(waiting, stale).name)
        starting = any(vm.starting and vm.role is not Role.REPLICA for vm in vms)
        if not calm or starting or room <= 0 or not self.gate.allows(now):
            return Next()
        if len([vm for vm in vms if vm.role is Role.STANDBY]) < self.wanted:
            return Next(start=Role.STANDBY)
        old = [vm for vm in waiting if vm.name in stale]
        at_rest = sum(vm.state is VmState.STANDBY for vm in waiting)
        if old and at_rest == self.wanted:
            return Next(drop=_surplus(old, stale).name)
        if key is not None and not any(vm.role is Role.TEMPLATE for vm in vms):
            host = self.snapshots.to_make(hosts, key, now)
            if host is not None:
                return Next(start=Role.TEMPLATE, host=host)
        return Next()


def quickest(vms: Collection[Vm], hosts: Collection[str], stale: Collection[str] = ()) -> list[Vm]:
    """Those in reserve that can become replicas, the quickest first: one that rests already, one
    that is about to, one that boots. Of two as quick the one that is not stale: but a stale one at
    once is better for whoever waits than a fresh one in ten seconds."""
    order = {VmState.STANDBY: 0, VmState.READY: 1, VmState.BOOTING: 2}
    found = [vm for vm in vms if vm.in_reserve and vm.state in order and vm.host in hosts]
    return sorted(found, key=lambda vm: (order[vm.state], vm.name in stale, vm.started_at, vm.name))


def _surplus(waiting: list[Vm], stale: Collection[str]) -> Vm:
    """Who goes first: one that is not ready yet, one that is stale, else the oldest."""
    return min(
        waiting, key=lambda vm: (not vm.starting, vm.name not in stale, vm.started_at, vm.name)
    )
