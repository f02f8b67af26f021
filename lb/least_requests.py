"""Who has the fewest requests running? The policy, and its order of backends of equal share. Pure.

A request more or less moves one of them by one level, so the lowest level moves by one at most and
is always known: a pick looks at nobody else, whatever their number. Where shares differ, a `Rota`
is asked.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

from lb.rota import Rota, phases_for
from lb.slate import C, Rng, Slate


class LeastRequests:
    """The fewest running requests per share; ties take turns, by share where shares differ."""

    name: ClassVar[str] = "least_requests"
    goes_by_latency: ClassVar[bool] = False

    def __init__(self) -> None:
        self._rota: Rota[Any] | None = None
        """Whose turns go on."""

    def slate(self, members: Sequence[C], rng: Rng) -> Slate[C]:
        share = members[0].share
        if all(member.share == share for member in members):
            self._rota = None
            # Anywhere: several balancers, or one whose fleet changes all the time, would else
            # begin with the same backend again and again.
            return Levels(members, int(rng.random() * len(members)))
        phases = phases_for(members, self._rota.phases() if self._rota is not None else {}, rng)
        self._rota = Rota(members, phases, by_load=True)
        return self._rota


class Levels(Slate[C]):
    """Gives the one with the fewest running requests; of several the one that has had as many for
    longest, so that ties take turns.

    An OrderedDict, because the first key of a plain dict is found by walking over the holes that
    those before it left: of 10,000 that take turns 5,000 on average.
    """

    __slots__ = ("_least", "_levels")

    def __init__(self, members: Sequence[C], first: int = 0) -> None:
        """`first`: whose turn it is, of those with the fewest: the index to begin at."""
        super().__init__(members)
        self._levels: defaultdict[int, OrderedDict[C, None]] = defaultdict(OrderedDict)
        for member in (*members[first:], *members[:first]):
            self._levels[member.in_flight][member] = None
        self._least = min(self._levels)
        """No open one has fewer."""

    def pick(self, now: float, key: bytes | None = None) -> C:
        level = self._levels[self._least]
        if not level:  # the last one there was closed
            self._least = min(running for running, level in self._levels.items() if level)
            level = self._levels[self._least]
        return next(iter(level))

    def took(self, member: C) -> None:
        running = member.in_flight
        level = self._levels[running - 1]
        del level[member]
        self._levels[running][member] = None
        if not level and self._least == running - 1:
            self._least = running

    def gave(self, member: C) -> None:
        if self.closed and member in self.closed:
            return
        running = member.in_flight
        del self._levels[running + 1][member]
        self._levels[running][member] = None
        if running < self._least:
            self._least = running

    def close(self, member: C) -> None:
        super().close(member)
        del self._levels[member.in_flight][member]

    def reopen(self, member: C) -> None:
        super().reopen(member)
        running = member.in_flight
        self._levels[running][member] = None
        if running < self._least:
            self._least = running
