"""What a run must keep to: `p99>250ms`, `errors>0.1%`, `dropped>0`. Pure.

Written as the condition under which it fails, as in `--fail-if`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from loadtest.errors import InputError, PlanError
from loadtest.plan import parse_duration
from loadtest.result import Result

_TEXT = re.compile(r"\s*([A-Za-z0-9_.]+)\s*(>=|>|<=|<)\s*(\S+)\s*")
_LATENCIES = ("mean", "p50", "p90", "p99", "p99.9", "max")
_COUNTS = ("errors", "dropped", "unfinished", "completed")


@dataclass(frozen=True, slots=True)
class Threshold:
    """`text` as given; `limit` in seconds, requests, or with `share` as a part of intended."""

    text: str
    figure: str
    sign: str
    limit: float
    share: bool

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Raises InputError saying what can be written."""
        match = _TEXT.fullmatch(text)
        if not match:
            raise InputError(f"threshold {text!r}: write e.g. 'p99>250ms' or 'errors>0.1%'")
        figure, sign, limit = match.groups()
        share = limit.endswith("%")
        try:
            if figure in _LATENCIES:
                return cls(text, figure, sign, _limit(parse_duration(limit)), share=False)
            if figure in _COUNTS:
                number = _limit(float(limit.removesuffix("%")))
                return cls(text, figure, sign, number / 100 if share else number, share)
        except (PlanError, ValueError):
            raise InputError(f"threshold {text!r}: cannot read {limit!r}") from None
        allowed = ", ".join(_LATENCIES + _COUNTS)
        raise InputError(f"threshold {text!r}: {figure!r} is none of {allowed}")

    def missed(self, result: Result) -> bool:
        """Does the run fail it? A latency without a single answer does."""
        if self.figure in _LATENCIES:
            if not result.latency_s.count:
                return True
            value = float(getattr(result.latency_s, self.figure.replace(".", "_")))
        else:
            value = float(getattr(result.counts, self.figure))
            if self.share:
                value /= max(result.counts.intended, 1)
        return {
            ">": value > self.limit,
            ">=": value >= self.limit,
            "<": value < self.limit,
            "<=": value <= self.limit,
        }[self.sign]


def _limit(number: float) -> float:
    """Raises ValueError: nothing is ever above infinity, and nothing compares with nan."""
    if not 0 <= number < math.inf:
        raise ValueError
    return number
