"""What a selection policy is given and what it may know: candidates, a slate of them, dice.

Owns the shapes alone. Policies stand in `balance`, `peak` and `ring`; who is on a slate is the
pool's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from lb.peak import PeakLatency


class Candidate(Protocol):
    """What a policy may know of a backend."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def share(self) -> float:
        """Its weight, or less of it while it starts slowly; above 0."""

    @property
    def in_flight(self) -> int: ...
    @property
    def peak(self) -> PeakLatency: ...


class Rng(Protocol):
    def random(self) -> float:
        """Uniform in [0, 1)."""


C = TypeVar("C", bound=Candidate)


class Slate(Generic[C]):
    """Who may be picked: `members`, in order of joining, without those in `closed` (they are full,
    or were tried). At least one is not closed.

    `members` is the same object until somebody comes, goes or changes its share, and until then
    whatever a policy derived from it holds. `running` counts the requests on all of them.
    """

    __slots__ = ("closed", "members", "running")

    def __init__(self, members: Sequence[C], closed: set[C] | None = None, running: int = 0):
        self.members = members
        self.closed: set[C] = closed if closed is not None else set()
        self.running = running

    def open(self) -> Sequence[C]:
        """Those that may be picked."""
        if not self.closed:
            return self.members
        return [member for member in self.members if member not in self.closed]

    def without(self, others: set[C]) -> Slate[C]:
        """The same with more of them closed."""
        return Slate(self.members, self.closed | others, self.running)


class Policy(Protocol):
    """Picks one that is open. `key` is what `consistent_hash` hangs on, None without; `now` is
    monotonic seconds."""

    name: str
    goes_by_latency: bool
    """Does it look at `peak`? Else nobody keeps that up."""

    def pick(self, slate: Slate[C], rng: Rng, now: float, key: bytes | None = None) -> C: ...
