"""Do ten thousand slow clients take the service from the others? `./run bench slow_clients [--json]
[--clients 10000]`.

`lbctl up` before one backend; a process of slow clients (half a slowloris that send their head a
byte at a time, the rest in turn: bodies a byte at a time, answers read a little at a time, and
silence on an open connection); ordinary clients beside them. The backend answers at once, so what
the ordinary ones wait for is the proxy.

Fails (exit code 1) where one ordinary request is not answered 200, where fewer than 99 % of the
slow clients could be held at once, or where the proxy takes more than 64 KiB of memory for each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe

import uvloop

from bench.parts.client import Connection, FailedError
from bench.parts.slow import allowed, backend_process, child, many_files, slow_process, told
from bench.parts.up import Up, lbctl_up

CLIENTS = 10_000
ORDINARY = 8
HOLD_S = 20.0
"""How long the slow ones are held, all at once, while the ordinary ones ask."""
MOST_BYTES_EACH = 64 * 1024
LEAST_HELD = 0.99
CONFIG = """
hypervisor = []
[proxy]
listen = "127.0.0.1:{port}"
upstream_connections = 65536
[proxy.timeouts]
head = "10m"
between_bytes = "10m"
idle = "10m"
[admin]
listen = "127.0.0.1:0"
[service.web]
backends = ["BACKEND"]
max_in_flight = 100000
"""
"""The timeouts that end slow clients are long here, so that all of them are there at once."""


@dataclass(frozen=True, slots=True)
class Found:
    """`held`: slow clients that were connected all the while. Times in seconds, memory in bytes."""

    clients: int
    held: int
    ordinary: int
    failed: list[str]
    p50_s: float
    p99_s: float
    worst_s: float
    p50_alone_s: float
    memory_before: int
    memory_most: int
    files_most: int
    files_after: int
    files_before: int

    @property
    def bytes_each(self) -> float:
        return max(0, self.memory_most - self.memory_before) / max(1, self.clients)


# ── the ordinary ones ────────────────────────────────────────────────────────────────────────────


class Ordinary:
    """Clients that want a small answer, again and again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.took_s: list[float] = []
        self.failed: list[str] = []

    async def ask_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._ask(until, kept=at % 2 == 0) for at in range(ORDINARY)))

    async def _ask(self, until: float, *, kept: bool) -> None:
        while time.monotonic() < until:
            try:
                async with Connection(self._port) as connection:
                    for _ in range(20 if kept else 1):
                        began = time.monotonic()
                        await connection.ask("GET", "/")
                        self.took_s.append(time.monotonic() - began)
                        await asyncio.sleep(0.01)
            except (FailedError, OSError) as error:
                self.failed.append(str(error))
                await asyncio.sleep(0.1)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.took_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


# ── the run ──────────────────────────────────────────────────────────────────────────────────────


async def run(clients: int = CLIENTS, hold_s: float = HOLD_S) -> Found:
    async with _ground() as up:
        alone = Ordinary(up.port)
        await alone.ask_for(min(3.0, hold_s))
        memory_before, files_before = up.rss_bytes(), up.files()
        beside = Ordinary(up.port)
        with child(slow_process, up.port, clients) as slow:
            asking = asyncio.create_task(_while_connecting(beside, slow))
            await asking
            asking = asyncio.create_task(beside.ask_for(hold_s))
            memory_most = files_most = 0
            while not asking.done():
                memory_most = max(memory_most, up.rss_bytes())
                files_most = max(files_most, up.files())
                await asyncio.sleep(0.2)
            await asking
            slow.send("stop")
            held = await told(slow)
        for _ in range(100):
            if up.files() <= files_before:
                break
            await asyncio.sleep(0.2)
        return Found(
            clients=clients,
            held=held,
            ordinary=len(beside.took_s),
            failed=alone.failed + beside.failed,
            p50_s=beside.percentile(0.5),
            p99_s=beside.percentile(0.99),
            worst_s=max(beside.took_s, default=0.0),
            p50_alone_s=alone.percentile(0.5),
            memory_before=memory_before,
            memory_most=memory_most,
            files_most=files_most,
            files_after=up.files(),
            files_before=files_before,
        )


async def _while_connecting(beside: Ordinary, slow: Pipe) -> None:
    connected = asyncio.create_task(told(slow))
    while not connected.done():
        await beside.ask_for(0.5)
    await connected


@contextlib.asynccontextmanager
async def _ground() -> AsyncIterator[Up]:
    # the proxy inherits our limit, and raises its own as far as that allows
    many_files()
    with child(backend_process) as backend:
        port = await told(backend)
        async with lbctl_up(CONFIG.replace("BACKEND", f"127.0.0.1:{port}")) as up:
            await up.all_ready()
            yield up


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def misses(found: Found) -> list[str]:
    missed = [f"failed: {line}" for line in found.failed[:20]]
    if not found.ordinary:
        missed.append("no ordinary request was answered")
    if found.held < LEAST_HELD * found.clients:
        missed.append(f"only {found.held} of {found.clients} slow clients were held")
    if found.bytes_each > MOST_BYTES_EACH:
        missed.append(f"a slow client takes {found.bytes_each / 1024:.0f} KiB")
    if found.files_after > found.files_before:
        missed.append(f"{found.files_after} files are open, {found.files_before} were before")
    return missed


def report(found: Found) -> str:
    mib = 1024 * 1024
    return "\n".join(
        [
            f"{found.held} of {found.clients} slow clients held; {found.ordinary} ordinary requests"
            f" beside them, {len(found.failed)} failed",
            f"ordinary: p50 {found.p50_s * 1000:.1f} ms ({found.p50_alone_s * 1000:.1f} ms alone),"
            f" p99 {found.p99_s * 1000:.1f} ms, worst {found.worst_s * 1000:.1f} ms",
            f"memory: {found.memory_before / mib:.1f} MiB before, {found.memory_most / mib:.1f} MiB"
            f" at most: {found.bytes_each / 1024:.1f} KiB for each slow client",
            f"files: {found.files_before} before, {found.files_most} at most, {found.files_after}"
            " after",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench slow_clients")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    clients = allowed(wanted.clients)
    if clients < wanted.clients:
        print(f"the hard limit of open files allows {clients} slow clients", file=sys.stderr)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(clients))
    missed = misses(found)
    if wanted.json:
        extra = {"bytes_each": round(found.bytes_each), "missed": missed}
        print(json.dumps({**asdict(found), **extra}, indent=1))
    else:
        print(report(found))
        for line in missed or ["target met"]:
            print(line)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
