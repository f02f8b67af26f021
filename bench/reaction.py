"""How soon does a fleet react? `./run bench reaction [--json] [--write FILE]`.

On real virtual machines: `lbctl up` with the product's defaults (`parts/reaction_fleet.py` has what
is set otherwise) and the open-loop load tester, each a process of its own. Replicas are held to 0.4
of a core, but for the first five seconds in which one serves.

What one can serve is measured first; the load is then a third of that (low), and in a
round of overload at once four thirds (high): too much for one, and not for two. Not for two copies
either, which serve a quarter less at first, because an emulator has to translate their code anew. A
round before which the planner grows by itself all the same begins anew, and says so.

Requests come at even distances. Of some 25 a second each window's p99 is its worst one. At random
times that would be chance, and when a line forms, too: of fifteen such rounds six never left what
is allowed, and four took 3.6 to 5.9 s.

Measured from the *onset*, the time at which the first request of the high load was to be sent:

- *decision*: the journal's `scale.up`.
- *first answer*: the first good answer of a replica that did not serve before.
- *relief*: the first instant from which the p99 of what is sent within a second is at most twice
  the low load's (the median of its seconds), or 0.25 s where that is more; and stays so for each
  second that begins within three seconds. By the time of sending: whoever is sent from then on is
  served well, so the queue that built up meanwhile is gone.

And from a `kill -9` of the only replica's QEMU under the low load: *ejected*, the journal's word
that it left the pool, *replaced*, the first good answer of another replica, and *started*, from the
call that wakes or copies that one to this answer; somebody asks all the time, so that at each
moment a request waits for whoever comes.

That a standby is woken is measured without any load too (*wake*): what a first answer takes then is
the waking, and not the requests that waited with it. Both must be within the target.

Twenty rounds each with a standby and with a saved guest to copy, five of overload with cold boots.
Between them the fleet comes back to its start: one replica, the reserve full, some calm seconds.
At the end `lbctl up` itself is killed twenty times under its machine and started again
(`parts/restart.py`).

Fails (exit code 1) where a median, or the p99 where the target is one, is above a target of
`parts/reaction_figures.py`, or where a request failed. `--rounds N` for a short run, `--ways
standby,wake,snapshot,cold,restart` for a part of it, `--add FILE` to go on from the `--json` of an
earlier part; `--write FILE` puts the tables into a page, between its markers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from bench.parts import reaction_figures as figures
from bench.parts import restart
from bench.parts.reaction_figures import Kill, Overload, Restart
from bench.parts.reaction_fleet import CALM_S, Fleet, fleet
from bench.parts.reaction_load import HIGH, LOW, Load, loading
from bench.parts.reaction_page import page, table, write
from bench.parts.up import scratch_home
from guest import image as guest_image
from lb.home import home_folder

LOW_SHARE, HIGH_SHARE = 1 / 3, 4 / 3
ROUNDS = {"standby": 20, "wake": 20, "snapshot": 20, "cold": 5, "restart": 20}
LOW_S = 6.0
"""So long the low load is watched before each onset, after CALM_S that are not."""
LOOK_S = 0.5
ASKED_S = 0.1
"""So long before a kill somebody begins to ask."""
MOST_TRIES = 5
LONGEST_S = {"standby": 20.0, "wake": 20.0, "snapshot": 20.0, "cold": 90.0}
"""So long a relief, or a replacement, is waited for."""


@dataclass(slots=True)
class Found:
    """What was measured so far."""

    capacities: dict[str, float] = field(default_factory=dict)
    """Requests per second of one replica, by way."""
    rounds: list[Overload | Kill | Restart] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """Why the load tester would not believe itself."""


def tell(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


# ── the rounds ───────────────────────────────────────────────────────────────────────────────────


async def alone(there: Fleet, watched_s: float = 0.0) -> str:
    """Bring the fleet to its start and see that it stays there. The one that serves."""
    for _ in range(MOST_TRIES):
        serving = await there.at_start()
        began = time.time()
        await asyncio.sleep(CALM_S + watched_s)
        if figures.first(await there.events(), ("scale.up",), began) is None:
            return serving
        tell("the fleet grew under the low load: this round begins anew")
    raise SystemExit("reaction: the fleet does not stay at its start under the low load")


async def overload(way: str, there: Fleet, load: Load) -> Overload:
    serving = await alone(there, LOW_S)
    began = time.time() - LOW_S
    shifted = await load.shift(HIGH)
    while True:
        await asyncio.sleep(LOOK_S)
        sent = await load.since(began)
        found = figures.overload(way, sent, await there.events(), {serving}, began, shifted)
        if found.relief is not None or time.time() - shifted > LONGEST_S[way]:
            break
    await load.shift(LOW)
    return found


async def kill(way: str, there: Fleet, load: Load | None) -> Kill:
    victim = await alone(there)
    async with there.asked() as answers:
        await asyncio.sleep(ASKED_S)
        killed = there.kill(victim)
        while True:
            await asyncio.sleep(LOOK_S)
            sent = await load.since(killed - LOOK_S) if load is not None else []
            sent = sorted([*sent, *answers])
            found = figures.kill(way, sent, await there.events(), victim, killed)
            if found.replaced is not None or time.time() - killed > LONGEST_S[way]:
                return found


async def play(way: str, rounds: int, images: Path, found: Found) -> None:
    tell(f"{way}: starting")
    async with fleet(way, images) as there:
        await there.at_start()
        if way == "wake":
            for number in range(1, rounds + 1):
                lost = await kill(way, there, None)
                found.rounds.append(lost)
                tell(f"{way} {number}/{rounds}: {lost.words()}")
            return
        capacity = found.capacities[way] = await there.capacity()
        tell(f"{way}: one replica serves {capacity:.1f}/s")
        low, high = LOW_SHARE * capacity, HIGH_SHARE * capacity
        async with loading(there.url, low, high) as load:
            for number in range(1, rounds + 1):
                over = await overload(way, there, load)
                found.rounds.append(over)
                tell(f"{way} {number}/{rounds}: {over.words()}")
                if way != "cold":
                    lost = await kill(way, there, load)
                    found.rounds.append(lost)
                    tell(f"{way} {number}/{rounds}: {lost.words()}")
            found.doubts += [f"{way}: {doubt}" for doubt in await load.finish()]


def measure(ways: Sequence[str], rounds: int | None, found: Found) -> list[str]:
    """Play them, and add to what was found. Which of them broke, and how."""
    home = home_folder()
    try:
        guest_image.build("webapp", home, lambda what, _share: tell(f"image: {what}"))
    except guest_image.ImageError as error:
        raise SystemExit(f"reaction: {error}") from error
    # What is imported by now stays; scanning it again and again would hold up what is timed.
    gc.collect()
    gc.freeze()
    broken = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for way in ways:
            many = rounds or ROUNDS[way]
            try:
                if way == "restart":
                    found.rounds += restarts(many, home / "images")
                else:
                    runner.run(play(way, many, home / "images", found))
            except SystemExit as error:  # what was measured before it stands
                broken.append(f"{way} broke: {error}")
    return broken


def earlier(path: Path) -> Found:
    """What an earlier run printed with `--json`."""
    told = json.loads(path.read_text(encoding="utf-8"))
    kinds = {kind.__name__.lower(): kind for kind in (Overload, Kill, Restart)}
    rounds = [kinds[one.pop("kind")](**one) for one in told["rounds"]]
    return Found(told["capacity_per_s"], rounds, told["doubts"])


def restarts(rounds: int, images: Path) -> list[Restart]:
    tell("restart: starting")
    with scratch_home(images) as home:
        found = [Restart("any", took) for took in restart.measure(home, rounds)]
    for number, one in enumerate(found, 1):
        tell(f"restart {number}/{rounds}: {one.words()}")
    return found


def document(found: Found, missed: list[str]) -> dict[str, object]:
    """For JSON; `earlier` reads it."""
    return {
        "capacity_per_s": found.capacities,
        "rounds": [{"kind": type(one).__name__.lower(), **asdict(one)} for one in found.rounds],
        "doubts": found.doubts,
        "missed": missed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench reaction")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--add", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--ways", default=",".join(ROUNDS), metavar="WAY,WAY")
    wanted = parser.parse_args()
    ways = wanted.ways.split(",")
    if not set(ways) <= set(ROUNDS) or (wanted.rounds is not None and wanted.rounds < 1):
        parser.error(f"ways are {', '.join(ROUNDS)}, and there is at least one round")
    found = earlier(wanted.add) if wanted.add is not None else Found()
    missed = [*measure(ways, wanted.rounds, found), *figures.misses(found.rounds)]
    if wanted.write is not None:
        write(wanted.write, page(found.rounds, found.capacities, time.time()))
    if wanted.json:
        print(json.dumps(document(found, missed), indent=1))
    else:
        print(table(found.rounds))
        print(*(f"doubtful: {doubt}" for doubt in found.doubts), sep="\n")
        print(*(missed or ["target met"]), sep="\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
