"""What a selection policy is given, what it may know, and how it is told of changes.

Owns the shapes alone. Policies stand in `balance`, `least_requests` and `ring`, over the orders of
`rota` and `draw`; who is on a slate is the pool's to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

from mypy_extensions import mypyc_attr

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


@mypyc_attr(allow_interpreted_subclasses=True)  # one for each policy
class Slate(ABC, Generic[C]):
    """Who may be picked: `members`, in order of joining, without those in `closed` (they are full,
    or were tried).

    Made by a policy, and made anew when somebody comes, goes or changes its share: that may look at
    everybody. Until then it is told of each change of `in_flight`, and of who closes and opens, so
    that no pick has to look: each of these takes O(1) or O(log n).
    """

    __slots__ = ("closed", "members")

    def __init__(self, members: Sequence[C]) -> None:
        """`members`: all of them open, with what they have running just now."""
        self.members = members
        self.closed: set[C] = set()

    @abstractmethod
    def pick(self, now: float, key: bytes | None = None) -> C:
        """One that is open; at least one must be. `now` is monotonic seconds, `key` what
        `consistent_hash` hangs on."""

    def took(self, member: C) -> None:
        """This one, which is open, was given a request: `in_flight` has just grown by one."""

    def gave(self, member: C) -> None:
        """A request there ended: `in_flight` has just shrunk by one. It may be closed."""

    def close(self, member: C) -> None:
        """This one, which is open, may not be picked for now."""
        self.closed.add(member)

    def reopen(self, member: C) -> None:
        """This one, which is closed, may be picked again."""
        self.closed.remove(member)


class NoChoice(Slate[C]):
    """One member, or none."""

    __slots__ = ()

    def pick(self, now: float, key: bytes | None = None) -> C:
        return self.members[0]


class Policy(Protocol):
    """Makes slates. What it remembers from one to the next is whose turn it is, never a backend's
    state."""

    name: ClassVar[str]
    goes_by_latency: ClassVar[bool]
    """Does it look at `peak`? Else nobody keeps that up."""

    def slate(self, members: Sequence[C], rng: Rng) -> Slate[C]:
        """A new one for these; one at least. `rng` breaks ties and spreads load."""
