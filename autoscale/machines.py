"""Which VMs of one service there are: listed, adopted, missed, failed, gone.

Owns the register, and that the pool hears of whoever leaves it. It must not decide how many there
should be, nor move one on in its life: `life` and `fleet` build on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import UUID

from autoscale.activations import Activations
from autoscale.acts import Acts, Check, Spawn, Told
from autoscale.backoff import LaunchGate
from autoscale.host import Domain, Hypervisor, HypervisorError, ImageUnavailable, PowerState
from autoscale.launches import Launches, Pause
from autoscale.limits import CpuLimits
from autoscale.model import (
    Answers,
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
    Way,
)
from autoscale.placement import choose_host, rooms
from autoscale.reserve import LOW_WEIGHT, Reserve, quickest
from autoscale.rollout import Rollout
from autoscale.scene import IN_PLACE, Scene
from autoscale.snapshots import Snapshots, key_of
from autoscale.turnover import Turnover
from autoscale.vm import (
    COPIED,
    FAILURE_WORDS,
    REFUSALS,
    BootFiles,
    Role,
    Vm,
    VmShape,
    count,
    path_of,
    role_of,
    who_serves,
)

log = logging.getLogger(__name__)

COPY_LIMIT_S = 10.0
"""A copy answers within 1.5 s, or not at all; booting is the other way, and must not wait for it as
long as for a boot."""


class Machines(Told):
    """The VMs of one service on all hosts, as far as anybody knows.

    `emit` carries membership changes to the pool and returns before anything else happens; `load`
    reads the pool; `note` writes the journal; `spawn` runs a coroutine beside us; `new_id` gives a
    fresh UUID; `boot_files` looks for the image at each launch and raises ImageUnavailable; `check`
    asks an application whether it is ready, `new_seed` gives 32 fresh random bytes.
    """

    def __init__(
        self,
        service: str,
        hosts: Mapping[str, Hypervisor],
        shape: VmShape,
        boot_files: Callable[[str], BootFiles],
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
        check: Check,
        new_seed: Callable[[], bytes],
        activated: Callable[[Path, float], None] = lambda _path, _seconds: None,
        answers: Callable[[str], Answers | None] = lambda _backend: None,
        rolled: Callable[[Rollout | None], None] = lambda _rollout: None,
    ) -> None:
        self.service = service
        self.shape = shape
        self.max_existing = max_existing
        """The most replicas, in whatever state; standbys and one more come on top."""
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
        self._answers = answers
        self._vms: dict[str, Vm] = {}
        self._acts = Acts(hosts, self, spawn, check, new_seed)
        self._launches = Launches()
        self._activations = Activations()
        self._limits = CpuLimits()
        self._reserve = Reserve()
        self._turnover = Turnover(self._about_rollout, rolled, self._generation)
        self._desired: int | None = None
        self._extra: int | None = None
        """What the last step went by: so many for the load, and so many more for a turnover. None
        before the first."""
        self._seen_hosts: set[str] = set()
        self._heard_at: dict[str, float] = {}
        """When each host was listed last."""
        self._silent: set[str] = set()
        """Hosts that were asked after that, and did not answer."""
        self._asking: dict[str, float] = {}
        """Hosts that are being asked what is saved there, and since when."""
        self.on_news: Callable[[], None] = lambda: None
        """Called when something came of a call that the next tick should not wait for."""

    # --- reading

    def counts(self) -> Fleet:
        """How many there are, by state, a launch under way included; and how more could come."""
        return count(
            self.service,
            self._vms.values(),
            self._load(),
            self.gate.failures,
            self._ways(),
            self._surge(),
        )

    def _surge(self) -> int:
        """So many are there only until those they replace have left."""
        on_trial = self._turnover.on_trial(self._vms.values())
        if on_trial:
            return on_trial
        if self._desired is None:
            return 0
        extra = self._extra
        if extra is None:  # a predecessor's: whoever it started in another's place is no one more
            extra = self._turnover.gap(self._scene(self._desired, self._clock())).extra
        alive = sum(vm.serves_or_will for vm in self._vms.values())
        return max(0, min(extra, alive - self._desired))

    def _scene(self, desired: int, now: float, silent: Collection[str] = ()) -> Scene:
        return Scene(
            self._vms.values(), self._load(), desired, now, self._wall_clock(),
            self.shape.max_lifetime_s, self.max_existing, silent,
        )  # fmt: skip

    def ready_names(self) -> tuple[str, ...]:
        return tuple(
            vm.name
            for vm in self._vms.values()
            if vm.state is VmState.READY and vm.role is Role.REPLICA
        )

    def serving_names(self) -> tuple[str, ...]:
        """Those whose CPU says how loaded the service is."""
        return who_serves(self._vms.values(), self._load())

    def statuses(self) -> tuple[VmStatus, ...]:
        wall_s = self._wall_clock()
        return tuple(vm.status(self.service, wall_s) for vm in self._vms.values())

    def get(self, name: str) -> Vm | None:
        return self._vms.get(name)

    def allowed_cores(self) -> Mapping[str, float]:
        """By VM, the host cores that its shape gives it, whatever it may use just now."""
        now, vms = self._clock(), self._vms.values()
        return {vm.name: self._limits.allowed_cores(vm, self._vcpus(vm), now) for vm in vms}

    @property
    def gate(self) -> LaunchGate:
        return self._launches.gate

    def pauses(self) -> tuple[Pause, ...]:
        """Launches that wait, because those before them failed: the service's, or a host's."""
        return self._launches.pauses(self._clock())

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

    @property
    def _snapshots(self) -> Snapshots:
        return self._reserve.snapshots

    def __repr__(self) -> str:
        counts = self.counts()
        return (
            f"<VmFleet {self.service}: {counts.ready} ready, {counts.booting} booting,"
            f" {counts.standby} on standby, {counts.draining} leaving>"
        )

    def _ways(self) -> tuple[Way, ...]:
        waiting = quickest(self._vms.values(), self._seen_hosts)
        ways: dict[Path, int | None] = {
            Path.STANDBY: sum(not vm.starting for vm in waiting),
            Path.COLD: None,
        }
        if self._next_is_copy(self._seen_hosts):
            ways[Path.SNAPSHOT] = None
        return self._activations.ways(ways)

    def _next_host(self, hosts: Collection[str]) -> str | None:
        """Where the next one would be started; None where no host would have it now."""
        key, hosts = self._snapshot_key(), self._taking(hosts)
        copies = [host for host in hosts if key is not None and self._snapshots.has(host, key)]
        return choose_host(rooms(hosts, self._vms.values(), copies))

    def _taking(self, hosts: Collection[str], *, serves: bool = True) -> list[str]:
        """Those of them that did not refuse a moment ago; `serves`: a replica, not a standby."""
        asked = {vm.host for vm in self._vms.values() if vm.state is VmState.DEFINED}
        now = self._clock()
        return [
            host
            for host in hosts
            if self._launches.takes(host, now, asked=host in asked, serves=serves)
        ]

    def _standing_image(self) -> str:
        return self._turnover.image(self.shape.image)

    def _generation(self, image: str) -> str | None:
        """Of this image as it is now; None where it cannot be read, which a launch will say."""
        try:
            return self._boot_files(image).generation
        except ImageUnavailable:
            return None

    def _next_is_copy(self, hosts: Collection[str]) -> bool:
        """Whether the next one that is started on one of these hosts would be a copy."""
        key, host = self._snapshot_key(), self._next_host(hosts)
        return key is not None and host is not None and self._snapshots.has(host, key)

    def _snapshot_key(self, image: str | None = None) -> str | None:
        """Under which a guest of this image, else of the one that stands, and of the present shape
        is saved; None where none is to be."""
        if not self.shape.snapshot:
            return None
        try:
            files = self._boot_files(self._standing_image() if image is None else image)
            # a copy would need the overlay as it was, and one for itself
            return None if files.own_disk else key_of(self.service, files, self.shape)
        except ImageUnavailable:
            return None  # a launch will say so

    # --- what is there

    def see(self, host: str, domains: Sequence[Domain], asked_at: float) -> None:
        """Take in one host's listing, asked for at `asked_at`: adopt, update, miss who is gone."""
        now = self._clock()
        self._seen_hosts.add(host)
        self._hear(host, now)
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
            # a listing asked for before the creation was answered says nothing of this VM; and one
            # that is being saved ends by that
            if vm.created_at is not None and vm.created_at < asked_at and not vm.is_being_saved:
                self._vanished(vm, now)

    def miss(self, host: str) -> None:
        """It was asked for its domains, and did not answer: nothing is known of what became of the
        VMs there, and nothing that hangs on it is decided until it is listed again."""
        self._silent.add(host)

    def _hear(self, host: str, now: float) -> None:
        """It answers. What it did not tell meanwhile is nobody's slowness: a boot there gets that
        time back."""
        if host in self._silent:
            self._silent.remove(host)
            silence = now - self._heard_at.get(host, now)
            for vm in self._vms.values():
                if vm.host == host and vm.state is VmState.BOOTING:
                    vm.since = min(now, vm.since + silence)
        self._heard_at[host] = now

    def _adopt(self, host: str, domain: Domain, now: float) -> None:
        vm = Vm(domain.name, host, domain.identity, now, now, created_at=now, adopted=True)
        vm.power, vm.sample = domain.power.value, domain.sample
        vm.role, vm.protected = role_of(domain.identity), domain.identity.protected
        vm.path = path_of(domain.identity)
        vm.introduced = domain.identity.phase != COPIED
        self._vms[vm.name] = vm
        vm.move(VmState.BOOTING, now)
        self._note("vm.adopted", vm, Reason.ADOPTED, f"{vm.name} found on {host}: taken over")
        if domain.power in (PowerState.OFF, PowerState.CRASHED):
            self._fail(vm, Reason.CRASHED, now)
        elif domain.identity.phase == "draining":
            vm.move(VmState.DRAINING, now)
        elif vm.role is Role.TEMPLATE:
            # nobody knows how far it came, nor of what image and shape it is
            self._drain(vm, Reason.SURPLUS, now)
        elif domain.power is PowerState.PAUSED:
            self._adopt_paused(vm, now)

    def _adopt_paused(self, vm: Vm, now: float) -> None:
        """It was suspended, or was about to be woken: a replica is, by the next step."""
        if not vm.introduced:
            self._fail(vm, Reason.CRASHED, now)  # nobody knows how far its copying came
            return
        vm.checked = True
        vm.weight = LOW_WEIGHT  # somebody else may have suspended it while it booted for later
        vm.move(VmState.READY, now)
        vm.move(VmState.STANDBY, now)

    def _vanished(self, vm: Vm, now: float) -> None:
        if vm.state in (VmState.DRAINING, VmState.FAILED):
            reason, words = vm.left_because or Reason.DRAINED, "gone"
        else:
            reason, words = Reason.CRASHED, FAILURE_WORDS[Reason.CRASHED]
            self._count_failure(vm, reason, now)
        self._leave_pool(vm, reason)
        self._forget(vm, now)
        self._note("vm.gone", vm, reason, f"{vm.name} {words}")
        self._acts.do(vm, self._hosts[vm.host].destroy(vm.name), "clean up")

    def _forget(self, vm: Vm, now: float) -> None:
        vm.move(VmState.GONE, now)
        del self._vms[vm.name]

    def measured(self, signals: Mapping[str, Signal]) -> None:
        """What each used, by name; whoever is not in it has no signal."""
        for vm in self._vms.values():
            vm.signal = signals.get(vm.name)

    # --- leaving

    def _fail(self, vm: Vm, reason: Reason, now: float, detail: str = "") -> None:
        self._count_failure(vm, reason, now, detail)
        vm.left_because = reason
        self._leave_pool(vm, reason)
        vm.move(VmState.FAILED, now)
        words = FAILURE_WORDS.get(reason, FAILURE_WORDS[Reason.LAUNCH_FAILED])
        if reason in (Reason.BOOT_TIMEOUT, Reason.NO_ADDRESS):
            words += f" within {self.boot_limit_s(vm):g} s"
        message = f"{vm.name} {words}" + (f": {detail}" if detail else "")
        if reason in (Reason.BOOT_TIMEOUT, Reason.NO_ADDRESS):
            self._acts.do(vm, self._fail_with_console(vm, reason, message), "console")
        else:
            self._note("vm.failed", vm, reason, message)

    def _count_failure(self, vm: Vm, reason: Reason, now: float, detail: str = "") -> None:
        why = detail or f"{vm.name} {FAILURE_WORDS.get(reason, '')}"
        if vm.starting and not vm.introduced and reason not in (*REFUSALS, Reason.IMAGE_GONE):
            # it came up, and never got so far as to hear its name: what it is a copy of is no good
            self._distrust_copies(vm, now)
        refused = vm.starting and reason in REFUSALS
        # memory, disk and ports are the host's; any other refusal may be for the image on trial
        its_own = not refused or (reason is Reason.LAUNCH_FAILED and self._turnover.tries(vm))
        if vm.role is Role.REPLICA and its_own and self._turnover.failed(vm, why, now):
            return  # it was on trial: no launch of what is known to be good has to wait for it
        if refused and not self._refused(vm, now, why):
            return  # another host may start it
        if vm.role is not Role.REPLICA:
            self._reserve.gate = self._reserve.gate.failed(now, why)
        elif refused and vm.reason in IN_PLACE:
            self._turnover.refused(now, why)
        elif vm.starting:
            self._launches.failed(now, why)
        elif vm.state in (VmState.READY, VmState.STANDBY):
            self._launches.lost()

    def _refused(self, vm: Vm, now: float, why: str) -> bool:
        """Its host would not start it. Returns whether no other is left to ask."""
        serves = vm.role is Role.REPLICA and vm.reason not in IN_PLACE
        able = set(self._hosts) - self._silent
        alone = self._launches.refused(vm.host, now, why, hosts=able, serves=serves)
        words = self._launches.host_words(vm.host, now, serves=serves)
        if words is not None and len(self._hosts) > 1:  # of the only one, the breaker says it
            self._about_host("host.backoff", vm.host, Reason.HOST_REFUSES, words)
        return alone

    def _about_rollout(self, kind: str, reason: Reason, message: str) -> None:
        self._note_happening(Happening(kind, self.service, self.service, reason, message))

    def _about_host(self, kind: str, host: str, reason: Reason, message: str) -> None:
        self._note_happening(Happening(kind, self.service, host, reason, message))

    def _distrust_copies(self, vm: Vm, now: float) -> None:
        key = vm.key or self._snapshot_key()
        if key is not None:
            self._snapshots.failed(vm.host, key, now)

    def boot_limit_s(self, vm: Vm) -> float:
        """So long it may take to be ready; a copy, to hear its name."""
        limit = self.shape.boot_timeout_s
        return limit if vm.introduced else min(limit, COPY_LIMIT_S)

    async def _fail_with_console(self, vm: Vm, reason: Reason, message: str) -> None:
        try:
            tail = await self._hosts[vm.host].console_tail(vm.name)
        except HypervisorError as error:
            tail = f"(no console: {error})"
        last = tail.strip().splitlines()[-1:] or ["(nothing)"]
        self._note(
            "vm.failed",
            vm,
            reason,
            f"{message}; its console ends: {last[0]}",
            console=tail,
        )

    def _leave_pool(self, vm: Vm, reason: Reason) -> None:
        vm.left_because = vm.left_because or reason
        if vm.joined:
            vm.joined = False
            self._emit(ScaleEvent(EventKind.LEAVE, self.service, vm.name, reason))

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

    def _join(self, vm: Vm) -> None:
        """Into the pool: at once, if its application was seen ready before."""
        vm.joined = True
        self._emit(
            ScaleEvent(
                EventKind.JOIN,
                self.service,
                vm.name,
                vm.reason,
                vm.address or "",
                vm.host,
                ready=vm.checked,
            )
        )

    def _drain(self, vm: Vm, reason: Reason, now: float) -> None:
        asleep = vm.state is VmState.STANDBY
        vm.move(VmState.DRAINING, now)
        if vm.role is not Role.REPLICA:
            vm.left_because = reason
        else:
            self._emit(ScaleEvent(EventKind.DRAIN, self.service, vm.name, reason))
        if asleep:
            vm.shutdown_at = now  # it serves nobody, and hears no power button
        self._note("vm.draining", vm, reason, f"{vm.name} takes no new request")

    def _vcpus(self, vm: Vm) -> int:
        return vm.sample.vcpus if vm.sample else self.shape.vcpus
