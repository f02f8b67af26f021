"""What the planner gets to see of a simulation: samples and demand, through the product's `Meter`.

Owns the machines' counters. All replicas that serve share the work evenly, as balancing by least
requests would share it, so their counters are those of one meter, read from where each began.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from autoscale.model import Demand, Sample, VmState
from autoscale.signals import Meter, Signals
from autoscale.simulation.machines import Machine, Machines
from autoscale.simulation.queue import Floats, Outcome, Queue
from autoscale.simulation.requests import Stream, stream
from autoscale.simulation.scenario import Scenario

RECENT_S = 10.0
"""Over so long is the p99 that the planner sees, as in the product."""
_FIRST_S = 0.0002
_RATIO = 1.1
_BUCKETS = 140
"""Steps of 10 % from 0.2 ms to about 110 s, as in the product's histogram."""


class Recent:
    """The latencies of the last seconds, as a histogram."""

    def __init__(self, span_s: float = RECENT_S) -> None:
        self._span_s = span_s
        self._slots: deque[tuple[float, NDArray[np.int64]]] = deque()
        self._total = np.zeros(_BUCKETS + 1, dtype=np.int64)

    def add(self, latencies: Floats, now: float) -> None:
        """These were answered up to `now`."""
        if len(latencies):
            steps = np.log(np.maximum(latencies, _FIRST_S) / _FIRST_S) / math.log(_RATIO)
            bucket = np.minimum(np.ceil(steps), _BUCKETS).astype(np.int64)
            counts = np.bincount(bucket, minlength=_BUCKETS + 1)
            self._slots.append((now, counts))
            self._total += counts
        while self._slots and self._slots[0][0] <= now - self._span_s:
            self._total -= self._slots.popleft()[1]

    def p99(self) -> float | None:
        """Interpolated within its bucket; None without a request."""
        so_far = np.cumsum(self._total)
        count = int(so_far[-1])
        if not count:
            return None
        rank = math.ceil(0.99 * count)
        bucket = int(np.searchsorted(so_far, rank))
        below = int(so_far[bucket - 1]) if bucket else 0
        low = _FIRST_S * _RATIO ** (bucket - 1) if bucket else 0.0
        high = _FIRST_S * _RATIO**bucket
        return low + (high - low) * (rank - below) / int(self._total[bucket])


class Readings:
    """Cumulative counters of all machines, and what two readings of them say. Mutable."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._meter = Meter(scenario.interval_s)
        self._recent = Recent()
        self._busy_each_s = 0.0
        """What a replica would have worked that served from the beginning."""
        self._served_each = 0.0
        self._arrived = 0
        self._queued_since: float | None = None
        """Since when somebody has waited in the proxy's sight."""
        self._read = 0

    # --- what happens between two readings

    def came(self, count: int) -> None:
        self._arrived += count

    def served(self, outcome: Outcome, replicas: int, now: float) -> None:
        """What came of the replicas that serve, in a stretch up to `now` without a change of
        them."""
        if replicas:
            self._busy_each_s += outcome.busy_s / replicas
            self._served_each += len(outcome.latency) / replicas
        self._recent.add(outcome.latency, now)

    def finished(self, machine: Machine, outcome: Outcome, now: float) -> None:
        """What came of one that leaves."""
        machine.busy_s += outcome.busy_s
        machine.served += len(outcome.latency)
        self._recent.add(outcome.latency, now)

    def begins(self, machine: Machine) -> None:
        """It serves from now on."""
        machine.busy_from, machine.served_from = self._busy_each_s, self._served_each

    def leaves(self, machine: Machine) -> None:
        """It gets nothing any more: from now on its counters are its own."""
        machine.busy_s, machine.served = self._busy(machine), self._served(machine)

    # --- reading

    def read(self, machines: Machines, queue: Queue, now: float) -> Signals:
        """One tick's: samples of all machines but those that got lost, demand, and so signals."""
        samples = [self._sample(machine, now) for machine in self._seen(machines)]
        cores = float(self._scenario.servers)
        known = {machine.name: cores for machine in machines.all}
        self._meter.sampled(samples, known, known)
        demand = self._demand(machines, queue, now)
        self._meter.asked(demand)
        serving = tuple(machine.name for machine in machines.ready)
        return self._meter.signals(
            demand, serving, dict.fromkeys(known, "local"), self._scenario.starts_at + now
        )

    def _seen(self, machines: Machines) -> list[Machine]:
        self._read += 1
        share = self._scenario.faults.missing_samples
        if not share:
            return machines.all
        drawn = stream(self._scenario.seed, Stream.SAMPLES, self._read).random(len(machines.all))
        return [m for m, value in zip(machines.all, drawn, strict=True) if value >= share]

    def _busy(self, machine: Machine) -> float:
        if machine.state is VmState.READY:
            return self._busy_each_s - machine.busy_from
        return machine.busy_s

    def _served(self, machine: Machine) -> float:
        if machine.state is VmState.READY:
            return self._served_each - machine.served_from
        return machine.served

    def _sample(self, machine: Machine, now: float) -> Sample:
        busy = self._busy(machine)
        overhead = self._scenario.overhead_cores * (now - machine.launched_at)
        servers = self._scenario.servers
        return Sample(machine.name, now, busy + overhead, busy, servers, float(servers))

    def _demand(self, machines: Machines, queue: Queue, now: float) -> Demand:
        served = {machine.name: int(self._served(machine)) for machine in machines.ready}
        for machine in machines.all:
            if machine.state is VmState.DRAINING:
                served[machine.name] = int(machine.served)
        # what a replica is given beyond its servers waits inside it, out of the proxy's sight
        inside = min(
            len(queue.running) + len(queue.waiting),
            len(machines.ready) * self._scenario.max_in_flight,
        )
        queued = len(queue.running) + len(queue.waiting) - inside
        if not queued:
            self._queued_since = None
        elif self._queued_since is None:
            self._queued_since = now
        return Demand(
            at=now,
            arrived_total=self._arrived,
            queued=queued,
            waiting_s=now - self._queued_since if self._queued_since is not None else 0.0,
            latency_p99_s=self._recent.p99(),
            in_flight=shares(inside, machines.ready),
            served_total=served,
        )


def shares(running: int, ready: list[Machine]) -> dict[str, int]:
    """How many of them run on each: the same on all, one more on the first ones if need be."""
    if not ready:
        return {}
    each, more = divmod(running, len(ready))
    return {machine.name: each + (index < more) for index, machine in enumerate(ready)}
