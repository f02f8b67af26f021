"""An operator's orders about one service's rollout: whether they can be, and what is shown of it.

Reads the image's files once, when a rollout is ordered. How it goes on is `autoscale.turnover`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from autoscale.fleet import VmFleet
from autoscale.host import ImageUnavailable, NoSuchImage
from autoscale.rollout import ImpossibleStep, Phase, Rollout
from autoscale.vm import BootFiles, Role
from lb import rollout_words
from lb.admin.control import RefusedError, RolloutOrder, RolloutRow


class ScalerRollout:
    """Of `fleet`, whose configured image is `configured()` now; `wake` asks for a tick."""

    def __init__(
        self,
        fleet: VmFleet,
        configured: Callable[[], str],
        boot_files: Callable[[str], BootFiles],
        wake: Callable[[], None],
    ) -> None:
        self._fleet = fleet
        self._configured = configured
        self._boot_files = boot_files
        self._wake = wake

    def order(self, order: RolloutOrder) -> None:
        """Raises RefusedError where it makes no sense now."""
        turnover = self._fleet.turnover
        if order.what == "start":
            rollout = self._rollout_for(order)
            turnover.begin(rollout)
            if rollout.stranded:
                self._fleet.try_anew()  # it was for the image that is gone that launches failed
        else:
            if turnover.rollout is None:
                raise RefusedError(
                    f"service {self._fleet.service} has no rollout:"
                    f" `lbctl rollout {self._fleet.service} --image NEW` begins one"
                )
            self._change(turnover.rollout, order.what)
        self._wake()

    def _change(self, rollout: Rollout, what: str) -> None:
        if what == "undo" and rollout.image_from == rollout.image_to:
            raise RefusedError(
                f"image {rollout.image_to} was built anew under its own name, and the files before"
                " are gone: build a good one and roll that out, or pause"
            )
        if what == "undo" and rollout.stranded and rollout.phase is not Phase.FAILED:
            raise RefusedError(
                f"image {rollout.image_from} was gone when this began, so there is no way back:"
                f" `lbctl rollout {self._fleet.service} --image NEW` rolls out another once this is"
                " done or paused"
            )
        turnover = self._fleet.turnover
        try:
            {"pause": turnover.pause, "resume": turnover.resume, "undo": turnover.undo}[what]()
        except ImpossibleStep as error:
            raise RefusedError(str(error)) from error

    def _rollout_for(self, order: RolloutOrder) -> Rollout:
        service, turnover = self._fleet.service, self._fleet.turnover
        configured = self._configured()
        before = turnover.rollout
        if before is not None and not turnover.replaceable:
            first = "undo" if before.can_go_back else "pause"
            raise RefusedError(
                f"a rollout of {service} from {before.image_from} to {before.image_to} is"
                f" {before.phase.value}: `lbctl rollout {first} {service}` first"
            )
        image_from = turnover.image(configured)
        image_to = order.image or configured
        try:
            generation = self._boot_files(image_to).generation
        except ImageUnavailable as error:
            if isinstance(error, NoSuchImage):
                raise RefusedError(rollout_words.NO_IMAGE.format(image=image_to)) from error
            raise RefusedError(str(error)) from error
        old = [
            status.name
            for status in self._fleet.statuses()
            if status.role == Role.REPLICA and status.generation not in ("", generation)
        ]
        if not old and image_from == image_to:
            raise RefusedError(f"every replica of {service} is of image {image_to} already")
        there = self._generation(image_from)
        if image_from != image_to and there == generation:
            raise RefusedError(f"image {image_to} has the same files as {image_from}")
        return Rollout(
            configured,
            image_from,
            image_to,
            generation,
            time.time(),
            order.max_surge,
            order.pause_at,
            stranded=there is None,
        )

    def _generation(self, image: str) -> str | None:
        try:
            return self._boot_files(image).generation
        except ImageUnavailable:
            return None  # what was started from it runs on

    # ── what is shown ────────────────────────────────────────────────────────────────────────

    def row(self) -> RolloutRow | None:
        """The last rollout and how far it is; None where there was none."""
        rollout = self._fleet.turnover.rollout
        if rollout is None:
            return None
        new, old = self._fleet.new_and_old()
        booting, ahead = self._fleet.counts().booting, self._fleet.rollout_ahead()
        if ahead is not None and not rollout.tries and not booting:
            ahead = None  # it waits for somebody to have served for a while, or for protected ones
        leaving = new if rollout.phase is Phase.ROLLING_BACK else old
        spared = [vm.name for vm in leaving if vm.protected]
        return RolloutRow(
            service=self._fleet.service,
            phase=rollout.phase.value,
            image_from=rollout.image_from,
            image_to=rollout.image_to,
            new=len(new),
            old=len(old),
            booting=booting,
            protected=tuple(spared) if rollout.goes_on else (),
            max_surge=rollout.max_surge,
            pause_at=rollout.pause_at,
            judged=rollout.approved,
            started_at=rollout.started_at,
            left_s=None if ahead is None else round(ahead[1], 1),
            sentence=rollout_words.sentence(
                self._fleet.service, rollout, len(new), len(old), booting, spared, ahead
            ),
        )
