"""The VMs of one service, from launch to gone: level-triggered, one step a tick.

Owns which VMs exist for us and what is asked of the hypervisors. Each tick compares a fresh
listing with what is wanted and moves every VM at most one step, so doing it twice does no harm. It
must not decide how many replicas there should be (`policy` does), nor judge a backend's health (the
pool does).

Mutable state: `_vms` by name, `_launches`, `_limits`, `_seen_hosts`. All of it changes between
awaits only; libvirt calls run in tasks of their own and come back through the methods here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any
from uuid import UUID

from autoscale.activations import Activations
from autoscale.backoff import LaunchGate
from autoscale.decision import Decision
from autoscale.domain_xml import Identity
from autoscale.host import (
    Domain,
    DomainRefused,
    Hypervisor,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
    PowerState,
)
from autoscale.launches import Launches
from autoscale.limits import CpuLimits
from autoscale.model import (
    EventKind,
    Fleet,
    Happening,
    Path,
    PoolLoad,
    Reason,
    ScaleEvent,
    Signal,
    VmState,
    VmStatus,
)
from autoscale.placement import candidates, choose_host, choose_victim, rooms
from autoscale.vm import (
    FAILURE_WORDS,
    BootFiles,
    Vm,
    VmShape,
    count,
    is_sick,
    spec_of,
    who_serves,
)

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class VmFleet:
    """The replicas of one service on all hosts.

    `emit` carries membership changes to the pool and returns before anything else happens; `load`
    reads the pool; `note` writes the journal; `spawn` runs a coroutine beside us; `new_id` gives a
    fresh UUID; `boot_files` looks for the image at each launch and raises ImageUnavailable.
    """

    def __init__(
        self,
        service: str,
        hosts: Mapping[str, Hypervisor],
        shape: VmShape,
        boot_files: Callable[[], BootFiles],
        *,
        instance: str,
        max_existing: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        new_id: Callable[[], UUID],
        spawn: Spawn,
        emit: Callable[[ScaleEvent], None],
        load: Callable[[], PoolLoad],
        note: Callable[[Happening], None],
        activated: Callable[[Path, float], None] = lambda _path, _seconds: None,
    ) -> None:
        self.service = service
        self.shape = shape
        self.max_existing = max_existing
        self._boot_files = boot_files
        self._hosts = hosts
        self._instance = instance
        self._clock = clock
        self._wall_clock = wall_clock
        self._new_id = new_id
        self._spawn = spawn
        self._emit = emit
        self._load = load
        self._note_happening = note
        self._activated = activated
        self._vms: dict[str, Vm] = {}
        self._launches = Launches()
        self._activations = Activations()
        self._limits = CpuLimits()
        self._seen_hosts: set[str] = set()

    # --- reading

    def counts(self) -> Fleet:
        """How many there are, by state, a launch under way included; and how more could come."""
        ways = self._activations.ways({Path.COLD: None})
        return count(self.service, self._vms.values(), self._load(), self.gate.failures, ways)

    def ready_names(self) -> tuple[str, ...]:
        return tuple(vm.name for vm in self._vms.values() if vm.state is VmState.READY)

    def serving_names(self) -> tuple[str, ...]:
        """Those whose CPU says how loaded the service is."""
        return who_serves(self._vms.values(), self._load())

    def statuses(self) -> tuple[VmStatus, ...]:
        now = self._clock()
        return tuple(vm.status(self.service, now) for vm in self._vms.values())

    def get(self, name: str) -> Vm | None:
        return self._vms.get(name)

    def allowed_cores(self) -> Mapping[str, float]:
        """By VM, the host cores that its shape gives it, whatever it may use just now."""
        return {
            vm.name: self._limits.allowed_cores(vm, self._vcpus(vm)) for vm in self._vms.values()
        }

    @property
    def gate(self) -> LaunchGate:
        return self._launches.gate

    @property
    def burst(self) -> float | None:
        """So many times its CPU limit each may use while a decision says so; None: never more."""
        return self._limits.burst

    @burst.setter
    def burst(self, factor: float | None) -> None:
        self._limits.burst = factor

    @property
    def all_hosts_seen(self) -> bool:
        """False until every host was listed once: before that, VMs may exist that we don't know."""
        return not self.unseen_hosts

    @property
    def unseen_hosts(self) -> set[str]:
        return set(self._hosts) - self._seen_hosts

    def __repr__(self) -> str:
        counts = self.counts()
        return (
            f"<VmFleet {self.service}: {counts.ready} ready, {counts.booting} booting,"
            f" {counts.draining} leaving>"
        )

    # --- what is there

    def see(self, host: str, domains: Sequence[Domain], asked_at: float) -> None:
        """Take in one host's listing, asked for at `asked_at`: adopt, update, miss who is gone."""
        now = self._clock()
        self._seen_hosts.add(host)
        listed = {d.name: d for d in domains if d.identity.service == self.service}
        for domain in listed.values():
            vm = self._vms.get(domain.name)
            if vm is None:
                self._adopt(host, domain, now)
                continue
            vm.power, vm.sample = domain.power.value, domain.sample
            if domain.power in (PowerState.OFF, PowerState.CRASHED) and vm.state not in (
                VmState.DRAINING,
                VmState.FAILED,
            ):
                self._fail(vm, Reason.CRASHED, now)
        for vm in [v for v in self._vms.values() if v.host == host and v.name not in listed]:
            # a listing asked for before the creation was answered says nothing of this VM
            if vm.created_at is not None and vm.created_at < asked_at:
                self._vanished(vm, now)

    def _adopt(self, host: str, domain: Domain, now: float) -> None:
        vm = Vm(domain.name, host, domain.identity, now, now, created_at=now, adopted=True)
        vm.power, vm.sample = domain.power.value, domain.sample
        self._vms[vm.name] = vm
        vm.move(VmState.BOOTING, now)
        self._note("vm.adopted", vm, Reason.ADOPTED, f"{vm.name} found on {host}: taken over")
        if domain.power in (PowerState.OFF, PowerState.CRASHED):
            self._fail(vm, Reason.CRASHED, now)
        elif domain.identity.phase == "draining":
            vm.move(VmState.DRAINING, now)

    def _vanished(self, vm: Vm, now: float) -> None:
        if vm.state in (VmState.DRAINING, VmState.FAILED):
            reason, words = vm.left_because or Reason.DRAINED, "gone"
        else:
            reason, words = Reason.CRASHED, FAILURE_WORDS[Reason.CRASHED]
            self._count_failure(vm, now)
        self._leave_pool(vm, reason)
        vm.move(VmState.GONE, now)
        del self._vms[vm.name]
        self._note("vm.gone", vm, reason, f"{vm.name} {words}")
        self._do(vm, self._hosts[vm.host].destroy(vm.name), "clean up")

    def measured(self, signals: Mapping[str, Signal]) -> None:
        """What each used, by name; whoever is not in it has no signal."""
        for vm in self._vms.values():
            vm.signal = signals.get(vm.name)

    # --- what is wanted

    def step(self, decision: Decision, reachable: Collection[str]) -> None:
        """Move towards `decision`. `reachable`: the hosts that were listed in this tick. With one
        missing the fleet may grow (its VMs still count) but does not shrink."""
        self._limits.lifted = decision.burst
        self.advance()
        now = self._clock()
        missing = decision.desired - sum(vm.serves_or_will for vm in self._vms.values())
        self._launches.decided(decision, missing)
        if missing > 0 and self.all_hosts_seen:
            self._launch_some(missing, reachable, now)
        elif missing < 0 and set(reachable) >= set(self._hosts):
            # one whose creation is under way goes as soon as it can be told: nobody who serves
            # leaves in its place
            unborn = sum(vm.state is VmState.DEFINED for vm in self._vms.values())
            for _ in range(-missing - unborn):
                self._drain_one(decision.reason, self._load(), now)

    def advance(self) -> None:
        """Every VM one step on in its own life; none more, none fewer."""
        now, load = self._clock(), self._load()
        for vm in list(self._vms.values()):
            if not vm.busy:
                self._advance(vm, load, now)

    def retire_all(self, reason: Reason) -> None:
        """Start draining every VM; call `step` with desired 0 until `counts().existing` is 0."""
        now = self._clock()
        for vm in self._vms.values():
            if vm.serves_or_will:
                self._drain(vm, reason, now)

    def _advance(self, vm: Vm, load: PoolLoad, now: float) -> None:
        match vm.state:
            case VmState.DEFINED:
                # nothing is under way for it: its creation ended without a word
                if now - vm.since > self.shape.boot_timeout_s:
                    vm.created_at = now
                    self._fail(vm, Reason.BOOT_TIMEOUT, now)
            case VmState.BOOTING:
                self._advance_booting(vm, load, now)
            case VmState.READY:
                self._advance_ready(vm, load, now)
            case VmState.DRAINING:
                self._advance_draining(vm, load, now)
            case VmState.FAILED:
                self._do(vm, self._hosts[vm.host].destroy(vm.name), "destroy")
            case _:
                pass

    def _advance_booting(self, vm: Vm, load: PoolLoad, now: float) -> None:
        backend = load.of(vm.name)
        if backend is not None and backend.passes:
            vm.move(VmState.READY, now)
            took = now - vm.started_at
            if not vm.adopted:
                self._activations.add(vm.path, took)
                self._activated(vm.path, took)
                self._launches.succeeded()
            self._note(
                "vm.ready",
                vm,
                vm.reason,
                f"{vm.name} serves at {vm.address}, {took:.1f} s after it was asked for",
                seconds=round(took, 3),
                path=vm.path.value,
            )
            self._advance_ready(vm, load, now)
        elif now - vm.since > self.shape.boot_timeout_s:
            self._fail(vm, Reason.BOOT_TIMEOUT, now)
        elif vm.address is None:
            self._do(vm, self._find_address(vm), "address")

    def _advance_ready(self, vm: Vm, load: PoolLoad, now: float) -> None:
        if not is_sick(load.of(vm.name)):
            vm.sick_since = None
        elif vm.sick_since is None:
            vm.sick_since = now
        elif now - vm.sick_since > self.shape.boot_timeout_s:
            # as long as a whole boot may take: an overloaded replica must not be killed for it
            self._fail(vm, Reason.UNHEALTHY, now)
            return
        limit = self._limits.missing(vm, self._vcpus(vm))
        if limit is not None:
            self._do(vm, self._limit(vm, limit), "limit CPU")

    def _advance_draining(self, vm: Vm, load: PoolLoad, now: float) -> None:
        host = self._hosts[vm.host]
        if vm.shutdown_at is not None:
            if now - vm.shutdown_at > self.shape.shutdown_timeout_s:
                self._do(vm, host.destroy(vm.name), "destroy")
            return
        backend = load.of(vm.name)
        running = backend.in_flight if backend else 0
        overdue = now - vm.since > self.shape.drain_timeout_s
        if running == 0 or overdue:
            reason = Reason.DRAIN_TIMEOUT if running else Reason.DRAINED
            words = f"{running} requests cut at the deadline" if running else "no request left"
            self._note("vm.drained", vm, reason, f"{vm.name}: {words}; powering off")
            self._leave_pool(vm, reason)
            vm.shutdown_at = now
            self._do(vm, host.shutdown(vm.name), "shut down")
        elif vm.identity.phase != "draining":
            self._do(vm, self._remember_draining(vm), "mark")

    # --- growing

    def _launch_some(self, missing: int, reachable: Collection[str], now: float) -> None:
        room = self.max_existing - len(self._vms)
        booting = sum(vm.state in (VmState.DEFINED, VmState.BOOTING) for vm in self._vms.values())
        for _ in range(self._launches.how_many(missing, room, booting, now)):
            self._launch(reachable, now)
        words = self._launches.breaker_words(now) if room > 0 else None
        if words is not None:
            about = self.service
            self._note_happening(
                Happening("breaker.open", about, about, Reason.BREAKER_OPEN, words)
            )

    def _launch(self, reachable: Collection[str], now: float) -> None:
        host = choose_host(rooms(reachable, self._vms.values()))
        if host is None:
            return
        reason = self._launches.next_reason()
        uuid = self._new_id()
        identity = Identity(
            instance=self._instance,
            service=self.service,
            generation="",
            app_port=self.shape.app_port,
            cpu_limit=self.shape.cpu_limit,
            created_at=self._wall_clock(),
        )
        vm = Vm(f"{self.service[:12]}-{uuid.hex[:6]}", host, identity, now, now, reason=reason)
        self._vms[vm.name] = vm
        self._note("vm.launch", vm, reason, f"starting {vm.name} on {host}")
        self._do(vm, self._create(vm, uuid), "create")

    async def _create(self, vm: Vm, uuid: UUID) -> None:
        try:
            vm.identity = await self._hosts[vm.host].create(
                spec_of(vm, uuid, self.shape, self._boot_files())
            )
        except Exception as error:
            # whatever it is, a VM whose creation is over must not stay "being created" for ever
            if not isinstance(error, HypervisorError):
                log.exception("creating %s", vm.name)
            now = self._clock()
            vm.created_at = now
            if vm.state is not VmState.FAILED:  # a listing may have shown it dead before the answer
                self._fail(vm, Reason.LAUNCH_FAILED, now, detail=str(error))
            # refused: it does not exist. Anything else (a call that timed out): it may, so it is
            # kept as failed and destroyed until a listing shows that it is gone.
            if isinstance(error, DomainRefused):
                vm.move(VmState.GONE, now)
                del self._vms[vm.name]
            return
        vm.created_at = self._clock()
        if vm.state is VmState.DEFINED:
            vm.move(VmState.BOOTING, vm.created_at)
        await self._find_address(vm)

    async def _find_address(self, vm: Vm) -> None:
        address = await self._hosts[vm.host].address(vm.name, vm.identity)
        if address is not None and vm.state is VmState.BOOTING:
            vm.address = address
            self._emit(
                ScaleEvent(EventKind.JOIN, self.service, vm.name, vm.reason, address, vm.host)
            )

    def _vcpus(self, vm: Vm) -> int:
        return vm.sample.vcpus if vm.sample else self.shape.vcpus

    async def _limit(self, vm: Vm, cores: float) -> None:
        vm.limit_cores = None  # a call that times out may have set it, or not
        try:
            await self._hosts[vm.host].set_cpu_limit(vm.name, cores)
            vm.limit_cores = cores
        except LimitUnsupported as error:
            if vm.host not in self._limits.unsupported:
                self._limits.unsupported.add(vm.host)
                self._note("host.no_limits", vm, Reason.NO_CPU_LIMITS, f"{error}; going on without")

    # --- shrinking

    def _drain_one(self, reason: Reason, load: PoolLoad, now: float) -> None:
        victim = choose_victim(candidates(self._vms.values(), load, now))
        if victim is not None:
            self._drain(self._vms[victim], reason, now)

    def _drain(self, vm: Vm, reason: Reason, now: float) -> None:
        vm.move(VmState.DRAINING, now)
        self._emit(ScaleEvent(EventKind.DRAIN, self.service, vm.name, reason))
        self._note("vm.draining", vm, reason, f"{vm.name} takes no new request")

    async def _remember_draining(self, vm: Vm) -> None:
        identity = vm.identity.with_phase("draining")
        await self._hosts[vm.host].set_identity(vm.name, identity)
        vm.identity = identity

    # --- failing

    def _fail(self, vm: Vm, reason: Reason, now: float, detail: str = "") -> None:
        self._count_failure(vm, now)
        self._leave_pool(vm, reason)
        vm.move(VmState.FAILED, now)
        words = FAILURE_WORDS[reason]
        message = f"{vm.name} {words}" + (f": {detail}" if detail else "")
        if reason is Reason.BOOT_TIMEOUT:
            self._do(vm, self._fail_with_console(vm, message), "console")
        else:
            self._note("vm.failed", vm, reason, message)

    def _count_failure(self, vm: Vm, now: float) -> None:
        if vm.state in (VmState.DEFINED, VmState.BOOTING):
            self._launches.failed(now)
        elif vm.state is VmState.READY:
            self._launches.lost()

    async def _fail_with_console(self, vm: Vm, message: str) -> None:
        try:
            tail = await self._hosts[vm.host].console_tail(vm.name)
        except HypervisorError as error:
            tail = f"(no console: {error})"
        last = tail.strip().splitlines()[-1:] or ["(nothing)"]
        self._note(
            "vm.failed",
            vm,
            Reason.BOOT_TIMEOUT,
            f"{message} within {self.shape.boot_timeout_s:g} s; its console ends: {last[0]}",
            console=tail,
        )

    def _leave_pool(self, vm: Vm, reason: Reason) -> None:
        if vm.left_because is None:
            vm.left_because = reason
            self._emit(ScaleEvent(EventKind.LEAVE, self.service, vm.name, reason))

    # --- acting

    def _do(self, vm: Vm, work: Coroutine[Any, Any, None], what: str) -> None:
        """One libvirt call for one VM, beside us. After a failure the next tick tries again."""
        vm.busy = True
        self._spawn(self._done(vm, work, what), f"{what} {vm.name}")

    async def _done(self, vm: Vm, work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except NoSuchDomain:
            pass  # the next listing shows it gone
        except HypervisorError as error:
            log.warning("%s %s: %s", what, vm.name, error)
        finally:
            vm.busy = False

    def _note(
        self,
        kind: str,
        vm: Vm,
        reason: Reason,
        message: str,
        **data: float | int | str | bool | None,
    ) -> None:
        self._note_happening(
            Happening(kind, self.service, vm.name, reason, message, {"host": vm.host, **data})
        )
