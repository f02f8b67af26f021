"""Cumulative counters → utilisation, or "no data". Pure.

Owns the rule that missing is not zero: whatever cannot be trusted (a first sample, a counter that
went back, a clock that jumped, a limit that changed in between) gives no signal at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoscale.model import Sample, Signal

MIN_INTERVAL_S = 0.05
"""Below this, 10 ms scheduler ticks would be a fifth of the figure."""
MAX_INTERVAL_S = 10.0
"""Two samples further apart say nothing of now."""


def signal_between(before: Sample, after: Sample) -> Signal | None:
    """What one VM did between two of its samples.

    utilisation = Δcpu / (Δt × limit), where limit = vCPUs × quota share, in cores. It may pass 1.0
    a little: QEMU's own overhead is outside the vCPU quota.
    """
    elapsed = after.at - before.at
    cpu = after.cpu_s - before.cpu_s
    vcpu = after.vcpu_s - before.vcpu_s
    if not MIN_INTERVAL_S <= elapsed <= MAX_INTERVAL_S or cpu < 0 or vcpu < 0:
        return None
    if before.limit_cores != after.limit_cores or after.limit_cores <= 0:
        return None
    delay = None
    if before.vcpu_delay_s is not None and after.vcpu_delay_s is not None:
        waited = after.vcpu_delay_s - before.vcpu_delay_s
        delay = waited / (elapsed * after.vcpus) if waited >= 0 else None
    return Signal(
        vm=after.vm,
        at=after.at,
        utilisation=cpu / (elapsed * after.limit_cores),
        cpu_cores=cpu / elapsed,
        vcpu_cores=vcpu / elapsed,
        delay_ratio=delay,
        interval_s=elapsed,
    )


def sample_from_stats(
    vm: str, limit_cores: float | None, stats: Mapping[str, Any], at: float
) -> Sample | None:
    """One row of libvirt's `getAllDomainStats` in seconds and bytes; None without CPU counters."""
    cpu_ns = stats.get("cpu.time")
    current = int(stats.get("vcpu.current", 0))
    times = [stats.get(f"vcpu.{i}.time") for i in range(current)]
    if cpu_ns is None or not times or None in times:
        return None
    delays = [stats.get(f"vcpu.{i}.delay") for i in range(current)]
    return Sample(
        vm=vm,
        at=at,
        cpu_s=cpu_ns / 1e9,
        vcpu_s=sum(t for t in times if t is not None) / 1e9,
        vcpus=current,
        limit_cores=min(current, limit_cores or current),
        vcpu_delay_s=None if None in delays else sum(d for d in delays if d is not None) / 1e9,
        memory_bytes=int(stats.get("balloon.rss", 0)) * 1024,
    )
