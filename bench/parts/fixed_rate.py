"""An open-loop client that costs little: so many requests a second on a schedule made beforehand,
whatever the answers do. `python -m bench.parts.fixed_rate CASE PORT RATE SECONDS` prints what it
found as JSON.

Times run from when a request was due, not from when it left: whoever answers late has the requests
counted that could not leave for it. The core is shared with the backend, so the client does no more
than it must: bare sockets and epoll, one call to send and one to receive. The schedule is a grid of
a quarter of a millisecond, for on a virtual machine a timer may cost more than a request (28 µs of
CPU, measured; with one for each request on uvloop, a request took 44 to 67 µs). Where it may, it
goes before all others on its core.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import select
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Final

from bench.parts.cases import CASES, Case
from loadtest.errors import InputError
from loadtest.priority import take_realtime

WARM_S: Final = 0.5
"""From the beginning; what is sent in it does not count."""
LEAST_TICK_S: Final = 0.00025
"""What is due within one tick is due at its end, together."""
PATIENCE_S: Final = 10.0
"""After the end, for answers on their way."""
RECEIVE: Final = 256 * 1024

_CLOCK_MONOTONIC: Final = 1


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds; `late_*`: from when a request was due until it was written."""

    sent: int
    answered: int
    errors: list[str]
    p50_s: float
    p99_s: float
    worst_s: float
    late_p99_s: float
    realtime: bool
    cpu_us: float
    """The client's own, for each request."""

    def wrong(self) -> str:
        """Why it does not count; empty: it does."""
        if self.errors:
            return f"{len(self.errors)} errors: {self.errors[0]}"
        if self.answered != self.sent or not self.sent:
            return f"{self.answered} answers to {self.sent} requests"
        return ""


def percentile(ordered: list[float], share: float) -> float:
    """Of values in order: the smallest that is not below this share of them; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def due_at(number: int, gap_s: float, tick_s: float) -> float:
    """When the request of this number is due, on the grid of ticks."""
    return math.ceil(number * gap_s / tick_s - 1e-6) * tick_s


def answer_size(data: bytes) -> int | None:
    """How many bytes the answer has that begins here, head included; None: its head is not whole.
    Raises ValueError where it is no good one, or has no Content-Length."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not data.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"an answer {data[:60]!r}")
    length = data[: end + 2].lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return end + 4 + int(length)


class Ticks:
    """A file descriptor that becomes readable so often: Python has none before 3.13."""

    def __init__(self, every_s: float) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._every_s = every_s
        self.fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)

    def start(self) -> None:
        """The first is one interval from now. Raises OSError."""
        whole, part = int(self._every_s), int(self._every_s % 1 * 1e9)
        spec = (ctypes.c_long * 4)(whole, part, whole, part)
        if self._libc.timerfd_settime(self.fd, 0, spec, None):
            raise OSError(ctypes.get_errno(), "no timer of the kernel's")

    def close(self) -> None:
        os.close(self.fd)


class Connection:
    """One socket, one request at a time."""

    __slots__ = ("due", "head", "left", "sock")

    def __init__(self, sock: socket.socket, due: float = -1.0) -> None:
        self.sock = sock
        self.due = due
        """Of the request that it carries; negative: none."""
        self.head = b""
        self.left = 0


class FixedRate:
    """One run, on the thread that calls it."""

    def __init__(self, case: Case, port: int, rate: float, seconds: float) -> None:
        self._case, self._address = case, ("127.0.0.1", port)
        self._request = case.request()
        self._gap, self._until = 1 / rate, WARM_S + seconds
        self._tick = max(self._gap, LEAST_TICK_S)
        self._free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        """Due, while every connection is busy."""
        self._open: dict[int, Connection] = {}
        self._sent = self._answered = 0
        self._errors: list[str] = []
        self._took: list[float] = []
        self._late: list[float] = []
        self._tls: ssl.SSLContext | None = None
        if case.tls:
            self._tls = ssl.create_default_context()
            self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    def run(self, *, realtime: bool) -> Latencies:
        ticks = Ticks(self._tick)
        with select.epoll() as self._epoll:
            try:
                if not self._case.fresh:
                    self._free.extend(self._kept() for _ in range(self._case.clients))
                self._epoll.register(ticks.fd, select.EPOLLIN)
                cpu_s = time.process_time()
                self._exchange(ticks)
                cpu_s = time.process_time() - cpu_s
            finally:
                ticks.close()
                for connection in self._open.values():
                    connection.sock.close()
        self._took.sort()
        self._late.sort()
        return Latencies(
            sent=self._sent,
            answered=self._answered,
            errors=self._errors[:20],
            p50_s=percentile(self._took, 0.5),
            p99_s=percentile(self._took, 0.99),
            worst_s=self._took[-1] if self._took else 0.0,
            late_p99_s=percentile(self._late, 0.99),
            realtime=realtime,
            cpu_us=cpu_s / max(1, self._answered) * 1e6,
        )

    def _kept(self) -> Connection:
        sock = socket.create_connection(self._address, timeout=PATIENCE_S)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._watched(Connection(sock), select.EPOLLIN)

    def _watched(self, connection: Connection, events: int) -> Connection:
        self._open[connection.sock.fileno()] = connection
        self._epoll.register(connection.sock, events)
        return connection

    def _exchange(self, ticks: Ticks) -> None:
        poll, clock, opened = self._epoll.poll, time.monotonic, self._open
        gap, tick = self._gap, self._tick
        begin = clock()  # before the first tick counts: none is a little too early
        ticks.start()
        number = 1
        while not self._errors:
            now = clock() - begin
            if now >= self._until and self._answered == self._sent:
                return
            if now > self._until + PATIENCE_S:
                self._errors.append(f"{self._sent - self._answered} never answered")
                return
            for fd, events in poll(1.0):
                if fd != ticks.fd:
                    connection = opened.get(fd)
                    if connection is not None:
                        self._ready(connection, events, begin)
                    continue
                os.read(ticks.fd, 8)  # which also starts it anew
                now = clock() - begin
                while (due := due_at(number, gap, tick)) <= now and due < self._until:
                    number += 1
                    self._sent += 1
                    if due >= WARM_S:
                        self._late.append(now - due)
                    self._begin(due)

    def _begin(self, due: float) -> None:
        if self._case.fresh:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self._address)
            self._watched(Connection(sock, due), select.EPOLLOUT)
        elif self._free:
            self._send(self._free.popleft(), due)
        else:
            self._waiting.append(due)

    def _send(self, connection: Connection, due: float) -> None:
        connection.due = due
        try:
            if connection.sock.send(self._request) != len(self._request):
                self._errors.append("a request of ours did not fit into a socket")
        except OSError as error:
            self._errors.append(f"sending: {error}")

    def _ready(self, connection: Connection, events: int, begin: float) -> None:
        if events == select.EPOLLOUT:  # a new one is connected
            self._epoll.modify(connection.sock, select.EPOLLIN)
            self._send(connection, connection.due)
            return
        try:
            data = connection.sock.recv(RECEIVE)
            whole = self._take(connection, data)
            while not whole and isinstance(connection.sock, ssl.SSLSocket):
                # what OpenSSL has decrypted already, epoll does not tell of
                whole = self._take(connection, connection.sock.recv(RECEIVE))
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except (OSError, ValueError) as error:
            self._errors.append(str(error))
            return
        if not whole:
            return
        due, connection.due = connection.due, -1.0
        if due >= WARM_S:
            self._took.append(time.monotonic() - begin - due)
        self._answered += 1
        if self._case.fresh:
            del self._open[connection.sock.fileno()]
            connection.sock.close()
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def _take(self, connection: Connection, data: bytes) -> bool:
        """Is the answer whole? Raises ValueError where it is none, or not asked for."""
        if not data:
            raise ValueError("a connection was closed")
        if connection.due < 0:
            raise ValueError(f"nobody asked for {data[:60]!r}")
        if not connection.left:
            connection.head += data
            size = answer_size(connection.head)
            if size is None:
                return False
            connection.left, connection.head = size - len(connection.head), b""
        else:
            connection.left -= len(data)
        if connection.left < 0:
            raise ValueError("an answer is longer than it says")
        return not connection.left


def main() -> None:
    name, port, rate, seconds = sys.argv[1:]
    realtime = True
    try:
        take_realtime()
    except InputError:
        realtime = False
    gc.disable()
    client = FixedRate(CASES[name], int(port), float(rate), float(seconds))
    with contextlib.suppress(KeyboardInterrupt):
        print(json.dumps(asdict(client.run(realtime=realtime))))


if __name__ == "__main__":
    main()
