"""One decision of the planner: what it saw, what each part asked for, what held it, in words.

Owns the words: the same sentence stands in log, journal, API and console. Nothing is rendered
before somebody reads it, so a decision that nobody looks at costs no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from autoscale.model import Direction, Path, Reason
from autoscale.rules import Mode

Number = float | int | str | None
NOTHING: Mapping[str, Number] = MappingProxyType({})

PART_WORDS: Mapping[Reason, str] = {
    Reason.CPU_OVERLOAD: (
        "CPU {utilisation:.2f} of target {target:.2f} over {over_s:g} s on {on} asks for {asks}"
    ),
    Reason.CONCURRENCY: (
        "{in_flight:.1f} requests running or waiting, {mean:.1f} over {over_s:g} s, at {target:g}"
        " a replica ask for {asks}"
    ),
    Reason.QUEUE: "queue {queued} {drains}, which asks for {asks}",
    Reason.LATENCY: "p99 {p99_s:.3g} s of {target_s:.3g} s asks for {asks}",
    Reason.STEP: "CPU {utilisation:.2f} is {where}, which asks for {asks}",
    Reason.SCHEDULE: "the schedule asks for {asks}",
    Reason.FORECAST: "{demand:.2f} replicas' work expected in {lead_s:.0f} s asks for {asks}",
}
"""How a part says what it saw. `asks` is its number of replicas."""

GUARD_WORDS: Mapping[Reason, str] = {
    Reason.NOT_SUSTAINED: "{level} for {lasted_s:.1f} s of {window_s:.3g} s",
    Reason.KEPT: "{by} keeps {kept}",
    Reason.STABILISING: "{kept} may have been needed within the last {window_s:.3g} s",
    Reason.WOULD_CROSS: "{fewer} would run at {crossed:.2f} of {limit:.2f}",
    Reason.PANIC: "{times:g} times their work a moment ago: nobody leaves for {left_s:.0f} s",
    Reason.RATE_LIMITED: "the limit of {period_s:g} s leaves {later} for later",
    Reason.SMALL_CHANGE: "a change by {change} is less than {least}",
    Reason.SETTLING: "{ready} ready, {booting} on the way, {draining} leaving{failed}",
    Reason.UNAVAILABLE: "{unavailable} unavailable, {so}",
    Reason.NO_DATA: "fresh samples of {fresh} of {serving} replicas",
    Reason.HOST_CONTENDED: (
        "vCPUs wait {delay:.0%} of the time for a core on every host: another replica there"
        " makes it worse"
    ),
    Reason.AT_MAX: "max = {max}",
    Reason.AT_MIN: "min = {min}",
    Reason.HOLD: "held by {who}{until_words}",
    Reason.OBSERVE: "only observing, would be {would}",
    Reason.OVERRIDE: "an operator wants {to}{until_words}",
    Reason.BELOW_MIN: "the bounds are {min} to {max}",
    Reason.ABOVE_MAX: "the bounds are {min} to {max}",
    Reason.FROM_ZERO: "{waiting} waiting, and no replica",
    Reason.CPU_LOW: (
        "{left} would run at {at:.2f}, and no more than {kept} was needed for {window_s:g} s"
    ),
    Reason.LOAD_LOW: (
        "{left} would run at {at:.2f}, and no more than {kept} was needed for {window_s:g} s"
    ),
    Reason.IDLE: "nobody asked for {idle_s:.0f} s",
}
"""How a guard says why it held a decision, or made it."""


class Part(NamedTuple):
    """One part's opinion: how many replicas it asks for, and by what numbers."""

    reason: Reason
    asks: int
    """How many there should be; more than there are starts some, once that has lasted."""
    keeps: int
    """How many it wants kept where others let some go: `asks` with a margin."""
    numbers: Mapping[str, Number] = NOTHING

    @property
    def words(self) -> str:
        return PART_WORDS[self.reason].format(asks=self.asks, **self.numbers)

    def as_dict(self) -> dict[str, Any]:
        return {
            "reason": self.reason.value,
            "asks": self.asks,
            "keeps": self.keeps,
            **self.numbers,
            "words": self.words,
        }


class Guard(NamedTuple):
    """Something that held a decision, or made it, beside the parts."""

    reason: Reason
    numbers: Mapping[str, Number] = NOTHING

    @property
    def words(self) -> str:
        return GUARD_WORDS[self.reason].format(**self.numbers)

    def as_dict(self) -> dict[str, Any]:
        return {"reason": self.reason.value, **self.numbers, "words": self.words}


NOT_BY_PARTS = frozenset(
    {
        Reason.OVERRIDE,
        Reason.BELOW_MIN,
        Reason.ABOVE_MAX,
        Reason.FROM_ZERO,
        Reason.IDLE,
    }
)
"""Decisions that no part had a say in: a clause of theirs would contradict the sentence."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas a service should have, and why."""

    service: str
    at: float
    current: int
    """How many were wanted before."""
    desired: int
    reason: Reason
    parts: tuple[Part, ...] = ()
    guards: tuple[Guard, ...] = ()
    wanted: int | None = None
    """What the parts together asked for, within the bounds; None where nobody asked them."""
    mode: Mode = Mode.AUTO
    way: tuple[Path, float] | None = None
    """How the first of those that are missing comes, and in how many seconds."""
    burst: bool = False
    """Those that run may use more CPU than their limit meanwhile."""
    notes: tuple[Guard, ...] = ()
    """What an operator should know all the same; it changed nothing."""
    told: str = ""
    """A sentence in place of the one made of the parts."""

    @property
    def direction(self) -> Direction:
        if self.desired > self.current:
            return Direction.UP
        return Direction.DOWN if self.desired < self.current else Direction.NONE

    @property
    def winner(self) -> Part | None:
        """The part that decided: who asks for most when growing, who keeps most when shrinking."""
        if not self.parts:
            return None
        if self.direction is Direction.DOWN:
            return max(self.parts, key=lambda part: part.keeps)
        return max(self.parts, key=lambda part: part.asks)

    @property
    def sentence(self) -> str:
        """`2 → 3: CPU 0.91 of target 0.60 over 6 s on 2 replicas asks for 3; standby wakes in
        0.05 s`."""
        if self.desired == self.current:
            head = f"stay at {self.desired}"
        else:
            head = f"{self.current} → {self.desired}"
        return f"{head}: {self.told or '; '.join(self._clauses())}"

    def _clauses(self) -> list[str]:
        clauses = []
        winner = self.winner
        if self.reason in NOT_BY_PARTS:
            winner = None  # what they ask for was not asked
        if winner is not None:
            clauses.append(winner.words)
            queue = next((p for p in self.parts if p.reason is Reason.QUEUE), None)
            if queue is not None and queue is not winner and queue.numbers.get("queued"):
                clauses.append(queue.words)
        clauses += [guard.words for guard in (*self.guards, *self.notes)]
        if self.way is not None and self.direction is Direction.UP:
            clauses.append(_way_words(*self.way))
        if self.burst:
            clauses.append("the others may use more CPU meanwhile")
        return clauses or ["nothing asks for a change"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything it was made of, and the sentence."""
        return {
            "service": self.service,
            "current": self.current,
            "desired": self.desired,
            "wanted": self.wanted,
            "direction": self.direction.value,
            "reason": self.reason.value,
            "mode": self.mode.value,
            "sentence": self.sentence,
            "winner": self.winner.reason.value if self.winner is not None else None,
            "parts": [part.as_dict() for part in self.parts],
            "guards": [guard.as_dict() for guard in self.guards],
            "notes": [note.as_dict() for note in self.notes],
            "path": self.way[0].value if self.way else None,
            "path_seconds": self.way[1] if self.way else None,
            "burst": self.burst,
        }


_WAY_WORDS: Mapping[Path, str] = {
    Path.STANDBY: "standby wakes",
    Path.SNAPSHOT: "snapshot restores",
    Path.COLD: "cold boot serves",
}


def _way_words(path: Path, seconds: float) -> str:
    return f"{_WAY_WORDS[path]} in {seconds:.2g} s"
