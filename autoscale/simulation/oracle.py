"""What nobody could have done with less: VM-seconds that any planner without a violating second
takes, even one that knows every request and every boot time beforehand.

It is a bound, not a plan: whether somebody could do with exactly so many is left open. It is the
larger of two figures, each of which is such a bound by itself:

1. Work. All requests that have to be answered in time are so much work, and a replica does
   `servers` seconds of it a second. Nor are there ever fewer than `min_replicas`.
2. Windows. Play the requests of a second, of ten, of sixty alone, from an empty queue, with k
   replicas from beginning to end: the very queue of the simulator. If one of these seconds comes
   out violated, then whoever has no such second had more than k at some time between the window's
   beginning and the objective after its end: with more load before it, or fewer servers at times,
   first come, first served makes nobody earlier. So each window wants a number of replicas, once.
   Replica by replica (one is the k-th while k are there), the cheapest lives that meet all windows
   of one length which want k or more are found by dynamic programming; the length counts that asks
   for most. A life costs what a machine takes to boot by the quickest way the scenario has, the
   time between the windows it meets, and `drain_s`. So one stays through a gap where leaving and
   coming again would cost more.

Requests that take longer than the objective on a server of their own are over it whatever anybody
does, and ask for nothing. A window that fails with `max_replicas` too asks for all of them, and
nothing asks for more than all of them all the time. In windows with more than `SIMULATED_PER_S`
requests a second only their work counts: they would take long to play, and are so many that chance
makes little difference.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heapreplace

import numpy as np

from autoscale.simulation.requests import Floats, Requests
from autoscale.simulation.scenario import Faults, Scenario, Timing

WINDOWS_S = (1, 10, 60)
"""Short ones see peaks, long ones see that a queue must not grow; each misses its own length where
a load begins and ends."""
SIMULATED_PER_S = 300


@dataclass(frozen=True, slots=True)
class _Second:
    """The requests that arrive in it."""

    arrived: Floats
    work: Floats
    excused: int
    """So many of them may take longer than the objective."""
    due_s: float
    """The least work that has to be done in time."""


@dataclass(frozen=True, slots=True)
class _Wants:
    """What windows of `length_s` want: from `starts[i]` on, `replicas[i]` of them once."""

    length_s: int
    starts: tuple[float, ...]
    replicas: tuple[int, ...]


def least_vm_seconds(scenario: Scenario) -> float:
    """The bound; see above. It is remembered what the requests of the last scenarios want."""
    due_s, wants = _wanted(_plain(scenario))
    boot_s = min(scenario.seconds_of(way) for way in scenario.ways)
    least = scenario.min_replicas * scenario.duration_s
    by_work = max(least, due_s / scenario.servers)
    by_windows = least
    for level in range(scenario.min_replicas + 1, scenario.max_replicas + 1):
        by_windows += max(
            lives_s(
                [s for s, k in zip(each.starts, each.replicas, strict=True) if k >= level],
                each.length_s + scenario.objective_p99_s,
                boot_s,
                scenario.timing.drain_s,
                there=level <= scenario.initial_replicas,
            )
            for each in wants
        )
    return min(max(by_work, by_windows), scenario.max_replicas * scenario.duration_s)


def lives_s(
    starts: Sequence[float], slack_s: float, boot_s: float, drain_s: float, *, there: bool
) -> float:
    """The fewest VM-seconds in which one replica at a time can be there once in each window
    [start, start + slack_s]; `there`: it is so at second 0.

    f(i), the cost of meeting the first i windows, is the least over the j of its last life, which
    meets windows j … i: f(j − 1) + boot + max(0, start_i − start_j − slack) + drain. As f never
    falls, of those j with the maximum at 0 the first is the best; of the others it is a running
    minimum. A machine need not be gone at the end.
    """
    if not starts:
        return 0.0
    least = [0.0]
    straight, first = math.inf, 0
    for start in starts:
        while start - starts[first] > slack_s:
            straight = min(straight, least[first] - starts[first] - slack_s)
            first += 1
        cost = boot_s + drain_s + min(least[first], straight + start)
        least.append(min(cost, start + drain_s) if there else cost)
    return max(0.0, least[-1] - drain_s)


def _plain(scenario: Scenario) -> Scenario:
    """The same as to its requests and what they want: what planners differ in taken out."""
    return replace(
        scenario,
        name="",
        timing=Timing(),
        faults=Faults(),
        standbys=0,
        snapshot=False,
        initial_replicas=0,
        min_replicas=0,
        interval_s=1.0,
        overhead_cores=0.0,
        queue_length=0,
        max_wait_s=0.0,
    )


@lru_cache(maxsize=4)
def _wanted(scenario: Scenario) -> tuple[float, tuple[_Wants, ...]]:
    """Seconds of work to be done in time, and what the windows of each length want."""
    due_s = 0.0
    recent: deque[_Second] = deque(maxlen=max(WINDOWS_S))
    starts: dict[int, list[float]] = {length: [] for length in WINDOWS_S}
    replicas: dict[int, list[int]] = {length: [] for length in WINDOWS_S}
    for second, requests in enumerate(_seconds(scenario)):
        end = second + 1
        if end + scenario.objective_p99_s > scenario.duration_s:
            break  # what is due after the end is nobody's fault
        due_s += requests.due_s
        recent.append(requests)
        for length in WINDOWS_S:
            # half of each overlaps the next one: a second long enough in trouble is in one whole
            if end >= length and end % max(1, length // 2) == 0:
                before = replicas[length][-1] if replicas[length] else 1
                window = list(recent)[-length:]
                starts[length].append(float(end - length))
                replicas[length].append(_least_for(window, end - length, scenario, before))
    return due_s, tuple(
        _Wants(length, tuple(starts[length]), tuple(replicas[length])) for length in WINDOWS_S
    )


def _seconds(scenario: Scenario) -> Iterator[_Second]:
    requests = Requests(scenario)
    for second in range(math.ceil(scenario.duration_s)):
        arrived, work = requests.until(min(second + 1.0, scenario.duration_s))
        count = len(work)
        hopeless = int(np.count_nonzero(work > scenario.objective_p99_s))
        excused = max(count - math.ceil(0.99 * count), hopeless)
        longest = np.partition(work, count - excused)[count - excused :] if excused else work[:0]
        yield _Second(arrived, work, excused, float(work.sum() - longest.sum()))


def _least_for(window: list[_Second], start: float, scenario: Scenario, guess: int) -> int:
    """The fewest replicas with which no second of the window is violated."""
    count = sum(len(second.work) for second in window)
    if not count:
        return 0
    span_s = len(window) + scenario.objective_p99_s
    due_s = sum(second.due_s for second in window)
    most = scenario.max_replicas
    least = min(most, max(1, math.ceil(due_s / (span_s * scenario.servers) - 1e-9)))
    if count > SIMULATED_PER_S * len(window):
        return least
    replicas = max(least, min(most, guess))
    if _fails(window, start, replicas, scenario):
        while replicas < most:
            replicas += 1
            if not _fails(window, start, replicas, scenario):
                return replicas
        return most
    while replicas > least and not _fails(window, start, replicas - 1, scenario):
        replicas -= 1
    return replicas


def _fails(window: list[_Second], start: float, replicas: int, scenario: Scenario) -> bool:
    """Whether a second comes out violated, by the simulator's queue."""
    objective_s = scenario.objective_p99_s
    free = [start] * (replicas * scenario.servers)
    for second in window:
        excused = second.excused
        for arrived, work in zip(second.arrived.tolist(), second.work.tolist(), strict=True):
            at = free[0]
            ends = (arrived if at <= arrived else at) + work
            heapreplace(free, ends)
            if ends - arrived > objective_s:
                excused -= 1
                if excused < 0:
                    return True
    return False
