"""A proxy on a loopback port before scripted backends, and a client that counts bytes.

`proxied` checks, at its end, what must hold after every test: no lease, no request, no task left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lb.address import split_address
from lb.balance import policy_named
from lb.config import (
    HealthConfig,
    ListenConfig,
    ProxyConfig,
    QueueConfig,
    RouteConfig,
    ServiceConfig,
    TimeoutsConfig,
)
from lb.listener import ProxyServer
from lb.metrics import Metrics
from lb.pool import Pool, Report
from lb.request_metrics import RequestMetrics
from lb.routes import Routes
from lb.site import Site
from tests.fake_backend import FakeBackend, Script

PATIENCE_S = 20.0
"""How long anything may take before a test fails: generous, because the box may be busy."""


class FirstOfAll:
    """Dice with which turns begin at the backend that came first."""

    def random(self) -> float:
        return 0.0


@dataclass
class Proxied:
    pool: Pool
    metrics: Metrics
    counters: RequestMetrics
    server: ProxyServer
    site: Site

    @property
    def port(self) -> int:
        return split_address(self.server.addresses[0])[1]

    def client(self) -> Client:
        return Client(self.port)

    async def get(self, target: str = "/", *lines: str, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        async with self.client() as client:
            await client.request(method, target, *lines)
            return await client.answer(method)

    def codes(self) -> dict[int, int]:
        codes: dict[int, int] = {}
        for (_, code), number in self.counters.requests.items():
            codes[code] = codes.get(code, 0) + number
        return codes

    async def settled(self, requests: int) -> None:
        """Wait until this many requests have ended and nothing runs."""
        await until(lambda: self.counters.requests_total >= requests and not self.pool.in_flight)


@contextlib.asynccontextmanager
async def proxied(
    *backends: FakeBackend | str, ready: bool = True, health: HealthConfig | None = None,
    policy: str = "least_requests", max_in_flight: int = sys.maxsize,
    queue: QueueConfig | None = None, service: dict[str, Any] | None = None,
    routes: Sequence[RouteConfig] = (), home: Path | None = None, **settings: Any,
) -> AsyncIterator[Proxied]:  # fmt: skip
    """Start a proxy before these backends (or addresses). `settings` are ProxyConfig's, `service`
    more of ServiceConfig's."""
    timeouts = settings.pop("timeouts", {})
    settings.setdefault("listen", (ListenConfig(address="127.0.0.1:0"),))
    config = ProxyConfig(
        timeouts=TimeoutsConfig(**{"connect": PATIENCE_S, **timeouts}),
        **settings,
    )
    before = asyncio.all_tasks()
    pool = Pool(
        "web",
        policy_named(policy),
        health or HealthConfig(),
        clock=_clock,
        rng=FirstOfAll(),
        max_in_flight=max_in_flight,
    )
    for backend in backends:
        address = backend if isinstance(backend, str) else backend.address
        pool.add_static(address)
        if ready:
            pool.observe(Report(address, address, ok=True, detail="200"))
    metrics = Metrics()
    counters = metrics.service(pool)
    settings_of_service = {
        "policy": policy,
        "max_in_flight": min(max_in_flight, 1_000_000),
        "health": health or HealthConfig(),
        "queue": queue or QueueConfig(),
        **(service or {}),
    }
    site = Site(
        "web", ServiceConfig(**settings_of_service), config, pool, counters, secret=b"s" * 32
    )
    server = ProxyServer(
        config, {"web": site}, Routes(routes, "web"), counters=counters, home=home, clock=_clock
    )
    await server.start()
    setup = Proxied(pool, metrics, counters, server, site)
    try:
        yield setup
    finally:
        await server.stop(PATIENCE_S)
    assert pool.in_flight == 0
    assert counters.in_flight == 0
    await until(lambda: not (asyncio.all_tasks() - before - _of_fakes()))


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _of_fakes() -> set[asyncio.Task[Any]]:
    """The scripted backends' own tasks are theirs to end."""
    return {
        task
        for task in asyncio.all_tasks()
        if "FakeBackend" in getattr(task.get_coro(), "__qualname__", "")
    }


@contextlib.asynccontextmanager
async def one(
    script: Script | None = None, **settings: Any
) -> AsyncIterator[tuple[Proxied, FakeBackend]]:
    """A proxy before one backend with this script."""
    async with FakeBackend(script) as backend, proxied(backend, **settings) as proxy:
        yield proxy, backend


async def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait for something that will become true; fails the test where it does not."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event to set
            await asyncio.sleep(0.005)


@dataclass
class Answer:
    status: int
    reason: str
    fields: list[tuple[bytes, bytes]]
    body: bytes
    raw_head: bytes
    whole: bool = True
    """False where the connection ended before the body did."""

    def values(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode() for key, value in self.fields if key.lower() == wanted]

    def value(self, name: str) -> str | None:
        values = self.values(name)
        return values[0] if values else None


def reason_of(body: bytes) -> str:
    """The reason word of one of the balancer's own answers."""
    problem = json.loads(body)
    assert problem["request_id"]
    return str(problem["reason"])


class Client:
    """A raw HTTP/1.1 client that sends what it is told and parses strictly."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, method: str, target: str, *lines: str, body: bytes = b"") -> None:
        head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: app.example", *lines])
        await self.send(head.encode() + b"\r\n\r\n" + body)

    async def answer(self, method: str = "GET") -> Answer:
        """The next whole answer; `whole` is False where it was cut within its body."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].split(b"\r\n")
            _, status, reason = first.split(b" ", 2)
            pairs = (line.partition(b": ") for line in lines)
            fields = [(name, value) for name, _, value in pairs]
            answer = Answer(int(status), reason.decode(), fields, b"", head)
            if method != "HEAD" and answer.status >= 200 and answer.status not in (204, 304):
                try:
                    answer.body = await self._body(answer)
                except (asyncio.IncompleteReadError, ConnectionError, ValueError):
                    answer.whole = False
            return answer

    async def _body(self, answer: Answer) -> bytes:
        if (length := answer.value("Content-Length")) is not None:
            assert answer.value("Transfer-Encoding") is None
            return await self.reader.readexactly(int(length))
        if answer.value("Transfer-Encoding") == "chunked":
            body = bytearray()
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readline() == b"\r\n"
            return bytes(body)
        return await self.reader.read()

    async def ended(self) -> bool:
        """True once the proxy has closed the connection with nothing more sent."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True
