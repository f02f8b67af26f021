"""Candidates for the tests of selection policies: what a policy sees of a backend, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from lb.peak import PeakLatency
from lb.slate import Slate


@dataclass(eq=False)
class Candidate:
    name: str
    weight: int = 1
    in_flight: int = 0
    peak: PeakLatency = field(default_factory=PeakLatency)
    share: float = 0.0

    def __post_init__(self) -> None:
        self.share = self.share or float(self.weight)


def slate(*members: Candidate, closed: tuple[Candidate, ...] = ()) -> Slate[Candidate]:
    return Slate(list(members), set(closed), sum(m.in_flight for m in members))


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
