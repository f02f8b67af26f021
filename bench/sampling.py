"""Does sampling a thousand domains delay a request? `./run bench sampling [--json]
[--domains 1000] [--seconds 20] [--rate 500]`.

One process with the proxy and, as in `lbctl up`, a connection to a hypervisor beside it; clients
ask at an even rate, and once a second `autoscale.hypervisor` lists every domain. How late the event
loop is while it does is told by a tick every millisecond, beside a stretch of the same length half
a second later, in which nothing is listed: that is what machine and requests do by themselves. The
process may use every core, as `lbctl up` does; client and backend have one of them.

Fails (exit code 1) where a listing takes more than 100 ms (median), where the loop is more than
5 ms late at worst during the median listing, or where a request failed. The domains are of
libvirt's test driver, whose figures are a state alone; QEMU's are some twenty values for each, and
making Python's values of them takes the longer for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from bench.parts.fixed_rate import WARM_S, Latencies, percentile
from bench.parts.machine import this_machine
from bench.parts.proxies import START_S, Ground, ended, ground, pinned, program_output
from bench.parts.sampling_loop import Call, Sampled
from bench.parts.up import free_port, scratch_home

DOMAINS = 1000
SECONDS = 20.0
RATE = 500.0
MOST_CALL_S = 0.1
MOST_LAG_S = 0.005

CONFIG = """
hypervisor = []
[proxy]
listen = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:0"
[service.web]
backends = [{servers}]
"""


async def run(domains: int, seconds: float, rate: float) -> tuple[Sampled, Latencies]:
    async with ground() as on:
        with scratch_home() as home:
            port = free_port()
            config = home.parent / "lb.toml"
            servers = ", ".join(f'"127.0.0.1:{backend}"' for backend in on.backends)
            config.write_text(CONFIG.format(port=port, servers=servers))
            every_core = f"{on.clients_core},{on.proxy_core}"
            words = [sys.executable, "-m", "bench.parts.sampling_loop", str(config), str(home)]
            process = await asyncio.create_subprocess_exec(
                *pinned(every_core, *words, str(domains)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            async with ended(process):
                return await _watch(process, port, on, seconds, rate)


async def _watch(
    process: asyncio.subprocess.Process, port: int, on: Ground, seconds: float, rate: float
) -> tuple[Sampled, Latencies]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a process without its pipes")

    async def said() -> bytes:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit("the sampling process ended")
        return line

    await said()
    await asyncio.sleep(1.0)  # the backends' first health checks
    process.stdin.write(b"begin\n")
    words = (sys.executable, "-m", "bench.parts.fixed_rate", "get", f"{port}", f"{rate:g}")
    client = await program_output(pinned(on.clients_core, *words, f"{seconds:g}"), seconds + WARM_S)
    process.stdin.write(b"end\n")
    found = json.loads(await said())
    calls = [Call(**call) for call in found.pop("calls")]
    return Sampled(calls=calls, **found), Latencies(**json.loads(client))


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def misses(sampled: Sampled, requests: Latencies) -> list[str]:
    missed = [wrong] if (wrong := requests.wrong()) else []
    if not sampled.calls:
        return [*missed, "nothing was sampled"]
    took = median(call.took_s for call in sampled.calls)
    lag = median(call.lag_s for call in sampled.calls)
    if took > MOST_CALL_S:
        missed.append(f"a listing takes {took * 1000:.0f} ms, at most {MOST_CALL_S * 1000:.0f}")
    if lag > MOST_LAG_S:
        missed.append(
            f"the loop is {lag * 1000:.1f} ms late while domains are listed,"
            f" at most {MOST_LAG_S * 1000:.0f}"
        )
    return missed


def spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    each = (percentile(ordered, 0.5), percentile(ordered, 0.9), ordered[-1])
    return " | ".join(f"{value * 1000:.2f} ms" for value in each)


def report(sampled: Sampled, requests: Latencies) -> list[str]:
    p50, p99, most = sampled.lags_s
    return [
        f"{sampled.domains} domains, listed {len(sampled.calls)} times beside {requests.answered}"
        f" requests; the first listing took {sampled.first_s * 1000:.0f} ms",
        "",
        "| of each listing | median | p90 | worst |",
        "| --- | --: | --: | --: |",
        f"| it takes | {spread([call.took_s for call in sampled.calls])} |",
        f"| loop late, at worst | {spread([call.lag_s for call in sampled.calls])} |",
        f"| the same without one | {spread([call.control_s for call in sampled.calls])} |",
        "",
        f"loop over all: p50 {p50 * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms, worst {most * 1000:.2f}"
        f" ms late; requests: p50 {requests.p50_s * 1000:.2f} ms, p99"
        f" {requests.p99_s * 1000:.2f} ms",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench sampling")
    parser.add_argument("--domains", type=int, default=DOMAINS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    sampled, requests = asyncio.run(run(wanted.domains, wanted.seconds, wanted.rate))
    missed = misses(sampled, requests)
    if wanted.json:
        document = {
            "machine": asdict(this_machine()),
            "sampled": asdict(sampled),
            "requests": asdict(requests),
            "missed": missed,
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(report(sampled, requests)), "", *(missed or ["goals met"]), sep="\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
