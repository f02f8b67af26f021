"""First come, first served, exactly: who waits for how long where so many servers are free.

One queue before all servers; whichever gets free takes the request that has waited longest. The
product's balancer sends a request to the replica with the fewest of them and keeps it in one queue
while all are full, so this is what it comes to while servers are alike. What differs: the product
lets a replica take up to `max_in_flight` requests at once, and they share its cores; here a request
has a core to itself, and those beyond wait. Mean waits are alike, single ones are not.

Owns the running and the waiting requests. It must not know machines or the planner.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EMPTY: Floats = np.empty(0)

AT_ONCE = 4096
"""Requests that are looked at together: a second's, mostly."""
CHUNK = 128
"""After so many one by one it is looked whether the rest can be taken together again."""


Waiting = tuple[float, float, float]
"""When a request came, how much work it is, when it gives up; plain, as there are millions."""


@dataclass(frozen=True, slots=True)
class Running:
    """Requests on servers: element i of each is the same one's."""

    arrived: Floats
    work: Floats
    ends: Floats

    def __len__(self) -> int:
        return len(self.ends)

    def joined(self, later: Running) -> Running:
        return Running(
            np.concatenate((self.arrived, later.arrived)),
            np.concatenate((self.work, later.work)),
            np.concatenate((self.ends, later.ends)),
        )

    def only(self, which: NDArray[np.bool_]) -> Running:
        return Running(self.arrived[which], self.work[which], self.ends[which])


NOBODY = Running(EMPTY, EMPTY, EMPTY)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a stretch of time."""

    arrived: Floats
    """Of those answered in it, when they came."""
    latency: Floats
    """Of the same, from their arrival to the answer, in seconds."""
    lost: tuple[float, ...]
    """Of those lost in it, when they came."""
    busy_s: float
    """Seconds that servers worked, summed over them."""


class Queue:
    """Requests that wait or run. Mutable; changes in `serve`, `take` and `put_back` only."""

    def __init__(self, longest: int, patience_s: float) -> None:
        self._longest = longest
        self._patience_s = patience_s
        self.running = NOBODY
        self.waiting: deque[Waiting] = deque()
        self.waiting_since: float | None = None
        """Since when somebody has been waiting without a break."""

    def serve(
        self, start: float, end: float, arrived: Floats, work: Floats, servers: int
    ) -> Outcome:
        """Play [start, end) with so many servers, at least as many as are running.

        Ties: a server that gets free at an instant is free to whoever comes at it; what happens at
        `end` itself belongs to the next stretch, an answer excepted.
        """
        ends = arrived + work
        lost: list[float] = []
        started, begun = self.running, 0
        while True:
            if not self.waiting:
                until = min(begun + AT_ONCE, len(arrived))
                free = _at_once(started.ends, arrived[begun:until], ends[begun:until], servers)
                clear = slice(begun, begun + free)
                started = started.joined(Running(arrived[clear], work[clear], ends[clear]))
                begun = clear.stop
                if begun == until < len(arrived):
                    continue
            if begun < len(arrived) or self.waiting:
                later, begun = self._one_by_one(
                    start, end, started, arrived, work, begun, servers, lost
                )
                started = started.joined(later)
            if begun == len(arrived):
                break
        return self._settle(start, end, started, lost)

    def _one_by_one(
        self,
        start: float,
        end: float,
        started: Running,
        arrived: Floats,
        work: Floats,
        first: int,
        servers: int,
        lost: list[float],
    ) -> tuple[Running, int]:
        """The same where somebody waits, from request `first` on. Gives who was started, and the
        request to go on with: the first one after the queue was found empty, or none.

        `free` is a heap of when each server gets free.
        """
        # the last one, if there was one, found a server: who ended by then is out of the way
        since = float(arrived[first - 1]) if first else start
        free: list[float] = started.ends[started.ends > since].tolist()
        free += [since] * (servers - len(free)) if servers else [math.inf]
        heapify(free)
        waiting, longest, patience_s = self.waiting, self._longest, self._patience_s
        came: list[float] = []
        took: list[float] = []
        ends: list[float] = []

        def call(until: float) -> None:
            """Whoever gets a server by then, or gives up by then, leaves the queue."""
            while waiting:
                came_at, needs, gives_up = waiting[0]
                at = free[0]
                if at > gives_up:
                    if gives_up > until:
                        return
                    lost.append(came_at)
                elif at <= until:
                    heapreplace(free, at + needs)
                    came.append(came_at)
                    took.append(needs)
                    ends.append(at + needs)
                else:
                    return
                waiting.popleft()

        reached = first
        while reached < len(arrived):
            part = slice(reached, reached + CHUNK)
            for at, needs in zip(arrived[part].tolist(), work[part].tolist(), strict=True):
                if waiting:
                    call(at)
                if not waiting:
                    if free[0] <= at:
                        heapreplace(free, at + needs)
                        came.append(at)
                        took.append(needs)
                        ends.append(at + needs)
                        continue
                    self.waiting_since = at
                if len(waiting) < longest:
                    waiting.append((at, needs, at + patience_s))
                else:
                    lost.append(at)
            reached = min(part.stop, len(arrived))
            if not waiting:
                break
        if reached == len(arrived):
            call(math.nextafter(end, -math.inf))
        if not waiting:
            self.waiting_since = None
        return Running(np.array(came), np.array(took), np.array(ends)), reached

    def _settle(self, start: float, end: float, started: Running, lost: list[float]) -> Outcome:
        """Part those that are answered by `end` from those that still run."""
        answered = started.ends <= end
        busy_s = (
            np.minimum(started.ends, end) - np.maximum(started.ends - started.work, start)
        ).sum()
        self.running = started.only(~answered)
        arrived = started.arrived[answered]
        return Outcome(arrived, started.ends[answered] - arrived, tuple(lost), float(busy_s))

    def take(self, which: NDArray[np.bool_]) -> Running:
        """Part these from those that run: their replica leaves, or died."""
        taken = self.running.only(which)
        self.running = self.running.only(~which)
        return taken

    def put_back(self, failed: Running, now: float) -> None:
        """Before all others, and in the order they came: each is tried again with its whole work,
        and waits as patiently as a new one. The queue's length does not keep them out."""
        order = np.argsort(failed.arrived, kind="stable")[::-1]
        for index in order.tolist():
            came = float(failed.arrived[index])
            self.waiting.appendleft((came, float(failed.work[index]), now + self._patience_s))
        if self.waiting and self.waiting_since is None:
            self.waiting_since = now


def _at_once(running: Floats, arrived: Floats, ends: Floats, servers: int) -> int:
    """How many requests, the first ones, find a server free; `ends` is when they end if they do.

    The i-th finds those that were running and those that came before it, less those that ended by
    then. Nobody who came after it can have ended by then, so all may be counted.
    """
    count = len(arrived)
    if len(running) + count <= servers:
        return count
    ended = np.searchsorted(np.sort(np.concatenate((running, ends))), arrived, side="right")
    late = np.arange(len(running), len(running) + count) - ended >= servers
    first = int(late.argmax())
    return first if late[first] else count
