"""What does a request cost beside HAProxy and nginx? `./run bench proxy [--cases get,new]
[--rounds 5] [--seconds 3] [--peers haproxy,ours] [--json] [--out FILE]`.

All three with equal features (`bench.parts.proxies`; what arrives at the backend is looked at
first) and one thread, alone on one core; the client and three backends that cost next to nothing
share another. In each round every case is shot at by each proxy in turn: wrk with 64 connections
for the CPU time per request and the requests per second, then, at half the rate of the slowest, an
open-loop client for p50 and p99, which also asks a backend without any proxy: where that alone is
late, all are asked at a lower rate. Medians, and as ratio the median of the rounds' own ratios.

Fails (exit code 1) where ours takes more than 1.0 times HAProxy's CPU per request for kept
connections and 42 bytes, more than 1.25 times for the others, or has more than 1.5 times its p99;
and where a request failed, for such a shot is void. `--profile FILE` runs ours alone and under
cProfile, leaves what that found in FILE and shows the top of it: no figures, but where the time
goes. `--option 'fast_lane = false'` adds a line to our [proxy]. Needs haproxy, nginx, wrk and two
cores (else exit code 2).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.parts.cases import CASES, Case, read_wrk
from bench.parts.equal import unequal
from bench.parts.fixed_rate import WARM_S, Latencies
from bench.parts.machine import program, this_machine, version_of
from bench.parts.process_use import core_wait_s, cpu_s
from bench.parts.profiled import top
from bench.parts.proxies import (
    NAMES,
    Ground,
    Proxy,
    asked,
    ground,
    pinned,
    program_output,
    running,
    versions,
)
from bench.parts.proxy_figures import DIRECT, Shot, misses, rows, table

ROUNDS = 5
SECONDS = 3
WRK_WARM_S = 1
SHARE_OF_SLOWEST = 0.5
SLOWER = 0.7
"""Where client and backend are late by themselves, everybody is asked at a rate lower by this."""
TRIES = 4


async def flood(case: Case, proxy: Proxy, on: Ground, number: int, seconds: int) -> Shot:
    """As much as 64 connections take, and what it costs the proxy."""
    scheme, port = ("https", proxy.tls_port) if case.tls else ("http", proxy.port)
    script = on.folder / "wrk.lua"
    script.write_text(case.wrk_script())

    def wrk(for_s: int) -> list[str]:
        words = [program("wrk"), "-t1", f"-c{case.clients}", f"-d{for_s}s", "-s", str(script)]
        return pinned(on.clients_core, *words, f"{scheme}://127.0.0.1:{port}{case.target}")

    shot = Shot(case.name, proxy.name, number)
    try:
        await program_output(wrk(WRK_WARM_S), WRK_WARM_S)
        before, began = (cpu_s(proxy.pid), core_wait_s(proxy.pid)), time.monotonic()
        burst = read_wrk(await program_output(wrk(seconds), seconds))
        used, waited = cpu_s(proxy.pid) - before[0], core_wait_s(proxy.pid) - before[1]
        took = time.monotonic() - began
    except ValueError as error:
        return replaced(shot, wrong=str(error))
    if wrong := burst.wrong(case):
        return replaced(shot, wrong=wrong)
    return replaced(
        shot,
        per_s=burst.requests / burst.seconds,
        cpu_us=used / burst.requests * 1e6,
        core_share=used / took,
        core_wait=waited / took,
    )


async def at_rate(shot: Shot, proxy: Proxy, on: Ground, rate: float, seconds: int) -> Shot:
    """The shot with the latencies of an even load."""
    case = CASES[shot.case]
    port = proxy.tls_port if case.tls else proxy.port
    words = [sys.executable, "-m", "bench.parts.fixed_rate", case.name, str(port)]
    words += [f"{rate:.1f}", f"{seconds}"]
    try:
        said = await program_output(pinned(on.clients_core, *words), seconds + WARM_S)
        found = Latencies(**json.loads(said))
    except ValueError as error:
        return replaced(shot, wrong=str(error))
    return replaced(
        shot,
        rate=rate,
        p50_us=found.p50_s * 1e6,
        p99_us=found.p99_s * 1e6,
        late_p99_us=found.late_p99_s * 1e6,
        client_us=found.cpu_us,
        wrong=found.wrong(),
    )


async def calm(
    case: Case, on: Ground, number: int, rate: float, seconds: int
) -> tuple[Shot, float]:
    """The most of this rate that client and backend can do by themselves without being late, and
    what they then take. The backend speaks no TLS: there it is asked in the clear."""
    plain = CASES["get"] if case.tls else case
    bare = Proxy(DIRECT, on.backends[0], 0, 0)
    for left in reversed(range(TRIES)):
        shot = await at_rate(Shot(plain.name, DIRECT, number), bare, on, rate, seconds)
        if not left or (not shot.wrong and (shot.p99_us or 0.0) <= plain.calm_s * 1e6):
            break
        rate *= SLOWER
    return replaced(shot, case=case.name), rate


def replaced(shot: Shot, **changes: Any) -> Shot:
    return Shot(**{**asdict(shot), **changes})


async def shots_of(
    case: Case, proxies: Sequence[Proxy], on: Ground, number: int, seconds: int
) -> list[Shot]:
    """One round of one case; who begins changes with the round."""
    turn = number % len(proxies)
    in_turn = [*proxies[turn:], *proxies[:turn]]
    found = {p.name: await flood(case, p, on, number, seconds) for p in in_turn}
    rates = [shot.per_s for shot in found.values() if shot.per_s]
    if rates:
        bare, rate = await calm(case, on, number, SHARE_OF_SLOWEST * min(rates), seconds)
        for proxy in in_turn:
            if not found[proxy.name].wrong:
                shot = found[proxy.name]
                found[proxy.name] = await at_rate(shot, proxy, on, rate, seconds)
        found[DIRECT] = bare
    return [*found.values()]


async def measure(
    names: Sequence[str], cases: Sequence[Case], rounds: int, seconds: int, options: Sequence[str]
) -> list[Shot]:
    shots: list[Shot] = []
    async with contextlib.AsyncExitStack() as stack:
        on = await stack.enter_async_context(ground(options=options))
        proxies = [await stack.enter_async_context(running(name, on)) for name in names]
        await look(proxies)
        for number in range(1, rounds + 1):
            for case in cases:
                found = await shots_of(case, proxies, on, number, seconds)
                shots += found
                print(f"round {number}: {said(found)}", file=sys.stderr)
    return shots


def said(shots: Sequence[Shot]) -> str:
    """A line for whoever waits."""
    each = (
        f"{s.proxy} {s.wrong or f'{s.cpu_us or 0:.1f} µs, p99 {s.p99_us or 0:.0f} µs'}"
        for s in shots
        if s.proxy != DIRECT
    )
    return f"{shots[0].case}: {'; '.join(each)}"


async def look(proxies: Sequence[Proxy]) -> None:
    """SystemExit where they do not do the same."""
    wrong = []
    for proxy in proxies:
        answers = [await asked(proxy.port, "/head") for _ in range(3)]
        wrong += unequal(proxy.name, [body for _, _, body in answers])
        if any(b"\r\nvia:" not in head.lower() for _, head, _ in answers):
            wrong.append(f"{proxy.name} answers without Via")
    if wrong:
        raise SystemExit("\n".join(wrong))


async def profile(file: Path, case: Case, seconds: int, options: Sequence[str]) -> None:
    async with ground(options=options, profile=file) as on, running("ours", on) as ours:
        shot = await flood(case, ours, on, 1, seconds)
    if shot.wrong:
        raise SystemExit(f"{case.name}: {shot.wrong}")
    print(f"{case.words}: {shot.cpu_us:.1f} µs a request under cProfile; of that")
    for line in top(file):
        print(line)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench proxy")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--option", action="append", default=[], help="a line of our [proxy]")
    parser.add_argument("--profile", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, whatever is printed")
    wanted = parser.parse_args()
    wanted.cases, wanted.peers = wanted.cases.split(","), wanted.peers.split(",")
    if strange := {*wanted.cases} - {*CASES} | {*wanted.peers} - {*NAMES}:
        parser.error(f"{', '.join(sorted(strange))}: there are {', '.join((*CASES, *NAMES))}")
    if wanted.rounds < 1 or wanted.seconds < 1:
        parser.error("at least one round, of one second")
    return wanted


def main() -> None:
    wanted = arguments()
    cases = [CASES[name] for name in wanted.cases]
    if wanted.profile:
        asyncio.run(profile(wanted.profile.absolute(), cases[0], wanted.seconds, wanted.option))
        return
    known = {**versions(wanted.peers), "wrk": version_of("wrk")}
    shots = asyncio.run(measure(wanted.peers, cases, wanted.rounds, wanted.seconds, wanted.option))
    found, missed = rows(shots), misses(shots)
    document = {
        "machine": asdict(this_machine()),
        "versions": known,
        "rounds": wanted.rounds,
        "seconds": wanted.seconds,
        "options": wanted.option,
        "rows": [asdict(row) for row in found],
        "shots": [asdict(shot) for shot in shots],
        "missed": missed,
    }
    if wanted.out:
        wanted.out.write_text(json.dumps(document, indent=1) + "\n")
    if wanted.json:
        print(json.dumps(document, indent=1))
    else:
        on = this_machine()
        names = ", ".join(f"{name} {version}" for name, version in known.items())
        print(f"{on.cpu}, {on.cores} cores, Linux {on.kernel}, Python {on.python}; {names}\n")
        print("\n".join(table(found)), "", *(missed or ["goals met"]), sep="\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
