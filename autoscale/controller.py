"""Observe → decide → act, once a second and whenever something happens.

Owns the order of one tick and the state that one decision hands to the next. It must not know
libvirt (hosts are a Protocol) or the proxy (what clients ask for is a callable); time, wall clock,
sleep and tasks are arguments.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from autoscale import policy
from autoscale.acts import Spawn
from autoscale.decision import Decision
from autoscale.fleet import VmFleet
from autoscale.forecast import Forecast
from autoscale.host import Domain, HostHeld, Hypervisor, HypervisorError
from autoscale.model import Demand, Direction, Happening, Reason
from autoscale.policy import State
from autoscale.rules import Rules
from autoscale.signals import Meter, Signals

log = logging.getLogger(__name__)

QUICK_S: Final = 0.25
"""Between two ticks while somebody waits in line: a standby wakes in milliseconds, and the policy's
windows should not have to wait for the next second to find that they are over."""

INSTANT_S: Final = 1e-6
"""Less is no time to wait: what sums of seconds are off by."""

PATIENCE_S: Final = 1.0
"""So long a decision waits for a host that does not answer. What the others tell is taken in at
once; its own answer is, whenever it comes."""


class Clock(Protocol):
    """Monotonic seconds, and waiting that ends early when `wake` is set."""

    def now(self) -> float: ...

    async def wait(self, wake: asyncio.Event, seconds: float) -> None: ...


class LoopClock:
    """The real one: the clock that fleet and adapter read too."""

    def now(self) -> float:
        return time.monotonic()

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            pass


class Controller:
    """Keeps one service's fleet at the size its load needs.

    `demand` tells what clients ask for, at the instant it is called; `decided` takes each decision,
    `note` what the journal should know of. Neither may await.
    """

    def __init__(
        self,
        fleet: VmFleet,
        hosts: Mapping[str, Hypervisor],
        rules: Rules,
        *,
        interval_s: float,
        clock: Clock,
        wall_clock: Callable[[], float],
        demand: Callable[[], Demand],
        note: Callable[[Happening], None],
        spawn: Spawn,
        decided: Callable[[Decision], None] = lambda _decision: None,
    ) -> None:
        self.fleet = fleet
        self.rules = rules
        """May be replaced at any time: they count from the next tick. So may `interval_s`."""
        self.interval_s = interval_s
        self._hosts = hosts
        self._clock = clock
        self._wall_clock = wall_clock
        self._demand = demand
        self._note = note
        self._spawn = spawn
        self._decided = decided
        self._state: State | None = None
        self._learned: Forecast | None = None
        self._meter = Meter(interval_s)
        self._down: dict[str, str] = {}
        self._held: set[str] = set()
        self._asking: dict[str, float] = {}
        """Hosts that have not answered yet, and when they were asked."""
        self._listed: dict[str, tuple[Domain, ...]] = {}
        """What came since the last decision."""
        self._wake = asyncio.Event()
        self._stir = asyncio.Event()
        """Whoever waits here looks again at what he waits for."""
        self._listening = False
        self._hurried = self._crowded = False
        """Somebody began to wait in line; somebody did when the last tick looked."""
        self._ending = False
        self._retiring: Reason | None = None
        self.decision: Decision | None = None
        self.signals = Signals()
        """What the last decision went by."""
        self.ticks = 0

    def now(self) -> float:
        """On the clock that it decides by."""
        return self._clock.now()

    def wake(self) -> None:
        """Something happened: tick now instead of at the next second."""
        self._wake.set()
        self._stir.set()

    def hurry(self) -> None:
        """Somebody waits in line: tick now, or QUICK_S after the last tick that knew of one."""
        self._hurried = True
        self._stir.set()

    def stop(self) -> None:
        self._ending = True
        self.wake()

    def retire(self, reason: Reason = Reason.SHUTDOWN) -> None:
        """From now on the fleet should be empty; `run` ends once it is."""
        self._retiring = reason
        self.wake()

    def keep(self) -> None:
        """Take a retirement back: the rules count again. VMs that drain already go on doing so."""
        if self._retiring is not None:
            self._learned = self.forecast
            self._retiring = self._state = None
        self.wake()

    @property
    def forecast(self) -> Forecast | None:
        """What was learned of the load's seasons; None before there is anything."""
        return self._state.forecast if self._state is not None else self._learned

    def remember(self, forecast: Forecast) -> None:
        """Go on from what an earlier process learned."""
        if self._state is not None:
            self._state = self._state._replace(forecast=forecast)
        self._learned = forecast

    @property
    def unreachable(self) -> Mapping[str, str]:
        """Hosts that do not answer, and why."""
        return self._down

    async def run(self) -> None:
        """Tick until `stop`, or after `retire` until no VM of ours exists."""
        while not self._ending:
            self._wake.clear()
            try:
                await self.tick()
            except Exception:
                log.exception("a tick of the scaler failed")
            if (
                self._retiring is not None
                and not self.fleet.counts().existing
                and self._all_asked()
            ):
                return
            await self._rest()

    async def _rest(self) -> None:
        """Until the next tick is due."""
        began = self._clock.now()
        while not self._wake.is_set():
            due_s = self.interval_s
            if self._crowded:
                due_s = min(due_s, QUICK_S)
            elif self._hurried:
                return
            left_s = began + due_s - self._clock.now()
            if left_s < INSTANT_S:
                return
            self._stir.clear()
            await self._clock.wait(self._stir, left_s)

    def _all_asked(self) -> bool:
        """Every host was listed, or does not answer: waiting for one such retires nobody."""
        return self.fleet.all_hosts_seen or set(self._down) >= self.fleet.unseen_hosts

    async def tick(self) -> None:
        """One pass. Only the listing awaits; everything after it happens at one instant."""
        await self._listen()
        listed, self._listed = self._listed, {}
        reachable = [host for host in self._hosts if host in listed]
        demand = self._measure([d for domains in listed.values() for d in domains])
        self.ticks += 1
        if not self.fleet.all_hosts_seen and self._retiring is None:
            # how many there are is not known yet; those that are known join and serve all the same
            self.fleet.advance()
            return
        decision = self._decide(demand, reachable, self._clock.now())
        self._record(decision)
        self.fleet.step(decision, reachable)

    async def _listen(self) -> None:
        """Ask every host for its domains, and wait for their answers, PATIENCE_S at most. For one
        that did not answer in an earlier tick nobody waits any more; where it has answered since,
        that is what it tells. Who happens to wake us meanwhile need not wait for the slowest host
        either: the others are asked again at once."""
        began, silent, late = self._clock.now(), set(self._asking), set(self._listed)
        again, self._listening = False, True
        try:
            self._ask(late)
            while not set(self._asking) <= silent and not self._ending:
                left_s = began + PATIENCE_S - self._clock.now()
                if left_s < INSTANT_S:
                    break
                self._stir.clear()
                await self._clock.wait(self._stir, left_s)
                if self._wake.is_set():
                    self._wake.clear()
                    # what is being told may be older than what happened: that is for the next tick
                    again = again or not set(self._asking) <= silent
                    self._ask(late)
        finally:
            self._listening = False
            if again:
                self._wake.set()

    def _ask(self, spared: Collection[str]) -> None:
        for name, host in self._hosts.items():
            if name not in self._asking and name not in spared:
                self._asking[name] = self._clock.now()
                self._spawn(self._take_in(host), f"listing of {name}")

    async def _take_in(self, host: Hypervisor) -> None:
        """What a host tells, in the same instant: whoever crashed there leaves the pool by it."""
        domains, asked_at = None, self._asking[host.name]
        try:
            domains = await self._observe(host)
        finally:
            del self._asking[host.name]
            self._stir.set()
        if domains is not None:
            self._listed[host.name] = domains
            self.fleet.see(host.name, domains, asked_at)
        if not self._listening:
            self.wake()  # it was late: whatever it tells was not decided upon

    def _measure(self, domains: Sequence[Domain]) -> Demand:
        """What machines used and what clients asked for, since the readings before."""
        self._meter.interval_s = self.interval_s
        names = [status.name for status in self.fleet.statuses()]
        samples = [domain.sample for domain in domains if domain.sample]
        self._meter.sampled(samples, self.fleet.allowed_cores(), names)
        self.fleet.measured(self._meter.cpu)
        demand = self._demand()
        # one that was told of counts, though the line may be gone: it may form anew at once
        self._crowded, self._hurried = demand.queued > 0 or self._hurried, False
        self._meter.asked(demand)
        return demand

    async def _observe(self, host: Hypervisor) -> tuple[Domain, ...] | None:
        try:
            domains = await host.observe()
        except HypervisorError as error:
            held = isinstance(error, HostHeld)
            # who holds it may be found out later than that it does not answer
            if host.name not in self._down or (held and host.name not in self._held):
                self._note(
                    Happening(
                        "host.held" if held else "host.unreachable",
                        self.fleet.service,
                        host.name,
                        Reason.HELD_ELSEWHERE if held else Reason.HYPERVISOR_UNREACHABLE,
                        f"{error}; serving goes on with the replicas there are",
                    )
                )
            self._down[host.name] = str(error)
            self.fleet.miss(host.name)
            if held:
                self._held.add(host.name)
            return None
        self._held.discard(host.name)
        if self._down.pop(host.name, None) is not None:
            self._note(
                Happening(
                    "host.back",
                    self.fleet.service,
                    host.name,
                    Reason.HYPERVISOR_BACK,
                    f"{host.name} answers again",
                )
            )
        return domains

    def _decide(self, demand: Demand, reachable: Collection[str], now: float) -> Decision:
        counts = self.fleet.counts().without_surge()
        if self._retiring is not None:
            self.fleet.retire_all(self._retiring)
            return Decision(
                self.fleet.service, now, counts.active, 0, self._retiring, told="retiring all VMs"
            )
        if self._state is None:
            start = State.start(counts.active, self.rules)
            self._state = start._replace(forecast=self._learned)
        self.signals = self._meter.signals(
            demand,
            self.fleet.serving_names(),
            {status.name: status.host for status in self.fleet.statuses()},
            self._wall_clock(),
            reachable,
        )
        decision, self._state = policy.decide(self.signals, counts, self._state, self.rules, now)
        return decision

    def _record(self, decision: Decision) -> None:
        self.decision = decision
        self._decided(decision)
        if decision.direction is not Direction.NONE and self._retiring is None:
            self._note(
                Happening(
                    f"scale.{decision.direction}",
                    decision.service,
                    decision.service,
                    decision.reason,
                    decision.sentence,
                    {
                        "from": decision.current,
                        "to": decision.desired,
                        "wanted": decision.wanted,
                        "path": decision.way[0].value if decision.way else None,
                    },
                )
            )
