"""Replicas that are out of date, and others in their place: how many more are started for it, with
what image, and who leaves next. Pure: time and what is there are arguments.

One mechanism for a rollout, for its way back, and for VMs past their lifetime: one more is started
than the load needs, and once it has been in service for a while, one that is out of date drains.
Owns the rollout's trial and its progress. It must not start or end a VM itself: that is `fleet`'s.

While a rollout's first new replicas are on trial they are not counted on: the load has as many old
ones as it needs, those that are lost come back as old ones, and what fails to boot stops nobody
else's launch. Once judged good, everything that starts is new, and old ones leave one by one; the
comparison goes on to the end. This is what Argo Rollouts calls a canary with background analysis,
and its numbers of replicas are those of a Kubernetes Deployment with maxUnavailable = 0.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection

from autoscale.backoff import LaunchGate
from autoscale.canary import FAILURES, MIN_ANSWERS, Comparison, Losses, why_worse
from autoscale.model import Answers, Reason, VmState
from autoscale.rollout import ImpossibleStep, Phase, Rollout
from autoscale.scene import IN_PLACE, Gap, Scene, can_be_told, overdue, surge_of, who_first
from autoscale.vm import Role, Vm, is_available

FIT_AFTER_S = 15.0
"""In service for so long without a break, enough answers to compare, and no worse: good."""
QUIET_FIT_S = 30.0
"""The same where hardly anybody asks: then it is the probes that say so."""
TRIAL_S = 120.0
"""One that came into service and has not stayed there for as long as above by then is worse."""
SETTLED_S = 5.0
"""A fresh one counts as serving once it has done so for this long."""
STUCK_S = 600.0
"""Without any step for so long it gives up, as a Deployment's progressDeadlineSeconds has it."""

Told = Callable[[str, Reason, str], None]
"""A line for the journal: kind, reason, words."""


class Turnover:
    """Of one service. Mutable, and only `fleet` writes it.

    `changed` hears of every new state of the rollout, None where it is over and forgotten;
    `generation_of` is an image's checksum as it is now, None where it cannot be loaded.
    """

    def __init__(
        self,
        told: Told,
        changed: Callable[[Rollout | None], None],
        generation_of: Callable[[str], str | None],
    ) -> None:
        self.rollout: Rollout | None = None
        self.gate = LaunchGate()
        """Of those started in another's place: that they fail must not stop the load's launches."""
        self._told = told
        self._changed = changed
        self._generation_of = generation_of
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._comparison = Comparison()
        self._losses = Losses()
        self._served_at: float | None = None
        self._passing_since: float | None = None
        self._step_at: float | None = None
        self._said_protected = False
        self.gate = LaunchGate()

    # --- what an operator, the configuration or an earlier process says

    def remember(self, rollout: Rollout | None) -> None:
        """Go on from what an earlier process knew."""
        self.rollout = rollout
        self._begin_anew()

    def begin(self, rollout: Rollout) -> None:
        self._begin_anew()
        self._set(rollout)
        words = f"from {rollout.image_from} to {rollout.image_to}"
        self._told("rollout.started", Reason.OPERATOR, f"a rollout begins, {words}")

    def pause(self) -> None:
        """Raises ImpossibleStep, as the next two do."""
        self._pause("an operator paused it", Reason.OPERATOR)

    def resume(self) -> None:
        self._set(self._there().resume())
        self._step_at = None
        self._told("rollout.resumed", Reason.OPERATOR, f"on to {self._there().image_to}")

    def undo(self) -> None:
        rollout, why = self._there(), "an operator takes it back"
        if rollout.go_back(why, failed=False).approved and not self._has_image_before():
            raise ImpossibleStep(
                f"image {rollout.image_from} cannot be loaded, so nothing could take the place of"
                f" {rollout.image_to}: bring it back, or roll out another of `lbctl image list`"
            )
        self._go_back(why, failed=False)

    def forget(self) -> None:
        """The service has no VMs any more: whoever takes its name later was told nothing."""
        if self.rollout is not None:
            self.remember(None)
            self._changed(None)

    @property
    def replaceable(self) -> bool:
        """Another rollout may begin in its stead: it is over, or on its way back, or stands still
        with no way back."""
        rollout = self.rollout
        if rollout is None or not rollout.goes_on or rollout.phase is Phase.ROLLING_BACK:
            return True
        return rollout.phase is Phase.PAUSED and not (
            rollout.can_go_back and self._has_image_before()
        )

    def _has_image_before(self) -> bool:
        return self._generation_of(self._there().image_from) is not None

    def configured(self, image: str) -> None:
        """The configuration names this image: where it is another one than when the rollout began,
        it has the last word."""
        rollout = self.rollout
        if rollout is None or rollout.configured == image:
            return
        over = "is put aside" if rollout.goes_on else "is forgotten"
        self.rollout = None
        self._changed(None)
        self._told(
            "rollout.dropped",
            Reason.OPERATOR,
            f"the configuration says image = {image} now: the rollout to {rollout.image_to} {over}",
        )

    def _there(self) -> Rollout:
        if self.rollout is None:
            raise ImpossibleStep("there is no rollout")
        return self.rollout

    def _set(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self._changed(rollout)

    def ahead(self, now: float) -> tuple[str, float] | None:
        """What becomes of it without another step, and in how many seconds at the latest; None
        where nothing is to be waited for."""
        rollout = self.rollout
        if rollout is None or rollout.phase is not Phase.RUNNING:
            return None
        if rollout.tries and self._passing_since is not None:
            return "judged within", max(0.0, self._passing_since + QUIET_FIT_S - now)
        stuck_s = (now if self._step_at is None else self._step_at) + STUCK_S - now
        if not rollout.tries:
            return "pauses without another step in", max(0.0, stuck_s)
        if self._served_at is not None:
            stuck_s = min(stuck_s, self._served_at + TRIAL_S - now)
        return "given up without another step in", max(0.0, stuck_s)

    # --- which image

    def image(self, configured: str) -> str:
        """For the load, for whoever was lost, and for the reserve."""
        return self.rollout.image if self.rollout is not None else configured

    def next_image(self, configured: str) -> str:
        """In place of one that is out of date."""
        return self.rollout.next_image if self.rollout is not None else configured

    def rejected(self, vm: Vm) -> bool:
        """It is of an image that was rolled back: better nobody than it."""
        rollout = self.rollout
        return (
            rollout is not None
            and rollout.phase in (Phase.ROLLING_BACK, Phase.UNDONE, Phase.FAILED)
            and rollout.can_go_back
            and vm.generation == rollout.generation
        )

    def is_new(self, vm: Vm) -> bool:
        rollout = self.rollout
        return rollout is not None and vm.generation == rollout.generation

    def on_trial(self, vms: Collection[Vm]) -> int:
        """How many are not counted on yet."""
        return sum(vm.serves_or_will and self.tries(vm) for vm in vms)

    def tries(self, vm: Vm) -> bool:
        """It is not counted on yet."""
        rollout = self.rollout
        return rollout is not None and rollout.tries and rollout.can_go_back and self.is_new(vm)

    def keeps(self, vm: Vm, desired: int) -> bool:
        """It is no replica too many, though the load has enough: it is on trial. Where that is
        paused and nobody is wanted, it is one too many as any other."""
        return self.tries(vm) and not self._rests(desired)

    def _rests(self, desired: int) -> bool:
        return not desired and self.rollout is not None and self.rollout.phase is Phase.PAUSED

    # --- who is out of date, and how many that makes

    def outdated(self, vm: Vm, scene: Scene) -> Reason | None:
        """Why it should be replaced; None: it is as it should be, or not known yet."""
        rollout = self.rollout
        if rollout is None or not rollout.goes_on:
            return Reason.MAX_LIFETIME if overdue(vm, scene) else None
        if not vm.generation:
            return None
        new = vm.generation == rollout.generation
        if rollout.phase is Phase.ROLLING_BACK:
            return Reason.ROLLBACK if new else None
        return None if new else Reason.ROLLOUT

    def gap(self, scene: Scene) -> Gap:
        alive = [vm for vm in scene.vms if vm.serves_or_will]
        rollout = self.rollout
        resting = self._rests(scene.desired)
        if rollout is not None and rollout.tries and rollout.can_go_back and not resting:
            new = sum(self.is_new(vm) for vm in alive)
            most = surge_of(rollout, scene)
            extra = most if rollout.phase is Phase.RUNNING else min(new, most)
            load = scene.desired - (len(alive) - new)
            return Gap(load, extra - new, max(0, -load), extra)
        counted = self._counted(alive, scene)
        extra = 0 if resting else self._extra(counted, scene)
        load = scene.desired - len(counted)
        aside = len(alive) - len(counted)
        return Gap(load, load + extra, max(0, -load - extra), extra + aside)

    def _counted(self, alive: list[Vm], scene: Scene) -> list[Vm]:
        """Those that the load counts on. What goes back but is protected is not counted, as far as
        there is room for others: no good one leaves in its place."""
        rollout = self.rollout
        if rollout is None or rollout.phase is not Phase.ROLLING_BACK:
            return alive
        room = scene.most + 1 - scene.desired - min(1, len(self._can_go(alive, scene)))
        spared = [vm.name for vm in alive if vm.protected and self.is_new(vm)]
        aside = spared[: max(0, room)]
        return [vm for vm in alive if vm.name not in aside]

    def _extra(self, alive: list[Vm], scene: Scene) -> int:
        rollout = self.rollout
        out = len(self._can_go(alive, scene))
        if rollout is None or not rollout.goes_on:
            return min(1, out)
        most = surge_of(rollout, scene)
        surplus = max(0, len(alive) - scene.desired)
        if rollout.phase is Phase.PAUSED:
            return min(most, surplus)
        if rollout.tries:  # built anew under its own name: what is there counts, whichever it is
            return most if out or not alive else 0
        return min(most, out, surplus + self._until_pause(alive, scene))

    def _until_pause(self, alive: list[Vm], scene: Scene) -> int:
        """So many more may be new before it is to pause; once it is 0, it does so as soon as nobody
        is there in another's place."""
        rollout = self.rollout
        if rollout is None or rollout.phase is not Phase.RUNNING or rollout.pause_at is None:
            return sys.maxsize
        new = sum(self.is_new(vm) for vm in alive)
        return max(0, max(1, math.ceil(rollout.pause_at * scene.desired)) - new)

    def _can_go(self, vms: Collection[Vm], scene: Scene) -> list[Vm]:
        return [vm for vm in vms if not vm.protected and self.outdated(vm, scene) is not None]

    def leaving(self, scene: Scene) -> list[tuple[Vm, Reason]]:
        """Who drains now, because enough others serve; and why."""
        rollout = self.rollout
        alive = [vm for vm in scene.vms if vm.serves_or_will]
        if rollout is not None and rollout.tries:
            return [(vm, Reason.ROLLOUT) for vm in self._in_the_way(alive, scene)]
        if rollout is not None and rollout.phase is Phase.PAUSED:
            return []
        counted = self._counted(alive, scene)
        # of those on a host that does not answer nobody knows more than that they serve
        left = sum(vm.host not in scene.silent or is_available(vm, scene.load) for vm in counted)
        left -= scene.desired
        spare = sum(self._counts(vm, scene) for vm in counted) - scene.desired
        found = []
        for vm in sorted(self._can_go(counted, scene), key=lambda vm: who_first(vm, scene)):
            serves = is_available(vm, scene.load)
            # one that does not serve may be about to, after a restart of ours: it leaves where
            # enough others do
            if left <= 0 or spare < serves:
                break
            if can_be_told(vm, scene):
                left, spare = left - 1, spare - serves
                found.append((vm, self.outdated(vm, scene) or Reason.ROLLOUT))
        if found:
            self._step_at = scene.now
        return found

    def _in_the_way(self, alive: list[Vm], scene: Scene) -> list[Vm]:
        """Those on trial that take the room of what the load needs; not one that serves as long as
        fewer than the load needs do."""
        gap = self.gap(scene)
        if gap.load <= 0 or gap.turn >= 0 or not self.on_trial(alive):
            return []
        new = [vm for vm in alive if self.is_new(vm) and not vm.protected]
        first = sorted(new, key=lambda vm: who_first(vm, scene))
        spare = max(0, sum(is_available(vm, scene.load) for vm in alive) - scene.desired)
        idle = [vm for vm in first if not is_available(vm, scene.load)]
        may = [*idle, *[vm for vm in first if is_available(vm, scene.load)][:spare]]
        return [vm for vm in may if can_be_told(vm, scene)][: -gap.turn]

    def _counts(self, vm: Vm, scene: Scene) -> bool:
        """It serves, and if it is fresh, has done so for a while."""
        proven = scene.now - vm.since >= SETTLED_S or self.outdated(vm, scene) is not None
        return proven and is_available(vm, scene.load)

    # --- how the rollout goes

    def failed(self, vm: Vm, why: str, now: float) -> bool:
        """A new one did not get ready, or was lost. Returns whether it was on trial: then that is
        nobody else's affair."""
        rollout = self.rollout
        if rollout is None or not self.is_new(vm) or not rollout.goes_on:
            return False
        self._losses.add(vm.host, None if vm.starting else now - vm.since, why, now)
        if self.tries(vm):
            self.refused(now, why)
            return True
        return False

    def refused(self, now: float, why: str) -> None:
        """One in another's place could not be started: the next one waits."""
        self.gate = self.gate.failed(now, why)

    def serves(self, vm: Vm) -> None:
        """One came into service."""
        if self.is_new(vm) or vm.reason in IN_PLACE:
            self._losses.born()
            self.gate = self.gate.succeeded()

    def look(self, scene: Scene, answers: Callable[[str], Answers | None]) -> None:
        """Take in how the new ones do, and let the rollout go on, pause, turn back or end by it."""
        rollout = self.rollout
        if rollout is None or not rollout.goes_on:
            return
        if self._step_at is None:
            self._step_at = scene.now
        replicas = [vm for vm in scene.vms if vm.role is Role.REPLICA]
        if rollout.phase is Phase.ROLLING_BACK:
            self._look_back(replicas)
            return
        self._read(replicas, answers, scene)
        why = self._why_worse(scene, replicas)
        if why:
            self._go_back(why, failed=True)
            return
        if rollout.tries:
            self._try(replicas, scene)
        elif rollout.phase is Phase.RUNNING:
            self._go_on(replicas, scene)
        self._watch_progress(replicas, scene)

    def _look_back(self, replicas: list[Vm]) -> None:
        left = [vm for vm in replicas if self.is_new(vm)]
        if not left:
            self._ended()
        elif self._there().approved and not self._has_image_before():
            self._strand(self._there().why)
        self._wait_for_protected(left, replicas)

    def _read(
        self, replicas: list[Vm], answers: Callable[[str], Answers | None], scene: Scene
    ) -> None:
        """Nothing is compared before a new one is in the pool."""
        if not any(vm.joined and self.is_new(vm) for vm in replicas):
            return
        for vm in replicas:
            told = answers(vm.name)
            if told is not None:
                served_s = scene.now - vm.since if vm.state is VmState.READY else 0.0
                self._comparison.read(vm.name, told, new=self.is_new(vm), served_s=served_s)

    def _why_worse(self, scene: Scene, replicas: list[Vm]) -> str:
        rollout = self._there()
        generation = self._generation_of(rollout.image_to)
        if generation is None:
            return f"image {rollout.image_to} cannot be loaded"
        if generation != rollout.generation:
            return f"image {rollout.image_to} was built anew meanwhile"
        since = [vm.since for vm in replicas if vm.state is VmState.READY and self.is_new(vm)]
        self._losses.serve(since, scene.now)
        if self._losses.count >= FAILURES:
            return f"{self._losses.count} new ones in a row failed; the last: {self._losses.why}"
        return why_worse(self._comparison.new(), self._comparison.old())

    def _try(self, replicas: list[Vm], scene: Scene) -> None:
        """The first new ones are judged."""
        serves = any(self.is_new(vm) and is_available(vm, scene.load) for vm in replicas)
        if not serves:
            self._passing_since = None
        elif self._passing_since is None:
            self._passing_since = scene.now
        if serves and self._served_at is None:
            self._served_at = scene.now
        new, old = self._comparison.new(), self._comparison.old()
        if self._passing_since is not None:
            comparable = min(sum(new.durations), sum(old.durations)) >= MIN_ANSWERS
            enough_s = FIT_AFTER_S if comparable else QUIET_FIT_S
            if scene.now - self._passing_since >= enough_s:
                self._losses, self._step_at = Losses(), scene.now
                self._set(self._there().approve())
                words = f"the first of image {self._there().image_to} did no worse than the others"
                self._told("rollout.judged", Reason.ROLLOUT, f"{words}, {new.asked} answers heard")
                return
        if self._served_at is not None and scene.now - self._served_at > TRIAL_S:
            self._go_back(f"no new one stayed in service for {FIT_AFTER_S:g} s", failed=True)

    def _go_on(self, replicas: list[Vm], scene: Scene) -> None:
        out = [vm for vm in replicas if self.outdated(vm, scene) is not None]
        alive = [vm for vm in replicas if vm.serves_or_will]
        waiting = [vm for vm in out if vm.serves_or_will]
        if not out and not self._behind(scene):
            self._ended()
        elif waiting and not self._until_pause(alive, scene) and len(alive) <= scene.desired:
            new = sum(self.is_new(vm) for vm in alive)
            self._pause(f"{new} of {len(alive)} are new, as was ordered", Reason.ROLLOUT)
        else:
            self._wait_for_protected(out, replicas)

    def _behind(self, scene: Scene) -> list[Vm]:
        """Those in reserve that would bring the old image back: the fleet replaces them in calm."""
        return [vm for vm in scene.vms if vm.in_reserve and self.outdated(vm, scene) is not None]

    def _wait_for_protected(self, out: list[Vm], replicas: list[Vm]) -> None:
        """Said once, when nobody else is left to be replaced."""
        if self._said_protected or not out or not all(vm.protected for vm in out):
            return
        self._said_protected = True
        names, alive = ", ".join(vm.name for vm in out), sum(vm.alive for vm in replicas)
        words = f"{alive - len(out)} of {alive} done; protected: {names}"
        self._told("rollout.waits", Reason.PROTECTED, words)

    def _watch_progress(self, replicas: list[Vm], scene: Scene) -> None:
        rollout = self._there()
        if rollout.phase is not Phase.RUNNING or scene.now - (self._step_at or 0.0) <= STUCK_S:
            return
        words = f"no step in {STUCK_S:g} s" + (f": {self.gate.why}" if self.gate.why else "")
        if rollout.tries:
            self._go_back(words, failed=True)
        elif self._can_go([vm for vm in replicas if vm.alive], scene) or self._behind(scene):
            # what was judged good is not thrown away for a host that has no room
            self._pause(words, Reason.ROLLOUT)

    def _pause(self, why: str, reason: Reason) -> None:
        self._set(self._there().pause(why))
        self._told("rollout.paused", reason, why)

    def _go_back(self, why: str, *, failed: bool) -> None:
        rollout = self._there().go_back(why, failed=failed)
        if rollout.can_go_back and rollout.approved and not self._has_image_before():
            self._strand(why)
            return
        self._begin_anew()
        self._set(rollout)
        if rollout.phase is Phase.ROLLING_BACK:
            words = f"{why}: back to {rollout.image_from}"
        else:
            words = f"{why}: it stops here, for the files before are gone; build a good image"
        self._told("rollout.rolling_back", Reason.ROLLBACK, words)

    def _strand(self, why: str) -> None:
        """Who serves goes on: nothing else could be started."""
        before = self._there()
        words = (
            f"{why}: it stops here with what serves, for image {before.image_from} cannot be"
            " loaded; roll out a good one"
        )
        self._begin_anew()
        self._set(before.strand(words))
        self._told("rollout.rolling_back", Reason.ROLLBACK, words)

    def _ended(self) -> None:
        before = self._there()
        self._set(rollout := before.end())
        if rollout.phase is not Phase.DONE:
            words = f"no replica of {rollout.image_to} is left: {rollout.why}"
            self._told("rollout.rolled_back", Reason.ROLLBACK, words)
            return
        words = f"every replica is of {rollout.image_to}"
        if rollout.image_to != rollout.configured:
            words += f"; put image = {rollout.image_to} into the configuration"
        self._told("rollout.done", Reason.ROLLOUT, words)
