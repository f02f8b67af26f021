"""A small world for the scaler: fake hosts, the real pool, a fleet and its controller on one clock.

`run` lets seconds pass: machines boot, are probed, are loaded, and the controller ticks. Everything
it did stands in `events` (to the pool) and `notes` (to the journal).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from autoscale.controller import Controller
from autoscale.decision import Decision
from autoscale.fleet import VmFleet
from autoscale.model import (
    Answers,
    Demand,
    EventKind,
    Happening,
    Path,
    PoolLoad,
    Reason,
    ScaleEvent,
)
from autoscale.rollout import Rollout
from autoscale.rules import Rules
from autoscale.vm import BootFiles, VmShape
from lb.balance import policy_named
from lb.config import HealthConfig
from lb.pool import Pool, Report
from tests.fakes import OURS, FakeClock, FakeDomain, FakeHypervisor, Tasks

FILES = BootFiles("generation-1", "/images/kernel", "/images/initrd", "/images/root.img", "quiet")


def rules(low: int = 1, high: int = 4, **changes: Any) -> Rules:
    """target 0.6, a cold boot after 5 s, shrink after 60 s, samples every second."""
    return Rules(min=low, max=high, **changes)


def shape(cpu_limit: float = 1.0, **changes: Any) -> VmShape:
    values: dict[str, Any] = {
        "boot_timeout_s": 30.0,
        "drain_timeout_s": 20.0,
        "shutdown_timeout_s": 8.0,
    }
    return VmShape(1, 384, 8080, cpu_limit, **{**values, **changes})


class World:
    """One process's scaler, and what lies outside it. `restart` is a `kill -9` and a new start."""

    def __init__(
        self,
        wanted: Rules | None = None,
        *,
        hosts: tuple[str, ...] = ("local",),
        vm: VmShape | None = None,
        boot_files: Callable[[], BootFiles] = lambda: FILES,
    ) -> None:
        self.clock = FakeClock()
        self.hosts = {name: self.make_host(name, number) for number, name in enumerate(hosts)}
        self.rules = wanted or rules()
        self.shape = vm or shape()
        self.boot_files = boot_files
        self.images: dict[str, BootFiles] = {}
        """By name; those that are not in it are what `boot_files` gives."""
        self.rollout: Rollout | None = None
        """As it was last written down for a successor."""
        self.answers: dict[str, Answers] = {}
        """What requests told of each replica."""
        self.demand = 0.0
        """Cores that all requests together need; shared evenly by who serves."""
        self.arrivals = 0.0
        """Requests a second that come, and are answered by who serves, shared evenly."""
        self.queued = 0
        """Requests that wait for a backend now."""
        self.latency_p99_s: float | None = None
        self.unprobed: set[str] = set()
        """Replicas whose probes fail although they run."""
        self.events: list[ScaleEvent] = []
        self.notes: list[Happening] = []
        self.decisions: list[Decision] = []
        self.boots: list[tuple[Path, float]] = []
        """By which way replicas came into service, and how long each took."""
        self._arrived = 0.0
        self._served: dict[str, float] = {}
        self._told_at = self.clock.now()
        self._waiting_since: float | None = None
        self._rng = random.Random(7)
        self.tasks = Tasks()
        self.pool: Pool
        self.fleet: VmFleet
        self.controller: Controller
        self._start()

    def make_host(self, name: str, number: int) -> FakeHypervisor:
        return FakeHypervisor(self.clock, name, first_port=40001 + 1000 * number)

    @property
    def host(self) -> FakeHypervisor:
        return next(iter(self.hosts.values()))

    def _start(self) -> None:
        self.tasks = Tasks()
        self.pool = Pool(
            "web", policy_named("round_robin"), HealthConfig(fall=1), self.clock, random.Random(1)
        )
        self.fleet = VmFleet(
            "web",
            self.hosts,
            self.shape,
            self._files,
            instance=OURS,
            max_existing=self.rules.max,
            clock=self.clock,
            wall_clock=lambda: 1.7e9 + self.clock.now(),
            new_id=lambda: UUID(int=self._rng.getrandbits(128), version=4),
            spawn=self.tasks,
            emit=self._emit,
            load=self._load,
            note=self.notes.append,
            check=self.check,
            new_seed=lambda: bytes(32),
            activated=lambda path, seconds: self.boots.append((path, seconds)),
            answers=lambda name: self.answers.get(name),
            rolled=self._rolled,
        )
        self.fleet.turnover.remember(self.rollout)
        if self.decisions:  # kept in a file
            self.fleet.wanted_before(self.decisions[-1].desired)
        self.fleet.burst = self.rules.burst
        self.fleet.on_news = lambda: self.controller.wake()
        self.controller = Controller(
            self.fleet,
            self.hosts,
            self.rules,
            interval_s=1.0,
            clock=self.clock,
            wall_clock=lambda: 1.7e9 + self.clock.now(),
            demand=self.clients_ask,
            note=self.notes.append,
            spawn=self.tasks,
            decided=self.decisions.append,
        )

    def _files(self, image: str) -> BootFiles:
        """What an image boots from: one of `images`, else what the configuration's does."""
        return self.images[image] if image in self.images else self.boot_files()

    def _emit(self, event: ScaleEvent) -> None:
        assert event.address or event.kind is not EventKind.JOIN, f"{event.backend} is nowhere"
        self.events.append(event)
        self.pool.apply(event)

    def _load(self) -> PoolLoad:
        return self.pool.load()

    async def check(self, address: str) -> bool:
        """Whether the application there says that it is ready."""
        await asyncio.sleep(0)
        domain = self._at(address)
        return domain is not None and domain.serving() and domain.name not in self.unprobed

    @property
    def deaf(self) -> bool:
        """True: no guest lets itself be introduced."""
        return any(host.deaf for host in self.hosts.values())

    @deaf.setter
    def deaf(self, deaf: bool) -> None:
        for host in self.hosts.values():
            host.deaf = deaf

    def _at(self, address: str) -> FakeDomain | None:
        """The machine to which this port of the host leads."""
        port = int(address.rpartition(":")[2])
        ours = ((d, d.identity) for d in self.domains())
        return next((d for d, identity in ours if identity and identity.host_port == port), None)

    def reload(self, standby: int | None = None, high: int | None = None) -> None:
        """Other settings, as a reload gives them."""
        if standby is not None:
            self.shape = replace(self.shape, standby=standby)
        if high is not None:
            self.rules = replace(self.rules, min=min(self.rules.min, high), max=high)
        self.fleet.shape, self.fleet.max_existing = self.shape, self.rules.max
        self.controller.rules = self.rules

    def clients_ask(self) -> Demand:
        """What the proxy would tell of its clients now."""
        now = self.clock.now()
        came, self._told_at = self.arrivals * (now - self._told_at), now
        serving = [backend.name for backend in self.pool.available]
        self._arrived += came
        for name in serving:
            self._served[name] = self._served.get(name, 0.0) + came / len(serving)
        if not self.queued:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        return Demand(
            at=now,
            arrived_total=round(self._arrived),
            queued=self.queued,
            waiting_s=now - (self._waiting_since or now),
            latency_p99_s=self.latency_p99_s,
            in_flight={b.name: b.in_flight for b in self.pool.load().backends},
            served_total={name: round(total) for name, total in self._served.items()},
        )

    def _rolled(self, rollout: Rollout | None) -> None:
        self.rollout = rollout

    async def restart(self) -> None:
        """The process is killed, requests and calls under way with it; a new one starts."""
        await self.tasks.cancel()
        self._start()

    # --- time

    async def run(self, seconds: float, step_s: float = 1.0) -> None:
        """Let time pass, one tick a step."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            await self.tick()

    async def tick(self) -> None:
        """Whatever happens at this instant: counters, probes, one pass of the controller."""
        self._spread_load()
        self.probe()
        await self.controller.tick()
        await self.tasks.settle()
        self._spread_load()
        if self.tasks.errors:
            raise self.tasks.errors[0]

    async def until(self, condition: Callable[[], object], at_most_s: float = 600.0) -> float:
        """Tick until it holds; returns the seconds that took. Fails after `at_most_s`."""
        began = self.clock.now()
        while not condition():
            assert self.clock.now() - began < at_most_s, (repr(self.fleet), self.said()[-8:])
            await self.run(1.0)
        return self.clock.now() - began

    def probe(self) -> None:
        """What the prober would report of every backend now."""
        for backend in self.pool:
            domain = self.domain(backend.name)
            ok = domain is not None and domain.serving() and backend.name not in self.unprobed
            self.pool.observe(Report(backend.name, backend.address, ok=ok))

    def _spread_load(self) -> None:
        serving = [d for b in self.pool.available if (d := self.domain(b.name)) is not None]
        for domain in self.domains():
            domain.use(0.0)
        for domain in serving:
            allowed = min(domain.vcpus, domain.limit_cores or domain.vcpus)
            domain.use(min(allowed, self.demand / len(serving)))

    # --- looking

    def domain(self, name: str) -> FakeDomain | None:
        return next((d for d in self.domains() if d.name == name), None)

    def domains(self) -> list[FakeDomain]:
        return [d for host in self.hosts.values() for d in host.ours()]

    @property
    def decision(self) -> Decision:
        assert self.controller.decision is not None
        return self.controller.decision

    def said(self) -> list[tuple[str, Reason]]:
        """The journal so far: what happened, why."""
        return [(note.kind, note.reason) for note in self.notes]

    def reasons(self, kind: str) -> list[Reason]:
        return [note.reason for note in self.notes if note.kind == kind]

    def told(self, kind: EventKind) -> list[str]:
        """Backends the pool was told this of, in order."""
        return [event.backend for event in self.events if event.kind is kind]
