"""The VMs of one service, from launch to gone: level-triggered, one step a tick.

Owns how many there are: each tick compares what there is with what is wanted, starts by the
quickest way what is missing, lets go what is too many, and keeps the reserve; doing it twice does
no harm. It must not decide how many replicas there should be (`policy` does), nor judge a backend's
health (the pool does).
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from autoscale.decision import Decision
from autoscale.domain_xml import Identity
from autoscale.host import HypervisorError
from autoscale.life import Life
from autoscale.model import (
    EventKind,
    Happening,
    Path,
    PoolLoad,
    Reason,
    ScaleEvent,
    VmState,
)
from autoscale.placement import candidates, choose_victim
from autoscale.reserve import quickest
from autoscale.vm import COPIED, SERVING, Role, Vm, is_available

log = logging.getLogger(__name__)

LEARN_S = 2.0
"""So long growing waits for a host to say what is saved there: it takes a moment, and spares a
boot."""


class VmFleet(Life):
    """The VMs of one service on all hosts: see `Machines` for what it is made from."""

    _ending = False
    """`retire_all` was called for the step to come."""

    def step(self, decision: Decision, reachable: Collection[str]) -> None:
        """Move towards `decision`. `reachable`: the hosts that were listed in this tick. With one
        missing the fleet may grow (its VMs still count) but does not shrink."""
        self._limits.lifted = decision.burst
        ending, self._ending = self._ending, False
        self._reserve.wanted = self.shape.standby
        self.advance()
        now = self._clock()
        missing = decision.desired - sum(vm.serves_or_will for vm in self._vms.values())
        self._launches.decided(decision, missing)
        if self.all_hosts_seen and self.shape.snapshot and not ending:
            self._ask_what_is_saved(reachable, now)
        if missing > 0 and self.all_hosts_seen:
            self._grow(missing, reachable, now)
        elif missing < 0 and set(reachable) >= set(self._hosts):
            # one whose creation is under way goes as soon as it can be told: nobody who serves
            # leaves in its place
            unborn = sum(vm.state is VmState.DEFINED for vm in self._vms.values())
            for _ in range(-missing - unborn):
                self._drain_one(decision.reason, self._load(), now)
        if self.all_hosts_seen:
            self._keep_reserve(reachable, calm=missing == 0 and not ending, now=now)

    def retire_all(self, reason: Reason) -> None:
        """Start draining every VM, those in reserve too: call it before each `step`, with desired
        0, until `counts().existing` is 0."""
        now = self._clock()
        self._ending = True
        for vm in self._vms.values():
            if vm.alive:
                self._drain(vm, reason, now)

    def retire(self, name: str, reason: Reason) -> None:
        """Start draining this one, whatever else is wanted: the steps to come replace it where it
        is still needed. Only for one that is alive."""
        self._drain(self._vms[name], reason, self._clock())

    # --- growing

    def _grow(self, missing: int, reachable: Collection[str], now: float) -> None:
        """By the quickest way there is: wake, copy, boot."""
        room = self.max_existing - sum(vm.role is Role.REPLICA for vm in self._vms.values())
        copies = self._next_is_copy(reachable)
        for vm in quickest(self._vms.values(), reachable):
            if missing <= 0 or room <= 0:
                return
            if vm.starting and copies:
                continue  # a copy is there sooner
            self._promote(vm, now)
            missing, room = missing - 1, room - 1
        if any(
            now - since < LEARN_S and not self._snapshots.knows(host)
            for host, since in self._asking.items()
        ):
            return  # in a moment it is known whether a copy will do
        room = min(room, self._room_left())
        booting = sum(vm.starting and vm.role is Role.REPLICA for vm in self._vms.values())
        for _ in range(self._launches.how_many(missing, room, booting, now)):
            self._launch(Role.REPLICA, reachable, now)
        words = self._launches.breaker_words(now) if room > 0 else None
        if words is not None:
            about = self.service
            self._note_happening(
                Happening("breaker.open", about, about, Reason.BREAKER_OPEN, words)
            )

    def _room_left(self) -> int:
        """How many VMs may still exist: replicas, standbys, and one that is on its way between."""
        return self.max_existing + self.shape.standby + 1 - len(self._vms)

    def _promote(self, vm: Vm, now: float) -> None:
        """One of the reserve becomes a replica."""
        vm.role, vm.reason = Role.REPLICA, self._launches.next_reason()
        vm.left_because, vm.adopted = None, False
        if vm.state is VmState.BOOTING:
            self._note("vm.launch", vm, vm.reason, f"{vm.name}, about to be on standby, will serve")
            if vm.address is not None:
                self._join(vm)
            return
        vm.path, vm.started_at = Path.STANDBY, now
        self._note("vm.wake", vm, vm.reason, f"waking {vm.name} on {vm.host}")
        if vm.joined:  # it still finishes requests: nobody has suspended it
            self._join(vm)
            self._serves(vm, now)
            return
        if vm.state is VmState.READY:
            vm.move(VmState.STANDBY, now)  # its suspension is under way, or may be
        if not vm.busy:  # else the next step wakes it
            self._acts.do(vm, self._acts.wake(vm), "wake")

    def _launch(
        self, role: Role, reachable: Collection[str], now: float, host: str | None = None
    ) -> None:
        host = host or self._next_host(reachable)
        if host is None:
            return
        reason = Reason.RESERVED if role is not Role.REPLICA else self._launches.next_reason()
        uuid = self._new_id()
        guest = self._snapshot_key()
        copied = (
            guest is not None and role is not Role.TEMPLATE and self._snapshots.has(host, guest)
        )
        key = guest if copied else None
        identity = Identity(
            instance=self._instance,
            service=self.service,
            generation="",
            app_port=self.shape.app_port,
            cpu_limit=self.shape.cpu_limit,
            created_at=self._wall_clock(),
            phase=SERVING if key is None else COPIED,
            role=role.value,
        )
        vm = Vm(f"{self.service[:12]}-{uuid.hex[:6]}", host, identity, now, now, reason=reason)
        vm.role, vm.introduced = role, key is None
        vm.key = guest if role is Role.TEMPLATE else key
        vm.path = Path.COLD if key is None else Path.SNAPSHOT
        self._vms[vm.name] = vm
        self._note("vm.launch", vm, reason, f"starting {vm.name} on {host} ({role}, {vm.path})")
        self._acts.do(vm, self._acts.create(vm, uuid, self.shape, self._boot_files, key), "create")

    # --- the reserve

    def _keep_reserve(self, reachable: Collection[str], *, calm: bool, now: float) -> None:
        """One thing at a time, and nothing at the price of those that serve."""
        calm = calm and all(
            vm.state is VmState.READY for vm in self._vms.values() if vm.serves_or_will
        )
        key = self._snapshot_key() if calm else None
        found = self._reserve.next(
            self._vms.values(), reachable, key, calm=calm, room=self._room_left(), now=now
        )
        if found.drop is not None:
            self._drop(self._vms[found.drop], now)
        elif found.start is not None:
            self._launch(found.start, reachable, now, found.host)

    def _ask_what_is_saved(self, hosts: Collection[str], now: float) -> None:
        for name in hosts:
            if self._snapshots.asked(name, now) or name in self._asking:
                continue
            info = self._hosts[name].info
            why = info.copies if info is not None else ""
            if why:
                if self._snapshots.never(name, why):
                    self._note_happening(
                        Happening("host.no_copies", self.service, name, Reason.NO_SNAPSHOTS, why)
                    )
                self._snapshots.found(name, (), now)
                continue
            self._asking[name] = now
            self._spawn(self._learn_saved(name), f"saved guests of {name}")

    async def _learn_saved(self, host: str) -> None:
        try:
            self._snapshots.found(host, await self._hosts[host].saved(), self._clock())
        except HypervisorError as error:
            log.warning("%s: %s", host, error)
            self._snapshots.silent(host, self._clock())  # where none was known, one is made
        finally:
            self._asking.pop(host, None)
            self.on_news()

    # --- shrinking

    def _drain_one(self, reason: Reason, load: PoolLoad, now: float) -> None:
        """The one that is missed least: to the reserve, if it lacks one, else for good."""
        vms = self._vms.values()
        waking = next((vm.name for vm in vms if vm.wakes), None)
        name = waking or choose_victim(
            candidates([vm for vm in vms if vm.role is Role.REPLICA], load, now)
        )
        if name is None:
            return
        vm = self._vms[name]
        lacking = sum(v.role is Role.STANDBY for v in vms) < self._reserve.wanted
        if lacking and is_available(vm, load):
            self._rest(vm, reason, now)
        else:
            self._drain(vm, reason, now)

    def _rest(self, vm: Vm, reason: Reason, now: float) -> None:
        """It finishes its requests, and waits from then on."""
        vm.role, vm.checked, vm.since = Role.STANDBY, True, now
        self._emit(ScaleEvent(EventKind.DRAIN, self.service, vm.name, reason))
        self._note("vm.resting", vm, reason, f"{vm.name} takes no new request, and will be standby")
        if not vm.busy:
            self._acts.do(vm, self._acts.mark(vm), "mark")  # for a successor, who counts replicas
