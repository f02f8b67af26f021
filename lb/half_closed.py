"""A client that closed its side: has it hung up, or does it wait for its answer? Pure.

Only sending tells. An interim answer is harmless to who waits; who left resets it, which is found
out by the second. Owns when to ask and when to give up; sends nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

PROBES_S: Final[tuple[float, ...]] = (0.25, 0.25, 0.5, 1.0, 2.0, 5.0)
PROBE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Act(Enum):
    ASK = "ask"
    """Send a PROBE, unless a part of the answer was sent."""
    CUT = "cut"


class HalfClosed:
    """One client's, within one exchange. `written`: bytes of the final answer so far."""

    __slots__ = ("_asked", "_silence_s", "_version", "_written")

    def __init__(self, version: tuple[int, int], written: int, silence_s: float) -> None:
        self._version = version
        self._silence_s = silence_s
        """How long it is waited for where nothing can be asked."""
        self._asked = 0
        self._written = written

    @property
    def next_s(self) -> float:
        """When to `look`, in seconds from the beginning or from the look before."""
        if self._version < (1, 1) or self._written:
            return self._silence_s
        return PROBES_S[min(self._asked, len(PROBES_S) - 1)]

    def look(self, written: int, unsent: int) -> Act:
        """What is to be done now; `unsent`: bytes that the client has not taken yet."""
        quiet = 0 < written == self._written and not unsent
        if self._version < (1, 1) or quiet:
            # It would take an interim answer for the final one, or for a part of it.
            return Act.CUT
        self._asked += 1
        self._written = written
        return Act.ASK
