"""What a turnover goes by at one instant, and what it answers: VMs, load and hosts; the gap. Pure.

Owns what a VM is to a turnover by itself: past its lifetime, able to leave, the first to. It must
not know how a rollout goes: who is out of date for one is `turnover`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from zlib import crc32

from autoscale.model import PoolLoad, Reason, VmState
from autoscale.rollout import Rollout
from autoscale.vm import Vm, is_available

JITTER = 0.1
"""Lifetimes differ by up to a tenth either way, by name: who came together need not go together."""

IN_PLACE = (Reason.ROLLOUT, Reason.ROLLBACK, Reason.MAX_LIFETIME)
"""Why one is started that the load does not need."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is at one instant. `now` is monotonic, `wall_s` Unix seconds."""

    vms: Collection[Vm]
    load: PoolLoad
    desired: int
    now: float
    wall_s: float
    max_lifetime_s: float | None = None
    most: int = sys.maxsize
    """The most replicas the load may have; one more may exist for a turnover."""
    silent: Collection[str] = ()
    """Hosts that do not answer: nobody there can be told to leave."""


@dataclass(frozen=True, slots=True)
class Gap:
    """How many replicas are missing, and how many are too many."""

    load: int
    """For the load, and for whoever was lost; 0 and less: none."""
    turn: int
    """Besides, in place of some that are out of date; below 0: so many on trial are too many."""
    surplus: int
    extra: int
    """So many more than are desired are meant to exist now."""


def overdue(vm: Vm, scene: Scene) -> bool:
    """It has lived as long as it may. Its start stands in its metadata: a restart of ours does not
    make it young."""
    if scene.max_lifetime_s is None:
        return False
    share = crc32(vm.name.encode()) / 0xFFFFFFFF
    may_s = scene.max_lifetime_s * (1 - JITTER + 2 * JITTER * share)
    return scene.wall_s - vm.identity.created_at > may_s


def surge_of(rollout: Rollout, scene: Scene) -> int:
    """As many as were ordered, once the load has the room it needs; one always may."""
    return max(1, min(rollout.max_surge, scene.most + 1 - scene.desired))


def can_be_told(vm: Vm, scene: Scene) -> bool:
    """To leave: it exists for sure, and its host answers."""
    return vm.state in (VmState.BOOTING, VmState.READY) and vm.host not in scene.silent


def who_first(vm: Vm, scene: Scene) -> tuple[bool, int, float, str]:
    """One that serves nobody, then the least busy, then the oldest."""
    backend = scene.load.of(vm.name)
    running = backend.in_flight if backend else 0
    return (is_available(vm, scene.load), running, vm.identity.created_at, vm.name)
