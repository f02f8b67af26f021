"""Which backend gets the next request? Selection policies; pure: the rng is an argument.

A policy sees only candidates that may be picked (the pool asked `available` before) and looks at
three of their attributes. What it remembers between picks is its own turn, never a backend's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar


class Candidate(Protocol):
    """What a policy may know of a backend."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def in_flight(self) -> int: ...


class Rng(Protocol):
    def random(self) -> float:
        """Uniform in [0, 1)."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Picks one of at least one candidate. `key` is what stickiness hangs on, None without."""

    name: str

    def pick(self, available: Sequence[C], rng: Rng, key: str | None = None) -> C: ...


class LeastRequests:
    """The fewest running requests per weight; ties take turns, by weight where weights differ."""

    name = "least_requests"

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, available: Sequence[C], rng: Rng, key: str | None = None) -> C:
        best = available[0]
        ties = [best]
        weighted = False
        for other in available[1:]:
            # a.in_flight / a.weight against b.in_flight / b.weight, without division
            left = other.in_flight * best.weight
            right = best.in_flight * other.weight
            if left < right:
                best = other
                ties = [other]
                weighted = False
            elif left == right:
                ties.append(other)
                weighted = weighted or other.weight != best.weight
        if len(ties) == 1:
            return best
        if weighted:
            return _weighted(ties, rng)
        self._turn += 1
        return ties[self._turn % len(ties)]


class RoundRobin:
    """Smooth weighted round robin (nginx's): weights 5, 1, 1 give a a b a c a a, not aaaaabc.

    Each pick, every candidate gains its weight, the richest is picked and pays the sum. Candidates
    may come and go between picks; the ones absent are forgotten.
    """

    name = "round_robin"

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}

    def pick(self, available: Sequence[C], rng: Rng, key: str | None = None) -> C:
        old = self._credit
        credit: dict[str, int] = {}
        total = 0
        best = available[0]
        most: int | None = None
        for candidate in available:
            weight = candidate.weight
            total += weight
            has = credit[candidate.name] = old.get(candidate.name, 0) + weight
            if most is None or has > most:
                best, most = candidate, has
        credit[best.name] -= total
        self._credit = credit
        return best


def _weighted(candidates: Sequence[C], rng: Rng) -> C:
    point = rng.random() * sum(candidate.weight for candidate in candidates)
    for candidate in candidates:
        point -= candidate.weight
        if point < 0:
            return candidate
    return candidates[-1]


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    LeastRequests.name: LeastRequests,
    RoundRobin.name: RoundRobin,
}


def policy_named(name: str) -> Policy:
    """A fresh policy by its word in the config. Raises KeyError for an unknown one."""
    return POLICIES[name]()
