"""Which host a new replica goes to, and which replica leaves first. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoscale.contention import CONTENDED, delay_of
from autoscale.model import PoolLoad, VmState
from autoscale.vm import Vm, is_available


@dataclass(frozen=True, slots=True)
class HostRoom:
    """One hypervisor that answers, and how many replicas of ours it has."""

    name: str
    replicas: int
    delay: float | None = None
    """How long our vCPUs there wait for a core, as a share of the time; None: nobody knows."""
    copies: bool = False
    """Whether a replica there can be started as a copy of a saved guest."""

    @property
    def contended(self) -> bool:
        """Whether its cores are known to be taken: another replica makes it worse for all there."""
        return self.delay is not None and self.delay >= CONTENDED


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that could leave."""

    vm: str
    available: bool
    """Whether it gets requests now."""
    in_flight: int
    age_s: float
    outdated: bool = False
    """Whether it is to be replaced anyway."""


def rooms(hosts: Collection[str], vms: Collection[Vm], copies: Collection[str]) -> list[HostRoom]:
    """What is known of these hosts, from our replicas there in whatever state; `copies` names those
    that have a saved guest for them."""
    found = []
    for host in sorted(hosts):
        there = [vm for vm in vms if vm.host == host]
        delay = delay_of(vm.signal for vm in there if vm.signal)
        found.append(HostRoom(host, len(there), delay, host in copies))
    return found


def candidates(
    vms: Collection[Vm], load: PoolLoad, now: float, outdated: Collection[str] = ()
) -> list[Candidate]:
    """Who could leave: whoever serves or boots. One whose creation is under way could not be told
    from one that never came to be."""
    found = []
    for vm in vms:
        if vm.state in (VmState.BOOTING, VmState.READY):
            backend = load.of(vm.name)
            running = backend.in_flight if backend else 0
            age_s = now - vm.started_at
            found.append(
                Candidate(vm.name, is_available(vm, load), running, age_s, vm.name in outdated)
            )
    return found


def choose_host(hosts: Sequence[HostRoom]) -> str | None:
    """One with cores to spare, then the one with the fewest of our replicas, then one where a copy
    can be started, the first by name among equals; None of none. A host that boots gets its share
    all the same: were all on the one that copies, they would end with it. Where all are contended
    one is chosen too: whether to grow at all was decided before."""
    if not hosts:
        return None
    return min(hosts, key=lambda h: (h.contended, h.replicas, not h.copies, h.name)).name


def choose_victim(candidates: Sequence[Candidate], *, old_first: bool = False) -> str | None:
    """Who leaves: one that gets no requests (yet, or any more), then the least busy, then the
    youngest.

    The youngest, because the older ones have warm caches and have proved themselves. One that is
    out of date leaves before others; and where more serve than are needed (`old_first`), before
    those that get no requests yet too.
    """
    if not candidates:
        return None

    def key(c: Candidate) -> tuple[bool, bool, int, float, str]:
        first, second = (not c.outdated, c.available)[:: 1 if old_first else -1]
        return first, second, c.in_flight, c.age_s, c.vm

    return min(candidates, key=key).vm
