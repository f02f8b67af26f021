"""A hypervisor and a clock that do as they are told. Shared by every test of fleet and controller.

The hypervisor keeps to `autoscale.host.Hypervisor` and never sees real time: machines boot, use CPU
and power off on the clock it is given. What it may be told to do wrong stands in `Fault`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from autoscale.domain_xml import Identity, VmSpec
from autoscale.host import (
    Contact,
    Domain,
    DomainRefused,
    HostInfo,
    HostUnreachable,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
    PowerState,
    SnapshotUnusable,
)
from autoscale.model import Sample
from autoscale.snapshots import service_of

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
    """What goes wrong with a start, be it by booting or as a copy."""

    REFUSED = "refused"
    """The host answers no; there is no domain."""
    LOST = "lost"
    """The call times out, and there is no domain."""
    TIMED_OUT = "timed out"
    """The call times out, and the domain exists all the same."""
    HANGS_IN_BOOT = "hangs in boot"
    """The domain runs, and its application never answers."""


class Odd(StrEnum):
    """What goes wrong with another call."""

    FAILS = "fails"
    """It is not done, and the host says so."""
    DONE_ALL_THE_SAME = "done all the same"
    """The call times out, and is done."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A guest as it was saved: what its application knew then."""

    called: str
    vcpus: int


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
    weight: int = 1024
    called: str = ""
    """The name that its application believes in."""
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
        restore_s: float = 1.0,
        shutdown_s: float = 2.0,
        first_port: int = 40001,
    ) -> None:
        self._clock = clock
        self._name = name
        self.instance = instance
        self.boot_s = boot_s
        self.restore_s = restore_s
        self.shutdown_s = shutdown_s
        self.domains: dict[str, FakeDomain] = {}
        self.calls: list[tuple[str, str]] = []
        self.peak = 0
        self.unreachable = False
        self.limits = True
        self.deaf = False
        """Whether no guest's agent answers."""
        self.limit_fault: Exception | None = None
        """What the next call that sets a limit raises, although the limit is set."""
        self.addresses = True
        """False: no lease yet, nobody knows where a guest is."""
        self.copies = ""
        """Why it can start no copies; empty: it can."""
        self.guests: dict[str, Saved] = {}
        """What is saved there, by key."""
        self.unusable = False
        """True: what is saved there turns out to be no good."""
        self.refuses: DomainRefused | None = None
        """What it says to every start, until it is None again."""
        self.is_open = False
        self.broken: dict[str, Fault] = {}
        """Images that are no good, by generation: how every start of them goes wrong."""
        self._faults: deque[Fault] = deque()
        self._odd: dict[str, deque[Odd]] = defaultdict(deque)
        self._held: dict[str, asyncio.Event] = {}
        self._ports = itertools.count(first_port)
        self._callbacks: list[Callable[[str], None]] = []

    # --- what a test scripts

    def next_create(self, fault: Fault, times: int = 1) -> None:
        """The next `times` starts go wrong like this."""
        self._faults.extend([fault] * times)

    def next_call(self, verb: str, odd: Odd, times: int = 1) -> None:
        """The next `times` calls of suspend, resume, save, set_identity, set_cpu_weight, saved."""
        self._odd[verb].extend([odd] * times)

    def hold_calls(self, verb: str) -> None:
        """From now on this is neither done nor the call answered until `release_calls`. What is
        being saved stands still meanwhile."""
        self._held.setdefault(verb, asyncio.Event())

    def release_calls(self, verb: str) -> None:
        held = self._held.pop(verb, None)
        if held is not None:
            held.set()

    def hold_creates(self) -> None:
        """No start, be it by booting or as a copy, is answered until `release_creates`."""
        self.hold_calls("create")

    def release_creates(self) -> None:
        self.release_calls("create")

    def hold_limits(self) -> None:
        self.hold_calls("set_cpu_limit")

    def release_limits(self) -> None:
        self.release_calls("set_cpu_limit")

    def forget_faults(self) -> None:
        """Everything works from now on; a guest that ignores its power button goes on doing so."""
        self._faults.clear()
        self._odd.clear()
        self.unreachable = self.unusable = False
        for verb in tuple(self._held):
            self.release_calls(verb)
        self.limit_fault = self.refuses = None
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

    @property
    def contact(self) -> Contact:
        return Contact()

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
            copies=self.copies,
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
        return await self._start(spec, spec.name, self.boot_s)

    async def restore(self, spec: VmSpec, key: str) -> Identity:
        await self._answer("restore", spec.name)
        guest = self.guests.get(key)
        if guest is None or self.unusable or self.copies:
            self.guests.pop(key, None)
            raise SnapshotUnusable(
                f"{self._name} cannot copy {key}: it was written by another QEMU"
            )
        assert guest.vcpus == spec.vcpus, "a copy has the shape of what was saved"
        return await self._start(spec, guest.called, self.restore_s)

    async def _start(self, spec: VmSpec, called: str, takes_s: float) -> Identity:
        if "create" in self._held:
            await self._held["create"].wait()
        if self.refuses is not None:
            raise self.refuses
        generation = spec.identity.generation
        fault = self._faults.popleft() if self._faults else self.broken.get(generation)
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
            NEVER if hangs else self._clock.now() + takes_s,
            self._clock,
            called=called,
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
        if "set_cpu_limit" in self._held:
            await self._held["set_cpu_limit"].wait()
        found.limit_cores = cores
        fault, self.limit_fault = self.limit_fault, None
        if fault is not None:
            raise fault

    async def set_cpu_weight(self, domain: str, weight: int) -> None:
        await self._answer("set_cpu_weight", domain)
        if not self.limits:
            raise LimitUnsupported(f"{self._name} cannot weigh CPU: no cgroups")
        odd = await self._oddly("set_cpu_weight")
        self._known(domain).weight = weight
        self._times_out(odd)

    async def suspend(self, domain: str) -> None:
        await self._answer("suspend", domain)
        odd = await self._oddly("suspend")
        found = self._known(domain)
        if found.power is PowerState.RUNNING:
            found.use(0.0)
            found.power = PowerState.PAUSED
        self._times_out(odd)

    async def resume(self, domain: str) -> None:
        await self._answer("resume", domain)
        odd = await self._oddly("resume")
        found = self._known(domain)
        if found.power is PowerState.PAUSED:
            found.power = PowerState.RUNNING
        self._times_out(odd)

    async def saved(self) -> frozenset[str]:
        await self._answer("saved", "")
        self._times_out(await self._oddly("saved"))
        return frozenset() if self.copies else frozenset(self.guests)

    async def keep_saved(self, services: Collection[str]) -> None:
        self.guests = {k: g for k, g in self.guests.items() if service_of(k) in services}

    async def save(self, domain: str, key: str) -> None:
        await self._answer("save", domain)
        found = self._known(domain)
        found.power = PowerState.PAUSED
        odd = await self._oddly("save")
        found = self._known(domain)
        del self.domains[domain]
        self._tell(domain)
        if odd is None:
            of = service_of(key)
            self.guests = {k: g for k, g in self.guests.items() if service_of(k) != of}
            self.guests[key] = Saved(found.called, found.vcpus)
        if "save's answer" in self._held:
            await self._held["save's answer"].wait()
        self._times_out(odd)

    async def introduce(self, domain: str, name: str, seed: bytes) -> None:
        await self._answer("introduce", domain)
        odd = await self._oddly("introduce")
        found = self._known(domain)
        if self.deaf or not found.serving():
            raise HypervisorError(f"{self._name}: the agent of {domain} does not answer")
        found.called = name
        self._times_out(odd)

    async def set_time(self, domain: str) -> None:
        await self._answer("set_time", domain)
        odd = await self._oddly("set_time")
        self._known(domain)
        self._times_out(odd)

    async def set_identity(self, domain: str, identity: Identity) -> None:
        await self._answer("set_identity", domain)
        odd = await self._oddly("set_identity")
        self._known(domain).identity = identity
        self._times_out(odd)

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

    async def _oddly(self, verb: str) -> Odd | None:
        """What is to go wrong with this call, once it is let through."""
        if verb in self._held:
            await self._held[verb].wait()
        odd = self._odd[verb].popleft() if self._odd[verb] else None
        if odd is Odd.FAILS:
            raise HypervisorError(f"{self._name}: cannot {verb}: internal error")
        return odd

    def _times_out(self, odd: Odd | None) -> None:
        if odd is Odd.DONE_ALL_THE_SAME:
            raise HostUnreachable(f"{self._name}: no answer from libvirt in 20 s")

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
