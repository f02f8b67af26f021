"""Counters as values that add up: what one worker counted, and what all of them have. Pure.

A count is a flat mapping from a key, such as `requests GET 200` or `duration 17`, to how much of it
there was since the worker's start. Such totals may be told as often as one likes: what they grew by
since they were last told is added, so the same total told twice counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lb.latency import Latency

if TYPE_CHECKING:
    from lb.backend import Backend
    from lb.request_metrics import RequestMetrics

Count = dict[str, float]

SUM: Final = "sum"
"""Beside the buckets of a histogram: its seconds."""

_PLAIN: Final = ("arrived", "turned_away", "fast", "unqueued")


@dataclass(slots=True)
class Elsewhere:
    """What a service has on the other workers at this moment; what they counted is in its counters
    already."""

    in_flight: int = 0
    tunnels: int = 0
    waiting: int = 0
    waiting_s: float = 0.0
    """The longest that somebody has been waiting there without a break."""
    broken: bool = False
    """The breaker of one of them is open."""
    limit: int | None = None
    """The sum of what each of them found to carry; None: adaptive concurrency is off."""
    connections: int = 0

    def add(self, other: Elsewhere) -> None:
        self.in_flight += other.in_flight
        self.tunnels += other.tunnels
        self.waiting += other.waiting
        self.waiting_s = max(self.waiting_s, other.waiting_s)
        self.broken = self.broken or other.broken
        if other.limit is not None:
            self.limit = (self.limit or 0) + other.limit
        self.connections += other.connections

    def as_dict(self) -> dict[str, int | float | bool | None]:
        return {name: getattr(self, name) for name in self.__slots__}


def grown(before: Mapping[str, float], now: Mapping[str, float]) -> Count:
    """By how much each total grew; what did not is left out."""
    return {
        key: value - before.get(key, 0) for key, value in now.items() if value != before.get(key, 0)
    }


def changed(before: Mapping[str, float], now: Mapping[str, float]) -> Count:
    """Those totals that are not what they were."""
    return {key: value for key, value in now.items() if value != before.get(key, 0)}


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def of_requests(counters: RequestMetrics) -> Count:
    """Of one service, or of what belongs to none."""
    count: Count = {word: getattr(counters, word) for word in _PLAIN}
    for (method, code), number in counters.requests.items():
        count[f"requests {method} {code}"] = number
    for word, by_reason in (("retries", counters.retries), ("errors", counters.upstream_errors)):
        for reason, number in by_reason.items():
            count[f"{word} {reason}"] = number
    _read_latency(count, "duration", counters.duration)
    _read_latency(count, "wait", counters.queue_wait)
    return count


def of_backend(backend: Backend) -> Count:
    count: Count = {"requests": backend.requests_total, "bad": backend.bad_total}
    for reason, number in backend.failures.items():
        count[f"failures {reason}"] = number
    _read_latency(count, "latency", backend.latency)
    return count


def _read_latency(count: Count, word: str, latency: Latency) -> None:
    for index, number in enumerate(latency.counts()):
        if number:
            count[f"{word} {index}"] = number
    if latency.sum_s:
        count[f"{word} {SUM}"] = latency.sum_s


# ── adding ───────────────────────────────────────────────────────────────────────────────────────


def add_to_requests(counters: RequestMetrics, growth: Mapping[str, float], now: float) -> None:
    """Let these counters have counted this much more, at `now`."""
    for key, more in growth.items():
        word, _, rest = key.partition(" ")
        if word == "requests":
            method, _, code = rest.partition(" ")
            known = (method, int(code))
            counters.requests[known] = counters.requests.get(known, 0) + int(more)
        elif word == "retries":
            counters.retries[rest] = counters.retries.get(rest, 0) + int(more)
        elif word == "errors":
            counters.upstream_errors[rest] = counters.upstream_errors.get(rest, 0) + int(more)
        elif word in _PLAIN:
            setattr(counters, word, getattr(counters, word) + int(more))
    _add_latency(counters.duration, "duration", growth, now)
    _add_latency(counters.queue_wait, "wait", growth, now)


def add_to_backend(
    backend: Backend, latency: Latency, growth: Mapping[str, float], now: float
) -> None:
    """The same for a backend. `latency` is where its durations are counted: its own, or, once its
    totals were handed on, that of all who left."""
    for key, more in growth.items():
        word, _, rest = key.partition(" ")
        if word == "requests":
            backend.requests_total += int(more)
        elif word == "bad":
            backend.bad_total += int(more)
        elif word == "failures":
            backend.failures[rest] = backend.failures.get(rest, 0) + int(more)
    _add_latency(latency, "latency", growth, now)


def _add_latency(latency: Latency, word: str, growth: Mapping[str, float], now: float) -> None:
    counts: dict[int, int] = {}
    sum_s = 0.0
    for key, more in growth.items():
        kind, _, rest = key.partition(" ")
        if kind != word:
            continue
        if rest == SUM:
            sum_s = more
        else:
            counts[int(rest)] = int(more)
    if counts:
        latency.take(counts, sum_s, now)
