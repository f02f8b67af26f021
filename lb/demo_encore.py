"""The demo's second half, judged: a spike, the quick ways, a machine that dies, rest. Pure.

Comes after `demo_story`'s course in the same Story: what began with `spike` is judged here, and
what came before it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lb.demo_story import LITTLE_LOAD, OVERLOAD, Check, Moment, Story

ENCORE: Final = ("spike", "settle", "prepare", "again", "failure", "rest")
"""The load's phases: high for a moment; low; low, while a reserve is made; high again; high while
a machine is killed; low again."""
QUICK_S: Final = 5.0
"""A standby takes some 50 ms and a copy 1.5 s, on a machine that has nothing else to do."""
KILLED: Final = "demo.kill"


@dataclass(frozen=True, slots=True)
class Row:
    """One act in figures; None where nobody measured."""

    act: str
    replicas: int
    requests: int
    failed: int
    p99_s: float | None


def checks(story: Story) -> list[Check]:
    """None where the second half never began."""
    if ENCORE[0] not in story.starts:
        return []
    return [_spiked(story), _was_quick(story), _survived(story), _rests(story)]


def rows(story: Story) -> list[Row]:
    """The acts that were played."""
    found = []
    for act in ENCORE:
        phase = story.phase(act)
        if phase is None or act not in story.starts:
            continue
        counts = phase.counts
        failed = counts.errors + counts.dropped + counts.unfinished
        p99_s = phase.latency_s.p99 if phase.latency_s.count else None
        replicas = max((point.ready for point in story.during(act)), default=0)
        found.append(Row(act, replicas, counts.intended, failed, p99_s))
    return found


def _spiked(story: Story) -> Check:
    what = "a short spike of more than one replica can serve started no machine"
    phase, lasted = story.phase("spike"), story.window("spike")
    if phase is None or lasted is None or story.setting is None:
        return Check(what, False, "there was no spike")
    lasted_s = lasted[1] - lasted[0]
    asked, can = phase.counts.intended, story.setting.capacity_rps * lasted_s
    grew = _between(story, "scale.up", "spike", "prepare")
    saw = f"{asked} requests in {lasted_s:.1f} s, of which one can serve {can:.0f}; "
    saw += grew[0].message if grew else "none was started"
    return Check(what, not grew and asked > can, saw)


def _was_quick(story: Story) -> Check:
    what = f"a standby or a copy served within {QUICK_S:g} s of the decision"
    grew = [m for m in _between(story, "scale.up", "again", "failure") if m.reason in OVERLOAD]
    if len(grew) != 1:
        return Check(what, False, "; ".join(m.message for m in grew) or "nothing was started")
    took_s = _until_ready(story.moments, grew[0].t)
    if took_s is None:
        return Check(what, False, f"{grew[0].message}; and nobody came")
    return Check(what, took_s <= QUICK_S, f"{took_s:.2f} s; {grew[0].message}")


def _survived(story: Story) -> Check:
    what = "a machine killed under load was replaced, and no client saw an error"
    killed = next((m for m in story.moments if m.kind == KILLED), None)
    phase = story.phase("failure")
    if killed is None or phase is None:
        return Check(what, False, "none was killed")
    took_s = _until_ready(story.moments, killed.t)
    errors = phase.counts.errors + phase.counts.dropped
    saw = f"{errors} of {phase.counts.intended} requests failed; "
    saw += "nobody came" if took_s is None else f"replaced after {took_s:.2f} s"
    return Check(what, took_s is not None and errors == 0 and phase.counts.intended > 0, saw)


def _rests(story: Story) -> Check:
    what = "and back to one replica again"
    shrank = [m for m in _between(story, "scale.down", "rest", "") if m.reason in LITTLE_LOAD]
    last = story.points[-1].ready if story.points else 0
    saw = "; ".join(m.message for m in shrank) or f"{last} at the end"
    return Check(what, len(shrank) == 1 and last == 1, saw)


def _between(story: Story, kind: str, first: str, last: str) -> Sequence[Moment]:
    """Those of a kind from when the act `first` began to when `last` did, or to the end."""
    start, end = story.starts.get(first), story.starts.get(last, float("inf"))
    return [m for m in story.moments if m.kind == kind and start is not None and start <= m.t < end]


def _until_ready(moments: Sequence[Moment], since: float) -> float | None:
    ready = [m.t for m in moments if m.kind == "vm.ready" and m.t >= since]
    return min(ready) - since if ready else None
