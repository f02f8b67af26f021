"""Everybody in turn: the policy, and its order of backends of equal share. Pure.

Where shares differ, a `Rota` is asked. Turns go on while backends come and go, and while shares
change: from one slate to the next each keeps the part of its turn that it has still to wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lb.rota import Rota, phases_for
from lb.slate import C, Rng, Slate


class RoundRobin:
    """Each as often as its share says, as evenly as can be: of shares 5, 1, 1 the small ones never
    follow each other, and there are no five in a row."""

    name: ClassVar[str] = "round_robin"
    goes_by_latency: ClassVar[bool] = False

    def __init__(self) -> None:
        self._last: Round[Any] | Rota[Any] | None = None

    def slate(self, members: Sequence[C], rng: Rng) -> Slate[C]:
        phases = phases_for(members, self._last.phases() if self._last is not None else {}, rng)
        share = members[0].share
        equal = all(member.share == share for member in members)
        self._last = Round(members, phases) if equal else Rota(members, phases)
        return self._last


class Round(Slate[C]):
    """Gives one after the other."""

    __slots__ = ("_order",)

    def __init__(self, members: Sequence[C], phases: Mapping[str, float]) -> None:
        super().__init__(members)
        order = sorted(members, key=lambda member: phases[member.name])
        self._order: OrderedDict[C, None] = OrderedDict.fromkeys(order)

    def phases(self) -> dict[str, float]:
        """The part of a turn, 0 … 1, that each still has to wait."""
        size = len(self._order)
        return {member.name: (n + 1) / size for n, member in enumerate(self._order)}

    def pick(self, now: float, key: bytes | None = None) -> C:
        return next(iter(self._order))

    def took(self, member: C) -> None:
        self._order.move_to_end(member)

    def close(self, member: C) -> None:
        super().close(member)
        del self._order[member]

    def reopen(self, member: C) -> None:
        super().reopen(member)
        self._order[member] = None
