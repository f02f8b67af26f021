"""Draws backends at random by share, of those that are open. Pure: the dice are an argument.

Owns how that takes the same time for any number of them and any shares, while they close and open.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp
from typing import Generic

from lb.slate import C, Rng, Slate


class _Bin(Generic[C]):
    """Open ones whose shares lie within a factor of two of each other."""

    __slots__ = ("alike", "at", "members", "top", "weight")

    def __init__(self) -> None:
        self.members: list[C] = []
        self.at: dict[C, int] = {}
        """Where each stands in the list."""
        self.top = 0.0
        """The largest share there was."""
        self.alike = True
        """All have that share."""
        self.weight = 0.0
        """Their number × that share."""

    def add(self, member: C) -> None:
        self.alike = self.alike and member.share == (self.top or member.share)
        self.top = max(self.top, member.share)
        self.at[member] = len(self.members)
        self.members.append(member)
        self.weight = len(self.members) * self.top

    def drop(self, member: C) -> None:
        """The last one takes its place in the list."""
        index = self.at.pop(member)
        last = self.members.pop()
        if last is not member:
            self.members[index] = last
            self.at[last] = index
        self.weight = len(self.members) * self.top


class Draw(Slate[C]):
    """Draws by rejection (Matias, Vitter and Ni, Dynamic generation of discrete random variates,
    1993): first a bin by the number in it × its largest share, then one of it, which is taken with
    the probability of its share over that largest. Within a factor of two that is more than half,
    so two tries do on average; where all shares are equal, one. Weights of 1 to 256 in a slow start
    from a tenth make 12 bins at most.
    """

    __slots__ = ("_bin_of", "_bins", "_random")

    def __init__(self, members: Sequence[C], rng: Rng) -> None:
        super().__init__(members)
        self._random = rng.random
        bins: dict[int, _Bin[C]] = {}
        self._bin_of: dict[C, _Bin[C]] = {}
        for member in members:
            exponent = frexp(member.share)[1]
            found = bins.get(exponent)
            if found is None:
                found = bins[exponent] = _Bin()
            found.add(member)
            self._bin_of[member] = found
        self._bins = list(bins.values())

    def two(self) -> tuple[C, C]:
        """Two different ones, the first by share, the second by share among the others. The same
        one twice where no other is open."""
        only = self._bins[0]
        if len(self._bins) == 1 and only.alike:
            members = only.members
            size = len(members)
            if size == 1:
                return members[0], members[0]
            one = int(self._random() * size)
            other = int(self._random() * (size - 1))
            return members[one], members[other + (other >= one)]
        first = self._one()
        second = self._one()
        if second is first and len(self.members) - len(self.closed) > 1:
            # The first may have nearly all of the shares: it would be drawn again and again.
            home = self._bin_of[first]
            home.drop(first)
            second = self._one()
            home.add(first)
        return first, second

    def _one(self) -> C:
        bins = self._bins
        total = 0.0
        for each in bins:
            total += each.weight
        while True:
            point = self._random() * total
            for each in bins:
                if point < each.weight:
                    place = point / each.top
                    index = int(place)
                    if index == len(each.members):  # by a rounding error
                        break
                    member = each.members[index]
                    if each.alike or (place - index) * each.top < member.share:
                        return member
                    break
                point -= each.weight

    def close(self, member: C) -> None:
        super().close(member)
        self._bin_of[member].drop(member)

    def reopen(self, member: C) -> None:
        super().reopen(member)
        self._bin_of[member].add(member)
