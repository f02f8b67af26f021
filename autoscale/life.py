"""One step on in the life of each VM: booting, ready, on standby, leaving; and what came of calls.

Owns when something is asked of a hypervisor for a VM that exists. It must not start one, nor decide
who leaves: that is `fleet`'s.
"""

from __future__ import annotations

from autoscale.addresses import no_address_fix
from autoscale.host import (
    DiskFull,
    DomainRefused,
    HypervisorError,
    LimitUnsupported,
    NoMemory,
    PowerState,
    SnapshotUnusable,
)
from autoscale.machines import Machines
from autoscale.model import Path, PoolLoad, Reason, VmState
from autoscale.reserve import LOW_WEIGHT, USUAL_WEIGHT
from autoscale.vm import SERVING, Role, Vm, is_sick

AWAKE_S = 2.0
"""A listing may be older than the suspension: a standby seen running is suspended again after."""
WAKE_LIMIT_S = 5.0
"""Waking takes milliseconds; one that takes this long is lost."""


class Life(Machines):
    """Every method returns at once: calls run beside us, and their ends come back as `Told`."""

    def advance(self) -> None:
        """Every VM one step on in its own life; none more, none fewer."""
        now, load = self._clock(), self._load()
        for vm in list(self._vms.values()):
            if vm.wakes and now - vm.started_at > WAKE_LIMIT_S:
                # a call that wakes it may still be under way: a hung one must not hold us up
                self._fail(vm, Reason.LAUNCH_FAILED, now, "it does not wake")
            if not vm.busy:
                self._advance(vm, load, now)

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
                if vm.role is Role.REPLICA:
                    self._advance_ready(vm, load, now)
                else:
                    self._advance_reserved(vm, load, now)
            case VmState.STANDBY:
                self._advance_standby(vm, now)
            case VmState.DRAINING:
                self._advance_draining(vm, load, now)
            case VmState.FAILED:
                self._acts.do(vm, self._hosts[vm.host].destroy(vm.name), "destroy")
            case _:
                pass

    def _advance_booting(self, vm: Vm, load: PoolLoad, now: float) -> None:
        backend = load.of(vm.name)
        if vm.role is Role.REPLICA and backend is not None and backend.passes:
            vm.move(VmState.READY, now)
            self._serves(vm, now)
            self._advance_ready(vm, load, now)
        elif vm.role is not Role.REPLICA and vm.checked:
            vm.move(VmState.READY, now)
            self._advance_reserved(vm, load, now)
        elif now - vm.since > self.boot_limit_s(vm) and vm.host not in self._silent:
            self._never_ready(vm, now)
        elif vm.role is Role.REPLICA and vm.weight == LOW_WEIGHT:
            self._acts.do(vm, self._acts.weigh(vm, USUAL_WEIGHT), "weigh")  # it is wanted now
        elif vm.role is not Role.REPLICA and vm.weight is None:
            self._acts.do(vm, self._acts.weigh(vm, LOW_WEIGHT), "weigh")
        elif vm.address is None or not vm.introduced or vm.role is not Role.REPLICA:
            self._acts.do(vm, self._acts.prepare(vm), "prepare")

    def _never_ready(self, vm: Vm, now: float) -> None:
        if not vm.introduced:  # its address counts for nothing before it knows its name
            self._fail(vm, Reason.BOOT_TIMEOUT, now, "its agent never took its name")
            return
        if vm.address is not None:
            self._fail(vm, Reason.BOOT_TIMEOUT, now)
            return
        info = self._hosts[vm.host].info
        self._fail(vm, Reason.NO_ADDRESS, now, no_address_fix(info.network if info else ""))

    def _serves(self, vm: Vm, now: float) -> None:
        took = now - vm.started_at
        self._turnover.serves(vm)
        if vm.adopted:
            # who asked for it is gone, and with him how long it took; how old it is is known
            age_s = vm.age_s(self._wall_clock())
            words = f"adopted: {vm.name} serves at {vm.address}, {age_s:.0f} s old ({vm.path})"
            self._note("vm.ready", vm, vm.reason, words, path=vm.path.value)
            return
        self._activations.add(vm.path, took)
        self._activated(vm.path, took)
        if vm.path is not Path.STANDBY and self._launches.succeeded():
            self._note(
                "breaker.closed", vm, Reason.BREAKER_CLOSED, f"{vm.name} serves: launches go on"
            )
        self._note(
            "vm.ready",
            vm,
            vm.reason,
            f"{vm.name} serves at {vm.address}, {took:.3g} s after it was asked for ({vm.path})",
            seconds=round(took, 3),
            path=vm.path.value,
        )

    def _advance_ready(self, vm: Vm, load: PoolLoad, now: float) -> None:
        if not is_sick(load.of(vm.name)):
            vm.sick_since = None
        elif vm.sick_since is None:
            vm.sick_since = now
        elif now - vm.sick_since > self.shape.boot_timeout_s:
            # as long as a whole boot may take: an overloaded replica must not be killed for it
            self._fail(vm, Reason.UNHEALTHY, now)
            return
        limit = self._limits.missing(vm, self._vcpus(vm), now)
        if vm.power == PowerState.PAUSED:
            # a suspension that was given up, and came all the same
            self._acts.do(vm, self._acts.wake(vm), "wake")
        elif vm.weight == LOW_WEIGHT:
            # before the metadata says replica: a successor takes a replica's for the usual one
            self._acts.do(vm, self._acts.weigh(vm, USUAL_WEIGHT), "weigh")
        elif vm.identity.phase != SERVING or not vm.is_marked:
            self._acts.do(vm, self._acts.mark(vm), "mark")
        elif limit is not None:
            self._acts.do(vm, self._acts.limit(vm, limit), "limit CPU")

    def _advance_reserved(self, vm: Vm, load: PoolLoad, now: float) -> None:
        """It is ready and serves nobody, or will soon: on to its place in the reserve."""
        if vm.role is Role.TEMPLATE:
            if vm.key is None or vm.key != self._snapshot_key():
                self._drop(vm, now)  # image or shape changed meanwhile
            else:
                self._acts.do(vm, self._acts.save(vm, vm.key), "save")
            return
        backend = load.of(vm.name)
        overdue = now - vm.since > self.shape.drain_timeout_s
        if backend is not None and backend.in_flight and not overdue:
            if vm.identity.role != vm.role:
                self._acts.do(vm, self._acts.mark(vm), "mark")
            return
        self._leave_pool(vm, Reason.RESERVED)
        if vm.weight == LOW_WEIGHT:
            # before it sleeps: waking has no time for it
            self._acts.do(vm, self._acts.weigh(vm, USUAL_WEIGHT), "weigh")
        elif vm.limit_cores is not None:
            self._acts.do(vm, self._acts.limit(vm, None), "lift the CPU limit of")
        else:
            self._acts.do(vm, self._acts.rest(vm), "suspend")

    def _advance_standby(self, vm: Vm, now: float) -> None:
        if vm.role is Role.STANDBY:
            if vm.power == PowerState.RUNNING and now - vm.since > AWAKE_S:
                self._acts.do(vm, self._acts.rest(vm), "suspend")
            elif vm.weight == LOW_WEIGHT:
                self._acts.do(vm, self._acts.weigh(vm, USUAL_WEIGHT), "weigh")
            elif not vm.is_marked:
                self._acts.do(vm, self._acts.mark(vm), "mark")
        else:
            self._acts.do(vm, self._acts.wake(vm), "wake")

    def _advance_draining(self, vm: Vm, load: PoolLoad, now: float) -> None:
        host = self._hosts[vm.host]
        if vm.shutdown_at is not None:
            asleep = vm.power == PowerState.PAUSED  # it hears no power button
            if asleep or now - vm.shutdown_at > self.shape.shutdown_timeout_s:
                self._acts.do(vm, host.destroy(vm.name), "destroy")
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
            self._acts.do(vm, host.shutdown(vm.name), "shut down")
        elif vm.identity.phase != "draining":
            self._acts.do(vm, self._acts.mark_draining(vm), "mark")

    # --- what came of a call: `acts.Told`

    def created(self, vm: Vm) -> None:
        vm.created_at = self._clock()
        if self._launches.taken(vm.host):
            words = f"{vm.host} started {vm.name}: launches go on there"
            self._about_host("breaker.closed", vm.host, Reason.BREAKER_CLOSED, words)
        if vm.state is VmState.DEFINED:
            vm.move(VmState.BOOTING, vm.created_at)
            self._note("vm.booting", vm, vm.reason, f"{vm.name} exists on {vm.host}, and starts")

    def not_created(self, vm: Vm, error: Exception, *, exists: bool) -> None:
        now = self._clock()
        vm.created_at = now
        if vm.state is not VmState.FAILED:  # a listing may have shown it dead before the answer
            reason = error.reason if isinstance(error, DomainRefused) else Reason.LAUNCH_FAILED
            self._fail(vm, reason, now, detail=str(error))
        # one that may exist is kept as failed and destroyed until a listing shows that it is gone
        if not exists:
            self._forget(vm, now)

    def no_copy(self, vm: Vm, error: SnapshotUnusable) -> None:
        """Another way has to do: that is no failed launch, and the next tick takes it."""
        now = self._clock()
        self._distrust_copies(vm, now)
        self._note("vm.no_copy", vm, Reason.NO_SNAPSHOTS, f"{error}; booting instead")
        vm.created_at = now
        self._leave_pool(vm, Reason.NO_SNAPSHOTS)
        if vm.state is not VmState.FAILED:
            vm.move(VmState.FAILED, now)
        self._forget(vm, now)
        self.on_news()

    def has_address(self, vm: Vm, address: str) -> None:
        if vm.state is not VmState.BOOTING:
            return
        vm.address = address
        if vm.role is Role.REPLICA:
            self._join(vm)

    def woken(self, vm: Vm) -> None:
        if not vm.wakes:
            return
        now = self._clock()
        vm.power = PowerState.RUNNING.value
        vm.move(VmState.READY, now)
        self._join(vm)
        self._serves(vm, now)

    def rests(self, vm: Vm) -> None:
        if vm.state is VmState.READY:
            self._reserve.gate = self._reserve.gate.succeeded()
            vm.power = PowerState.PAUSED.value
            vm.move(VmState.STANDBY, self._clock())
            self._note("vm.standby", vm, Reason.RESERVED, f"{vm.name} waits, suspended")

    def saved(self, vm: Vm, key: str) -> None:
        now = self._clock()
        self._snapshots.made(vm.host, key)
        self._reserve.gate = self._reserve.gate.succeeded()
        vm.left_because = Reason.RESERVED
        if vm.state is not VmState.READY:  # a listing showed it gone before the answer
            return
        self._forget(vm, now)
        self._note(
            "snapshot.made",
            vm,
            Reason.RESERVED,
            f"{vm.host} can start copies of a saved guest now, {now - vm.started_at:.1f} s after"
            " it was begun",
        )

    def not_saved(self, vm: Vm, key: str, error: HypervisorError) -> None:
        now = self._clock()
        self._snapshots.failed(vm.host, key, now)
        reason = error.reason if isinstance(error, DiskFull | NoMemory) else Reason.NO_SNAPSHOTS
        self._note("snapshot.failed", vm, reason, f"{error}; booting goes on")
        if vm.state is VmState.READY:
            self._drop(vm, now)

    def no_limits(self, vm: Vm, error: LimitUnsupported) -> None:
        if vm.host not in self._limits.unsupported:
            self._limits.unsupported.add(vm.host)
            self._note("host.no_limits", vm, Reason.NO_CPU_LIMITS, f"{error}; going on without")

    def _drop(self, vm: Vm, now: float) -> None:
        """It is not needed any more, and serves nobody."""
        self._drain(vm, Reason.SURPLUS, now)
