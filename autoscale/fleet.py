"""The VMs of one service, from launch to gone: level-triggered, one step a tick.

Owns how many there are: each tick compares what there is with what is wanted, starts by the
quickest way what is missing, lets go what is too many, and keeps the reserve; doing it twice does
no harm. It must not decide how many replicas there should be (`policy` does), nor judge a backend's
health (the pool does).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial

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
from autoscale.rollout import Phase
from autoscale.scene import Gap, Scene, overdue
from autoscale.turnover import Turnover
from autoscale.vm import COPIED, SERVING, Role, Vm, is_available

log = logging.getLogger(__name__)

LEARN_S = 2.0
"""So long growing waits for a host to say what is saved there: it takes a moment, and spares a
boot."""


SETTLED_S = 3.0
"""So long whoever has just come into service has the host's cores to himself: what queued up while
he was missing is worked off without another start beside it."""


class VmFleet(Life):
    """The VMs of one service on all hosts: see `Machines` for what it is made from."""

    _ending = False
    """`retire_all` was called for the step to come."""
    _said_protected = False
    """That nobody leaves because all who could are spared was told, and is so still."""

    @property
    def turnover(self) -> Turnover:
        """What is being replaced; its rollout is an operator's to begin and to end."""
        return self._turnover

    def step(self, decision: Decision, reachable: Collection[str]) -> None:
        """Move towards `decision`. `reachable`: the hosts that were listed in this tick. With one
        missing the fleet may grow (its VMs still count) but does not shrink."""
        self._limits.lifted = decision.burst
        ending, self._ending = self._ending, False
        self._reserve.wanted = self.shape.standby
        self.advance()
        now = self._clock()
        scene = self._scene(decision.desired, now, set(self._hosts) - set(reachable))
        if not ending:
            self._follow_rollout(scene)
        gap = self._gap(scene, ending=ending)
        self._desired, self._extra = decision.desired, gap.extra
        self._launches.decided(decision, gap.load)
        if self.all_hosts_seen and self.shape.snapshot and not ending:
            self._ask_what_is_saved(reachable, now)
        if gap.load > 0 and self.all_hosts_seen:
            self._grow(gap.load, reachable, now)
        elif gap.turn > 0 and self.all_hosts_seen:
            self._start_in_place(gap.turn, reachable, now)
        if set(reachable) >= set(self._hosts):
            self._shrink(gap.surplus, decision.reason, scene)
        if self.all_hosts_seen and not ending:
            self._replace(scene)
        if self.all_hosts_seen:
            calm = gap.load <= 0 and gap.surplus == 0 and not ending
            self._keep_reserve(reachable, calm=calm, kept=max(0, gap.turn), now=now)

    def wanted_before(self, desired: int) -> None:
        """So many an earlier process wanted. Call it before the first step: whoever is there beyond
        them, in the place of one that is to leave, is not taken for one more."""
        self._desired = desired

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

    def new_and_old(self) -> tuple[list[Vm], list[Vm]]:
        """Replicas in service: those that the last rollout brought, and the others. One that boots
        is neither yet."""
        serving = [
            vm for vm in self._vms.values() if vm.role is Role.REPLICA and vm.state is VmState.READY
        ]
        new = [vm for vm in serving if self._turnover.is_new(vm)]
        return new, [vm for vm in serving if not self._turnover.is_new(vm)]

    def rollout_ahead(self) -> tuple[str, float] | None:
        """See `Turnover.ahead`."""
        return self._turnover.ahead(self._clock())

    def try_anew(self) -> None:
        """An operator changed what is launched: what failed before tells nothing of it."""
        self._launches.succeeded()

    def protect(self, name: str, protected: bool) -> None:
        """Spare this one from scale-ins, rollouts and lifetimes, or no longer. Its metadata says so
        at once, or once the call that is under way for it is over."""
        vm = self._vms[name]
        vm.protected = protected
        if not vm.busy and not vm.is_marked and vm.state in (VmState.READY, VmState.STANDBY):
            self._acts.do(vm, self._acts.mark(vm), "mark")

    # --- turning over

    def _follow_rollout(self, scene: Scene) -> None:
        rollout = self._turnover.rollout
        if rollout is not None and rollout.goes_on:
            self._turnover.look(scene, self._answers)

    def _gap(self, scene: Scene, *, ending: bool) -> Gap:
        if not ending:
            return self._turnover.gap(scene)
        missing = scene.desired - sum(vm.serves_or_will for vm in self._vms.values())
        return Gap(missing, 0, max(0, -missing), 0)

    def _start_in_place(self, count: int, reachable: Collection[str], now: float) -> None:
        """So many more than the load needs, for those that are out of date to leave. Above the
        maximum too: only the bound of all VMs holds."""
        rollout = self._turnover.rollout
        image, reason = self._turnover.next_image(self.shape.image), Reason.MAX_LIFETIME
        if rollout is not None and rollout.goes_on:
            back = rollout.phase is Phase.ROLLING_BACK
            reason = Reason.ROLLBACK if back else Reason.ROLLOUT
        generation = self._generation(image)
        stale = self._stale(now)
        for vm in quickest(self._vms.values(), reachable):
            if count <= 0:
                return
            if not vm.starting and vm.generation == generation and vm.name not in stale:
                self._promote(vm, now, reason)
                count -= 1
        room = self._room_left() if self._turnover.gate.allows(now) else 0
        if rollout is not None and rollout.tries:
            many = min(count, room)
        else:
            booting = sum(vm.starting and vm.role is Role.REPLICA for vm in self._vms.values())
            many = self._launches.how_many(count, room, booting, now)
        for _ in range(many):
            host = self._next_host(self._taking(reachable, serves=False))
            if host is not None:
                self._launch(Role.REPLICA, reachable, now, host, image=image, reason=reason)

    def _replace(self, scene: Scene) -> None:
        for vm, reason in self._turnover.leaving(scene):
            self._drain(vm, reason, scene.now)
            rollout = self._turnover.rollout
            if rollout is not None and rollout.goes_on:
                new, old = map(len, self.new_and_old())
                words = f"{vm.name} leaves; {new} of {new + old} are of {rollout.image_to}"
                self._about_rollout("rollout.step", reason, words)

    def _stale(self, now: float) -> set[str]:
        """Standbys that should be others: of another image or cut than is started now, or past
        their lifetime."""
        reserved = [vm for vm in self._vms.values() if vm.in_reserve]
        generation = self._generation(self._standing_image()) if reserved else None
        scene, cut = self._scene(0, now), self.shape.cut
        return {
            vm.name
            for vm in reserved
            if (generation is not None and vm.generation and vm.generation != generation)
            or vm.identity.cut not in ("", cut)
            or overdue(vm, scene)
        }

    # --- growing

    def _grow(self, missing: int, reachable: Collection[str], now: float) -> None:
        """By the quickest way there is: wake, copy, boot."""
        room = self.max_existing + (self._extra or 0)
        room -= sum(vm.role is Role.REPLICA for vm in self._vms.values())
        copies = self._next_is_copy(reachable)
        for vm in quickest(self._vms.values(), reachable, self._stale(now)):
            if missing <= 0 or room <= 0:
                return
            if self._turnover.rejected(vm):
                continue
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

    def _promote(self, vm: Vm, now: float, reason: Reason | None = None) -> None:
        """One of the reserve becomes a replica."""
        vm.role, vm.reason = Role.REPLICA, reason or self._launches.next_reason()
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
        self,
        role: Role,
        reachable: Collection[str],
        now: float,
        host: str | None = None,
        *,
        image: str | None = None,
        reason: Reason | None = None,
    ) -> None:
        """`image`: None for the one that stands; `reason`: None for what was decided."""
        host = host or self._next_host(reachable)
        if host is None:
            return
        if reason is None:
            reason = Reason.RESERVED if role is not Role.REPLICA else self._launches.next_reason()
        image = self._standing_image() if image is None else image
        uuid = self._new_id()
        guest = self._snapshot_key(image)
        copied = (
            guest is not None and role is not Role.TEMPLATE and self._snapshots.has(host, guest)
        )
        key = guest if copied else None
        path = Path.COLD if key is None else Path.SNAPSHOT
        identity = Identity(
            instance=self._instance,
            service=self.service,
            generation=self._generation(image) or "",
            app_port=self.shape.app_port,
            cpu_limit=self.shape.cpu_limit,
            created_at=self._wall_clock(),
            phase=SERVING if key is None else COPIED,
            role=role.value,
            cut=self.shape.cut,
            path=path.value,
        )
        vm = Vm(f"{self.service[:12]}-{uuid.hex[:6]}", host, identity, now, now, reason=reason)
        vm.role, vm.introduced = role, key is None
        vm.key = guest if role is Role.TEMPLATE else key
        vm.path = path
        self._vms[vm.name] = vm
        self._note("vm.launch", vm, reason, f"starting {vm.name} on {host} ({role}, {vm.path})")
        files = partial(self._boot_files, image)
        self._acts.do(vm, self._acts.create(vm, uuid, self.shape, files, key), "create")

    # --- the reserve

    def _keep_reserve(
        self, reachable: Collection[str], *, calm: bool, kept: int, now: float
    ) -> None:
        """One thing at a time, and nothing at the price of those that serve. `kept`: of the room
        that is left, for who is to come in another's place."""
        reachable = self._taking(reachable, serves=False)
        calm = calm and all(
            vm.state is VmState.READY and now - vm.since >= SETTLED_S
            for vm in self._vms.values()
            if vm.serves_or_will
        )
        key = self._snapshot_key() if calm else None
        stale = self._stale(now) if calm else set()
        found = self._reserve.next(
            self._vms.values(),
            self._taking(reachable),
            key,
            calm=calm,
            room=self._room_left() - kept,
            now=now,
            stale=stale,
        )
        if found.drop is not None:
            reason = Reason.STALE if found.drop in stale else Reason.SURPLUS
            self._drain(self._vms[found.drop], reason, now)
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

    def _shrink(self, surplus: int, reason: Reason, scene: Scene) -> None:
        # one whose creation is under way goes as soon as it can be told: nobody who serves leaves
        # in its place
        surplus -= sum(vm.state is VmState.DEFINED for vm in self._dispensable())
        spared = 0
        for _ in range(surplus):
            spared += not self._drain_one(reason, self._load(), scene)
        if not spared:
            self._said_protected = False
        elif not self._said_protected:
            kept = [vm.name for vm in self._vms.values() if vm.serves_or_will and vm.protected]
            self._said_protected = bool(kept)
            if kept:
                words = f"nobody leaves, though {spared} could: {', '.join(kept)} protected"
                about = self.service
                self._note_happening(
                    Happening("scale.spared", about, about, Reason.PROTECTED, words)
                )

    def _dispensable(self) -> list[Vm]:
        """Replicas that may leave for there being too many. New ones on trial are not counted, so
        they are not too many either."""
        desired = self._desired or 0
        return [
            vm
            for vm in self._vms.values()
            if vm.serves_or_will and not vm.protected and not self._turnover.keeps(vm, desired)
        ]

    def _drain_one(self, reason: Reason, load: PoolLoad, scene: Scene) -> bool:
        """The one that is missed least: to the reserve, if it lacks one, else for good. Returns
        whether there is one."""
        vms = self._dispensable()
        outdated = {vm.name for vm in vms if self._turnover.outdated(vm, scene) is not None}
        serving = sum(is_available(vm, load) for vm in self._vms.values())
        waking = next((vm.name for vm in vms if vm.wakes), None)
        name = waking or choose_victim(
            candidates(vms, load, scene.now, outdated), old_first=serving > scene.desired
        )
        if name is None:
            return False
        vm = self._vms[name]
        lacking = sum(v.role is Role.STANDBY for v in self._vms.values()) < self._reserve.wanted
        if lacking and is_available(vm, load) and name not in outdated:
            self._rest(vm, reason, scene.now)
        else:
            self._drain(vm, reason, scene.now)
        return True

    def _rest(self, vm: Vm, reason: Reason, now: float) -> None:
        """It finishes its requests, and waits from then on."""
        vm.role, vm.checked, vm.since = Role.STANDBY, True, now
        self._emit(ScaleEvent(EventKind.DRAIN, self.service, vm.name, reason))
        self._note("vm.resting", vm, reason, f"{vm.name} takes no new request, and will be standby")
        if not vm.busy:
            self._acts.do(vm, self._acts.mark(vm), "mark")  # for a successor, who counts replicas
