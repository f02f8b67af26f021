"""Simulates several balancers that pick for the same backends, each knowing only a part. Pure: one
setting, one outcome.

Owns the model and what is read off it; what is compared with what is `bench/spread.py`'s. Requests
come as a Poisson stream, each to a worker at random; a backend works on one at a time, in order of
arrival, for exponential times (an M/M/1 queue each). That is the hardest case: nothing hides a bad
pick, as several cores would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf, log
from random import Random
from typing import Final

SERVICE_S: Final = 0.02
"""Of one request, on average. What is told every second is up to 50 such times old."""
WARM_SHARE: Final = 0.1
"""The first tenth of the requests fills the queues and is not counted."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Who picks, how, and for whom.

    `load`: the share of the backends' capacity that is asked for, below 1. `choices`: of so many
    drawn at random the least busy is taken (1: anyone, 2: random_two); None: of all
    (least_requests). `told_every_s`: how often each worker tells the others what it has running;
    None: never, 0: they see it at once, as in memory that they share.
    """

    workers: int
    backends: int
    load: float
    choices: int | None = None
    told_every_s: float | None = None
    requests: int = 60_000
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Spread:
    """What came of it. `imbalance`: the most requests on one backend over the mean of all, on
    average over the moments in which a request comes. Times from arrival to answer."""

    imbalance: float
    mean_s: float
    p99_s: float


class _Worker:
    """One balancer: its own requests by backend, and how many it believes there are in all."""

    __slots__ = ("known", "own", "said", "turn")

    def __init__(self, own: list[int], known: list[int], turn: int) -> None:
        self.own = own
        self.known = known
        self.said = [0] * len(own)
        """Its own, as it last told them."""
        self.turn = turn


class _Fleet:
    """Workers and what they know of each other."""

    def __init__(self, setting: Setting) -> None:
        size = setting.backends
        self.on_all = [0] * size
        self.every_s = setting.told_every_s
        self.workers = []
        for number in range(setting.workers):
            own = [0] * size
            known = own if self.every_s is None else [0] * size if self.every_s else self.on_all
            self.workers.append(_Worker(own, known, size * number // setting.workers))

    def count(self, place: int, backend: int, change: int) -> None:
        worker = self.workers[place]
        worker.own[backend] += change
        self.on_all[backend] += change
        if self.every_s:
            worker.known[backend] += change

    def tell(self, place: int) -> None:
        teller = self.workers[place]
        for backend, (own, said) in enumerate(zip(teller.own, teller.said, strict=True)):
            if own != said:
                for worker in self.workers:
                    if worker is not teller:
                        worker.known[backend] += own - said
        teller.said = teller.own.copy()


def simulate(setting: Setting) -> Spread:
    """Play `setting.requests` requests. Arrivals and service times depend on seed, backends and
    load alone, so that settings are compared on the same traffic."""
    traffic, dice = Random(setting.seed), Random(setting.seed + 1)
    size = setting.backends
    rate = setting.load * size / SERVICE_S
    fleet = _Fleet(setting)
    on_all = fleet.on_all
    free_at = [0.0] * size
    leaving: list[tuple[float, int, int]] = []
    every_s = setting.told_every_s or inf
    telling = [(every_s * n / setting.workers, n) for n in range(1, setting.workers + 1)]
    skipped = int(setting.requests * WARM_SHARE)
    took: list[float] = []
    imbalances = 0.0
    now = 0.0
    for number in range(setting.requests):
        now -= log(1.0 - traffic.random()) / rate
        service_s = -log(1.0 - traffic.random()) * SERVICE_S
        place = int(traffic.random() * setting.workers)
        while (leaving and leaving[0][0] <= now) or telling[0][0] <= now:
            if leaving and leaving[0][0] <= telling[0][0]:
                _, backend, whose = heappop(leaving)
                fleet.count(whose, backend, -1)
            else:
                at, teller = heappop(telling)
                fleet.tell(teller - 1)
                heappush(telling, (at + every_s, teller))
        backend = _pick(fleet.workers[place], setting.choices, dice)
        fleet.count(place, backend, 1)
        free_at[backend] = end = max(now, free_at[backend]) + service_s
        heappush(leaving, (end, backend, place))
        if number >= skipped:
            took.append(end - now)
            imbalances += max(on_all) * size / sum(on_all)
    took.sort()
    return Spread(
        imbalance=imbalances / len(took),
        mean_s=sum(took) / len(took),
        p99_s=took[int(0.99 * len(took))],
    )


def _pick(worker: _Worker, choices: int | None, dice: Random) -> int:
    known = worker.known
    size = len(known)
    if choices is None or choices >= size:
        # Ties take turns: round from the one after the last picked.
        least, start = min(known), worker.turn + 1
        try:
            backend = known.index(least, start)
        except ValueError:
            backend = known.index(least)
        worker.turn = backend
        return backend
    drawn: Sequence[int] = (
        dice.sample(range(size), choices) if choices > 1 else (int(dice.random() * size),)
    )
    return min(drawn, key=known.__getitem__)
