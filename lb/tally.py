"""How many requests each worker has running on each backend, in memory that all workers share.

Owns its layout: a slot for each backend, in it 16 bits for each worker, which that one alone
writes. So nobody waits for anybody, and what is read is never older than a store. Who has which
slot is `lead`'s to say; what follows from the sums is `least_together`'s.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

MOST: Final = 16384
"""Backends with a slot, of all services. One more is known by each worker's own requests alone."""
_LANES: Final = 4
"""Numbers of 16 bits in a word of 64."""
_SUM: Final = 0xFFFF
"""The remainder by it is the sum of a word's numbers, as that by 9 is a decimal number's sum of
digits, where it is less: one look and one division instead of four looks."""


class Tally:
    """The memory behind `file`, as worker `number` of `of` uses it. The file is this object's from
    now on."""

    def __init__(self, file: int, number: int, of: int) -> None:
        self.file = file
        self._number = number
        self._words = -(-of // _LANES)
        self._most = (_SUM - 1) // min(of, _LANES)
        memory = memoryview(mmap.mmap(file, _size(of)))
        self._by_word = memory.cast("Q")
        self._by_lane = memory.cast("H")

    @classmethod
    def make(cls, of: int) -> Tally:
        """A new one of zeros for so many workers, as the first of them uses it. It is in memory
        alone, and gone with the last who uses it."""
        file = os.memfd_create("lbctl-tally", os.MFD_CLOEXEC)
        os.ftruncate(file, _size(of))
        return cls(file, 0, of)

    def put(self, slot: int, running: int) -> None:
        """So many of this worker's requests run there now. More than fit are as many as fit."""
        lane = slot * self._words * _LANES + self._number
        self._by_lane[lane] = running if running < self._most else self._most

    def running(self, slot: int) -> int:
        """Those of all workers."""
        if self._words == 1:
            return self._by_word[slot] % _SUM
        begin = slot * self._words
        return sum(word % _SUM for word in self._by_word[begin : begin + self._words])

    def free(self, slot: int) -> None:
        """It is nobody's any more: no worker writes there."""
        for word in range(slot * self._words, (slot + 1) * self._words):
            self._by_word[word] = 0

    def died(self, number: int) -> None:
        """This worker has nothing running any more."""
        for lane in range(number, len(self._by_lane), self._words * _LANES):
            self._by_lane[lane] = 0

    def close(self) -> None:
        """No other worker gets the file any more. What is counted here goes on: a request may end
        later than all else. Idempotent."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _size(of: int) -> int:
    return MOST * -(-of // _LANES) * 8
