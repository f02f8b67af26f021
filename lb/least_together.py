"""Who has the fewest requests running on all workers together? Pure: the counts are an argument.

The others' requests come and go without a word, so no order of the backends can be kept: of a few
that are drawn at random the least busy is taken. By simulation (`bench/spread.py`) eight stay
within a third of what one process would do that knows all, however many workers there are; each by
its own requests alone takes up to 3.3 times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

from lb.balance import Policies, policy_named
from lb.config_service import HashConfig
from lb.slate import C, Policy, Rng, Slate

CHOICES: Final = 8


class Counts(Protocol):
    """Running requests by slot."""

    def put(self, slot: int, running: int) -> None:
        """Of this worker."""

    def running(self, slot: int) -> int:
        """Of all of them."""


class LeastTogether:
    """`least_requests` of several workers. `slot_of` says where a member is counted; None: only
    its own requests here are known."""

    name: ClassVar[str] = "least_requests"
    goes_by_latency: ClassVar[bool] = False

    def __init__(self, counts: Counts, slot_of: Callable[[object], int | None]) -> None:
        self._counts = counts
        self._slot_of = slot_of

    def slate(self, members: Sequence[C], rng: Rng) -> Slate[C]:
        return LeastOfSome(members, rng, self._counts, self._slot_of)


class LeastOfSome(Slate[C]):
    """The fewest running requests per share; where several have as few, any of them, by share."""

    __slots__ = ("_at", "_counts", "_equal", "_open", "_random", "_slots")

    def __init__(
        self,
        members: Sequence[C],
        rng: Rng,
        counts: Counts,
        slot_of: Callable[[object], int | None],
    ) -> None:
        super().__init__(members)
        self._random = rng.random
        self._counts = counts
        self._slots = {member: slot_of(member) for member in members}
        self._equal = all(member.share == members[0].share for member in members)
        self._open = list(members)
        self._at = {member: index for index, member in enumerate(members)}
        """Where each stands in that list."""
        for member in members:
            self.gave(member)  # what ended while it was on no slate, nobody wrote

    def pick(self, now: float, key: bytes | None = None) -> C:
        members, random = self._open, self._random
        size = len(members)
        if size > CHOICES:
            drawn = [members[int(random() * size)] for _ in range(CHOICES)]
        else:
            start = int(random() * size)
            drawn = [*members[start:], *members[:start]]
        best = drawn[0]
        fewest = self._running(best)
        if self._equal:
            for other in drawn:
                if (running := self._running(other)) < fewest:
                    best, fewest = other, running
            return best
        tied = best.share
        for other in drawn[1:]:
            running = self._running(other)
            # running / share against fewest / share, without division
            left, right = running * best.share, fewest * other.share
            if left < right:
                best, fewest, tied = other, running, other.share
            elif left == right:
                tied += other.share
                if random() * tied < other.share:
                    best, fewest = other, running
        return best

    def _running(self, member: C) -> int:
        slot = self._slots[member]
        return member.in_flight if slot is None else self._counts.running(slot)

    def took(self, member: C) -> None:
        if (slot := self._slots[member]) is not None:
            self._counts.put(slot, member.in_flight)

    gave = took

    def close(self, member: C) -> None:
        """The last one of the list takes its place."""
        super().close(member)
        index = self._at.pop(member)
        last = self._open.pop()
        if last is not member:
            self._open[index] = last
            self._at[last] = index

    def reopen(self, member: C) -> None:
        super().reopen(member)
        self._at[member] = len(self._open)
        self._open.append(member)


def policies_of(counts: Counts | None, slot_of: Callable[[object], int | None]) -> Policies:
    """The policies, and where there are counts the one for `least_requests` that goes by them."""

    def made(name: str, config: HashConfig) -> Policy:
        if counts is not None and name == LeastTogether.name:
            return LeastTogether(counts, slot_of)
        return policy_named(name, config)

    return made
