"""How many requests can a service carry at once? Found by how its latency grows with them.

A gradient limit as in Envoy's adaptive concurrency filter (gradient controller) and Netflix's
concurrency-limits (Gradient2): latency under load against that of the idle service. Owns the limit
and what it is drawn from; holds nobody back itself (the line does). Pure: time is an argument.
"""

from __future__ import annotations

import math
from typing import Final

from lb.config_service import AdaptiveConfig

WINDOW_S: Final = 0.1
WINDOW_REQUESTS: Final = 20
"""A window ends when it has both. The geometric mean of twenty exponential service times strays by
29 %: with a tolerance of 1.5 one window in ten asks for less than it should, by a little."""

MEASURE_REQUESTS: Final = 50
"""The same for measuring the idle service, which everything is compared with (Envoy's number):
18 %."""

SHRINK_MOST: Final = 0.5
"""One window halves the limit at most, whatever its figures."""

GROW_USED: Final = 0.8
SHRINK_USED: Final = 0.5
"""The limit moves where at least this share of it was used. What nobody needs is not added: it
would all be let in at once when an overload begins. And a limit that limits nobody does not make
answers slow. Gradient2 has a half for both."""

IDLE_SHARE: Final = 0.25
"""A service that has at most this share of its limit running is as good as idle: in balance the
limit is 1.5 to 3 times what is worked on at once, so nothing waits inside it at a quarter of that.
And where the idle latency was taken for k times what it is, the limit is about 1.5 × k times too
high, and a quarter of it measures 0.375 × k: every measurement comes closer. Where nothing is being
measured, the limit's highest of late counts: if it has fallen to a quarter of that and latency is
as it was, it is not our requests that make the service slow."""

IDLE_MEMORY: Final = 30
"""What is known of the idle service weighs as much as so many requests beside a new window's: of
20 it takes over 40 %, of 50 63 %. Where they differ by more than `CHANGED` nothing is averaged: the
service has changed."""
CHANGED: Final = 2.0

MEASURE_EVERY_S: Final = 60.0
MEASURE_HALVED_S: Final = 1.0
MEASURE_SHARE: Final = 0.02
"""Where traffic never leaves the service idle, it is made so for a moment: once a minute, and where
the limit has been at half of its highest for a second (the service may have become slower, so that
a smaller limit helps nobody); in any case it takes no more than a fiftieth of the time."""

MEASURE_AT_MOST_S: Final = 5.0
MEASURE_AT_MOST_LATENCIES: Final = 30.0
"""The longer of the two. Fifty requests at four at a time are 13 latencies, after two for the
limit's worth of requests that had to leave first."""

BURST_WAITS: Final = 2.0
"""A burst may wait for so many idle latencies, a line that never empties for one."""


class AdaptiveLimit:
    """The most requests to have running at once, `limit`; told of each by `finished`.

    After each window: limit ← limit × gradient + √limit, where the gradient is
    tolerance × idle latency ÷ latency, between 0.5 and 1. Latency counts by its geometric mean: a
    ratio is what is asked for, and one request of 10 s among twenty of 20 ms moves it by 36 %, an
    arithmetic mean by a factor of 26. The root (Envoy's) is the room to find out that there is more
    to have, the ceiling of 1 is Gradient2's: the limit grows by its root alone, from 4 to 100 in 17
    windows, and never jumps. In balance the gradient is 1 - 1/√limit: a service that works on 8 at
    once, 20 ms each, gets 16, which keeps all 8 busy and takes 40 ms.

    The idle latency is measured in windows in which few requests ran (IDLE_SHARE, or `min`). Where
    there are none, the limit is lowered to that until there is one, as Envoy measures its minRTT.
    Gradient2's long-term mean needs none of that, but takes an overload that lasts for normal.
    """

    def __init__(self, config: AdaptiveConfig) -> None:
        self.config = config
        self._limit = float(config.min)
        self._idle: float | None = None
        """ln of the idle latency in seconds; None: not known yet."""
        self._measuring = True
        self._measure_from = -math.inf
        """When measuring began, or is to begin."""
        self._measure_soonest = math.inf
        self._highest = self._limit
        """The limit since it was measured last."""
        self._halved_at = math.inf
        """When it came down to half of that."""
        # the running window
        self._began = -math.inf
        self._sum = 0.0
        """Of ln of the latencies in seconds."""
        self._answered = 0
        self._dropped = 0
        self._peak = 0

    @property
    def limit(self) -> int:
        """Between `min` and `max`."""
        limit = self._quiet if self._measuring else self._limit
        return max(self.config.min, min(self.config.max, round(limit)))

    @property
    def idle_latency_s(self) -> float | None:
        """What an answer takes while little is asked; None before it is known."""
        return None if self._idle is None else math.exp(self._idle)

    def max_wait(self, standing_s: float) -> float:
        """How long a request may wait in a line that has not been empty for `standing_s`.

        A burst may wait for a while, since it will be over; in a line that stands, waiting helps
        nobody: who is let in gets out as late as everybody. So it is cut to one idle latency
        (the rule is Facebook's: B. Maurer, Fail at Scale, ACM Queue 13/8, 2015, after CoDel).
        Never more than `max_wait` of the configuration.
        """
        longest = self.config.max_wait
        idle_s = self.idle_latency_s
        if idle_s is None:
            return longest
        burst = min(longest, BURST_WAITS * idle_s)
        return burst if standing_s < burst else min(longest, idle_s)

    def finished(self, latency_s: float, in_flight: int, dropped: bool, now: float) -> None:
        """A request that was sent to a backend has ended, `latency_s` after it was sent.

        `in_flight`: those running just before, itself included. `dropped`: without an answer that
        tells how long answers take (a timeout, a reset, a 503).
        """
        if self._began == -math.inf:
            self._measure_from = now
            self._begin_window(now)
        elif not self._measuring and self._is_due(now):
            self._measuring = True
            self._measure_from = now
            self._begin_window(now)
        if self._measuring and in_flight > self._quiet:
            # Those sent before have to leave first, however long they take (within reason).
            self._begin_window(now)
            self._lose_patience(now)
            return
        self._peak = max(self._peak, in_flight)
        if now - latency_s < self._began:
            # It was sent under the limit before this one, of which it tells. (Without this, a
            # service that takes a second is judged ten times for the same ten requests.)
            return
        if dropped:
            self._dropped += 1
        else:
            self._answered += 1
            self._sum += math.log(max(latency_s, 1e-6))
        enough = MEASURE_REQUESTS if self._measuring else WINDOW_REQUESTS
        if self._answered + self._dropped >= enough and now - self._began >= WINDOW_S:
            self._judge(now)
        elif self._measuring:
            self._lose_patience(now)

    def _judge(self, now: float) -> None:
        """The window is over: what does it say?"""
        gradient = 1.0 - self._dropped / (self._answered + self._dropped)
        if self._answered:
            mean = self._sum / self._answered
            idle = self._idle
            if idle is None or self._peak <= self._quiet:
                idle = self._learn_idle(mean, now)
            gradient = min(gradient, self.config.tolerance * math.exp(idle - mean))
        limit = self._limit * max(SHRINK_MOST, gradient) + math.sqrt(self._limit)
        limit = max(float(self.config.min), min(float(self.config.max), limit))
        if self._peak >= self._limit * (GROW_USED if limit > self._limit else SHRINK_USED):
            self._limit = limit
        self._highest = max(self._limit, self._highest)
        halved = self._limit <= self._highest / 2
        self._halved_at = min(self._halved_at, now) if halved else math.inf
        self._begin_window(now)

    def _learn_idle(self, mean: float, now: float) -> float:
        known = self._idle
        if known is None or abs(mean - known) > math.log(CHANGED):
            known = mean
        else:
            weight = self._answered / (self._answered + IDLE_MEMORY)
            known += weight * (mean - known)
        self._idle = known
        self._measured(now)
        return known

    def _begin_window(self, now: float) -> None:
        self._began = now
        self._sum = 0.0
        self._answered = self._dropped = self._peak = 0

    def _lose_patience(self, now: float) -> None:
        """Where something long-lived keeps the service from getting idle, or where nobody asks."""
        longest = MEASURE_AT_MOST_LATENCIES * (self.idle_latency_s or 0.0)
        if now - self._measure_from > max(MEASURE_AT_MOST_S, longest):
            self._measured(now)

    def _measured(self, now: float) -> None:
        took = now - self._measure_from if self._measuring and self._idle is not None else 0.0
        self._measuring = False
        self._measure_soonest = now + took / MEASURE_SHARE
        self._measure_from = max(now + MEASURE_EVERY_S, self._measure_soonest)
        self._highest = self._limit
        self._halved_at = math.inf

    def _is_due(self, now: float) -> bool:
        early = max(self._halved_at + MEASURE_HALVED_S, self._measure_soonest)
        return now >= min(early, self._measure_from)

    @property
    def _quiet(self) -> int:
        """With so many running the service is as good as idle."""
        most = self._limit if self._measuring else self._highest
        return max(self.config.min, int(most * IDLE_SHARE))

    def __repr__(self) -> str:
        idle = self.idle_latency_s
        known = "not measured yet" if idle is None else f"{idle * 1000:.1f} ms idle"
        return f"<AdaptiveLimit {self.limit}, {known}>"
