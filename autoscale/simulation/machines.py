"""The machines of a simulation: launched, booted, woken, drained, dead, and how long they existed.

Owns each machine's life and its VM-seconds. It must not know requests beyond whether the last one
on a leaving machine has ended, nor decide how many there should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from autoscale.launches import Launches
from autoscale.model import Fleet, Path, VmState, Way
from autoscale.simulation.queue import NOBODY, Running
from autoscale.simulation.requests import Stream, stream
from autoscale.simulation.scenario import Scenario

SERVICE = "simulated"


@dataclass(slots=True, eq=False)
class Machine:
    """One VM. Times in seconds of the simulation."""

    name: str
    number: int
    """Counted from 1 in the order of their launches; machines that were there included."""
    launched_at: float
    state: VmState
    """BOOTING, STANDBY, READY, DRAINING or GONE."""
    due_at: float
    """When it is ready, or gone."""
    spare: bool = False
    """It boots to become a standby, or is one."""
    fails: bool = False
    """Nothing will come of its boot."""
    spare_s: float = 0.0
    """For how long it was a standby, or on the way there."""
    dies_at: float = float("inf")
    busy_from: float = 0.0
    """What the meter of shares stood at when it began to serve (see `readings`)."""
    served_from: float = 0.0
    busy_s: float = 0.0
    """What its servers worked while it leaves, and before."""
    served: float = 0.0
    running: Running = NOBODY
    """The requests that it still has, once it leaves."""

    @property
    def serves_or_will(self) -> bool:
        return self.state is VmState.READY or (self.state is VmState.BOOTING and not self.spare)


class Machines:
    """All that exist, and what becomes of them. Mutable; `now` never goes back."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._launches = Launches()
        self._born = 0
        self._events: list[tuple[float, int, Machine]] = []
        self._order = 0
        self._fleet: Fleet | None = None
        self.all: list[Machine] = []
        """Those that exist, the oldest first."""
        self.ready: list[Machine] = []
        """Those that serve, in the order in which they began to."""
        self._gone_s = 0.0
        self._gone_spare_s = 0.0
        for _ in range(scenario.initial_replicas):
            self._begin(self._born_at(0.0, VmState.READY), 0.0)
        for _ in range(scenario.standbys):
            self._born_at(0.0, VmState.STANDBY, spare=True)

    # --- reading

    def fleet(self) -> Fleet:
        """As the planner may see it. Standbys are beside those that may exist at most."""
        if self._fleet is None:
            self._fleet = self._counted()
        return self._fleet

    def _counted(self) -> Fleet:
        serving = [machine.state for machine in self.all if not machine.spare]
        idle = sum(machine.state is VmState.STANDBY for machine in self.all)
        scenario = self._scenario
        return Fleet(
            SERVICE,
            ready=len(self.ready),
            booting=serving.count(VmState.BOOTING),
            standby=idle,
            draining=serving.count(VmState.DRAINING),
            existing=len(serving),
            launch_failures=self._launches.gate.failures,
            ways=tuple(
                Way(path, scenario.seconds_of(path), idle if path is Path.STANDBY else None)
                for path in scenario.ways
            ),
        )

    @property
    def standbys(self) -> int:
        """Those there are, and those on the way."""
        return len(self.all) - self.fleet().existing

    def vm_seconds(self, now: float) -> tuple[float, float]:
        """Of every machine so far, and how many of them as a standby or on the way there."""
        total = self._gone_s + sum(now - m.launched_at for m in self.all)
        spare = sum(m.spare_s + (now - m.launched_at if m.spare else 0.0) for m in self.all)
        return total, self._gone_spare_s + spare

    @property
    def next_at(self) -> float:
        """When something happens by itself next; infinity for never."""
        return self._events[0][0] if self._events else float("inf")

    # --- what happens by itself

    def dying(self, now: float) -> Iterator[Machine]:
        """Move on all that something happens to by `now`, in order. Those whose time to die has
        come are given out instead: they are to be given to `die`."""
        while self._events and self._events[0][0] <= now:
            at, _, machine = heappop(self._events)
            if machine.state is VmState.GONE:
                continue
            if at == machine.dies_at:
                yield machine
            elif at == machine.due_at:  # else its life took another turn meanwhile
                self._advance(machine, now)

    def die(self, machine: Machine, now: float) -> None:
        """It is gone at once; what ran on it is the caller's."""
        if machine in self.ready:
            self.ready.remove(machine)
        self._end(machine, now)

    # --- what is wanted

    def grow(self, count: int, now: float) -> None:
        """Start so many, as many as the launch gate and the maximum allow: the quickest way first.

        Whoever leaves still counts towards the maximum, as it does in the product; standbys do not.
        """
        fleet = self.fleet()
        room = self._scenario.max_replicas - fleet.existing
        for _ in range(self._launches.how_many(count, room, fleet.booting, now)):
            standby = next((m for m in self.all if m.state is VmState.STANDBY), None)
            if standby is not None:
                self._wake(standby, now)
            else:
                path = Path.SNAPSHOT if self._scenario.snapshot else Path.COLD
                self._launch(path, now)

    def fill_standbys(self, now: float) -> None:
        """Boot as many as are missing, cold, where the launch gate allows."""
        missing = self._scenario.standbys - self.standbys
        booting = self.standbys - self.fleet().standby
        for _ in range(self._launches.how_many(missing, missing, booting, now)):
            self._launch(Path.COLD, now, spare=True)

    def drain(self, machine: Machine, running: Running, now: float) -> None:
        """It takes no more requests; it is gone some time after the last of those it has."""
        if machine in self.ready:
            self.ready.remove(machine)
        self._move(machine, VmState.DRAINING)
        machine.running = running
        last = float(running.ends.max()) if len(running) else now
        self._plan(machine, max(now, last) + self._scenario.timing.drain_s)

    # --- steps of a life

    def _advance(self, machine: Machine, now: float) -> None:
        """A boot ends, or the last of a machine that leaves."""
        if machine.state is VmState.DRAINING:
            self._end(machine, now)
        elif machine.state is VmState.BOOTING and machine.fails:
            self._launches.failed(now)
            self._end(machine, now)
        elif machine.state is VmState.BOOTING and machine.spare:
            self._launches.succeeded()
            self._move(machine, VmState.STANDBY)
        elif machine.state is VmState.BOOTING:
            self._launches.succeeded()
            self._begin(machine, now)

    def _born_at(self, now: float, state: VmState, *, spare: bool = False) -> Machine:
        self._born += 1
        machine = Machine(f"vm-{self._born}", self._born, now, state, now, spare)
        self.all.append(machine)
        self._fleet = None
        return machine

    def _move(self, machine: Machine, state: VmState) -> None:
        machine.state = state
        self._fleet = None

    def _launch(self, path: Path, now: float, *, spare: bool = False) -> None:
        machine = self._born_at(now, VmState.BOOTING, spare=spare)
        failing = self._scenario.faults.failing_boots
        if failing:
            drawn = stream(self._scenario.seed, Stream.BOOTS, self._born).random()
            machine.fails = drawn < failing
        self._plan(machine, now + self._scenario.seconds_of(path))

    def _wake(self, standby: Machine, now: float) -> None:
        standby.spare = False
        self._move(standby, VmState.BOOTING)
        standby.spare_s = now - standby.launched_at
        self._plan(standby, now + self._scenario.seconds_of(Path.STANDBY))

    def _begin(self, machine: Machine, now: float) -> None:
        self._move(machine, VmState.READY)
        self.ready.append(machine)
        per_hour = self._scenario.faults.deaths_per_hour
        if per_hour:
            drawn = stream(self._scenario.seed, Stream.DEATHS, machine.number)
            machine.dies_at = now + float(drawn.exponential(3600 / per_hour))
            self._push(machine.dies_at, machine)

    def _end(self, machine: Machine, now: float) -> None:
        self._move(machine, VmState.GONE)
        machine.running = NOBODY
        self.all.remove(machine)
        lived = now - machine.launched_at
        self._gone_s += lived
        self._gone_spare_s += lived if machine.spare else machine.spare_s

    def _plan(self, machine: Machine, at: float) -> None:
        machine.due_at = at
        self._push(at, machine)

    def _push(self, at: float, machine: Machine) -> None:
        self._order += 1
        heappush(self._events, (at, self._order, machine))
