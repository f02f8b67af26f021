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
import multiprocessing
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import cast

import uvloop

from bench.parts.client import Connection, FailedError
from bench.parts.up import Up, lbctl_up

CLIENTS = 10_000
ORDINARY = 8
HOLD_S = 20.0
"""How long the slow ones are held, all at once, while the ordinary ones ask."""
MOST_BYTES_EACH = 64 * 1024
LEAST_HELD = 0.99
SPARE_FILES = 500
START_S = 120.0
BEGINNING = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + bytes(400_000)
"""Of the answer for slow readers: its end never comes, so that it is under way all the while. With
one that ended, the kernel's buffers would take all of it, and the proxy would be done."""
READER_BUFFER = 4096

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

HEAD = b"GET /large HTTP/1.1\r\nHost: slow.example\r\n"
KINDS = ("head", "head", "head", "body", "reader", "silent")
"""What the slow ones are slow at, in turn."""


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


# ── the backend: one process, whatever the number of connections ─────────────────────────────────


class Backend(asyncio.Protocol):
    """Answers each head at once, /large without end; takes bodies for ever."""

    def __init__(self) -> None:
        self._input = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._input += data
        while b"\r\n\r\n" in self._input:
            head, _, self._input = self._input.partition(b"\r\n\r\n")
            if head.startswith(b"POST"):
                return
            if head.startswith(b"GET /large"):
                self._transport.write(BEGINNING)
            else:
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
        self._input = self._input[-65536:]


def backend_process(ready: Pipe) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(
            Backend, "127.0.0.1", 0, backlog=4096
        )
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    _child()
    uvloop.run(serve())


# ── the slow ones: another ───────────────────────────────────────────────────────────────────────


class Slow(asyncio.Protocol):
    """One slow client; `lost` where the proxy ended it."""

    lost = 0

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._kind == "head":
            self._transport.write(HEAD + b"X-Slow: ")
        elif self._kind == "body":
            self._transport.write(
                b"POST / HTTP/1.1\r\nHost: slow.example\r\nContent-Length: 1000000\r\n\r\nx"
            )
        elif self._kind == "reader":
            self._transport.pause_reading()
            self._transport.write(HEAD + b"\r\n")

    def trickle(self) -> None:
        """A byte more, where there is one to send; some read, where there is something to read."""
        if self._transport.is_closing():
            return
        if self._kind in ("head", "body"):
            self._transport.write(b"x")
        elif self._kind == "reader":
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        Slow.lost += 1


def slow_process(pipe: Pipe, port: int, number: int) -> None:
    """Connect them all, say so, trickle until told to stop, and say how many are still there."""

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        slow: list[Slow] = []
        for at in range(number):
            with contextlib.suppress(OSError):
                kind = KINDS[at % len(KINDS)]
                sock = socket.socket()
                if kind == "reader":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READER_BUFFER)
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", port))
                _, one = await loop.create_connection(partial(Slow, kind), sock=sock)
                slow.append(one)
        pipe.send(len(slow))
        while not pipe.poll():
            for begin in range(0, len(slow), 500):
                for one in slow[begin : begin + 500]:
                    one.trickle()
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)
        pipe.send(len(slow) - Slow.lost)

    _child()
    _many_files()
    uvloop.run(connect())


def _child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _many_files() -> int:
    """Ask for as many open files as the hard limit allows; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def child(target: object, *args: object) -> Iterator[Pipe]:
    """A process of ours, and what to talk to it by."""
    ours, theirs = multiprocessing.Pipe()
    spawned = multiprocessing.get_context("spawn")
    process = spawned.Process(target=target, args=(theirs, *args), daemon=True)  # type: ignore[arg-type]
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


async def told(pipe: Pipe) -> int:
    if not await asyncio.to_thread(pipe.poll, START_S):
        raise SystemExit("slow_clients: a process of ours says nothing")
    return int(pipe.recv())


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


def allowed(wanted: int) -> int:
    """So many clients fit into the hard limit of open files: the proxy needs one for each, and one
    to the backend for two kinds of six."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return wanted
    busy = sum(kind in ("body", "reader") for kind in KINDS) / len(KINDS)
    return min(wanted, int((hard - SPARE_FILES) / (1 + busy)))


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
    _many_files()
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
