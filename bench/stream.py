"""One GiB through the proxy, down and up, beside HAProxy. `./run bench stream [--json] [--mib 1024]
[--rounds 3] [--peers haproxy,ours]`.

One connection; the backend makes the bytes, or counts them, and shares a core with the client,
while the proxy has another to itself. Throughput, CPU seconds, and how far the proxy's memory grew
at its highest over what it held before. Medians, and as ratio the median of the rounds' own ratios.

Fails (exit code 1) where ours has less than half of HAProxy's throughput in one direction, or grows
by more than 16 MiB: it should hold a bounded buffer, whatever the size. Needs haproxy, nginx (or
fewer `--peers`) and two cores (else exit code 2).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.parts.machine import this_machine
from bench.parts.process_use import cpu_s, forget_peak, memory, peak_bytes
from bench.parts.proxies import NAMES, Ground, ground, pinned, program_output, running, versions

MIB = 1024 * 1024
SIZE_MIB = 1024
ROUNDS = 3
LEAST_RATIO = 0.5
MOST_GROWTH = 16 * MIB
WAYS = {"down": "download", "up": "upload"}
WARM_BYTES = 64 * MIB
"""Streamed before it counts, for buffers that are made once."""
PEER, OURS = "haproxy", "ours"


@dataclass(frozen=True, slots=True)
class Streamed:
    """Once through one proxy."""

    proxy: str
    way: str
    round: int
    bytes: int
    seconds: float
    cpu_s: float
    growth: int
    """Bytes in RAM at the most, over what there was before."""

    @property
    def per_s(self) -> float:
        return self.bytes / self.seconds


async def stream(name: str, way: str, on: Ground, number: int, size: int) -> Streamed:
    async with running(name, on) as proxy:

        async def through(many: int) -> float:
            words = (sys.executable, "-m", "bench.parts.bulk", way, f"{proxy.port}", f"{many}")
            # at least 10 MiB/s are waited for
            said = await program_output(pinned(on.clients_core, *words), many / MIB / 10)
            return float(json.loads(said))

        await through(min(size, WARM_BYTES))
        before, cpu = memory(proxy.pid).rss, cpu_s(proxy.pid)
        forget_peak(proxy.pid)
        seconds = await through(size)
        return Streamed(
            proxy=name,
            way=way,
            round=number,
            bytes=size,
            seconds=seconds,
            cpu_s=cpu_s(proxy.pid) - cpu,
            growth=max(0, peak_bytes(proxy.pid) - before),
        )


async def measure(names: Sequence[str], rounds: int, size: int) -> list[Streamed]:
    found = []
    async with ground(backends=1) as on:
        for number in range(1, rounds + 1):
            for way in WAYS:
                for name in names:
                    one = await stream(name, way, on, number, size)
                    found.append(one)
                    print(
                        f"round {number}: {name}, {WAYS[way]}: {one.per_s / MIB:.0f} MiB/s",
                        file=sys.stderr,
                    )
    return found


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def ratio(found: Sequence[Streamed], way: str, name: str) -> float | None:
    """Of the throughput to HAProxy's in the same round; None without it."""
    per_s = {(one.proxy, one.round): one.per_s for one in found if one.way == way}
    ratios = [
        value / per_s[PEER, number]
        for (proxy, number), value in per_s.items()
        if proxy == name and (PEER, number) in per_s
    ]
    return median(ratios) if ratios else None


def misses(found: Sequence[Streamed]) -> list[str]:
    missed = []
    for way, words in WAYS.items():
        ours = [one for one in found if (one.proxy, one.way) == (OURS, way)]
        reached = ratio(found, way, OURS)
        if reached is not None and reached < LEAST_RATIO:
            missed.append(
                f"{words}: {reached:.2f} of HAProxy's throughput, at least {LEAST_RATIO:.2f}"
            )
        if (grown := max((one.growth for one in ours), default=0)) > MOST_GROWTH:
            missed.append(
                f"{words}: memory grew by {grown / MIB:.1f} MiB, at most {MOST_GROWTH / MIB:.0f}"
            )
    return missed


def report(found: Sequence[Streamed]) -> list[str]:
    lines = [
        "| direction | proxy | MiB/s | × HAProxy | CPU per GiB | memory grew at most |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for way, name in dict.fromkeys((one.way, one.proxy) for one in found):
        of = [one for one in found if (one.way, one.proxy) == (way, name)]
        reached = ratio(found, way, name)
        cells = [
            WAYS[way],
            name,
            f"{median(one.per_s for one in of) / MIB:,.0f}",
            "" if reached is None else f"{reached:.2f}",
            f"{median(one.cpu_s / one.bytes for one in of) * 1024 * MIB:.2f} s",
            f"{max(one.growth for one in of) / MIB:.1f} MiB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench stream")
    parser.add_argument("--mib", type=int, default=SIZE_MIB)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    names = wanted.peers.split(",")
    known = versions(names)
    found = asyncio.run(measure(names, wanted.rounds, wanted.mib * MIB))
    missed = misses(found)
    if wanted.json:
        document = {
            "machine": asdict(this_machine()),
            "versions": known,
            "streams": [{**asdict(one), "per_s": one.per_s} for one in found],
            "missed": missed,
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(report(found)), "", *(missed or ["goals met"]), sep="\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
