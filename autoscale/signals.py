"""Cumulative counters → utilisation and rates, or "no data". Pure.

Owns the rule that missing is not zero: whatever cannot be trusted (a first sample, a counter that
went back, a clock that jumped, a VM that was started anew or moved) gives no signal at all. The
proxy's controller and the simulator read through the same `Meter`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from autoscale.model import Demand, Sample, Signal

MIN_INTERVAL_S = 0.05
"""Below this, 10 ms scheduler ticks would be a fifth of the figure."""
MAX_INTERVAL_S = 10.0
"""Two samples further apart say nothing of now; nor do they where twice the sampling interval is
longer still."""


@dataclass(frozen=True, slots=True)
class Signals:
    """Everything the planner decides by, at one instant. None, or not in a mapping: no data."""

    cpu: Mapping[str, Signal] = field(default_factory=dict)
    """The newest of each VM. Whether it is fresh enough is the planner's to judge."""
    serving: tuple[str, ...] = ()
    """The VMs that get requests now: they are the capacity, all others only count."""
    in_flight: int = 0
    """Requests running on VMs that serve."""
    running: int = 0
    """Requests running anywhere, also where none is sent any more."""
    queued: int = 0
    waiting_s: float = 0.0
    """For how long somebody has been waiting without a break."""
    arrivals_per_s: float | None = None
    served_per_s: Mapping[str, float] = field(default_factory=dict)
    """By VM."""
    latency_p99_s: float | None = None
    host_of: Mapping[str, str] = field(default_factory=dict)
    """By VM."""
    hosts: Collection[str] = ()
    """Where a replica could start: those that answer, with replicas of ours or without."""
    reading_s: float = 1.0
    """Over how long the rates were measured."""
    wall_s: float = 0.0
    """Unix seconds, for schedules, seasons and overrides."""


class Meter:
    """Keeps the last reading of everything, and what it and the one before say of the time between.

    State changes in `sampled` and `asked` only; neither awaits. `interval_s` may be replaced.
    """

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.cpu: dict[str, Signal] = {}
        """The newest signal of each VM that has one."""
        self._samples: dict[str, Sample] = {}
        self._demand: Demand | None = None
        self._arrivals_per_s: float | None = None
        self._served_per_s: Mapping[str, float] = {}
        self._reading_s = interval_s

    def sampled(
        self, samples: Iterable[Sample], allowed: Mapping[str, float], known: Collection[str]
    ) -> None:
        """Take in what the hosts' listings brought. `allowed`: host cores by VM that its shape may
        use; `known`: the VMs there are, others are forgotten.

        A tick may come early (an event woke us): a difference over less than half an interval would
        be noise, so the last signal stands until enough time has passed. A lost sample leaves the
        base where it was: the next one speaks for both intervals.
        """
        self._samples = {vm: base for vm, base in self._samples.items() if vm in known}
        self.cpu = {vm: signal for vm, signal in self.cpu.items() if vm in known}
        longest_s = max(MAX_INTERVAL_S, 2 * self.interval_s)
        for sample in samples:
            if sample.vm not in known:
                continue
            base = self._samples.get(sample.vm)
            if base is not None and 0 <= sample.at - base.at < self.interval_s / 2:
                continue
            self._samples[sample.vm] = sample
            cores = allowed.get(sample.vm, sample.limit_cores)
            signal = signal_between(base, sample, cores, longest_s) if base else None
            if signal is not None:
                self.cpu[sample.vm] = signal
            else:
                self.cpu.pop(sample.vm, None)

    def asked(self, demand: Demand) -> None:
        """Take in what clients asked for."""
        before = self._demand
        if before is None or demand.at < before.at:
            self._demand = demand
            return
        elapsed = demand.at - before.at
        if elapsed < self.interval_s / 2:
            return
        self._demand, self._reading_s = demand, elapsed
        arrived = demand.arrived_total - before.arrived_total
        if arrived < 0 or elapsed > max(MAX_INTERVAL_S, 2 * self.interval_s):
            self._arrivals_per_s, self._served_per_s = None, {}
            return
        self._arrivals_per_s = arrived / elapsed
        self._served_per_s = {
            name: (total - before.served_total[name]) / elapsed
            for name, total in demand.served_total.items()
            if total >= before.served_total.get(name, total + 1)
        }

    def signals(
        self,
        demand: Demand,
        serving: tuple[str, ...],
        host_of: Mapping[str, str],
        wall_s: float,
        hosts: Collection[str] = (),
    ) -> Signals:
        """What is known now: rates from the last two readings, the queue as it stands."""
        return Signals(
            cpu=self.cpu,
            serving=serving,
            in_flight=sum(demand.in_flight.get(vm, 0) for vm in serving),
            running=sum(demand.in_flight.values()),
            queued=demand.queued,
            waiting_s=demand.waiting_s,
            arrivals_per_s=self._arrivals_per_s,
            served_per_s=self._served_per_s,
            latency_p99_s=demand.latency_p99_s,
            host_of=host_of,
            hosts=hosts,
            reading_s=self._reading_s,
            wall_s=wall_s,
        )


def signal_between(
    before: Sample, after: Sample, allowed_cores: float, longest_s: float = MAX_INTERVAL_S
) -> Signal | None:
    """What one VM did between two of its samples.

    utilisation = Δcpu / (Δt × allowed), allowed in cores: the limit of its shape, whatever it may
    use just now. It may pass 1.0: QEMU's own overhead is outside the vCPU quota, and the quota may
    be lifted for a while.
    """
    elapsed = after.at - before.at
    cpu = after.cpu_s - before.cpu_s
    vcpu = after.vcpu_s - before.vcpu_s
    if not MIN_INTERVAL_S <= elapsed <= longest_s or cpu < 0 or vcpu < 0:
        return None
    if before.run != after.run or before.vcpus != after.vcpus or allowed_cores <= 0:
        return None
    return Signal(
        vm=after.vm,
        at=after.at,
        utilisation=cpu / (elapsed * allowed_cores),
        cpu_cores=cpu / elapsed,
        vcpu_cores=vcpu / elapsed,
        vcpus=after.vcpus,
        delay_ratio=_delay_between(before, after, vcpu / (elapsed * allowed_cores), allowed_cores),
        interval_s=elapsed,
    )


def _delay_between(
    before: Sample, after: Sample, vcpu_utilisation: float, allowed_cores: float
) -> float | None:
    """Run-queue delay that the VM's own limit does not explain; None where libvirt does not tell.

    The kernel counts the time a vCPU is throttled by its quota as time it waited. One that is held
    to a share q of its time, and used u of that, was throttled for u × (1 - q) at most: measured
    with q = 0.4 on a host with cores to spare, 0.29 at u = 0.57, and 0.60 at u = 1.
    """
    if before.vcpu_delay_s is None or after.vcpu_delay_s is None:
        return None
    waited = after.vcpu_delay_s - before.vcpu_delay_s
    if waited < 0:
        return None
    share = min(1.0, allowed_cores / after.vcpus)
    throttled = min(1.0, vcpu_utilisation) * (1 - share)
    return max(0.0, waited / ((after.at - before.at) * after.vcpus) - throttled)
