"""A hypervisor and a clock that do as they are told. Shared by every test of fleet and controller.

The hypervisor keeps to `autoscale.host.Hypervisor` and never sees real time: machines boot, use CPU
and power off on the clock it is given. What it may be told to do wrong stands in `Fault`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from autoscale.domain_xml import Identity, VmSpec
from autoscale.host import (
    Domain,
    DomainRefused,
    HostInfo,
    HostUnreachable,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
    PowerState,
)
from autoscale.model import Sample

NEVER = float("inf")
OURS = "ours"
"""The instance id the tests run as."""


class Now(Protocol):
    def now(self) -> float: ...


class FakeClock:
    """Monotonic seconds that pass only when a test says so."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._passed = asyncio.Event()

    def now(self) -> float:
        return self._now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._passed.set()
        self._passed = asyncio.Event()

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        """Until `seconds` have passed on this clock, or `wake` is set."""
        until = self._now + seconds
        waking = asyncio.ensure_future(wake.wait())
        try:
            while self._now < until and not wake.is_set():
                passing = asyncio.ensure_future(self._passed.wait())
                await asyncio.wait({waking, passing}, return_when=asyncio.FIRST_COMPLETED)
                passing.cancel()
        finally:
            waking.cancel()


class Tasks:
    """The `spawn` a fleet is given: keeps its tasks, and hands on what they raised."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self.errors: list[BaseException] = []

    def __call__(self, work: Coroutine[Any, Any, None], name: str) -> object:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.errors.append(error)

    async def settle(self) -> None:
        """Let every task go as far as it can without time passing. Held calls stay held."""
        for _ in range(12):
            await asyncio.sleep(0)

    async def cancel(self) -> None:
        """As a `kill -9` does: nothing of what was under way goes on."""
        for task in tuple(self.running):
            task.cancel()
        while self.running:
            await asyncio.wait(tuple(self.running))


class Fault(StrEnum):
    """What goes wrong with a creation."""

    REFUSED = "refused"
    """The host answers no; there is no domain."""
    LOST = "lost"
    """The call times out, and there is no domain."""
    TIMED_OUT = "timed out"
    """The call times out, and the domain exists all the same."""
    HANGS_IN_BOOT = "hangs in boot"
    """The domain runs, and its application never answers."""


@dataclass(slots=True)
class FakeDomain:
    """One machine. Its CPU counters follow `use`, which says how many cores it takes from now."""

    name: str
    uuid: str
    identity: Identity | None
    """None: somebody else's, without our metadata."""
    vcpus: int
    serves_from: float
    """When its application answers; NEVER for a boot that hangs."""
    _clock: Now
    power: PowerState = PowerState.RUNNING
    limit_cores: float | None = None
    off_at: float = NEVER
    ignores_power_button: bool = False
    will_not_die: bool = False
    """Its QEMU hangs in the kernel: destroying it fails, as libvirt's "device or resource busy"."""
    cpu_s: float = 0.0
    overhead: float = 0.0
    """QEMU's own CPU on top, as a share of the vCPUs'."""
    counts_backwards: bool = False
    has_counters: bool = True
    delay: float = 0.0
    """Share of the time that each vCPU waits for a core of the host, from now on."""
    run: int = 1
    """libvirt's number of it: another one after a start or a migration."""
    _waited_s: float = 0.0
    _cores: float = 0.0
    _at: float = field(default=0.0)

    def use(self, cores: float) -> None:
        self._integrate()
        self._cores = cores

    def serving(self) -> bool:
        return self.power is PowerState.RUNNING and self._clock.now() >= self.serves_from

    def sample(self) -> Sample | None:
        """As libvirt would tell it; None where it gives no counters."""
        self._integrate()
        if not self.has_counters:
            return None
        return Sample(
            vm=self.name,
            at=self._clock.now(),
            cpu_s=self.cpu_s * (1 + self.overhead),
            vcpu_s=self.cpu_s,
            vcpus=self.vcpus,
            limit_cores=min(self.vcpus, self.limit_cores or self.vcpus),
            vcpu_delay_s=self._waited_s,
            memory_bytes=200 << 20,
            run=str(self.run),
        )

    def _integrate(self) -> None:
        now = self._clock.now()
        elapsed, self._at = now - (self._at or now), now
        if self.power is PowerState.RUNNING:
            self.cpu_s += self._cores * elapsed
            self._waited_s += self.delay * elapsed * self.vcpus


class FakeHypervisor:
    """A scripted libvirt host. `calls` lists what was asked of which domain, `peak` is the most
    domains of ours that ever existed at once."""

    def __init__(
        self,
        clock: Now,
        name: str = "local",
        *,
        instance: str = OURS,
        boot_s: float = 10.0,
        shutdown_s: float = 2.0,
    ) -> None:
        self._clock = clock
        self._name = name
        self.instance = instance
        self.boot_s = boot_s
        self.shutdown_s = shutdown_s
        self.domains: dict[str, FakeDomain] = {}
        self.calls: list[tuple[str, str]] = []
        self.peak = 0
        self.unreachable = False
        self.limits = True
        self.limit_fault: Exception | None = None
        """What the next call that sets a limit raises, although the limit is set."""
        self.addresses = True
        """False: no lease yet, nobody knows where a guest is."""
        self.is_open = False
        self._faults: deque[Fault] = deque()
        self._held: asyncio.Event | None = None
        self._limits_held: asyncio.Event | None = None
        self._ports = itertools.count(40001)
        self._callbacks: list[Callable[[str], None]] = []

    # --- what a test scripts

    def next_create(self, fault: Fault, times: int = 1) -> None:
        """The next `times` creations go wrong like this."""
        self._faults.extend([fault] * times)

    def hold_creates(self) -> None:
        """From now on a creation is not answered until `release_creates`."""
        if self._held is None:
            self._held = asyncio.Event()

    def release_creates(self) -> None:
        if self._held is not None:
            self._held.set()
            self._held = None

    def hold_limits(self) -> None:
        """From now on a limit is neither set nor the call answered until `release_limits`."""
        if self._limits_held is None:
            self._limits_held = asyncio.Event()

    def release_limits(self) -> None:
        if self._limits_held is not None:
            self._limits_held.set()
            self._limits_held = None

    def forget_faults(self) -> None:
        """Everything works from now on; a guest that ignores its power button goes on doing so."""
        self._faults.clear()
        self.unreachable = False
        self.release_creates()
        self.release_limits()
        self.limit_fault = None
        for domain in self.domains.values():
            domain.will_not_die = False

    def crash(self, name: str, *, leaves: bool = True) -> None:
        """Its QEMU dies. `leaves`: a transient domain is gone at once; else it is seen crashed."""
        domain = self.domains[name]
        domain.use(0.0)
        domain.power = PowerState.CRASHED
        if leaves:
            del self.domains[name]
        self._tell(name)

    def add_foreign(self, name: str, identity: Identity | None = None) -> FakeDomain:
        """Somebody else's machine: without metadata, or with another instance's or service's."""
        domain = FakeDomain(name, f"uuid-{name}", identity, 1, NEVER, self._clock)
        self.domains[name] = domain
        return domain

    def ours(self, service: str = "web") -> list[FakeDomain]:
        """Every domain that carries our metadata for this service, in whatever state."""
        self._pass_time()
        return [
            d
            for d in self.domains.values()
            if d.identity is not None
            and d.identity.instance == self.instance
            and d.identity.service == service
        ]

    def asked(self, verb: str) -> list[str]:
        """Names of the domains this was asked of, in order."""
        return [name for what, name in self.calls if what == verb]

    # --- Hypervisor

    @property
    def name(self) -> str:
        return self._name

    @property
    def info(self) -> HostInfo | None:
        return self._describe() if self.is_open else None

    async def open(self) -> HostInfo:
        await self._answer("open", "")
        return self._describe()

    def _describe(self) -> HostInfo:
        return HostInfo(
            name=self._name,
            uri="fake:///",
            domain_type="test",
            why="scripted",
            cores=4,
            memory_bytes=8 << 30,
            libvirt_version="9.0.0",
            network="user",
            cpu_limits=self.limits,
        )

    async def close(self) -> None:
        self.is_open = False

    async def observe(self) -> tuple[Domain, ...]:
        await self._answer("observe", "")
        return tuple(
            Domain(d.name, d.uuid, d.power, d.identity, d.sample())
            for d in self.domains.values()
            if d.identity is not None and d.identity.instance == self.instance
        )

    async def create(self, spec: VmSpec) -> Identity:
        await self._answer("create", spec.name)
        held = self._held
        if held is not None:
            await held.wait()
        fault = self._faults.popleft() if self._faults else None
        if fault is Fault.REFUSED:
            raise DomainRefused(f"{self._name} refuses {spec.name}: no more memory")
        if fault is Fault.LOST:
            raise HostUnreachable(f"{self._name}: no answer from libvirt in 20 s")
        identity = replace(spec.identity, host_port=next(self._ports))
        hangs = fault is Fault.HANGS_IN_BOOT
        domain = FakeDomain(
            spec.name,
            spec.uuid,
            identity,
            spec.vcpus,
            NEVER if hangs else self._clock.now() + self.boot_s,
            self._clock,
        )
        domain.ignores_power_button = hangs
        self.domains[spec.name] = domain
        self.peak = max(self.peak, len(self.ours(identity.service)))
        self._tell(spec.name)
        if fault is Fault.TIMED_OUT:
            raise HostUnreachable(f"{self._name}: no answer from libvirt in 20 s")
        return identity

    async def address(self, domain: str, identity: Identity) -> str | None:
        await self._answer("address", domain)
        self._known(domain)
        return f"127.0.0.1:{identity.host_port}" if self.addresses else None

    async def set_cpu_limit(self, domain: str, cores: float | None) -> None:
        await self._answer("set_cpu_limit", domain)
        found = self._known(domain)
        if not self.limits:
            raise LimitUnsupported(f"{self._name} cannot limit CPU: no cgroups")
        if self._limits_held is not None:
            await self._limits_held.wait()
        found.limit_cores = cores
        fault, self.limit_fault = self.limit_fault, None
        if fault is not None:
            raise fault

    async def set_identity(self, domain: str, identity: Identity) -> None:
        await self._answer("set_identity", domain)
        self._known(domain).identity = identity

    async def shutdown(self, domain: str) -> None:
        await self._answer("shutdown", domain)
        found = self._known(domain)
        if not found.ignores_power_button:
            found.off_at = min(found.off_at, self._clock.now() + self.shutdown_s)

    async def destroy(self, domain: str) -> None:
        await self._answer("destroy", domain)
        found = self.domains.get(domain)
        if found is None:
            return
        if found.will_not_die:
            raise HypervisorError(f"{self._name}: cannot end {domain}: device or resource busy")
        del self.domains[domain]
        self._tell(domain)

    async def console_tail(self, domain: str, lines: int = 20) -> str:
        await self._answer("console_tail", domain)
        return "Loading initrd\nKernel panic - not syncing: VFS"

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    # --- inside

    async def _answer(self, verb: str, domain: str) -> None:
        """Every call is a chance for others to run, and fails while the host is unreachable."""
        self.calls.append((verb, domain))
        await asyncio.sleep(0)
        if self.unreachable:
            raise HostUnreachable(f"{self._name}: no answer from libvirt in 20 s")
        self.is_open = True  # whichever call comes first connects, as libvirt's adapter does
        self._pass_time()

    def _pass_time(self) -> None:
        now = self._clock.now()
        for domain in [d for d in self.domains.values() if d.off_at <= now]:
            del self.domains[domain.name]
            self._tell(domain.name)

    def _known(self, name: str) -> FakeDomain:
        found = self.domains.get(name)
        if found is None or found.identity is None or found.identity.instance != self.instance:
            raise NoSuchDomain(f"no domain of ours is named {name}")
        return found

    def _tell(self, name: str) -> None:
        for callback in self._callbacks:
            callback(name)
