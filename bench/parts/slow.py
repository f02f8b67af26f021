"""Slow clients, ten thousand in a process, and a backend whose answers are always under way.

Half are a slowloris that send their head a byte at a time, the rest in turn: bodies a byte at a
time, answers read a little at a time, and silence on an open connection. Owns their processes; what
they do to whom, a benchmark says.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import resource
import signal
import socket
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import cast

import uvloop

SPARE_FILES = 500
START_S = 120.0
BEGINNING = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + bytes(400_000)
"""Of the answer for slow readers: its end never comes, so that it is under way all the while. With
one that ended, the kernel's buffers would take all of it, and the proxy would be done."""
READER_BUFFER = 4096

HEAD = b"GET /large HTTP/1.1\r\nHost: slow.example\r\n"
KINDS = ("head", "head", "head", "body", "reader", "silent")
"""What the slow ones are slow at, in turn."""


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
    many_files()
    uvloop.run(connect())


def _child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def many_files() -> None:
    """Ask for as many open files as the hard limit allows; processes started from here may too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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


def allowed(wanted: int) -> int:
    """So many clients fit into the hard limit of open files: the proxy needs one for each, and one
    to the backend for two kinds of six."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return wanted
    busy = sum(kind in ("body", "reader") for kind in KINDS) / len(KINDS)
    return min(wanted, int((hard - SPARE_FILES) / (1 + busy)))
