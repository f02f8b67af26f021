"""What libvirt's figures of a domain mean: its counters, its state, its CPU quota. Pure.

Owns the reading of one row of `getAllDomainStats` and the arithmetic of quotas. It must not import
libvirt: the numbers are part of its ABI, and a test compares them with the library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from autoscale.domain_xml import CPU_PERIOD_US
from autoscale.host import PowerState
from autoscale.model import Sample

SLOW_CALL_S = 0.2
"""A listing is a few milliseconds; a sample of one that took longer is off by up to so much."""

LEAST_QUOTA_US = 1000
"""The kernel takes no smaller one."""

USUAL_SHARE_V1, USUAL_SHARE_V2 = 1024, 100
LEAST_WEIGHT = 64


class StateCode(IntEnum):
    """`virDomainState`."""

    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


_POWER = {
    StateCode.RUNNING: PowerState.RUNNING,
    StateCode.BLOCKED: PowerState.RUNNING,
    StateCode.PAUSED: PowerState.PAUSED,
    StateCode.PMSUSPENDED: PowerState.PAUSED,
    StateCode.SHUTDOWN: PowerState.STOPPING,
    StateCode.SHUTOFF: PowerState.OFF,
    StateCode.CRASHED: PowerState.CRASHED,
}


def power_from_stats(stats: Mapping[str, Any]) -> PowerState:
    """In doubt it runs: a machine that is taken for dead would be replaced."""
    return _POWER.get(stats.get("state.state", -1), PowerState.RUNNING)


def read_at(asked_at: float, answered_at: float) -> float | None:
    """When a listing's counters were read; None where the call was too slow to tell.

    One that waited 0.9 s for another domain's end made 0.06 cores of a busy second, and 1.83 of the
    next: such a sample counts as missing.
    """
    return answered_at if answered_at - asked_at <= SLOW_CALL_S else None


def sample_from_stats(
    vm: str, limit_cores: float | None, stats: Mapping[str, Any], at: float | None, run: str
) -> Sample | None:
    """One row in seconds and bytes; None without CPU counters, or without the time of reading.

    `run` names the run of the VM that these counters belong to.
    """
    cpu_ns = stats.get("cpu.time")
    current = int(stats.get("vcpu.current", 0))
    times = [stats.get(f"vcpu.{i}.time") for i in range(current)]
    if at is None or cpu_ns is None or not times or None in times:
        return None
    resident_kib = stats.get("balloon.rss")
    delays = [stats.get(f"vcpu.{i}.delay") for i in range(current)]
    return Sample(
        vm=vm,
        at=at,
        cpu_s=cpu_ns / 1e9,
        vcpu_s=sum(t for t in times if t is not None) / 1e9,
        vcpus=current,
        limit_cores=min(current, limit_cores or current),
        vcpu_delay_s=None if None in delays else sum(d for d in delays if d is not None) / 1e9,
        memory_bytes=None if resident_kib is None else int(resident_kib) * 1024,
        most_memory_bytes=int(stats.get("balloon.maximum", 0)) * 1024,
        run=run,
    )


def quota_of(cores: float | None, vcpus: int) -> dict[str, int]:
    """A CPU limit as libvirt's scheduler parameters; its quota holds each vCPU by itself."""
    quota = -1 if cores is None else max(LEAST_QUOTA_US, round(cores / vcpus * CPU_PERIOD_US))
    return {"vcpu_period": CPU_PERIOD_US, "vcpu_quota": quota}


def weight_of(weight: int, in_force: int) -> int:
    """A share of host cores, 1024 being the usual one and 64 the least that is given, as this
    host's kernel counts it; `in_force` is the one that the domain has now.

    libvirt hands `cpu_shares` on as they are: with cgroups version 1 the usual one is 1024, with
    version 2 it is 100, and 1024 would be ten times everybody's.
    """
    if in_force == USUAL_SHARE_V2 or in_force < LEAST_WEIGHT:
        return max(1, round(weight * USUAL_SHARE_V2 / USUAL_SHARE_V1))
    return weight


def limit_of(parameters: Mapping[str, Any], vcpus: int) -> float | None:
    """The other way round: in cores, None for no limit."""
    quota, period = parameters.get("vcpu_quota", 0), parameters.get("vcpu_period", 0)
    return quota / period * vcpus if quota > 0 and period > 0 else None
