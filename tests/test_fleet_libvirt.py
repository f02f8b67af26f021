"""The fleet and its controller on libvirt's own test driver: the whole way down to libvirt's API,
without QEMU. The test driver gives no address and no counters, so the address is told here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import libvirt

from autoscale.controller import Controller
from autoscale.domain_xml import Identity
from autoscale.fleet import VmFleet
from autoscale.hypervisor import LibvirtHypervisor
from autoscale.model import Demand, Happening, PoolLoad, Reason, ScaleEvent
from lb.balance import policy_named
from lb.config import HealthConfig
from lb.pool import Pool, Report
from tests.fakes import OURS, FakeClock, Tasks
from tests.world import FILES, rules, shape


class AddressedHost(LibvirtHypervisor):
    """Knows where its guests are; all else is libvirt's."""

    async def address(self, domain: str, identity: Identity) -> str | None:
        return f"192.0.2.1:{40000 + sum(domain.encode())}"


async def _ready(_address: str) -> bool:
    return True


async def _told(_address: str, _name: str) -> None:
    """No guest there has an application."""


class Process:
    """One `lbctl up`: pool, fleet and controller on a connection of its own."""

    def __init__(self, home: Path, clock: FakeClock, seed: int) -> None:
        self.clock = clock
        self.host = AddressedHost("local", "test:///default", instance=OURS, home=home)
        self.tasks = Tasks()
        self.notes: list[Happening] = []
        self.events: list[ScaleEvent] = []
        self.pool = Pool(
            "web", policy_named("round_robin"), HealthConfig(fall=1), clock, random.Random(1)
        )
        rng = random.Random(seed)
        self.fleet = VmFleet(
            "web",
            {"local": self.host},
            shape(),
            lambda _image: FILES,
            instance=OURS,
            max_existing=3,
            clock=clock,
            wall_clock=lambda: 1.7e9,
            new_id=lambda: UUID(int=rng.getrandbits(128), version=4),
            spawn=self.tasks,
            emit=self._emit,
            load=self._load,
            note=self.notes.append,
            check=_ready,
            new_seed=lambda: bytes(32),
        )
        self.controller = Controller(
            self.fleet,
            {"local": self.host},
            rules(low=2, high=3),
            interval_s=1.0,
            clock=clock,
            wall_clock=lambda: 1.7e9,
            demand=lambda: Demand(at=clock.now()),
            note=self.notes.append,
            spawn=self.tasks,
        )

    def _emit(self, event: ScaleEvent) -> None:
        self.events.append(event)
        self.pool.apply(event)

    def _load(self) -> PoolLoad:
        return self.pool.load()

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(60):
            if condition():
                return
            self.clock.advance(1)
            for backend in self.pool:
                self.pool.observe(Report(backend.name, backend.address, ok=True))
            await self.controller.tick()
            while self.tasks.running:  # libvirt's calls run in threads: real time, and little of it
                await asyncio.wait(tuple(self.tasks.running))
                await asyncio.sleep(0)
        raise AssertionError((repr(self.fleet), self.notes[-5:]))

    def reasons(self, kind: str) -> list[Reason]:
        return [note.reason for note in self.notes if note.kind == kind]


async def test_launch_crash_replace_adopt_and_retire_on_libvirt(tmp_path: Path) -> None:
    outside = libvirt.open("test:///default")

    def there() -> set[str]:
        return {domain.name() for domain in outside.listAllDomains()}

    foreign = there()
    assert foreign, "the test driver comes with a machine of its own"
    clock = FakeClock()
    first = Process(tmp_path, clock, seed=1)
    await first.until(lambda: first.fleet.counts().ready == 2)
    names = first.fleet.ready_names()
    assert there() == foreign | set(names)
    assert first.reasons("vm.launch") == [Reason.BELOW_MIN, Reason.BELOW_MIN]

    outside.lookupByName(names[0]).destroy()
    await first.until(lambda: names[0] not in first.fleet.ready_names())
    assert first.reasons("vm.gone") == [Reason.CRASHED]
    await first.until(lambda: first.fleet.counts().ready == 2)
    assert first.reasons("vm.launch")[-1] is Reason.REPLACED
    survivors = set(first.fleet.ready_names())
    assert there() == foreign | survivors
    await first.host.close()

    second = Process(tmp_path, clock, seed=2)
    await second.until(lambda: second.fleet.counts().ready == 2)
    assert set(second.fleet.ready_names()) == survivors
    assert second.reasons("vm.adopted") == [Reason.ADOPTED, Reason.ADOPTED]
    assert second.reasons("vm.launch") == []

    second.controller.retire()
    # the test driver knows no power button: destroyed once the patience of 8 s is over
    await second.until(lambda: not second.fleet.counts().existing)
    assert there() == foreign
    assert all(outside.lookupByName(name).isActive() for name in foreign)
    await second.host.close()
    outside.close()
