"""The same scenarios played by several planners: ours beside those that others published.

Owns who takes part, what they are compared by, and who is best. It must not play a scenario, print
or draw: that is `simulate`'s and the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from autoscale.rivals import (
    CourseRule,
    HorizontalPodAutoscaler,
    KnativePodAutoscaler,
    StepScaling,
    TargetTracking,
)
from autoscale.rivals.knative import TARGET_SHARE
from autoscale.rules import Rules
from autoscale.simulation.planner import Ours, Planner
from autoscale.simulation.result import Score
from autoscale.simulation.scenario import Scenario

OURS: Final = "ours"
OURS_COLD: Final = "ours, cold boots only"
HPA: Final = HorizontalPodAutoscaler.name

RIVALS: Mapping[str, Callable[[Scenario, Rules], Planner]] = {
    TargetTracking.name: lambda _, rules: TargetTracking(rules),
    StepScaling.name: lambda _, rules: StepScaling(rules),
    HPA: lambda _, rules: HorizontalPodAutoscaler(rules),
    KnativePodAutoscaler.name: lambda scenario, rules: KnativePodAutoscaler(
        rules, concurrency_at_target(scenario.servers, rules) / TARGET_SHARE
    ),
    CourseRule.name: lambda _, rules: CourseRule(rules),
}
"""All with the bounds and the CPU target of our rules."""


def concurrency_at_target(servers: int, rules: Rules) -> float:
    """Requests that run or wait, per replica, while half of the most replicas there may be run at
    the CPU target: the target of those who measure concurrency, and see the queue too.

    Of an M/M/c queue, c servers in all (Erlang's C formula): busy servers, and those that wait for
    one. With few servers the waiting ones are many: 0.67 for 5 replicas of 1 server at 0.6, but
    4.80 for 5 of 8.
    """
    replicas = max(1, rules.max // 2)
    count = servers * replicas
    offered = count * min(rules.target_cpu, 0.95)
    blocked = 1.0
    for server in range(1, count + 1):
        blocked = offered * blocked / (server + offered * blocked)
    waits = blocked / (1 - offered / count * (1 - blocked))
    return (offered + waits * offered / (count - offered)) / replicas


@dataclass(frozen=True, slots=True)
class Entry:
    """One planner, and the scenario as it plays it."""

    name: str
    planner: Planner
    scenario: Scenario


def ours(scenario: Scenario, rules: Rules) -> tuple[Entry, ...]:
    """Our planner as the scenario is, and where it has standbys or a snapshot also without them."""
    bare = Entry(OURS_COLD, Ours(rules, OURS_COLD), cold(scenario))
    if bare.scenario == scenario:
        return (bare,)
    return Entry(OURS, Ours(rules, OURS), scenario), bare


def rivals(scenario: Scenario, rules: Rules) -> tuple[Entry, ...]:
    """Everybody else, each with cold boots only."""
    bare = cold(scenario)
    return tuple(Entry(name, make(bare, rules), bare) for name, make in RIVALS.items())


def settled(rate: float, service_s: float, servers: int, rules: Rules) -> int:
    """As many replicas as a load wants that begins with `rate` requests/s: so that its first second
    is not an overload of its own. One at least."""
    busy = rate * service_s / (servers * rules.target_cpu)
    return max(1, rules.clamp(math.ceil(busy)))


def cold(scenario: Scenario) -> Scenario:
    """The same where every replica boots: what makes a comparison of rules fair."""
    return replace(scenario, standbys=0, snapshot=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """One planner's figures, each the median of several runs, or a sum of such medians."""

    name: str
    violating_seconds: float
    requests_over: float
    requests_lost: float
    vm_seconds: float
    times_the_oracle: float
    """VM-seconds without those of standbys ÷ the oracle's."""
    actions: float
    oscillations: float
    relief_median_s: float | None
    """None where no run had an overload."""
    relief_worst_s: float | None


def standing(name: str, scores: Sequence[Score]) -> Standing:
    """The medians of several runs of one planner on one load."""
    return Standing(
        name,
        median(score.violating_seconds for score in scores),
        median(score.requests_over for score in scores),
        median(score.requests_lost for score in scores),
        median(score.vm_seconds for score in scores),
        median(score.times_the_oracle for score in scores),
        median(score.actions for score in scores),
        median(score.oscillations for score in scores),
        _median(score.relief_median_s for score in scores),
        _median(score.relief_worst_s for score in scores),
    )


def total(name: str, standings: Sequence[Standing]) -> Standing:
    """One planner over several loads: sums; the mean multiple of the oracle; of the times to relief
    the median and the worst."""
    worst = [s.relief_worst_s for s in standings if s.relief_worst_s is not None]
    return Standing(
        name,
        sum(s.violating_seconds for s in standings),
        sum(s.requests_over for s in standings),
        sum(s.requests_lost for s in standings),
        sum(s.vm_seconds for s in standings),
        sum(s.times_the_oracle for s in standings) / len(standings),
        sum(s.actions for s in standings),
        sum(s.oscillations for s in standings),
        _median(s.relief_median_s for s in standings),
        max(worst, default=None),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure to compare by: less is better in all of them."""

    title: str
    of: Callable[[Standing], float | None]
    form: str

    def words(self, found: Standing) -> str:
        value = self.of(found)
        return "-" if value is None else self.form.format(value)


MEASURES: Final = (
    Measure("violating s", lambda s: s.violating_seconds, "{:,.0f}"),
    Measure("over", lambda s: s.requests_over, "{:,.0f}"),
    Measure("lost", lambda s: s.requests_lost, "{:,.0f}"),
    Measure("VM-s", lambda s: s.vm_seconds, "{:,.0f}"),
    Measure("x least", lambda s: s.times_the_oracle, "{:.2f}"),
    Measure("actions", lambda s: s.actions, "{:,.0f}"),
    Measure("swings", lambda s: s.oscillations, "{:,.0f}"),
    Measure("relief s", lambda s: s.relief_median_s, "{:.0f}"),
    Measure("worst s", lambda s: s.relief_worst_s, "{:.0f}"),
)
"""Seconds with p99 over the objective or a request lost; requests over it; requests lost; seconds
of machines; those as a multiple of the least that would have served; changes of size; changes back
soon after; from the onset of an overload to its end, median and worst."""


def best(standings: Sequence[Standing], measure: Measure) -> frozenset[str]:
    """Who shows the least, by what is shown; nobody where all show the same. No overload at all is
    less than any relief from one."""
    shown = {
        s.name: -1.0 if measure.of(s) is None else float(measure.words(s).replace(",", ""))
        for s in standings
    }
    least = min(shown.values(), default=0.0)
    names = frozenset(name for name, value in shown.items() if value == least)
    return names if len(names) < len(standings) else frozenset()


def ranked(standings: Iterable[Standing]) -> list[Standing]:
    """The fewest violating seconds first, then the fewest VM-seconds."""
    return sorted(standings, key=lambda s: (s.violating_seconds, s.vm_seconds))


MOSTLY = 0.5
"""From this share of violating seconds on, what would have been enough was not to be had."""


def meaning(standings: Sequence[Standing], seconds: float) -> str:
    """What the figures say, in a sentence or two. `seconds`: how long the load lasted."""
    first, *others = ranked(standings)
    share = first.violating_seconds / seconds
    said = (
        f"{first.name}: p99 was over the objective, or a request was lost, in"
        f" {first.violating_seconds:,.0f} of {seconds:,.0f} s ({share:.1%})"
    )
    if share > MOSTLY:
        said += "; so many replicas are too few for this load, whoever plans"
    else:
        said += f", with {first.times_the_oracle:.2f} times the machine time of one who knew it all"
    if not others:
        return f"{said}."
    second = others[0]
    more = first.vm_seconds / second.vm_seconds - 1 if second.vm_seconds else 0.0
    cost = "as much" if abs(more) < 0.005 else f"{abs(more):.0%} {'more' if more > 0 else 'less'}"
    than = "machine time as" if cost == "as much" else "machine time than"
    return (
        f"{said}. That is the best of them; next is {second.name} with"
        f" {second.violating_seconds:,.0f} s. The best took {cost} {than} the next."
    )


def misses(where: str, ours_cold: Standing, others: Sequence[Standing]) -> list[str]:
    """What our rules fall short of with equal boot times: nobody has fewer violating seconds, and
    they take no more VM-seconds than Kubernetes' autoscaler."""
    found = []
    first = ranked(others)[0]
    if first.violating_seconds < ours_cold.violating_seconds:
        found.append(
            f"{where}: {ours_cold.violating_seconds:,.0f} violating seconds,"
            f" {first.name} has {first.violating_seconds:,.0f}"
        )
    found += [
        f"{where}: {ours_cold.vm_seconds:,.0f} VM-seconds, {HPA} has {other.vm_seconds:,.0f}"
        for other in others
        if other.name == HPA and other.vm_seconds < ours_cold.vm_seconds
    ]
    return found
