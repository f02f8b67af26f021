"""Candidates for the tests of selection policies: what a policy sees of a backend, and no more; and
slates of them, told of requests as the pool tells them."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field

from hypothesis import strategies as st

from lb.peak import PeakLatency
from lb.slate import Policy, Rng, Slate


@dataclass(eq=False)
class Candidate:
    name: str
    weight: int = 1
    in_flight: int = 0
    peak: PeakLatency = field(default_factory=PeakLatency)
    share: float = 0.0

    def __post_init__(self) -> None:
        self.share = self.share or float(self.weight)


def slate(
    policy: Policy,
    *members: Candidate,
    closed: Collection[Candidate] = (),
    rng: Rng | None = None,
) -> Slate[Candidate]:
    """A policy's slate of these, as the pool makes it."""
    made = policy.slate(list(members), rng or random.Random(7))
    for member in closed:
        made.close(member)
    return made


def take(slate: Slate[Candidate], now: float = 0.0, key: bytes | None = None) -> Candidate:
    """Give somebody a request, as a lease does."""
    member = slate.pick(now, key)
    member.in_flight += 1
    slate.took(member)
    return member


def give(slate: Slate[Candidate], member: Candidate) -> None:
    """End one there, as a release does."""
    member.in_flight -= 1
    slate.gave(member)


def ask(slate: Slate[Candidate], now: float = 0.0, key: bytes | None = None) -> Candidate:
    """A request that is over before the next one comes."""
    member = take(slate, now, key)
    give(slate, member)
    return member


def fleet(number: int) -> list[Candidate]:
    return [Candidate(f"10.0.0.{n}:8080") for n in range(number)]


def answered(seconds: float, at: float = 0.0) -> PeakLatency:
    peak = PeakLatency()
    peak.record(seconds, at)
    return peak


candidates = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 50), st.none() | st.floats(0.0001, 5)),
    min_size=1,
    max_size=12,
).map(
    lambda rows: [
        Candidate(f"b{n}", weight, busy, PeakLatency() if late is None else answered(late))
        for n, (weight, busy, late) in enumerate(rows)
    ]
)
