"""One rollout: which image takes whose place, how far it may go, what became of it. Pure, frozen.

Owns the phases as a table. It must not know a VM: how many were replaced, the VMs say themselves,
by the generation in their metadata, which is how a successor goes on after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    """Nothing is started or drained for it; load and failures are answered all the same."""
    ROLLING_BACK = "rolling_back"
    DONE = "done"
    UNDONE = "undone"
    """An operator took it back, and every replica is of the image before."""
    FAILED = "failed"
    """The same, because the new ones were worse."""


STANDS: Final[dict[Phase, str]] = {
    Phase.RUNNING: "goes on",
    Phase.PAUSED: "is paused",
    Phase.ROLLING_BACK: "goes back",
    Phase.DONE: "is done",
    Phase.UNDONE: "was taken back",
    Phase.FAILED: "failed",
}
STEPS: Final[dict[Phase, str]] = {
    Phase.RUNNING: "resume",
    Phase.PAUSED: "pause",
    Phase.ROLLING_BACK: "take back",
}
"""What an operator calls the way to a phase."""

_P = Phase
PHASES: dict[Phase, frozenset[Phase]] = {
    _P.RUNNING: frozenset({_P.PAUSED, _P.ROLLING_BACK, _P.DONE, _P.FAILED}),
    _P.PAUSED: frozenset({_P.RUNNING, _P.ROLLING_BACK, _P.FAILED}),
    _P.ROLLING_BACK: frozenset({_P.UNDONE, _P.FAILED}),
    _P.DONE: frozenset({_P.ROLLING_BACK}),
    _P.UNDONE: frozenset(),
    _P.FAILED: frozenset(),
}


class ImpossibleStep(RuntimeError):
    """The table of phases has no such edge."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Of one service. Times are Unix seconds."""

    configured: str
    """The image that the configuration named when it began. Once that is another one, the
    configuration has the last word again."""
    image_from: str
    image_to: str
    generation: str
    """Checksum of what `image_to` was when it began: a replica of it is a new one."""
    started_at: float
    max_surge: int = 1
    """So many more than the load needs may exist meanwhile."""
    pause_at: float | None = None
    """It pauses by itself once this share of the replicas is new; 0 to 1."""
    phase: Phase = Phase.RUNNING
    approved: bool = False
    """The first new ones were judged, and are as good as the old ones."""
    failed: bool = False
    """It rolls back by itself, not for an operator."""
    stranded: bool = False
    """It was to roll back, or begins, and the image before cannot be loaded: what serves stays, and
    what is started is of `image_to`, for there is nothing else."""
    why: str = ""
    """Why it is in its phase, in words; empty while it goes on as ordered."""

    @property
    def goes_on(self) -> bool:
        """It is not at its end."""
        return self.phase in (Phase.RUNNING, Phase.PAUSED, Phase.ROLLING_BACK)

    @property
    def tries(self) -> bool:
        """New ones are on trial: they are not counted on yet, and nobody leaves for them."""
        return self.phase in (Phase.RUNNING, Phase.PAUSED) and not self.approved

    @property
    def can_go_back(self) -> bool:
        """False where the files before are gone: the image was built anew under its own name, or
        the other one was removed."""
        return self.image_from != self.image_to and not self.stranded

    @property
    def image(self) -> str:
        """What is started for the load, in place of a lost one, and for the reserve."""
        judged = self.phase in (Phase.RUNNING, Phase.PAUSED) and self.approved
        taken = judged or self.stranded or self.phase is Phase.DONE
        return self.image_to if taken else self.image_from

    @property
    def next_image(self) -> str:
        """What is started in place of one that is out of date."""
        forward = self.stranded or self.phase in (Phase.RUNNING, Phase.PAUSED, Phase.DONE)
        return self.image_to if forward else self.image_from

    # --- its steps; each raises ImpossibleStep where it cannot be taken now

    def approve(self) -> Rollout:
        return replace(self, approved=True)

    def pause(self, why: str) -> Rollout:
        return replace(self._to(Phase.PAUSED), why=why)

    def resume(self) -> Rollout:
        """It does not stop at the same share again."""
        return replace(self._to(Phase.RUNNING), why="", pause_at=None)

    def go_back(self, why: str, *, failed: bool) -> Rollout:
        """With nothing to go back to it ends where it stands."""
        to = Phase.ROLLING_BACK if self.can_go_back else Phase.FAILED
        return replace(self._to(to), why=why, failed=failed)

    def strand(self, why: str) -> Rollout:
        """It ends where it stands, for want of anything to go back to."""
        return replace(self._to(Phase.FAILED), why=why, failed=True, stranded=True)

    def end(self, why: str = "") -> Rollout:
        """Every replica is what it should be."""
        if self.phase is Phase.ROLLING_BACK:
            to = Phase.FAILED if self.failed else Phase.UNDONE
        else:
            to = Phase.DONE
        return replace(self._to(to), why=why or self.why)

    def _to(self, phase: Phase) -> Rollout:
        if phase not in PHASES[self.phase]:
            raise ImpossibleStep(f"the rollout to {self.image_to} {self._why_not(phase)}")
        return replace(self, phase=phase)

    def _why_not(self, phase: Phase) -> str:
        stands = STANDS[self.phase]
        if phase is self.phase:
            return f"{stands} already"
        step = STEPS.get(phase, "end")
        if self.goes_on:
            return f"{stands}: it cannot be told to {step} now"
        return f"{stands}: there is nothing to {step}"
