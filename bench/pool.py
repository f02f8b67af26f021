"""What does picking a backend cost, of ten and of ten thousand? `./run bench pool [--json]`.

Every policy, with 3 to 10,000 backends, in one process and without a network. A **pick** is all
that a policy does for a request: choosing, counting it in, counting it out when it ends; half as
many requests are running as there are backends. A **lease** is that and what the pool adds, from
`Pool.lease` to `release`. Beside it in the same rounds the **walk**: a plain look at every backend
for the one with the fewest requests per share. What the loop around them takes by itself is
measured as well, and taken off.

CPU time, the best of several rounds that take turns: whatever else happens on a machine only adds.
Fails (exit code 1) where a pick of 10,000 backends takes more than 1 µs: with equal shares, by any
policy but `consistent_hash`. `weighted`: with shares of 1, 2 and 3; `new keys`: none comes again.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, cycle

from lb.backend import Backend
from lb.balance import POLICIES, policy_named
from lb.config_service import HealthConfig
from lb.pool import Pool, Report
from lb.slate import Slate

SIZES = (3, 10, 100, 1_000, 10_000)
LARGEST = SIZES[-1]
MOST_PICK_US = 1.0
ROUNDS = 7
PICKS = 4_000
WALKS = 200_000
"""Backends looked at in a round of walks."""
KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: a policy, `weighted`: on unequal shares, `new_keys`: each key once."""

    policy: str
    weighted: bool = False
    new_keys: bool = False

    @property
    def counts(self) -> bool:
        """Does the target hold for it?"""
        return not self.weighted and self.policy != "consistent_hash"

    def __str__(self) -> str:
        more = ", weighted" * self.weighted + ", new keys" * self.new_keys
        return self.policy + more


CASES = (
    *(Case(name) for name in POLICIES),
    *(Case(name, weighted=True) for name in POLICIES),
    Case("consistent_hash", new_keys=True),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """Nanoseconds of CPU with so many backends. `ratio`: of a pick to a walk over all of them."""

    case: str
    backends: int
    pick_ns: float
    lease_ns: float
    walk_ns: float
    counts: bool

    @property
    def ratio(self) -> float:
        return self.pick_ns / self.walk_ns


# ── measuring ────────────────────────────────────────────────────────────────────────────────────


class Loop(Slate[Backend]):
    """Nothing but the loop: takes the next one."""

    def __init__(self, members: list[Backend]) -> None:
        super().__init__(members)
        self._next = cycle(members).__next__

    def pick(self, now: float, key: bytes | None = None) -> Backend:
        return self._next()


class Walk(Slate[Backend]):
    """The peer: looks at everybody."""

    def pick(self, now: float, key: bytes | None = None) -> Backend:
        best = self.members[0]
        for other in self.members:
            if other.in_flight * best.share < best.in_flight * other.share:
                best = other
        return best


def pool(case: Case, size: int) -> Pool:
    """Ready backends, each of which has answered."""
    made = Pool("bench", policy_named(case.policy), HealthConfig(rise=1), rng=random.Random(1))
    for number in range(size):
        backend = made.add_static(
            f"10.0.{number // 250}.{number % 250}:80", weight=1 + number % 3 * case.weighted
        )
        made.observe(Report(backend.name, backend.address, True, "200"))
        backend.peak.record(0.01 + number % 7 / 1000, 0.0)
    return made


def keys(case: Case) -> Iterator[bytes]:
    if case.new_keys:
        return (b"198.51.%d" % number for number in count())
    return cycle([b"198.51.100.%d" % number for number in range(KEYS)])


def requests(slate: Slate[Backend], some: Iterator[bytes]) -> Callable[[int], None]:
    """Picks so many times, while half as many requests are running as there are backends."""
    running: deque[Backend] = deque()
    half = len(slate.members) // 2

    def run(number: int) -> None:
        pick, took, gave = slate.pick, slate.took, slate.gave
        for _ in range(number):
            member = pick(5.0, next(some))
            member.in_flight += 1
            took(member)
            running.append(member)
            if len(running) > half:
                ended = running.popleft()
                ended.in_flight -= 1
                gave(ended)

    run(half)
    return run


def leases(of: Pool, some: Iterator[bytes]) -> Callable[[int], None]:
    running = deque(of.lease(key=next(some)) for _ in range(len(of) // 2))

    def run(number: int) -> None:
        lease = of.lease
        for _ in range(number):
            running.append(lease(key=next(some)))
            running.popleft().release()

    return run


def ns(run: Callable[[int], None], number: int) -> float:
    begun = time.process_time_ns()
    run(number)
    return (time.process_time_ns() - begun) / number


def measure(case: Case, size: int, rounds: int) -> Figure:
    members = [*pool(case, size)]
    slate = policy_named(case.policy).slate(members, random.Random(2))
    runs = (
        (requests(Loop([*pool(case, size)]), keys(case)), PICKS),
        (requests(slate, keys(case)), PICKS),
        (leases(pool(case, size), keys(case)), PICKS),
        (requests(Walk([*pool(case, size)]), keys(case)), max(20, WALKS // size)),
    )
    for run, number in runs:  # what is used comes into the processor's caches, as far as it fits
        run(number // 2)
    times = [[ns(run, number) for run, number in runs] for _ in range(rounds)]
    loop, pick, lease, walk = (min(column) for column in zip(*times, strict=True))
    return Figure(
        case=str(case),
        backends=size,
        pick_ns=round(max(0.0, pick - loop), 1),
        lease_ns=round(max(0.0, lease - loop), 1),
        walk_ns=round(max(1.0, walk - loop), 1),
        counts=case.counts,
    )


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def misses(figures: list[Figure]) -> list[str]:
    return [
        f"{figure.case}: a pick of {figure.backends:,} takes {figure.pick_ns / 1000:.2f} µs,"
        f" more than {MOST_PICK_US:g}"
        for figure in figures
        if figure.counts and figure.backends == LARGEST and figure.pick_ns > MOST_PICK_US * 1000
    ]


def report(figures: list[Figure]) -> str:
    """Markdown: a table of picks, one of leases; the walk beside both."""
    sizes = sorted({figure.backends for figure in figures})
    found = {(figure.case, figure.backends): figure for figure in figures}
    cases = list(dict.fromkeys(figure.case for figure in figures))
    head = f"| ns of CPU, backends: | {' | '.join(f'{size:,}' for size in sizes)} |"
    lines = [head, "| --- |" + " --: |" * len(sizes)]
    for what in ("pick", "lease"):
        for case in cases:
            cells = [f"{getattr(found[case, size], f'{what}_ns'):,.0f}" for size in sizes]
            lines.append(f"| {what}, {case} | {' | '.join(cells)} |")
    walks = [min(f.walk_ns for f in figures if f.backends == size) for size in sizes]
    lines.append(f"| a walk over all | {' | '.join(f'{walk:,.0f}' for walk in walks)} |")
    ratios = [found[cases[0], size].ratio for size in sizes]
    cells = [f"{ratio:.2g}" for ratio in ratios]
    lines.append(f"| pick, {cases[0]}, ÷ walk | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench pool")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    wanted = parser.parse_args()
    logging.disable(logging.INFO)
    gc.disable()
    figures = [measure(case, size, wanted.rounds) for case in CASES for size in SIZES]
    missed = misses(figures)
    if wanted.json:
        rows = [{**asdict(figure), "ratio": round(figure.ratio, 4)} for figure in figures]
        print(json.dumps({"figures": rows, "missed": missed}, indent=1))
    else:
        print(report(figures), "", *(missed or ["target met"]), sep="\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
