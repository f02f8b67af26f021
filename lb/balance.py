"""Which backend gets the next request? Selection policies; pure: rng and time are arguments.

A policy sees only candidates that may be picked (the pool asked `available` before) and looks at a
few of their attributes. What it remembers from one slate to the next is whose turn it is, never a
backend's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from lb.config_service import HashConfig
from lb.draw import Draw
from lb.least_requests import LeastRequests
from lb.ring import ConsistentHash
from lb.round_robin import RoundRobin
from lb.slate import C, Candidate, Policy, Rng, Slate

UNKNOWN_S: Final = 60.0
"""Taken for the latency of one that has requests running and never answered any: it gets one, and
no second before that one is answered, unless everybody has such a one."""


class RandomTwo:
    """The less busy of two drawn at random (Mitzenmacher's power of two choices).

    A pick looks at two however many there are, and several balancers that see the same fleet do
    not all run to the same backend.
    """

    name: ClassVar[str] = "random_two"
    goes_by_latency: ClassVar[bool] = False

    def slate(self, members: Sequence[C], rng: Rng) -> Slate[C]:
        return _LessBusy(members, rng)


class _LessBusy(Draw[C]):
    __slots__ = ()

    def pick(self, now: float, key: bytes | None = None) -> C:
        first, second = self.two()
        return second if second.in_flight * first.share < first.in_flight * second.share else first


class PeakEwma:
    """The cheaper of two drawn at random: cost = peak latency × (running requests + 1) ÷ share.

    Of two rather than of all (as Finagle and Linkerd): a newcomer without a figure is the cheapest
    of all, and everybody at once would be its ruin; drawn in pairs it meets at most 2/n of them.
    """

    name: ClassVar[str] = "peak_ewma"
    goes_by_latency: ClassVar[bool] = True

    def slate(self, members: Sequence[C], rng: Rng) -> Slate[C]:
        return _Cheaper(members, rng)


class _Cheaper(Draw[C]):
    __slots__ = ()

    def pick(self, now: float, key: bytes | None = None) -> C:
        first, second = self.two()
        return second if cost(second, now) < cost(first, now) else first


def cost(candidate: Candidate, now: float) -> float:
    """What one more request there costs, in seconds of latency per share.

    Only an idle one's figure decays: one that hangs with requests must not look faster for it.
    """
    running = candidate.in_flight
    peak = candidate.peak
    if not running:
        return (peak.decayed_s(now) or 0.0) / candidate.share
    latency_s = peak.value_s
    if latency_s is None:
        latency_s = UNKNOWN_S
    return latency_s * (running + 1) / candidate.share


POLICIES: Final[dict[str, Callable[[HashConfig], Policy]]] = {
    LeastRequests.name: lambda _: LeastRequests(),
    RoundRobin.name: lambda _: RoundRobin(),
    RandomTwo.name: lambda _: RandomTwo(),
    PeakEwma.name: lambda _: PeakEwma(),
    ConsistentHash.name: lambda config: ConsistentHash(config.load),
}


Policies = Callable[[str, HashConfig], Policy]
"""Makes a policy by its word in the config."""


def policy_named(name: str, config: HashConfig | None = None) -> Policy:
    """A fresh policy by its word in the config. Raises KeyError for an unknown one."""
    return POLICIES[name](config or HashConfig())
