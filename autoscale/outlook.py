"""What the planner sees at one instant: every part's number, and what was asked for until now.

Takes the signals in, whatever is done about them later: windows, capacity and forecast learn also
while the planner only observes. Pure. What follows from it is `policy`'s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from autoscale.contention import CONTENDED, delay_of
from autoscale.decision import Guard, Part
from autoscale.forecast import Forecast
from autoscale.model import Fleet, Reason, Signal
from autoscale.pace import AVERAGED, INSTANT, SLOW, Asked, AskedAll
from autoscale.parts import concurrency
from autoscale.parts.capacity import Capacity
from autoscale.parts.concurrency import concurrency_part
from autoscale.parts.cpu import cpu_part
from autoscale.parts.latency import OVER_S, LatencyState, latency_part
from autoscale.parts.queue import drain_s, queue_part
from autoscale.parts.reading import Reading, read
from autoscale.rules import Forecasting, Rules
from autoscale.signals import Signals
from autoscale.state import State

ONE_MISSED_TICK = 1 / 3
"""Of `fresh_s`, which is 2.5 intervals: data that went missing 0.8 intervals ago or less has missed
one tick, and those that events caused meanwhile."""

FLOORS = (Reason.SCHEDULE, Reason.FORECAST)
"""Parts that know what comes: they ask at once, and no window makes them wait."""

_COVERS = {
    Reason.CPU_OVERLOAD: AVERAGED,
    Reason.STEP: AVERAGED,
    Reason.QUEUE: AVERAGED,
    Reason.CONCURRENCY: INSTANT,
    Reason.LATENCY: SLOW,
}


class Outlook(NamedTuple):
    """What one decision is made of."""

    signals: Signals
    fleet: Fleet
    rules: Rules
    now: float
    base: int
    """How many were wanted before, within the bounds."""
    reading: Reading
    parts: tuple[Part, ...]
    asks: int
    """What the parts together want, bounds aside."""
    load_asks: int
    """The same without schedule and forecast."""
    keeps: int
    """What the parts together would keep."""
    asked: AskedAll
    contended: tuple[Guard, ...]
    """One that says so, where the cores of every host are taken."""

    @property
    def floor(self) -> Part | None:
        """Of schedule and forecast, the one that asks for more; None where neither does."""
        if self.rules.forecast is not Forecasting.ACT and not self.rules.schedule:
            return None
        floors = [part for part in self.parts if part.reason in FLOORS and part.asks]
        return max(floors, key=lambda part: part.asks, default=None)

    @property
    def blind(self) -> bool:
        """There are replicas that serve, and no fresh sample of any."""
        return self.reading.serving > 0 and not self.reading.fresh


def look(
    signals: Signals, fleet: Fleet, state: State, rules: Rules, now: float, base: int
) -> tuple[Outlook, State]:
    """Everything that can be said now, and the state with this instant in it."""
    reading = read(signals, rules.fresh_s, now)
    capacity = state.capacity.learn(signals, rules.fresh_s, now)
    cpu = state.cpu.add(reading, rules, now)
    drains = None if capacity.usual is None else capacity.usual * drain_s(fleet, rules)
    running, worth = concurrency.measure(
        state.concurrency or concurrency.start(rules), signals, fleet, drains, rules, now
    )
    load = _load(signals, reading, capacity)
    latency = LatencyState()
    if rules.latency_p99_s is not None:
        work = None if reading.missing else load
        latency = state.latency.judge(signals.latency_p99_s, fleet, base, work, now)
    forecast = _remember(state.forecast, signals.wall_s, load, rules, reading)
    lead_s = rules.interval_s + (fleet.ways[-1].seconds if fleet.ways else 0.0)
    schedule = state.schedule.at(rules.schedule, signals.wall_s, lead_s)
    floor = schedule.replicas(signals.wall_s, lead_s)
    parts = [
        cpu_part(reading, cpu, signals, fleet, rules, now),
        concurrency_part(running, worth, fleet, rules, now),
        queue_part(signals, reading, capacity.usual, fleet, rules, base),
        Part(Reason.SCHEDULE, floor, floor) if floor else None,
        _expected(forecast, signals.wall_s, lead_s, rules),
    ]
    if rules.latency_p99_s is not None:
        # help that is asked for, or on its way, comes first
        enough = fleet.ready == base and all(part is None or part.asks <= base for part in parts)
        p99_s, most_s = signals.latency_p99_s, rules.latency_p99_s
        parts.append(latency_part(latency, p99_s, most_s, base, now, enough=enough))
    away = max(0, fleet.ready - reading.serving)
    said = tuple([part for part in parts if part is not None])
    if away:
        said = tuple([_beside(part, reading.serving, away) for part in said])
    asks = load_asks = keeps = 0
    for part in said:
        if part.asks > asks:
            asks = part.asks
        if part.keeps > keeps:
            keeps = part.keeps
        if part.asks > load_asks and part.reason not in FLOORS:
            load_asks = part.asks
    since = None
    asked = _asked(said, reading, signals, rules, now)
    if reading.missing:
        since = now if state.missed_since is None else state.missed_since
        if now - since <= ONE_MISSED_TICK * rules.fresh_s:
            # an overload outlives one missing tick
            asked = state.pace.at_least_as_before(asked)
    # of those that are missing or unavailable, what they would carry shows with the others, or not
    # at all: nobody knows
    kept = max(keeps, base) if fleet.unavailable or reading.missing else keeps
    after = State(
        desired=state.desired,
        pace=state.pace.ask(asked).keep(min(kept, rules.max), now),
        cpu=cpu,
        concurrency=running,
        capacity=capacity,
        latency=latency,
        schedule=schedule,
        forecast=forecast,
        missed_since=since,
        idle_since=_idle_since(signals, state.idle_since, now),
    )
    contended = _contended(signals, now - rules.fresh_s) if reading.waits else ()
    return (
        Outlook(
            signals, fleet, rules, now, base, reading, said, asks, load_asks, keeps, asked,
            contended,
        ),
        after,
    )  # fmt: skip


def _beside(part: Part, serving: int, away: int) -> Part:
    """Those that get no requests are no help to those that need it."""
    if part.asks <= serving or part.reason in FLOORS:
        return part
    return part._replace(asks=part.asks + away)


def _load(signals: Signals, reading: Reading, capacity: Capacity) -> float:
    """What is used, or more where a queue shows that it is not enough."""
    arrivals = signals.arrivals_per_s
    if signals.queued and capacity.usual and arrivals is not None:
        return max(reading.work, arrivals / capacity.usual)
    return reading.work


def _asked(
    parts: tuple[Part, ...], reading: Reading, signals: Signals, rules: Rules, now: float
) -> AskedAll:
    """The most of each kind of figure, and what it covers. No more than could ever be followed, so
    that the levels to remember are as few as the replicas there may be."""
    most, asks = rules.max + rules.min_change, [0, 0, 0]
    for part in parts:
        kind = _COVERS.get(part.reason)
        if part.reason is Reason.QUEUE and part.numbers["queued"]:
            kind = INSTANT  # who waits is seen, whatever the means of the last second are
        if kind is not None:
            asks[kind] = max(asks[kind], min(part.asks, most))
    # arrivals may be older than the samples
    begin = min(reading.begin, now - signals.reading_s) if reading.used_up else reading.begin
    return (
        Asked(asks[INSTANT], now, now),
        Asked(asks[AVERAGED], begin, reading.end),
        Asked(asks[SLOW], now - OVER_S, now),
    )


def _remember(
    forecast: Forecast | None, wall_s: float, load: float, rules: Rules, reading: Reading
) -> Forecast | None:
    if rules.forecast is Forecasting.OFF:
        return None
    if forecast is None or forecast.season_s != rules.season_s:
        forecast = Forecast.start(rules.season_s)
    if reading.missing:
        return forecast  # what is not known must not be learned
    return forecast.add(wall_s, load)


def _expected(forecast: Forecast | None, wall_s: float, lead_s: float, rules: Rules) -> Part | None:
    """A floor, and one that asks for nothing while it is only observed."""
    if forecast is None or (demand := forecast.expect(wall_s, lead_s)) is None:
        return None
    would = min(rules.max, math.ceil(demand / rules.target_cpu - 1e-9))
    asks = would if rules.forecast is Forecasting.ACT else 0
    numbers = {"demand": demand, "lead_s": lead_s, "would": would, "error": forecast.error}
    return Part(Reason.FORECAST, asks, asks, numbers)


def _idle_since(signals: Signals, since: float | None, now: float) -> float | None:
    if signals.running or signals.queued or signals.arrivals_per_s:
        return None
    return now if since is None else since


def _contended(signals: Signals, oldest: float) -> tuple[Guard, ...]:
    """High run-queue delay means that the *host* is contended: what another replica there gets, it
    takes from those that serve. Samples before `oldest` say nothing of now, and hosts that do not
    answer can start none."""
    by_host: dict[str, list[Signal]] = {host: [] for host in signals.hosts}
    for vm in sorted(signals.serving):
        signal, there = signals.cpu.get(vm), by_host.get(signals.host_of.get(vm, ""))
        if there is not None and signal is not None and signal.at >= oldest:
            there.append(signal)
    least = math.inf
    for found in by_host.values():
        delay = delay_of(found)
        if delay is None or delay < CONTENDED:
            return ()  # there is room, as far as anybody knows
        least = min(least, delay)
    return (Guard(Reason.HOST_CONTENDED, {"delay": least}),) if by_host else ()
