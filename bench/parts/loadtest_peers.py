"""What wrk, hey and autocannon print, read for the load tester's benchmark. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """Another tool: what it reached, and the p99 it reports (None: it reports none)."""

    per_s: float
    p99_s: float | None


def read_wrk(text: str) -> Peer:
    rate = _number(r"Requests/sec:\s+([\d.]+)", text)
    return Peer(rate, _seconds(r"99%\s+([\d.]+)(us|ms|s)", text))


def read_hey(text: str) -> Peer:
    return Peer(
        _number(r"Requests/sec:\s+([\d.]+)", text), _seconds(r"99% in ([\d.]+) (sec)s", text)
    )


def read_autocannon(text: str) -> Peer:
    document = json.loads(text)
    return Peer(float(document["requests"]["average"]), document["latency"]["p99"] / 1000)


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise SystemExit(f"loadtest: cannot read what a peer printed: {text[:200]!r}")
    return float(found[1])


def _seconds(pattern: str, text: str) -> float | None:
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}
    found = re.search(pattern, text)
    return float(found[1]) * units[found[2]] if found else None
