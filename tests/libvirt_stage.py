"""The scripted hypervisor's faults, on libvirt's own test driver: what exists there, and in which
state, is libvirt's to say; every call goes through `LibvirtHypervisor`.

`test:///default` has no guests: what would run in one (when its application answers, what CPU time
it takes, whether it hears its power button) is played here, and so is time. A second connection
looks at the machines and does to them what somebody else would.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

import libvirt

from autoscale.counters import power_from_stats
from autoscale.domain_xml import DomainXmlError, Identity, VmSpec, identity_element, parse_identity
from autoscale.host import Domain, DomainRefused, HostInfo, HostUnreachable
from autoscale.hypervisor import LibvirtHypervisor
from autoscale.threads import TimedCalls
from tests.fakes import NEVER, FakeClock, FakeDomain, FakeHypervisor, Fault
from tests.world import World

T = TypeVar("T")

CHANGES = ("suspend", "resume", "destroy")
"""What libvirt tells of, besides starts."""

URI = "test:///default"
"""One and the same for every connection of a process, as long as one is open."""


class AtOnce(TimedCalls):
    """On the thread that asks: a story that failed must be the same when it is told again."""

    async def call(self, work: Callable[[], T]) -> T:
        return work()


class Connection(LibvirtHypervisor):
    """One that can be lost."""

    lost: object = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._calls = AtOnce(1, "libvirt-at-once", 20.0)
        self._jitter = lambda: 0.5  # no dice: as above

    def lose(self) -> None:
        """libvirt calls it dead from now on, as after a restart of its daemon."""
        self.lost = self._conn

    def _alive(self) -> Any:
        return None if self._conn is self.lost else super()._alive()


class LibvirtStage(FakeHypervisor):
    """A host of libvirt's. `domains` mirrors those of ours as of the last look at them."""

    def __init__(self, clock: FakeClock, name: str, home: Path) -> None:
        super().__init__(clock, name)
        self._time, self._home = clock, home
        self.outside = libvirt.open(URI)
        """Somebody else's connection."""
        self.limits = False  # of the test driver, whatever a story says
        self._others: set[str] = set()
        """Whom a story added."""
        self.connection = self._connect()

    def _connect(self) -> Connection:
        return Connection(
            self._name, URI, instance=self.instance, home=self._home, network="user",
            clock=self._time,
        )  # fmt: skip

    async def restart(self) -> None:
        """What the next process opens; that of the one before it ended with it."""
        await self.connection.close()
        self.connection = self._connect()
        await self.connection.open()

    async def end(self) -> None:
        """Leave nothing on the driver, which lives as long as the process that tests it."""
        await self.connection.close()
        self.ours()
        for dom in self.outside.listAllDomains():
            if dom.name() in self.domains or dom.name() in self._others:
                dom.destroy()
        self.outside.close()

    # --- looking, and what others do

    def ours(self, service: str = "web") -> list[FakeDomain]:
        self._pass_time()
        return [d for d in self.domains.values() if d.identity and d.identity.service == service]

    def others(self) -> list[tuple[str, object]]:
        """Every machine that is not ours, and what would change if it were touched."""
        ours = {domain.name for domain in self.ours()}
        return [
            (dom.name(), (dom.UUIDString(), dom.ID(), dom.state(), dom.XMLDesc()))
            for dom in self.outside.listAllDomains()
            if dom.name() not in ours
        ]

    def add_foreign(self, name: str, identity: Identity | None = None) -> FakeDomain:
        told = ET.tostring(identity_element(identity), encoding="unicode") if identity else ""
        dom = self.outside.createXML(
            f"<domain type='test'><name>{name}</name><metadata>{told}</metadata>"
            "<memory>65536</memory><os><type>hvm</type></os></domain>",
            0,
        )
        self._others.add(name)
        return FakeDomain(name, dom.UUIDString(), identity, 1, NEVER, self._clock)

    def crash(self, name: str, *, leaves: bool = True) -> None:
        """`leaves`: it is destroyed; else it crashes. libvirt keeps neither."""
        dom = self.outside.lookupByName(name)
        if leaves:
            dom.destroy()
        else:
            dom.coreDump(str(self._home / "core"), libvirt.VIR_DUMP_CRASH)
        self._tell(name)

    def suspend_behind_our_back(self, name: str) -> None:
        self.outside.lookupByName(name).suspend()
        self._tell(name)

    def resume_behind_our_back(self, name: str) -> None:
        self.outside.lookupByName(name).resume()
        self._tell(name)

    def _pass_time(self) -> None:
        """Mirror what there is; and whoever heard its power button is off by now."""
        found: dict[str, FakeDomain] = {}
        for dom in self.outside.listAllDomains():
            identity = _identity_in(dom.XMLDesc())
            if identity is None or identity.instance != self.instance:
                continue
            name, power = dom.name(), power_from_stats({"state.state": dom.state()[0]})
            guest = self.domains.get(name)
            if guest is None or guest.uuid != dom.UUIDString():
                serves_from = self._clock.now() + self.boot_s
                guest = FakeDomain(
                    name, dom.UUIDString(), identity, dom.maxVcpus(), serves_from, self._clock,
                    called=name,
                )  # fmt: skip
            if guest.off_at <= self._clock.now():
                dom.destroy()
                continue
            if power is not guest.power:
                guest.use(0.0)
            guest.identity, guest.power = identity, power
            found[name] = guest
        self.domains = dict(sorted(found.items()))  # libvirt lists them in random order

    # --- Hypervisor

    async def _call(self, verb: str, domain: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As scripted; and where it is done, it is libvirt that does it."""
        await self._answer(verb, domain)
        odd = await self._oddly(verb)
        result = await work()
        if verb in CHANGES:
            self._tell(domain)
        self._times_out(odd)
        return result

    @property
    def info(self) -> HostInfo | None:
        return self.connection.info

    async def open(self) -> HostInfo:
        return await self._call("open", "", self.connection.open)

    async def close(self) -> None:
        await self.connection.close()

    async def observe(self) -> tuple[Domain, ...]:
        found = await self._call("observe", "", self.connection.observe)
        assert all(domain.sample is None for domain in found), "it has no counters"
        self._pass_time()
        played = {name: guest.sample() for name, guest in self.domains.items()}
        return tuple(
            replace(domain, sample=played.get(domain.name))
            for domain in sorted(found, key=lambda domain: domain.name)
        )

    async def _start(self, spec: VmSpec, called: str, takes_s: float) -> Identity:
        if "create" in self._held:
            await self._held["create"].wait()
        fault = self._faults.popleft() if self._faults else None
        if fault is Fault.REFUSED:
            raise DomainRefused(f"{self._name} refuses {spec.name}: no more memory")
        if fault is Fault.LOST:
            raise HostUnreachable(f"{self._name}: no answer from libvirt in 20 s")
        identity = await self.connection.create(spec)
        self._pass_time()
        self._tell(spec.name)
        guest = self.domains.get(spec.name)
        if guest is not None and fault is Fault.HANGS_IN_BOOT:
            guest.serves_from, guest.ignores_power_button = NEVER, True
        if fault is Fault.TIMED_OUT:
            raise HostUnreachable(f"{self._name}: no answer from libvirt in 20 s")
        return identity

    async def address(self, domain: str, identity: Identity) -> str | None:
        return await self._call(
            "address", domain, lambda: self.connection.address(domain, identity)
        )

    async def set_cpu_limit(self, domain: str, cores: float | None) -> None:
        await self._call(
            "set_cpu_limit", domain, lambda: self.connection.set_cpu_limit(domain, cores)
        )

    async def set_cpu_weight(self, domain: str, weight: int) -> None:
        await self._call(
            "set_cpu_weight", domain, lambda: self.connection.set_cpu_weight(domain, weight)
        )

    async def suspend(self, domain: str) -> None:
        await self._call("suspend", domain, lambda: self.connection.suspend(domain))

    async def resume(self, domain: str) -> None:
        await self._call("resume", domain, lambda: self.connection.resume(domain))

    async def saved(self) -> frozenset[str]:
        return await self._call("saved", "", self.connection.saved)

    async def save(self, domain: str, key: str) -> None:
        await self._call("save", domain, lambda: self.connection.save(domain, key))

    async def restore(self, spec: VmSpec, key: str) -> Identity:
        return await self._call("restore", spec.name, lambda: self.connection.restore(spec, key))

    async def introduce(self, domain: str, name: str, seed: bytes) -> None:
        await self._call("introduce", domain, lambda: self.connection.introduce(domain, name, seed))

    async def set_time(self, domain: str) -> None:
        await self._call("set_time", domain, lambda: self.connection.set_time(domain))

    async def set_identity(self, domain: str, identity: Identity) -> None:
        await self._call(
            "set_identity", domain, lambda: self.connection.set_identity(domain, identity)
        )

    async def shutdown(self, domain: str) -> None:
        guest = self.domains.get(domain)
        if guest is not None and not guest.ignores_power_button and not self.unreachable:
            guest.off_at = min(guest.off_at, self._clock.now() + self.shutdown_s)
        await self._call("shutdown", domain, lambda: self.connection.shutdown(domain))

    async def destroy(self, domain: str) -> None:
        guest = self.domains.get(domain)
        if guest is not None and guest.will_not_die:
            await super().destroy(domain)  # which says so
        await self._call("destroy", domain, lambda: self.connection.destroy(domain))

    async def console_tail(self, domain: str, lines: int = 20) -> str:
        return await self._call(
            "console_tail", domain, lambda: self.connection.console_tail(domain, lines)
        )


class LibvirtWorld(World):
    """One host, whose machines are libvirt's. To be made, used and ended on one event loop."""

    def __init__(self, home: Path, **given: Any) -> None:
        self._home = home
        super().__init__(**given)

    def make_host(self, name: str, number: int) -> FakeHypervisor:
        return LibvirtStage(self.clock, name, self._home)

    @property
    def stage(self) -> LibvirtStage:
        host = self.host
        assert isinstance(host, LibvirtStage)
        return host

    async def restart(self) -> None:
        await self.tasks.cancel()
        await self.stage.restart()
        self._start()


@functools.lru_cache(maxsize=64)
def _identity_in(xml: str) -> Identity | None:
    """Looked up hundreds of times a second, and changed now and then."""
    try:
        return parse_identity(xml)
    except DomainXmlError:
        return None
