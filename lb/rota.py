"""Whose turn is it, where some have larger shares than others? A heap of who is due when. Pure.

Stride scheduling (Waldspurger and Weihl, 1995): each is due once in every 1/share, the earliest is
picked. A pick costs O(log n) comparisons, which the heap makes in C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic

from lb.slate import C, Rng, Slate

GOLDEN: Final = 0.6180339887498949
"""Those that come one after the other begin this part of a turn apart: however many there are, they
lie almost evenly (Knuth, The Art of Computer Programming 3, §6.4, theorem S). With shares of 5, 1
and 1 the two small ones so never follow each other. If all began alike, the five would be one run.
"""

_SPARE: Final = 16


def phases_for(members: Sequence[C], known: Mapping[str, float], rng: Rng) -> dict[str, float]:
    """The part of its turn that each has still to wait, by name: as it is known, or for newcomers
    one after the other."""
    phases = {}
    newcomer = -1.0
    for member in members:
        phase = known.get(member.name)
        if phase is None:
            newcomer = (newcomer + GOLDEN) % 1.0 if newcomer >= 0 else rng.random()
            phase = newcomer
        phases[member.name] = phase
    return phases


class _Seat(Generic[C]):
    """A member's place in the order. `due` and `period` are in turns of one with a share of 1;
    `burden` is what each of its running requests puts it back by."""

    __slots__ = ("burden", "due", "entry", "member", "number", "period")

    def __init__(self, member: C, number: int, phase: float, by_load: bool) -> None:
        self.member = member
        self.number = number
        self.period = 1 / member.share
        self.burden = self.period if by_load else 0.0
        self.due = phase * self.period
        self.entry: tuple[float, float, int, _Seat[C]] | None = None
        """The one that counts of those in the heap; None while it is closed."""


class Rota(Slate[C]):
    """Gives the one that is due first. With `by_load` the one with the fewest running requests per
    share, and of several such the one that is due first.

    An entry that no longer counts stays in the heap until it comes to the top, or until they are
    more than those that do.
    """

    __slots__ = ("_by_load", "_heap", "_now", "_seats")

    def __init__(
        self, members: Sequence[C], phases: Mapping[str, float], *, by_load: bool = False
    ) -> None:
        """`phases`: the part of its period, 0 … 1, that each has still to wait, by name."""
        super().__init__(members)
        self._by_load = by_load
        self._now = 0.0
        """When the latest of those picked was due."""
        self._seats: dict[C, _Seat[C]] = {}
        self._heap: list[tuple[float, float, int, _Seat[C]]] = []
        for number, member in enumerate(members):
            seat = self._seats[member] = _Seat(member, number, phases[member.name], by_load)
            seat.entry = entry = (member.in_flight * seat.burden, seat.due, number, seat)
            self._heap.append(entry)
        heapify(self._heap)

    def phases(self) -> dict[str, float]:
        """As given, by now. So a share that grows a little every moment neither loses its turn
        nor gets another."""
        return {
            seat.member.name: max(0.0, seat.due - self._now) / seat.period
            for seat in self._seats.values()
        }

    def pick(self, now: float, key: bytes | None = None) -> C:
        heap = self._heap
        entry = heap[0]
        seat = entry[3]
        while seat.entry is not entry:
            heappop(heap)
            entry = heap[0]
            seat = entry[3]
        if seat.due > self._now:
            self._now = seat.due
        return seat.member

    def took(self, member: C) -> None:
        seat = self._seats[member]
        # One that was preferred has had its turn too, but is never put off by more than one.
        due, now = seat.due, self._now
        seat.due = (due if due < now else now) + seat.period
        self._place(seat)

    def gave(self, member: C) -> None:
        if self._by_load and member not in self.closed:
            self._catch_up(member)

    def close(self, member: C) -> None:
        super().close(member)
        self._seats[member].entry = None

    def reopen(self, member: C) -> None:
        super().reopen(member)
        self._catch_up(member)

    def _catch_up(self, member: C) -> None:
        """Turns that it could not take, because it was busy or closed, are lost: it would get
        everything until it had made up for them."""
        seat = self._seats[member]
        seat.due = max(seat.due, self._now)
        self._place(seat)

    def _place(self, seat: _Seat[C]) -> None:
        heap, old = self._heap, seat.entry
        load = seat.member.in_flight * seat.burden
        seat.entry = entry = (load, seat.due, seat.number, seat)
        if heap and heap[0] is old:
            heapreplace(heap, entry)
            return
        heappush(heap, entry)
        if len(heap) > 2 * len(self._seats) + _SPARE:
            heap[:] = [entry for entry in heap if entry[3].entry is entry]
            heapify(heap)
