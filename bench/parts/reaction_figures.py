"""What the rounds of `bench reaction` say: when an overload was over, medians and worst, verdicts.

Pure: records in, figures out. Times are Unix seconds, durations seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

WINDOW_S = 1.0
"""p99 is that of what was sent within this time."""
STAYS_S = 3.0
"""So long it must stay: a pause between two crests of a queue is no relief."""
FACTOR = 2.0
FLOOR_S = 0.25
"""Relief is a p99 of at most FACTOR times that of the low load, but no less than this is asked for:
what `lbctl demo` calls calm."""


class Sent(NamedTuple):
    """One request: when it should have been sent, when its answer was whole (None: not yet)."""

    at: float
    done: float | None
    status: int
    replica: str
    phase: str

    @property
    def ok(self) -> bool:
        return self.done is not None and self.status == 200

    @property
    def latency_s(self) -> float:
        """From the intended time of sending; infinite without a good answer."""
        return self.done - self.at if self.done is not None and self.status == 200 else math.inf


class Event(NamedTuple):
    """A line of the journal, as far as it matters here."""

    at: float
    kind: str
    subject: str


@dataclass(frozen=True, slots=True)
class Overload:
    """One round of overload, in seconds. None: it did not happen while one looked."""

    way: str
    decided: float | None
    """Onset → the decision to grow."""
    answered: float | None
    """Decision → the first answer of the new replica."""
    started: float | None
    """The call that starts or wakes it → its first answer."""
    relief: float | None
    """Onset → p99 back."""
    allowed_p99: float
    """What counts as relief."""
    failed: int
    """Requests without a good answer."""

    def words(self) -> str:
        return (
            f"decided {seconds(self.decided)}, first answer {seconds(self.answered)} later,"
            f" relief {seconds(self.relief)}{_failed(self.failed)}"
        )


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9 of the only replica, in seconds."""

    way: str
    ejected: float | None
    """→ out of the pool."""
    replaced: float | None
    """→ the first good answer of another replica."""
    started: float | None
    """The call that starts or wakes that one → its first answer, for which somebody waits."""
    failed: int

    def words(self) -> str:
        return (
            f"ejected {seconds(self.ejected)} after kill -9, replaced {seconds(self.replaced)}"
            f" after it, {seconds(self.started)} after it was called for{_failed(self.failed)}"
        )


# ── one round ────────────────────────────────────────────────────────────────────────────────────


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; nan of nothing."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


def p99s(sent: Sequence[Sent], begin: float, end: float) -> list[float]:
    """Of each whole WINDOW_S between the two, one after the other; of those in which something was
    sent."""
    found = []
    for number in range(int((end - begin) / WINDOW_S)):
        window = _within(sent, begin + number * WINDOW_S, begin + (number + 1) * WINDOW_S)
        if window:
            found.append(percentile([one.latency_s for one in window], 0.99))
    return found


def allowed(sent: Sequence[Sent], begin: float, end: float) -> float:
    """The p99 that counts as relief, by the low load between `begin` and `end`."""
    before = p99s(sent, begin, end)
    return max(FLOOR_S, FACTOR * median(before)) if before else FLOOR_S


def relief(sent: Sequence[Sent], onset: float, allowed_s: float) -> float | None:
    """The first instant from which the p99 of what is sent in the WINDOW_S that follow is at most
    `allowed_s`, and is so for every such window that begins within STAYS_S of it. None where that
    was not seen to its end.

    By the time of sending: who is sent from then on is served well. `sent` is in order and holds
    what is not answered yet too.
    """
    if not sent:
        return None
    seen = sent[-1].at
    # a window's content changes just after a request is behind it, and once one is in it
    edges = [_after(one.at - length) for one in sent for length in (0.0, WINDOW_S)]
    begins = [onset, *sorted(edge for edge in edges if edge > onset)]
    bad = [
        begin
        for begin in begins
        if percentile(latencies(_within(sent, begin, begin + WINDOW_S)), 0.99) > allowed_s
    ]
    for begin in begins:
        if begin + STAYS_S + WINDOW_S > seen:
            return None
        index = bisect_left(bad, begin)
        if index == len(bad) or bad[index] > begin + STAYS_S:
            return begin
    return None


def latencies(sent: Sequence[Sent]) -> list[float]:
    return [one.latency_s for one in sent]


def _after(at: float) -> float:
    return math.nextafter(at, math.inf)


def _within(sent: Sequence[Sent], begin: float, end: float) -> Sequence[Sent]:
    low = bisect_left(sent, begin, key=_at)
    return sent[low : bisect_left(sent, end, lo=low, key=_at)]


def _at(sent: Sent) -> float:
    return sent.at


def first(
    events: Sequence[Event], kinds: Sequence[str], since: float, subject: str = ""
) -> Event | None:
    """The first of these kinds at or after `since`."""
    for event in events:
        if event.at >= since and event.kind in kinds and subject in ("", event.subject):
            return event
    return None


def first_answer(sent: Sequence[Sent], known: set[str], since: float) -> Sent | None:
    """The first good answer after `since` by a replica that is not one of `known`."""
    found = [s for s in sent if s.ok and s.replica not in known and (s.done or 0.0) >= since]
    return min(found, key=lambda one: one.done or 0.0, default=None)


def overload(
    way: str,
    sent: Sequence[Sent],
    events: Sequence[Event],
    known: set[str],
    began: float,
    shifted: float,
) -> Overload:
    """`began`: since when the low load was watched, `shifted`: when the high one was ordered,
    `known`: who served until then."""
    high = [one for one in sent if one.phase == "high" and one.at >= shifted]
    onset = high[0].at if high else shifted
    allowed_s = allowed(sent, began, onset)
    decision = first(events, ("scale.up",), onset)
    answer = first_answer(sent, known, onset)
    name = answer.replica if answer is not None else ""
    start = first(events, ("vm.wake", "vm.launch"), onset, name) if name else None
    over = relief(high, onset, allowed_s)
    return Overload(
        way=way,
        decided=_between(onset, decision),
        answered=answer.done - decision.at if answer and answer.done and decision else None,
        started=answer.done - start.at if answer and answer.done and start else None,
        relief=None if over is None else over - onset,
        allowed_p99=allowed_s,
        failed=sum(one.done is not None and not one.ok for one in sent),
    )


def kill(
    way: str, sent: Sequence[Sent], events: Sequence[Event], victim: str, killed: float
) -> Kill:
    """`victim` was the only one that served, until `killed`."""
    # removed from it, or not picked any more: whichever the pool said first
    out = first(events, ("backend.gone", "backend.unhealthy"), killed, victim)
    answer = first_answer(sent, {victim, ""}, killed)
    start = None
    if answer is not None:
        start = first(events, ("vm.wake", "vm.launch"), killed, answer.replica)
    return Kill(
        way=way,
        ejected=_between(killed, out),
        replaced=answer.done - killed if answer and answer.done else None,
        started=answer.done - start.at if answer and answer.done and start else None,
        failed=sum(one.done is not None and not one.ok for one in sent),
    )


def _between(since: float, event: Event | None) -> float | None:
    return None if event is None else event.at - since


# ── all rounds ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Restart:
    """One kill -9 of `lbctl up`, and its next start."""

    way: str
    serves: float | None
    """The process's start → the first answer through it, from the machine that was there."""
    failed: int = 0

    def words(self) -> str:
        return f"serves {seconds(self.serves)} after its start"


Rounds = Sequence[Overload | Kill | Restart]


@dataclass(frozen=True, slots=True)
class Target:
    """At most so many seconds: of the median, or of the 99th percentile."""

    what: str
    of: str
    """`overload`, `kill` or `restart`, the way, the field."""
    seconds: float
    share: float = 0.5

    def value(self, found: Sequence[float]) -> float:
        return median(found) if self.share == 0.5 else percentile(found, self.share)


TARGETS = (
    Target("onset to relief, by a standby", "overload.standby.relief", 2.0),
    Target("onset to relief, by a copy", "overload.snapshot.relief", 3.5),
    Target("woken to its first answer (p99)", "kill.standby.started", 0.05, 0.99),
    Target("woken to its first answer, without any load (p99)", "kill.wake.started", 0.05, 0.99),
    Target("copied to its first answer", "kill.snapshot.started", 1.5),
    Target("killed to out of the pool, with a standby", "kill.standby.ejected", 0.1),
    Target("killed to out of the pool, with copies", "kill.snapshot.ejected", 0.1),
    Target("killed to replaced, by a standby", "kill.standby.replaced", 2.0),
    Target("killed to replaced, by a copy", "kill.snapshot.replaced", 2.0),
    Target("`lbctl up` killed: from its next start to an answer", "restart.any.serves", 1.0),
)


_KINDS = {"overload": Overload, "kill": Kill, "restart": Restart}


def values(rounds: Rounds, of: str) -> list[float]:
    """Of `KIND.WAY.FIELD`, every round's; infinite where it did not happen."""
    kind, way, field = of.split(".")
    found = [getattr(o, field) for o in rounds if isinstance(o, _KINDS[kind]) and o.way == way]
    return [math.inf if value is None else value for value in found]


def misses(rounds: Rounds) -> list[str]:
    """Every target that is missed; those of ways that were not played are not."""
    found = []
    for target in TARGETS:
        seen = values(rounds, target.of)
        if seen and (value := target.value(seen)) > target.seconds:
            found.append(
                f"{target.what}: {seconds(value)}, more than {seconds(target.seconds)}"
                f" ({len(seen)} rounds)"
            )
    failed = sum(one.failed for one in rounds)
    if failed:
        found.append(f"{failed} requests failed")
    return found


def seconds(value: float | None) -> str:
    """For people. None and infinite: it did not happen."""
    if value is None or math.isinf(value):
        return "never"
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.2f} s"


def _failed(requests: int) -> str:
    return f", {requests} requests failed" if requests else ""
