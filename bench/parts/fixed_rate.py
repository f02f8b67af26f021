"""An open-loop client that costs little: so many requests a second at even distances, whatever the
answers do. `python -m bench.parts.fixed_rate CASE PORT RATE SECONDS` prints what it found as JSON.

Times run from when a request was due, not from when it left: whoever answers late has the requests
counted that could not leave for it. One core is shared with the backend, so the client does no more
than it must (5 µs a request on the machine that docs/performance.md names; the load tester's
engine, which keeps far more account, needs 18): it knows an answer by its length alone, once the
first has been read in full. Where it may, it goes before all others on its core.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import ssl
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Final, cast

import uvloop

from bench.parts.cases import CASES, Case
from loadtest.errors import InputError
from loadtest.priority import take_realtime
from loadtest.timer import WakeUp

WARM_S: Final = 0.5
"""From the beginning; what is sent in it does not count."""
JOIN_S: Final = 0.00005
"""Wake-ups closer together than this are joined."""
PATIENCE_S: Final = 10.0
"""After the end, for answers on their way."""


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


def answer_size(data: bytes) -> int | None:
    """How many bytes the answer has that begins here, head included; None: its head is not whole.
    Raises ValueError where it is no good one, or has no Content-Length."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not data.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"{data[:60]!r}")
    length = data[: end + 2].lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return end + 4 + int(length)


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, run: FixedRate) -> None:
        self._run = run
        self._head = b""
        self._left = 0
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            try:
                size = answer_size(self._head)
            except ValueError as wrong:
                self._run.failed(str(wrong))
                self._transport.close()
                return
            if size is None:
                return
            self._left = size - len(self._head)
            self._head = b""
        if self._left <= 0 and self._due is not None:
            due, self._due = self._due, None
            self._run.answered(due, self)

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._run.failed(f"cut: {exc}")
        self._run.lost(self)


class FixedRate:
    """One run."""

    def __init__(self, case: Case, port: int, rate: float, seconds: float) -> None:
        self.request = case.request()
        self._case, self._port = case, port
        self._gap, self._seconds = 1 / rate, seconds
        self._free: deque[Client] = deque()
        self._all: set[Client] = set()
        self._waiting: deque[float] = deque()
        """Due, while every connection is busy."""
        self._number = self._sent = self._answered = self._under_way = 0
        self._errors: list[str] = []
        self._took: list[float] = []
        self._late: list[float] = []
        self._over = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()
        self._tls: ssl.SSLContext | None = None
        if case.tls:
            self._tls = ssl.create_default_context()
            self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    async def run(self, *, realtime: bool) -> Latencies:
        loop = asyncio.get_running_loop()
        if not self._case.fresh:
            self._free.extend([await self._connected() for _ in range(self._case.clients)])
        gc.disable()
        self._wake_up = WakeUp(loop, self._pace)
        self._begin = time.monotonic()
        self._pace()
        try:
            async with asyncio.timeout(WARM_S + self._seconds + PATIENCE_S):
                await self._over.wait()
        except TimeoutError:
            self.failed(f"{self._under_way + len(self._waiting)} never answered")
        self._wake_up.close()
        for client in list(self._all):
            client.close()
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
        )

    async def _connected(self) -> Client:
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: Client(self), "127.0.0.1", self._port, ssl=self._tls
        )
        self._all.add(client)
        return client

    def _pace(self) -> None:
        now = time.monotonic() - self._begin
        end = WARM_S + self._seconds
        while (due := self._number * self._gap) <= now and due < end:
            self._number += 1
            self._sent += 1
            self._under_way += 1
            if due >= WARM_S:
                self._late.append(now - due)
            if self._case.fresh:
                task = asyncio.get_running_loop().create_task(self._on_a_new_one(due))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
            elif self._free:
                self._free.popleft().send(due)
            else:
                self._waiting.append(due)
        if due >= end:
            self._look_for_the_end()
            return
        self._wake_up.arm(max(due - (time.monotonic() - self._begin), JOIN_S))

    async def _on_a_new_one(self, due: float) -> None:
        try:
            client = await self._connected()
        except OSError as error:
            self.failed(str(error))
        else:
            client.send(due)

    def answered(self, due: float, client: Client) -> None:
        if due >= WARM_S:
            self._took.append(time.monotonic() - self._begin - due)
        self._answered += 1
        self._under_way -= 1
        if self._case.fresh:
            client.close()
        elif self._waiting:
            client.send(self._waiting.popleft())
        else:
            self._free.append(client)
        if not self._under_way:
            self._look_for_the_end()

    def failed(self, words: str) -> None:
        self._errors.append(words)
        self._over.set()  # it is void: nothing more is asked

    def lost(self, client: Client) -> None:
        self._all.discard(client)
        if not self._case.fresh and not self._over.is_set():
            self.failed("a kept connection was closed")

    def _look_for_the_end(self) -> None:
        if not self._under_way and self._number * self._gap >= WARM_S + self._seconds:
            self._over.set()


def main() -> None:
    name, port, rate, seconds = sys.argv[1:]
    realtime = True
    try:
        take_realtime()
    except InputError:
        realtime = False

    async def run() -> Latencies:
        client = FixedRate(CASES[name], int(port), float(rate), float(seconds))
        return await client.run(realtime=realtime)

    with contextlib.suppress(KeyboardInterrupt):
        print(json.dumps(asdict(uvloop.run(run()))))


if __name__ == "__main__":
    main()
