"""How well do several workers spread requests that each picks for itself? `./run bench spread`.

Simulated, not measured: 1, 2, 4 and 8 workers before 4, 16 and 64 backends at 50, 70 and 90 % of
their capacity (bench/parts/workers_spread.py says how). A worker goes by what it alone has running,
by that and what the others told it last, or by what all have running just now, as it would see in
memory that they share. Each figure is a ratio to what one worker with `least_requests` makes of the
same requests. It has no target and never fails: it is there to choose by.

`--json` prints every figure; `--requests N` changes how many are played in each of the settings,
`--seed N` which.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product

from bench.parts.workers_spread import SERVICE_S, Setting, Spread, simulate

WORKERS = (2, 4, 8)
BACKENDS = (4, 16, 64)
LOADS = (0.5, 0.7, 0.9)
REQUESTS = 60_000


@dataclass(frozen=True, slots=True)
class Way:
    """How a worker picks, and what it knows; as in `Setting`."""

    words: str
    choices: int | None
    told_every_s: float | None


WAYS = (
    Way("least_requests, its own", None, None),
    Way("… and told every 5 ms", None, 0.005),
    Way("… and told every 50 ms", None, 0.05),
    Way("… and told every 250 ms", None, 0.25),
    Way("… and told every 1 s", None, 1.0),
    Way("random_two, its own", 2, None),
    Way("… and told every 50 ms", 2, 0.05),
    Way("… and told every 1 s", 2, 1.0),
    Way("random_two, shared memory", 2, 0.0),
    Way("best of four, shared memory", 4, 0.0),
    Way("best of eight, shared memory", 8, 0.0),
)
OWN, RANDOM_TWO = WAYS[0], WAYS[5]
ANYONE = Way("anyone, at random", 1, None)


@dataclass(frozen=True, slots=True)
class Figure:
    """One setting, as ratios to one worker with least_requests."""

    way: str
    choices: int | None
    told_every_s: float | None
    workers: int
    backends: int
    load: float
    imbalance: float
    mean: float
    p99: float


def settings(requests: int, seed: int = 1) -> list[tuple[Way, Setting]]:
    """Each place's ideal first, then what picking anyone makes of it, then every way."""
    found = []
    for backends, load in product(BACKENDS, LOADS):
        lone = [(OWN, 1), (ANYONE, 1), (RANDOM_TWO, 1)]
        for way, workers in [*lone, *product(WAYS, WORKERS)]:
            knows = (way.choices, way.told_every_s)
            found.append((way, Setting(workers, backends, load, *knows, requests, seed)))
    return found


def compare(played: list[tuple[Way, Setting, Spread]]) -> list[Figure]:
    ideals = {(s.backends, s.load): spread for way, s, spread in played if ideal(way, s)}
    figures = []
    for way, setting, spread in played:
        best = ideals[setting.backends, setting.load]
        figures.append(
            Figure(
                way.words, way.choices, way.told_every_s,
                setting.workers, setting.backends, setting.load,
                round(spread.imbalance / best.imbalance, 3),
                round(spread.mean_s / best.mean_s, 3),
                round(spread.p99_s / best.p99_s, 3),
            )
        )  # fmt: skip
    return figures


def ideal(way: Way, setting: Setting) -> bool:
    return way is OWN and setting.workers == 1


def report(figures: list[Figure]) -> str:
    """Markdown: of each way and number of workers, imbalance / mean / p99 in each place."""
    places = list(product(BACKENDS, LOADS))
    heads = [f"{backends} at {load:.0%}" for backends, load in places]
    lines = [f"| workers | picks by | {' | '.join(heads)} |", "| --: | --- |" + " --: |" * 9]
    rows: dict[tuple[int, int | None, float | None], list[Figure]] = {}
    for figure in figures:
        rows.setdefault((figure.workers, figure.choices, figure.told_every_s), []).append(figure)
    for found in sorted(rows.values(), key=lambda row: row[0].workers):
        at = {(f.backends, f.load): f for f in found}
        cells = [f"{f.imbalance:.2f} / {f.mean:.2f} / {f.p99:.2f}" for f in (at[p] for p in places)]
        lines.append(f"| {found[0].workers} | {found[0].way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench spread")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    jobs = settings(wanted.requests, wanted.seed)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        spreads = list(pool.map(simulate, (setting for _, setting in jobs), chunksize=4))
    played = [(way, setting, spread) for (way, setting), spread in zip(jobs, spreads, strict=True)]
    figures = compare(played)
    if wanted.json:
        rows = [asdict(figure) for figure in figures]
        print(json.dumps({"service_s": SERVICE_S, "figures": rows}, indent=1))
    else:
        print("Imbalance / mean / p99, each ÷ that of one worker with least_requests:\n")
        print(report(figures))


if __name__ == "__main__":
    main()
