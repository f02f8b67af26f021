"""What the demo saw, as values, and whether its story happened. Pure.

A Story is everything the report needs, so that a report can be drawn again from its JSON. Times
`t` are seconds since the load began; CPU is in cores.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

from loadtest.result import PhaseResult, Result

ACTS = ("low", "high", "relief", "after", "calm")
"""The load's phases: before overload; overloaded on one replica; two replicas working off the
queue; two replicas in peace; low again."""

OVERLOAD = ("cpu_overload", "queue", "concurrency")
"""Why there may be one more: the parts of the planner that see an overload. Which of them asks for
most is a matter of chance: they all look at the same one."""
LITTLE_LOAD = ("cpu_low", "load_low")
"""Why there may be one fewer."""

RECOVERED_RATIO = 0.25
"""p99 under high load on two replicas must be below this share of p99 on one."""


@dataclass(frozen=True, slots=True)
class VmPoint:
    """One VM at one instant. A view that nobody had a figure for is None."""

    state: str
    host_cores: float | None
    vcpu_cores: float | None
    guest_cores: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """The fleet at one instant."""

    t: float
    desired: int
    ready: int
    booting: int
    in_flight: int
    vms: dict[str, VmPoint]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, with the journal's words."""

    t: float
    kind: str
    subject: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and with what the story was played."""

    domain_type: str
    why: str
    host_cores: int
    libvirt: str
    vcpus: int
    limit_cores: float
    limited: bool
    target_cpu: float
    work: int
    capacity_rps: float
    low_rps: float
    high_rps: float


@dataclass(slots=True)
class Story:
    """Grows while the demo runs; complete once `result` is there."""

    setting: Setting | None = None
    points: list[Point] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    starts: dict[str, float] = field(default_factory=dict)
    """When each act began."""
    result: Result | None = None
    failure: str = ""
    """Why it ended early, empty where it did not."""

    def phase(self, name: str) -> PhaseResult | None:
        return (
            next((p for p in self.result.phases if p.name == name), None) if self.result else None
        )

    def window(self, act: str) -> tuple[float, float] | None:
        """From when to when an act lasted."""
        if act not in self.starts:
            return None
        later = [t for t in self.starts.values() if t > self.starts[act]]
        # one that broke before its first point is an instant
        last = max(self.points[-1].t if self.points else 0.0, self.starts[act])
        return self.starts[act], min(later, default=last)

    def during(self, act: str) -> list[Point]:
        """An act's points. One on a border belongs to the later act, the last one to the last."""
        window = self.window(act)
        if window is None:
            return []
        start, end = window
        final = start == max(self.starts.values())
        return [p for p in self.points if start <= p.t < end or (final and p.t == end)]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must have happened."""

    what: str
    ok: bool
    saw: str


def verdict(story: Story) -> list[Check]:
    """Did the story happen? Every check must be ok for the demo to end with 0."""
    checks = [Check("the story was told to its end", not story.failure, story.failure or "yes")]
    ready = {act: _most_ready(story, act) for act in ACTS}
    checks.append(
        Check("one replica under low load", ready["low"] == 1, f"{ready['low']} at the most")
    )
    checks.append(_grew(story))
    checks.append(_recovered(story.phase("high"), story.phase("after")))
    checks.append(_shrank(story))
    checks.append(_no_request_lost(story.result))
    return checks


def _course(story: Story) -> list[Moment]:
    """What happened up to the low load after the high one; the rest is `demo_encore`'s."""
    return [moment for moment in story.moments if moment.t < _course_end(story)]


def _course_end(story: Story) -> float:
    return story.starts.get("spike", math.inf)


def _most_ready(story: Story, act: str) -> int:
    return max((point.ready for point in story.during(act)), default=0)


def _grew(story: Story) -> Check:
    grew = [m for m in _course(story) if m.kind == "scale.up" and m.reason in OVERLOAD]
    served = _most_ready(story, "after")
    if len(grew) == 1:
        saw = grew[0].message
        if served != 2:
            most = max((point.ready for point in story.points), default=0)
            saw += f"; then {most} served at the most"
    else:
        saw = _in_a_row(grew) or "nothing was started"
    what = "overload was noticed and a second replica started"
    return Check(what, len(grew) == 1 and served == 2, saw)


def _shrank(story: Story) -> Check:
    shrank = [m for m in _course(story) if m.kind == "scale.down" and m.reason in LITTLE_LOAD]
    what = "back to one replica under low load"
    points = [point for point in story.points if point.t < _course_end(story)]
    if not points:
        return Check(what, False, "never seen")
    ending = points[-1]
    if ending.ready != 1 or ending.booting:
        booting = f" and {ending.booting} booting" if ending.booting else ""
        return Check(what, False, f"{ending.ready}{booting} at the end")
    return Check(what, len(shrank) == 1, _in_a_row(shrank) or "not for that reason")


def _in_a_row(moments: list[Moment]) -> str:
    words = "; ".join(moment.message for moment in moments)
    return words if len(moments) < 2 else f"{len(moments)} times: {words}"


def _recovered(before: PhaseResult | None, after: PhaseResult | None) -> Check:
    what = f"p99 under high load fell below {RECOVERED_RATIO:g} of what it was"
    if before is None or after is None or not before.latency_s.count or not after.latency_s.count:
        return Check(what, False, "not measured")
    slow, fast = before.latency_s.p99, after.latency_s.p99
    ratio = fast / slow if slow else math.inf
    return Check(what, ratio < RECOVERED_RATIO, f"{slow:.2f} s → {fast:.2f} s ({ratio:.2f})")


def _no_request_lost(result: Result | None) -> Check:
    what = "no request failed"
    if result is None:
        return Check(what, False, "not measured")
    counts = result.counts
    lost = counts.errors + counts.dropped + counts.unfinished
    detail = f"{lost} of {counts.intended} requests"
    if result.errors:
        detail += " (" + ", ".join(f"{n} × {kind}" for kind, n in result.errors.items()) + ")"
    return Check(what, lost == 0 and counts.intended > 0, detail)


@dataclass(frozen=True, slots=True)
class CpuViews:
    """Mean CPU of the replicas that served during an act, in cores, by who looked."""

    host: float
    vcpu: float
    guest: float

    @property
    def overhead(self) -> float:
        """QEMU's own: what the host pays beyond the virtual CPUs."""
        return self.host - self.vcpu


def cpu_views(story: Story, act: str) -> CpuViews | None:
    """Means per replica over the points where all three views had a figure."""
    triples = [
        (vm.host_cores, vm.vcpu_cores, vm.guest_cores)
        for point in story.during(act)
        for vm in point.vms.values()
        if vm.state == "ready"
    ]
    whole = [(h, v, g) for h, v, g in triples if h is not None and v is not None and g is not None]
    if not whole:
        return None
    n = len(whole)
    return CpuViews(
        sum(h for h, _, _ in whole) / n,
        sum(v for _, v, _ in whole) / n,
        sum(g for _, _, g in whole) / n,
    )


def noticed_s(story: Story) -> float | None:
    """Seconds from the rise of the load to the decision to grow."""
    rose = story.starts.get("high")
    if rose is None:
        return None
    # the first replica came before, because there has to be one
    grew = next((m.t for m in story.moments if m.kind == "scale.up" and m.t >= rose), None)
    return grew - rose if grew is not None else None


def activation_s(moments: list[Moment]) -> float | None:
    """Seconds from the decision to grow to the second replica's first readiness."""
    grew = next((m.t for m in moments if m.kind == "scale.up"), None)
    ready = [m.t for m in moments if m.kind == "vm.ready" and grew is not None and m.t >= grew]
    return min(ready) - grew if grew is not None and ready else None
