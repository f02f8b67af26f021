"""What do ten thousand connections cost beside HAProxy? `./run bench connections [--json]
[--clients 10000] [--rounds 3] [--peers haproxy,ours]`.

Memory: each proxy is started anew, 10,000 clients connect, and what it holds more in RAM than
before, divided by them, is a connection's price: of those that have had one answer and wait, as
browsers do, and of those that have asked nothing yet. Then the slow ones of `bench slow_clients`
(heads and bodies a byte at a time, answers read a little at a time, silence), 10,000 at once, and
the p50 and p99 of others that ask 500 times a second, without them, while they connect (client
and proxy have much to do then, whichever proxy it is) and with them.

Fails (exit code 1) where an idle connection takes more than 1.5 times HAProxy's memory, where the
p99 of the others grows by slow clients more than 1.5 times as much as at HAProxy (and at all), or
where one request of theirs failed or fewer than 99 % of the slow ones could be held. Where the hard
limit of open files is too low, it takes fewer clients and says so. Needs haproxy, nginx (or fewer
`--peers`), and two cores (else exit code 2).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.parts.fixed_rate import WARM_S, Latencies
from bench.parts.idle import held
from bench.parts.machine import this_machine
from bench.parts.process_use import memory
from bench.parts.proxies import NAMES, Ground, ground, pinned, program_output, running, versions
from bench.parts.slow import allowed, child, many_files, slow_process, told

CLIENTS = 10_000
ROUNDS = 3
RATE = 500.0
SECONDS = 6.0
SETTLE_S = 1.0
ARRIVAL_S = 5.0
"""Connected is what the kernel says; the proxy has yet to accept them and read what they sent."""
MOST_RATIO = 1.5
LEAST_HELD = 0.99
PEER, OURS = "haproxy", "ours"


@dataclass(frozen=True, slots=True)
class Idle:
    """Bytes that the proxy holds more (PSS), by connection."""

    proxy: str
    clients: int
    asked_bytes: float
    """Each has had one answer."""
    silent_bytes: float
    """None has asked anything."""


@dataclass(frozen=True, slots=True)
class Slowed:
    """The others' latencies, in seconds."""

    proxy: str
    clients: int
    held: int
    alone_p50_s: float
    alone_p99_s: float
    arriving_p50_s: float
    """From a moment before the slow ones connect."""
    arriving_p99_s: float
    beside_p50_s: float
    beside_p99_s: float
    failed: str = ""

    @property
    def growth(self) -> float:
        return self.beside_p99_s / self.alone_p99_s if self.alone_p99_s else float("inf")


async def idle(name: str, on: Ground, clients: int) -> Idle:
    each = {}
    for asked in (True, False):
        async with running(name, on) as proxy:
            with held(proxy.port, 64, asked=True):  # what is made once is not a connection's
                pass
            await asyncio.sleep(SETTLE_S)
            before = memory(proxy.pid).pss
            with await asyncio.to_thread(_opened, proxy.port, clients, asked):
                await asyncio.sleep(SETTLE_S)
                each[asked] = (memory(proxy.pid).pss - before) / clients
    return Idle(name, clients, asked_bytes=each[True], silent_bytes=each[False])


def _opened(port: int, clients: int, asked: bool) -> contextlib.ExitStack:
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(port, clients, asked=asked))
        return stack.pop_all()


async def slowed(name: str, on: Ground, clients: int) -> Slowed:
    async with running(name, on) as proxy:
        alone = await _others(proxy.port, on)
        asking = asyncio.create_task(_others(proxy.port, on))
        await asyncio.sleep(WARM_S)
        with child(slow_process, proxy.port, clients) as slow:
            await told(slow)
            arriving = await asking
            await asyncio.sleep(ARRIVAL_S)
            beside = await _others(proxy.port, on)
            slow.send("stop")
            left = await told(slow)
    return Slowed(
        proxy=name,
        clients=clients,
        held=left,
        alone_p50_s=alone.p50_s,
        alone_p99_s=alone.p99_s,
        arriving_p50_s=arriving.p50_s,
        arriving_p99_s=arriving.p99_s,
        beside_p50_s=beside.p50_s,
        beside_p99_s=beside.p99_s,
        failed=alone.wrong() or arriving.wrong() or beside.wrong(),
    )


async def _others(port: int, on: Ground) -> Latencies:
    words = (sys.executable, "-m", "bench.parts.fixed_rate", "get", f"{port}", f"{RATE}")
    command = pinned(on.clients_core, *words, f"{SECONDS}")
    return Latencies(**json.loads(await program_output(command, SECONDS + WARM_S)))


async def measure(
    names: Sequence[str], clients: int, rounds: int
) -> tuple[list[Idle], list[Slowed]]:
    idles, slows = [], []
    async with ground() as on:
        for number in range(rounds):
            for name in names:
                idles.append(await idle(name, on, clients))
                slows.append(await slowed(name, on, clients))
                print(f"round {number + 1}: {name}", file=sys.stderr)
    return idles, slows


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def middle_idle(found: Sequence[Idle], name: str) -> Idle:
    of = [one for one in found if one.proxy == name]
    return Idle(
        name,
        of[0].clients,
        asked_bytes=median(one.asked_bytes for one in of),
        silent_bytes=median(one.silent_bytes for one in of),
    )


def middle_slowed(found: Sequence[Slowed], name: str) -> Slowed:
    """Medians; the worst of what should be there and what should not."""
    of = [one for one in found if one.proxy == name]
    return Slowed(
        proxy=name,
        clients=of[0].clients,
        held=min(one.held for one in of),
        alone_p50_s=median(one.alone_p50_s for one in of),
        alone_p99_s=median(one.alone_p99_s for one in of),
        arriving_p50_s=median(one.arriving_p50_s for one in of),
        arriving_p99_s=median(one.arriving_p99_s for one in of),
        beside_p50_s=median(one.beside_p50_s for one in of),
        beside_p99_s=median(one.beside_p99_s for one in of),
        failed=next((one.failed for one in of if one.failed), ""),
    )


def misses(idles: Sequence[Idle], slows: Sequence[Slowed]) -> list[str]:
    missed = []
    for one in slows:
        if one.failed:
            missed.append(f"{one.proxy}: {one.failed}")
        if one.held < LEAST_HELD * one.clients:
            missed.append(f"{one.proxy}: only {one.held} of {one.clients} slow clients were held")
    if not {PEER, OURS} <= {one.proxy for one in idles}:
        return missed
    ours, peer = middle_idle(idles, OURS), middle_idle(idles, PEER)
    if ours.asked_bytes > MOST_RATIO * peer.asked_bytes:
        missed.append(
            f"an idle connection takes {ours.asked_bytes / peer.asked_bytes:.2f} times HAProxy's"
            f" memory, at most {MOST_RATIO:.2f}"
        )
    grown, peers = middle_slowed(slows, OURS).growth, middle_slowed(slows, PEER).growth
    if grown > MOST_RATIO * max(1.0, peers):
        missed.append(
            f"slow clients make the others' p99 {grown:.2f} times as long, HAProxy's {peers:.2f}"
        )
    return missed


def report(idles: Sequence[Idle], slows: Sequence[Slowed]) -> list[str]:
    names = list(dict.fromkeys(one.proxy for one in idles))
    lines = [
        "| proxy | idle after an answer | × HAProxy | idle, nothing asked | × HAProxy"
        " | p50, p99 of others | while slow ones connect | beside them |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    peer = middle_idle(idles, PEER) if PEER in names else None
    for name in names:
        idle, slow = middle_idle(idles, name), middle_slowed(slows, name)
        cells = [
            name,
            f"{idle.asked_bytes / 1024:.2f} KiB",
            _times(idle.asked_bytes, peer.asked_bytes if peer else None),
            f"{idle.silent_bytes / 1024:.2f} KiB",
            _times(idle.silent_bytes, peer.silent_bytes if peer else None),
            f"{slow.alone_p50_s * 1e6:,.0f}, {slow.alone_p99_s * 1e6:,.0f} µs",
            f"{slow.arriving_p50_s * 1e6:,.0f}, {slow.arriving_p99_s * 1e6:,.0f} µs",
            f"{slow.beside_p50_s * 1e6:,.0f}, {slow.beside_p99_s * 1e6:,.0f} µs",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _times(value: float, of: float | None) -> str:
    return f"{value / of:.2f}" if of else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench connections")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    many_files()
    clients = allowed(wanted.clients)
    if clients < wanted.clients:
        print(f"the hard limit of open files allows {clients} clients", file=sys.stderr)
    names = wanted.peers.split(",")
    known = versions(names)
    idles, slows = asyncio.run(measure(names, clients, wanted.rounds))
    missed = misses(idles, slows)
    if wanted.json:
        document = {
            "machine": asdict(this_machine()),
            "versions": known,
            "idle": [asdict(one) for one in idles],
            "slow": [asdict(one) for one in slows],
            "missed": missed,
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(report(idles, slows)), "", *(missed or ["goals met"]), sep="\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
