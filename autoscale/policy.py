"""How many replicas a service should have. Pure: signals, fleet, state, rules, now → decision.

Desired = clamp(max of the parts, min, max), as fast as the pace allows: growing follows what was
asked for all through a window, shrinking what was never exceeded in one. It must not read a clock,
await, or know what a hypervisor is. Every answer carries what it saw, each part's number, and what
held it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple

from autoscale.decision import Decision, Guard, Number
from autoscale.model import Fleet, Path, Reason, Way
from autoscale.outlook import FLOORS, Outlook, look
from autoscale.pace import Pace, grow, window_of
from autoscale.rules import Contention, Mode, Rules
from autoscale.signals import Signals
from autoscale.state import State as State

_BY_LOAD = frozenset(
    {
        Reason.CPU_OVERLOAD,
        Reason.CONCURRENCY,
        Reason.QUEUE,
        Reason.LATENCY,
        Reason.STEP,
        Reason.CPU_LOW,
        Reason.LOAD_LOW,
    }
)
_CPU = (Reason.CPU_OVERLOAD, Reason.STEP)


class _Choice(NamedTuple):
    """What can be done now, and what held it."""

    desired: int
    reason: Reason
    guards: tuple[Guard, ...] = ()
    way: Way | None = None


def decide(
    signals: Signals, fleet: Fleet, state: State, rules: Rules, now: float
) -> tuple[Decision, State]:
    """One decision, and the state for the next call. The order of the VMs makes no difference."""
    before, base = state.desired, rules.clamp(state.desired)
    seen, state = look(signals, fleet, state, rules, now, base)
    mode, to, until = _mode(rules, signals.wall_s)
    if mode is Mode.FIXED:
        choice = _override(to, until, seen)
    elif before != base:
        choice = _follow_bounds(before, seen)
    else:
        ordered = rules.override is not None and rules.override.holds(signals.wall_s)
        choice = _shown(mode, until, _choose(seen, state), seen, ordered=ordered)
    decision = Decision(
        fleet.service,
        now,
        before,
        choice.desired,
        choice.reason,
        seen.parts,
        choice.guards,
        rules.clamp(seen.asks),
        mode,
        (choice.way.path, choice.way.seconds) if choice.way is not None else None,
        rules.burst is not None and mode in (Mode.AUTO, Mode.FIXED) and _relief(seen, choice),
        seen.contended,
    )
    return decision, _after(decision, seen, state)


def _relief(seen: Outlook, choice: _Choice) -> bool:
    """Help is on its way, or is asked for right now, and those that serve need it."""
    coming = choice.desired > 0 and (seen.fleet.booting > 0 or choice.desired > seen.base)
    return coming and seen.fleet.ready > 0 and seen.load_asks > seen.fleet.ready


def _after(decision: Decision, seen: Outlook, state: State) -> State:
    if decision.desired == decision.current == state.desired:
        return state
    if decision.desired == decision.current:
        return state._replace(desired=decision.desired)
    latency = state.latency
    if decision.reason is Reason.LATENCY and seen.signals.latency_p99_s is not None:
        latency = latency.tried(decision.desired, seen.signals.latency_p99_s, seen.now)
    return state._replace(
        desired=decision.desired,
        pace=state.pace.changed(
            decision.desired - decision.current,
            seen.rules,
            seen.now,
            by_load=decision.reason in _BY_LOAD,
        ),
        cpu=state.cpu._replace(above=None),
        latency=latency,
    )


# ── who decides ──────────────────────────────────────────────────────────────────────────────────


def _mode(rules: Rules, wall_s: float) -> tuple[Mode, int | None, float | None]:
    override = rules.override
    if override is not None and override.holds(wall_s):
        return override.mode, override.to, override.until
    return rules.mode, None, None


def _until(until: float | None) -> str:
    if until is None:
        return ""
    return f" until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _override(to: int | None, until: float | None, seen: Outlook) -> _Choice:
    wanted = seen.base if to is None else to
    desired = seen.rules.clamp(wanted)
    guard = Guard(Reason.OVERRIDE, {"to": wanted, "until": until, "until_words": _until(until)})
    if wanted == desired:
        return _Choice(desired, Reason.OVERRIDE, (guard,))
    reason = Reason.AT_MAX if wanted > desired else Reason.AT_MIN
    bound = Guard(reason, {"max": seen.rules.max, "min": seen.rules.min})
    return _Choice(desired, Reason.OVERRIDE, (guard, bound))


def _follow_bounds(before: int, seen: Outlook) -> _Choice:
    """The bounds moved (a reload): follow them at once, whatever the load."""
    reason = Reason.BELOW_MIN if before < seen.base else Reason.ABOVE_MAX
    guard = Guard(reason, {"min": seen.rules.min, "max": seen.rules.max})
    return _Choice(seen.base, reason, (guard,))


def _shown(
    mode: Mode, until: float | None, choice: _Choice, seen: Outlook, *, ordered: bool
) -> _Choice:
    """Held or only observed: what would be done is said, and not done."""
    if mode is Mode.HOLD:
        guard = Guard(
            Reason.HOLD,
            {
                "who": "an operator" if ordered else "mode",
                "until": until,
                "until_words": _until(until),
            },
        )
    elif mode is Mode.OBSERVE:
        guard = Guard(Reason.OBSERVE, {"would": choice.desired})
    else:
        return choice
    return _Choice(seen.base, guard.reason, (guard, *choice.guards))


# ── what the load asks for ───────────────────────────────────────────────────────────────────────


def _choose(seen: Outlook, state: State) -> _Choice:
    floor = seen.floor
    if seen.base == 0 and (asks := _asks_of_nobody(seen)):
        return _from_zero(asks, seen)
    if floor is not None and floor.asks > seen.base:
        ahead = _paced(floor.asks, floor.reason, _quickest(seen), seen, state.pace)
        if ahead.desired > seen.base or floor.asks == seen.asks:
            return ahead  # what the load asks for beyond that may be no small change
    if seen.base == 0:
        return _Choice(0, Reason.STEADY)
    if floor is None and _idle_s(seen, state) >= seen.rules.idle_after_s:
        numbers: dict[str, Number] = {"idle_s": _idle_s(seen, state)}
        return _Choice(0, Reason.IDLE, (Guard(Reason.IDLE, numbers),))
    if seen.asks > seen.base:
        return _grow(seen, state.pace)
    if seen.blind:
        return _Choice(seen.base, Reason.NO_DATA, (_no_data(seen),))
    return _shrink(seen, state)


def _quickest(seen: Outlook) -> Way | None:
    return seen.fleet.ways[0] if seen.fleet.ways else None


def _no_data(seen: Outlook) -> Guard:
    reading = seen.reading
    return Guard(Reason.NO_DATA, {"fresh": reading.fresh, "serving": reading.serving})


def _asks_of_nobody(seen: Outlook) -> int:
    """Requests that wait; and where somebody serves who is not counted on, for a rollout tries him,
    those that he has: they would have waited too."""
    signals = seen.signals
    if signals.queued or not seen.reading.serving:
        return signals.queued
    return max(signals.running, math.ceil(signals.arrivals_per_s or 0))


def _from_zero(asks: int, seen: Outlook) -> _Choice:
    """A request that finds nobody waits while one comes: it need not wait for a window too."""
    floor = seen.floor.asks if seen.floor is not None else 0
    guard = Guard(Reason.FROM_ZERO, {"waiting": asks})
    desired = max(1, min(floor, seen.rules.max))
    return _Choice(desired, Reason.FROM_ZERO, (guard,), _quickest(seen))


def _idle_s(seen: Outlook, state: State) -> float:
    """For how long there has been nothing to do; -inf where one is kept all the same."""
    if seen.rules.min or state.idle_since is None:
        return -math.inf
    return seen.now - state.idle_since


# ── growing ──────────────────────────────────────────────────────────────────────────────────────


def _grow(seen: Outlook, pace: Pace) -> _Choice:
    rules, base, ways = seen.rules, seen.base, seen.fleet.ways
    if base >= rules.max:
        return _Choice(base, Reason.AT_MAX, (Guard(Reason.AT_MAX, {"max": rules.max}),))
    if seen.contended and rules.host_contention is Contention.HOLD:
        return _Choice(base, Reason.HOST_CONTENDED)  # the sentence says so already
    wanted, way = grow(pace, seen.asked, ways, base, rules)
    numbers: dict[str, Number] = {
        "level": "seen" if way is None else f"more than {wanted}",
        "lasted_s": pace.lasted(wanted + 1, seen.asked),
        # where some come by a quicker way, the rest has to wait for a slower one
        "window_s": window_of(_next_path(ways) if way is None else ways[-1].path, rules),
    }
    unsure = Guard(Reason.NOT_SUSTAINED, numbers)
    if way is None:
        return _Choice(base, Reason.NOT_SUSTAINED, (unsure,))
    reason = max(seen.parts, key=lambda part: part.asks).reason
    choice = _paced(wanted, reason, way, seen, pace)
    if wanted >= min(seen.asks, rules.max):
        return choice
    return choice._replace(guards=(*choice.guards, unsure))


def _next_path(ways: tuple[Way, ...]) -> Path:
    return next((way.path for way in ways if way.available != 0), Path.COLD)


def _paced(wanted: int, reason: Reason, way: Way | None, seen: Outlook, pace: Pace) -> _Choice:
    """So many of them as the limits allow."""
    rules, base, limit = seen.rules, seen.base, seen.rules.grow_limit
    if base >= rules.max:
        return _Choice(base, Reason.AT_MAX, (Guard(Reason.AT_MAX, {"max": rules.max}),))
    floor = reason in FLOORS  # somebody, or the season, knows: that is followed to the last one
    if wanted - base < rules.min_change and not floor:
        return _too_small(wanted - base, seen)
    desired = min(wanted, rules.max)
    guards: tuple[Guard, ...] = ()
    if seen.fleet.unavailable:
        guards = (_unavailable(seen, "which is no help"),)
    if desired == rules.max < seen.asks:
        guards = (*guards, Guard(Reason.AT_MAX, {"max": rules.max}))
    room = pace.room_up(limit, base, seen.now)
    if room < desired - base:
        guard = _rate_limited(desired - base - room, limit.period_s)
        if not room:
            return _Choice(base, Reason.RATE_LIMITED, (guard,))
        if room < rules.min_change and not floor:
            return _too_small(room, seen)
        desired, guards = base + room, (*guards, guard)
    return _Choice(desired, reason, guards, way)


def _too_small(change: int, seen: Outlook) -> _Choice:
    guard = Guard(Reason.SMALL_CHANGE, {"change": change, "least": seen.rules.min_change})
    return _Choice(seen.base, Reason.SMALL_CHANGE, (guard,))


def _rate_limited(later: int, period_s: float) -> Guard:
    return Guard(Reason.RATE_LIMITED, {"later": later, "period_s": period_s})


# ── shrinking ────────────────────────────────────────────────────────────────────────────────────


def _shrink(seen: Outlook, state: State) -> _Choice:
    """Down to what was never exceeded in the window, as far as every guard lets it."""
    rules, base, pace = seen.rules, seen.base, state.pace
    keeps = seen.keeps
    if base == 1 and not rules.min:
        return _Choice(base, Reason.STEADY)  # the last one goes when nobody asked for long
    unknown = _unknown(seen)
    if unknown is not None:
        return _Choice(base, unknown.reason, (unknown,))
    if keeps >= base:
        if seen.fleet.ready != base:
            return _settling(seen)
        if seen.asks < base:
            return _kept(keeps, seen)
        return _Choice(base, Reason.STEADY)
    held = _held(seen, state)
    if held is not None:
        return _Choice(base, held.reason, (held,))
    window_s = pace.lull.window(rules.shrink_window_s, seen.now)
    kept = pace.kept(window_s, seen.now)
    if kept is None or kept >= base:
        numbers: dict[str, Number] = {
            "kept": base if kept is None else kept,
            "window_s": window_s,
        }
        return _Choice(base, Reason.STABILISING, (Guard(Reason.STABILISING, numbers),))
    if base <= rules.min:
        return _Choice(base, Reason.AT_MIN, (Guard(Reason.AT_MIN, {"min": rules.min}),))
    # the last one of a service that may have none leaves for another reason
    target = max(kept, rules.min, 1)
    return _as_far_as_it_goes(base - target, kept, window_s, seen, state)


def _kept(keeps: int, seen: Outlook) -> _Choice:
    """Less would do by what is asked for; who wants them kept all the same?"""
    part = max(seen.parts, key=lambda part: part.keeps)
    by = f"{_KEEPERS.get(part.reason, part.reason.value)}"
    return _Choice(seen.base, Reason.KEPT, (Guard(Reason.KEPT, {"by": by, "kept": keeps}),))


_KEEPERS = {
    Reason.CPU_OVERLOAD: "the margin below the target",
    Reason.CONCURRENCY: "the mean of running requests",
    Reason.QUEUE: "the queue",
    Reason.LATENCY: "latency",
    Reason.STEP: "no step down",
}


def _unknown(seen: Outlook) -> Guard | None:
    """Nobody knows how much there is to do: hold on in doubt."""
    if seen.reading.missing:
        return _no_data(seen)
    if seen.fleet.unavailable:
        return _unavailable(seen, "so none leaves")
    return None


def _unavailable(seen: Outlook, so: str) -> Guard:
    return Guard(Reason.UNAVAILABLE, {"unavailable": seen.fleet.unavailable, "so": so})


def _held(seen: Outlook, state: State) -> Guard | None:
    """What keeps everybody, though the load would let some go."""
    fleet, now = seen.fleet, seen.now
    if state.concurrency is not None and state.concurrency.panics(now):
        return Guard(
            Reason.PANIC,
            {"times": seen.rules.panic_at, "left_s": state.concurrency.panic_until - now},
        )
    if not seen.reading.serving or (fleet.booting and not fleet.launch_failures):
        # where launches fail, the fleet may never be what was decided: then what is ready counts
        return _settling(seen).guards[0]
    return None


def _settling(seen: Outlook) -> _Choice:
    fleet = seen.fleet
    failed = f", {fleet.launch_failures} launches in a row failed" if fleet.launch_failures else ""
    numbers: dict[str, Number] = {
        "ready": fleet.ready,
        "booting": fleet.booting,
        "draining": fleet.draining,
        "failed": failed,
    }
    return _Choice(seen.base, Reason.SETTLING, (Guard(Reason.SETTLING, numbers),))


def _as_far_as_it_goes(
    fewer: int, kept: int, window_s: float, seen: Outlook, state: State
) -> _Choice:
    rules, base, limit = seen.rules, seen.base, seen.rules.shrink_limit
    guards: list[Guard] = []
    room = state.pace.room_down(limit, base, seen.now)
    if fewer > room:
        guards.append(_rate_limited(fewer - room, limit.period_s))
        fewer = room
    smooth = state.cpu.smooth.mean(seen.now) or 0.0
    work = max(seen.reading.at_most, smooth)
    crossed = None
    while fewer and (at := work / _left(fewer, seen)) > rules.target_cpu:
        crossed = Guard(
            Reason.WOULD_CROSS,
            {"fewer": base - fewer, "crossed": at, "limit": rules.target_cpu},
        )
        fewer -= 1
    if crossed is not None:
        guards.append(crossed)
    if not fewer:
        return _Choice(base, guards[-1].reason, tuple(guards))
    if fewer < rules.min_change:
        return _too_small(fewer, seen)
    winner = max(seen.parts, key=lambda part: part.keeps, default=None)
    by_cpu = winner is None or winner.reason in _CPU
    reason = Reason.CPU_LOW if by_cpu else Reason.LOAD_LOW
    why = Guard(
        reason,
        {
            "left": base - fewer,
            "at": work / _left(fewer, seen),
            "kept": kept,
            "window_s": window_s,
        },
    )
    return _Choice(base - fewer, reason, (why, *guards))


def _left(fewer: int, seen: Outlook) -> int:
    """How many would serve: those that do not are the first to go."""
    return max(1, min(seen.reading.serving, seen.base - fewer))
