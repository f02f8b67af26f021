"""The simulator: one planner on one scenario, request by request, as fast as it can be computed.

Owns the order of events. Time goes in stretches between which the fleet stands still: up to the
next whole second, reading, boot, death or end of a machine. What a planner sees comes through the
same `Meter` as in the product, and who leaves is chosen by the same rule. It must not know any
planner, nor read a clock: the same scenario and planner give the same result.

What is left out: `Decision.burst` (all servers are equally fast all the time), hosts and their
contention (all machines are on one host with room), connections, health checks, ejections.
"""

from __future__ import annotations

import numpy as np

from autoscale.decision import Decision
from autoscale.model import VmState
from autoscale.placement import Candidate, choose_victim
from autoscale.simulation.ledger import Ledger
from autoscale.simulation.machines import Machine, Machines
from autoscale.simulation.oracle import least_vm_seconds
from autoscale.simulation.planner import Planner
from autoscale.simulation.queue import NOBODY, Floats, Outcome, Queue, Running
from autoscale.simulation.readings import Readings, shares
from autoscale.simulation.requests import Requests, Stream, stream
from autoscale.simulation.result import Change, Ending, Result
from autoscale.simulation.scenario import Scenario
from autoscale.simulation.scoring import score

__all__ = ["simulate"]


def simulate(scenario: Scenario, planner: Planner) -> Result:
    """Play the whole scenario."""
    return _Run(scenario, planner).play()


class _Run:
    """One simulation under way."""

    def __init__(self, scenario: Scenario, planner: Planner) -> None:
        self._scenario = scenario
        self._planner = planner
        self._requests = Requests(scenario)
        self._queue = Queue(scenario.queue_length, scenario.max_wait_s)
        self._machines = Machines(scenario)
        self._readings = Readings(scenario)
        self._ledger = Ledger(scenario)
        self._deaths = sorted(scenario.faults.deaths_at, reverse=True)
        self._who_dies = stream(scenario.seed, Stream.DEATHS)
        self._whose = stream(scenario.seed, Stream.BALANCE)
        self._desired = scenario.initial_replicas
        self._changes: list[Change] = []

    def play(self) -> Result:
        scenario, end = self._scenario, self._scenario.duration_s
        self._planner.start(scenario.initial_replicas)
        self._readings.read(self._machines, self._queue, 0.0)
        now, second, tick = 0.0, 0, 1
        while now < end:
            whole, reading = float(second + 1), tick * scenario.interval_s
            death = self._deaths[-1] if self._deaths else end
            until = max(now, min(whole, reading, self._machines.next_at, death, end))
            self._serve(now, until, second)
            now = until
            self._happen(now)
            if now >= min(whole, end):
                self._close(second)
                second += 1
            if now >= reading:
                tick += 1
                if now < end:
                    self._plan(now)
        return self._result(end)

    # --- a stretch of time

    def _serve(self, now: float, until: float, second: int) -> None:
        arrived, work = self._requests.until(until)
        replicas = len(self._machines.ready)
        servers = replicas * self._scenario.servers
        self._ledger.came(second, len(arrived))
        self._readings.came(len(arrived))
        outcome = self._queue.serve(now, until, arrived, work, servers)
        self._ledger.became(outcome)
        self._ledger.worked(outcome.busy_s, servers * (until - now))
        self._readings.served(outcome, replicas, until)
        for machine in self._machines.all:
            if len(machine.running):
                self._finish(machine, now, until)

    def _finish(self, machine: Machine, now: float, until: float) -> None:
        """A machine that leaves goes on with what it has."""
        running = machine.running
        answered = running.ends <= until
        arrived = running.arrived[answered]
        busy_s = float((np.minimum(running.ends, until) - now).sum())
        outcome = Outcome(arrived, running.ends[answered] - arrived, (), busy_s)
        machine.running = running.only(~answered)
        self._ledger.became(outcome)
        self._readings.finished(machine, outcome, until)

    # --- at one instant

    def _happen(self, now: float) -> None:
        if self._machines.next_at <= now:
            served = set(map(id, self._machines.ready))
            for machine in self._machines.dying(now):
                self._die(machine, now)
            for machine in self._machines.ready:
                if id(machine) not in served:
                    self._readings.begins(machine)
        while self._deaths and self._deaths[-1] <= now:
            self._deaths.pop()
            drawn = self._who_dies.random()
            if ready := self._machines.ready:
                self._die(ready[int(drawn * len(ready))], now)

    def _die(self, machine: Machine, now: float) -> None:
        running = machine.running if machine.state is VmState.DRAINING else self._part(machine)
        self._machines.die(machine, now)
        if self._scenario.faults.repeated:
            self._queue.put_back(running, now)
        else:
            self._ledger.became(Outcome(NOBODY.arrived, NOBODY.ends, tuple(running.arrived), 0.0))

    def _part(self, machine: Machine) -> Running:
        """Take out those requests that run on this replica. Which ones was of no consequence until
        now, so it is drawn now."""
        running = len(self._queue.running)
        count = shares(running, self._machines.ready)[machine.name]
        which = np.zeros(running, dtype=np.bool_)
        which[self._whose.permutation(running)[:count]] = True
        return self._queue.take(which)

    def _close(self, second: int) -> None:
        fleet = self._machines.fleet()
        self._ledger.close(
            second,
            ready=fleet.ready,
            booting=fleet.booting,
            standby=self._machines.standbys,
            draining=fleet.draining,
            desired=self._desired,
            queued=len(self._queue.waiting),
        )

    # --- the planner

    def _plan(self, now: float) -> None:
        signals = self._readings.read(self._machines, self._queue, now)
        plan = self._planner.plan(signals, self._machines.fleet(), now)
        wanted = plan.desired if isinstance(plan, Decision) else plan
        bounds = self._scenario.min_replicas, self._scenario.max_replicas
        desired = max(bounds[0], min(bounds[1], wanted))
        if desired != self._desired:
            why = plan.sentence if isinstance(plan, Decision) else ""
            self._changes.append(Change(now, self._desired, desired, why))
            self._desired = desired
        self._act(now)

    def _act(self, now: float) -> None:
        """Towards what is wanted, whatever it was that made the difference: as the fleet does."""
        machines = self._machines
        missing = self._desired - machines.fleet().active
        if missing > 0:
            machines.grow(missing, now)
        for _ in range(-missing):
            self._drain_one(now)
        if self._scenario.standbys:
            machines.fill_standbys(now)

    def _drain_one(self, now: float) -> None:
        machines = self._machines
        in_flight = shares(len(self._queue.running), machines.ready)
        active = {m.name: m for m in machines.all if m.serves_or_will}
        name = choose_victim(
            [
                Candidate(
                    m.name, m.state is VmState.READY, in_flight.get(name, 0), now - m.launched_at
                )
                for name, m in active.items()
            ]
        )
        if name is None:
            return
        victim, running = active[name], NOBODY
        if victim.state is VmState.READY:
            running = self._part(victim)
            self._readings.leaves(victim)
        machines.drain(victim, running, now)

    # --- the end

    def _result(self, end: float) -> Result:
        arrived, latency, running = self._unfinished(end)
        series = self._ledger.finish(arrived, latency)
        ending = Ending(
            served=self._ledger.answered_total,
            lost=int(series.lost.sum()),
            running=running,
            waiting=len(self._queue.waiting),
        )
        vm_seconds = self._machines.vm_seconds(end)
        scored = score(
            self._scenario, series, self._changes, vm_seconds, least_vm_seconds(self._scenario)
        )
        return Result(
            self._planner.name, self._scenario, series, scored, tuple(self._changes), ending
        )

    def _unfinished(self, end: float) -> tuple[Floats, Floats, int]:
        """When those came that run or wait, how long they will have taken, or have waited; and how
        many of them run."""
        running = self._queue.running
        for machine in self._machines.all:
            running = running.joined(machine.running)
        waiting = np.array([came for came, _, _ in self._queue.waiting])
        arrived = np.concatenate((running.arrived, waiting))
        latency = np.concatenate((running.ends - running.arrived, end - waiting))
        return arrived, latency, len(running)
