"""Which backend gets the next request? Selection policies; pure: rng and time are arguments.

A policy sees only candidates that may be picked (the pool asked `available` before) and looks at a
few of their attributes. What it remembers between picks is its own turn, never a backend's state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from lb.config_service import HashConfig
from lb.ring import ConsistentHash
from lb.slate import C, Candidate, Policy, Rng, Slate

UNKNOWN_S: Final = 60.0
"""Taken for the latency of one that has requests running and never answered any: it gets one, and
no second before that one is answered, unless everybody has such a one."""


class LeastRequests:
    """The fewest running requests per share; ties take turns, by share where shares differ."""

    name = "least_requests"
    goes_by_latency = False

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, slate: Slate[C], rng: Rng, now: float, key: bytes | None = None) -> C:
        available = slate.open()
        best = available[0]
        ties = [best]
        weighted = False
        for other in available[1:]:
            # a.in_flight / a.share against b.in_flight / b.share, without division
            left = other.in_flight * best.share
            right = best.in_flight * other.share
            if left < right:
                best = other
                ties = [other]
                weighted = False
            elif left == right:
                ties.append(other)
                weighted = weighted or other.share != best.share
        if len(ties) == 1:
            return best
        if weighted:
            return _weighted(ties, rng)
        self._turn += 1
        return ties[self._turn % len(ties)]


class RoundRobin:
    """Smooth weighted round robin (nginx's): weights 5, 1, 1 give a a b a c a a, not aaaaabc.

    Each pick, every candidate gains its share, the richest is picked and pays the sum. Candidates
    may come and go between picks; the ones absent are forgotten.
    """

    name = "round_robin"
    goes_by_latency = False

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def pick(self, slate: Slate[C], rng: Rng, now: float, key: bytes | None = None) -> C:
        old = self._credit
        credit: dict[str, float] = {}
        total = 0.0
        available = slate.open()
        best = available[0]
        most: float | None = None
        for candidate in available:
            share = candidate.share
            total += share
            has = credit[candidate.name] = old.get(candidate.name, 0.0) + share
            if most is None or has > most:
                best, most = candidate, has
        credit[best.name] -= total
        self._credit = credit
        return best


class RandomTwo:
    """The less busy of two drawn at random (Mitzenmacher's power of two choices).

    A pick looks at two however many there are, and several balancers that see the same fleet do
    not all run to the same backend.
    """

    name = "random_two"
    goes_by_latency = False

    def __init__(self) -> None:
        self._draw = _Draw()

    def pick(self, slate: Slate[C], rng: Rng, now: float, key: bytes | None = None) -> C:
        first, second = self._draw.two(slate, rng)
        return second if second.in_flight * first.share < first.in_flight * second.share else first


class PeakEwma:
    """The cheaper of two drawn at random: cost = peak latency × (running requests + 1) ÷ share.

    Of two rather than of all (as Finagle and Linkerd): a newcomer without a figure is the cheapest
    of all, and everybody at once would be its ruin; drawn in pairs it meets at most 2/n of them.
    """

    name = "peak_ewma"
    goes_by_latency = True

    def __init__(self) -> None:
        self._draw = _Draw()

    def pick(self, slate: Slate[C], rng: Rng, now: float, key: bytes | None = None) -> C:
        first, second = self._draw.two(slate, rng)
        return second if cost(second, now) < cost(first, now) else first


def cost(candidate: Candidate, now: float) -> float:
    """What one more request there costs, in seconds of latency per share.

    Only an idle one's figure decays: one that hangs with requests must not look faster for it.
    """
    running = candidate.in_flight
    if not running:
        return (candidate.peak.decayed_s(now) or 0.0) / candidate.share
    latency_s = candidate.peak.value_s
    if latency_s is None:
        latency_s = UNKNOWN_S
    return latency_s * (running + 1) / candidate.share


class _Draw:
    """Two different ones at random, the first by share, the second by share among the others."""

    def __init__(self) -> None:
        self._members: object = None
        self._sums: list[float] = []
        self._equal = True

    def two(self, slate: Slate[C], rng: Rng) -> tuple[C, C]:
        """The same one twice where there is no other."""
        members = slate.open()
        if self._members is not members:
            self._sums = list(accumulate(member.share for member in members))
            self._equal = all(member.share == members[0].share for member in members)
            self._members = members
        size = len(members)
        if size == 1:
            return members[0], members[0]
        if self._equal:
            one = int(rng.random() * size)
            other = int(rng.random() * (size - 1))
            return members[one], members[other + (other >= one)]
        sums = self._sums
        one = _index(sums, rng.random() * sums[-1])
        # The first one's stretch is left out: the total is shorter by it, what follows it moves up.
        before = sums[one - 1] if one else 0.0
        own = sums[one] - before
        point = rng.random() * (sums[-1] - own)
        other = _index(sums, point if point < before else point + own)
        if other == one:  # by a rounding error, which only the last one's stretch is open to
            other -= 1
        return members[one], members[other]


def _index(sums: Sequence[float], point: float) -> int:
    return min(bisect_right(sums, point), len(sums) - 1)


def _weighted(candidates: Sequence[C], rng: Rng) -> C:
    sums = list(accumulate(candidate.share for candidate in candidates))
    return candidates[_index(sums, rng.random() * sums[-1])]


POLICIES: Final[dict[str, Callable[[HashConfig], Policy]]] = {
    LeastRequests.name: lambda _: LeastRequests(),
    RoundRobin.name: lambda _: RoundRobin(),
    RandomTwo.name: lambda _: RandomTwo(),
    PeakEwma.name: lambda _: PeakEwma(),
    ConsistentHash.name: lambda config: ConsistentHash(config.load),
}


def policy_named(name: str, config: HashConfig | None = None) -> Policy:
    """A fresh policy by its word in the config. Raises KeyError for an unknown one."""
    return POLICIES[name](config or HashConfig())
