"""Does it stay well? `./run bench soak [--minutes 10] [--json]`.

`lbctl up` before seven backend processes, under everything at once: small and large answers,
bodies both ways with a length and chunked, new and kept connections, slow readers and writers,
WebSockets. Every second the pool changes (drain, ready, remove, add), every seven the
configuration is written anew and read by SIGHUP or the admin API; a backend of the service `web`
is killed and started again every twenty. Stops by itself.

Fails (exit code 1) where one request failed, where a WebSocket lost or changed a message, where
memory grows after a warm-up, or where files are left open at the end.

What a killed backend had begun to answer nobody can repeat: so `web`, whose backends are killed,
gets idempotent requests with answers of one packet; everything else goes to `steady`, whose
backends come and go in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import uvloop

from bench.parts.backend import Backend
from bench.parts.client import Connection, FailedError
from bench.parts.growth import Sample, after, slope
from bench.parts.up import Up, lbctl_up
from lb.client import AdminError

WEB, STEADY = 4, 3
"""Backends of the two services."""
CHANGE_S, RELOAD_S, KILL_S = 1.0, 7.0, 20.0
SETTLE_S = 15.0
"""For idle connections to backends to be closed, at the end."""

WARM_SHARE, WARM_S = 0.3, 120.0
"""Memory is looked at after this share of the run, or this long."""
MOST_GROWTH = 0.04
"""Of the memory at the end of the warm-up, by the line through what follows."""
MOST_FILES_LEFT = 4
"""More than before the load: what the process opened for itself since."""

CONFIG = """
hypervisor = []
[proxy]
listen = "127.0.0.1:{port}"
[proxy.limits]
connections = CONNECTIONS
[admin]
listen = "127.0.0.1:0"
[[route]]
service = "web"
[[route]]
path = "/steady"
service = "steady"
strip_path = true
[service.web]
backends = [WEB]
policy = "POLICY"
[service.steady]
backends = [STEADY]
slow_start = "2s"
"""
POLICIES = ("least_requests", "round_robin", "random_two", "peak_ewma")


@dataclass
class Soak:
    """What happened."""

    asked: Counter[str] = field(default_factory=Counter)
    """Requests answered well, by kind; for WebSockets, messages."""
    failed: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    memory: list[Sample] = field(default_factory=list)
    files: list[Sample] = field(default_factory=list)
    files_before: int = 0
    files_after: int = 0
    leases_after: int = 0
    complaints: list[str] = field(default_factory=list)
    """Of the proxy's log: errors of its own."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The run in short. Memory in MiB."""

    seconds: float
    requests: int
    requests_per_s: float
    failed: int
    events: dict[str, int]
    by_kind: dict[str, int]
    memory_warm: float
    memory_end: float
    memory_most: float
    memory_slope_per_10_min: float
    files_before: int
    files_most: int
    files_after: int
    leases_after: int
    complaints: int


# ── the load ─────────────────────────────────────────────────────────────────────────────────────


class Load:
    """Clients that ask until `ending`; each notes what it was answered."""

    def __init__(self, up: Up, soak: Soak, seed: int) -> None:
        self._port = up.port
        self._soak = soak
        self._rng = random.Random(seed)
        self.ending = asyncio.Event()

    def clients(self) -> list[Coroutine[Any, Any, None]]:
        many: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._kept),
            (3, self._fresh),
            (3, self._posting),
            (2, self._downloading),
            (2, self._slow_reader),
            (2, self._slow_writer),
            (4, self._waiting),
            (6, self._websocket),
        ]
        return [self._repeat(one) for number, one in many for _ in range(number)]

    async def _repeat(self, one: Callable[[], Awaitable[None]]) -> None:
        kind = one.__name__.strip("_")
        while not self.ending.is_set():
            try:
                await one()
            except (FailedError, OSError, aiohttp.ClientError, TimeoutError) as error:
                self._soak.failed.append(f"{kind}: {type(error).__name__} {error}")
                await asyncio.sleep(0.2)

    async def _pause(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rng.uniform(0, most_s)):
                await self.ending.wait()

    async def _ask(
        self, kind: str, connection: Connection, wanted: int, *args: Any, **more: Any
    ) -> None:
        body = await connection.ask(*args, **more)
        if len(body) != wanted:
            raise FailedError(f"{args[0]} {args[1]}: {len(body)} bytes instead of {wanted}")
        self._soak.asked[kind] += 1

    async def _kept(self) -> None:
        """A browser: some dozens of requests on one connection."""
        async with Connection(self._port) as connection:
            for _ in range(self._rng.randint(1, 80)):
                if self.ending.is_set():
                    return
                method = self._rng.choice(("GET", "GET", "GET", "HEAD", "PUT"))
                body = bytes(self._rng.randint(1, 4000)) if method == "PUT" else b""
                wanted = 0 if method == "HEAD" else 3
                await self._ask("kept", connection, wanted, method, "/small", body)
                if connection.closing:
                    return
                await self._pause(0.05)

    async def _fresh(self) -> None:
        async with Connection(self._port) as connection:
            await self._ask("fresh", connection, 3, "GET", "/small")
        await self._pause(0.05)

    async def _posting(self) -> None:
        async with Connection(self._port) as connection:
            for _ in range(self._rng.randint(1, 10)):
                size = self._rng.choice((1, 1000, 70_000, 1_000_000))
                chunked = self._rng.random() < 0.5
                body = self._rng.randbytes(size)
                found = await connection.ask("POST", "/steady/echo", body, chunked=chunked)
                if found != body:
                    raise FailedError(f"an echo of {size} bytes is another one")
                self._soak.asked["posting, chunked" if chunked else "posting"] += 1
                if connection.closing:
                    return
                await self._pause(0.2)

    async def _downloading(self) -> None:
        async with Connection(self._port) as connection:
            size = self._rng.choice((100_000, 1_000_000, 8_000_000))
            chunked = "&chunked" if self._rng.random() < 0.5 else ""
            target = f"/steady/large?bytes={size}{chunked}"
            await self._ask("downloading", connection, size, "GET", target)
        await self._pause(0.5)

    async def _slow_reader(self) -> None:
        async with Connection(self._port) as connection:
            target = "/steady/large?bytes=3000000"
            await self._ask("slow reader", connection, 3_000_000, "GET", target, pause_s=0.02)

    async def _slow_writer(self) -> None:
        async with Connection(self._port) as connection:
            body = bytes(300_000)
            chunked = self._rng.random() < 0.5
            await self._ask("slow writer", connection, len(body), "POST", "/steady/echo", body,
                            chunked=chunked, pause_s=0.2)  # fmt: skip

    async def _waiting(self) -> None:
        async with Connection(self._port) as connection:
            for _ in range(5):
                wait_s = self._rng.uniform(0.05, 2.0)
                await self._ask("waiting", connection, 3, "GET", f"/slow?s={wait_s:.2f}")

    async def _websocket(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"ws://127.0.0.1:{self._port}/steady/ws", max_msg_size=0, timeout=_CLOSE
            ) as socket,
        ):
            for _ in range(self._rng.randint(5, 60)):
                text = "é" * self._rng.choice((0, 1, 100, 70_000))
                await socket.send_str(text)
                if await socket.receive_str(timeout=60) != text:
                    raise FailedError("a WebSocket message is another one")
                data = self._rng.randbytes(self._rng.choice((1, 5000)))
                await socket.send_bytes(data)
                if await socket.receive_bytes(timeout=60) != data:
                    raise FailedError("a WebSocket message is another one")
                self._soak.asked["websocket messages"] += 2
                await self._pause(0.3)
                if self.ending.is_set():
                    break
            await socket.close()
            if socket.close_code != aiohttp.WSCloseCode.OK:
                raise FailedError(f"a WebSocket was closed with {socket.close_code}")


_CLOSE = aiohttp.ClientWSTimeout(ws_close=30.0)


# ── what happens meanwhile ───────────────────────────────────────────────────────────────────────


class Operator:
    """Changes pool and configuration while requests run; at least one backend of each service
    always serves."""

    def __init__(self, up: Up, services: dict[str, list[Backend]], soak: Soak, seed: int) -> None:
        self._up = up
        self._services = services
        self._soak = soak
        self._rng = random.Random(seed)
        self._out: dict[str, tuple[str, str]] = {}
        """By service: the backend that is drained or removed, and which of the two."""
        self._by_hand = False

    async def change(self) -> None:
        """One step: take a backend of each service out, or bring back the one that is."""
        for service, backends in self._services.items():
            if service in self._out:
                address, how = self._out.pop(service)
                back = "ready" if how == "drain" else "add"
                await self._order(service, back, address)
            else:
                address = self._rng.choice(backends).address
                how = self._rng.choice(("drain", "remove"))
                self._out[service] = (address, how)
                await self._order(service, how, address)

    async def _order(self, service: str, what: str, address: str) -> None:
        admin = self._up.admin
        call = {
            "add": admin.add_backend,
            "remove": admin.remove_backend,
            "drain": admin.drain_backend,
            "ready": admin.ready_backend,
        }[what]
        try:
            await asyncio.to_thread(call, service, address)
        except AdminError:
            # A configuration that was read meanwhile may have brought it back, or taken it out.
            self._soak.events[f"{what}, too late"] += 1
        else:
            self._soak.events[what] += 1

    async def reconfigure(self) -> None:
        """Another policy, another limit, one backend less or more: by SIGHUP or through the API."""
        text = config(self._up.port, self._services, self._rng)
        self._up.config_path.write_text(text)
        self._by_hand = not self._by_hand
        if self._by_hand:
            self._up.reload()
            self._soak.events["SIGHUP"] += 1
        else:
            await asyncio.to_thread(self._up.admin.apply_config, None, None)
            self._soak.events["config apply"] += 1

    async def kill(self) -> None:
        """A crash, and a second later the restart."""
        victim = self._rng.choice(self._services["web"])
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(victim.start)
        await victim.listening()
        self._soak.events["killed and started again"] += 1


def config(port: int | str, services: dict[str, list[Backend]], rng: random.Random) -> str:
    """A configuration such as the last one, and other: a backend may be missing."""
    text = CONFIG.replace("{port}", str(port)).replace("POLICY", rng.choice(POLICIES))
    for name, backends in services.items():
        named = list(backends)
        if rng.random() < 0.5:
            named.remove(rng.choice(named))
        addresses = ", ".join(f'"{backend.address}"' for backend in named)
        text = text.replace(f"[{name.upper()}]", f"[{addresses}]")
    return text.replace("CONNECTIONS", str(rng.randint(5000, 20000)))


async def every(seconds: float, what: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await what()


# ── the run ──────────────────────────────────────────────────────────────────────────────────────


async def run(seconds: float, seed: int = 1, settle_s: float = SETTLE_S) -> Soak:
    """Load and changes for so long, and then the peace in which nothing may be left."""
    soak = Soak()
    with contextlib.ExitStack() as stack:
        services = {
            name: [stack.enter_context(Backend()) for _ in range(number)]
            for name, number in (("web", WEB), ("steady", STEADY))
        }
        for backend in (*services["web"], *services["steady"]):
            await backend.listening()
        async with lbctl_up(config("{port}", services, random.Random(seed))) as up:
            await up.all_ready()
            soak.files_before = up.files()
            await _loaded(up, soak, services, seconds, seed)
            await asyncio.sleep(settle_s)
            soak.files_after = up.files()
            rows = (await asyncio.to_thread(up.admin.pool))["backends"]
            soak.leases_after = sum(row["in_flight"] for row in rows)
            soak.complaints = [line for line in up.complaints() if " WARNING " not in line]
    return soak


async def _loaded(
    up: Up, soak: Soak, services: dict[str, list[Backend]], seconds: float, seed: int
) -> None:
    load = Load(up, soak, seed)
    operator = Operator(up, services, soak, seed)
    began = time.monotonic()

    async def sample() -> None:
        now = time.monotonic() - began
        soak.memory.append((now, up.rss_bytes()))
        soak.files.append((now, up.files()))

    asking = [asyncio.create_task(client) for client in load.clients()]
    changing = [
        asyncio.create_task(every(period, what))
        for period, what in (
            (CHANGE_S, operator.change),
            (RELOAD_S, operator.reconfigure),
            (KILL_S, operator.kill),
            (1.0, sample),
        )
    ]
    try:
        done, _ = await asyncio.wait(
            [*asking, *changing], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in done:
            task.result()
        load.ending.set()
        await asyncio.wait_for(asyncio.gather(*asking), 90)
    finally:
        for task in (*asking, *changing):
            task.cancel()
        await asyncio.gather(*asking, *changing, return_exceptions=True)


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def figures(soak: Soak, seconds: float) -> Figures:
    warm = after(soak.memory, min(WARM_SHARE * seconds, WARM_S)) or soak.memory
    level = sum(size for _, size in warm[:10]) / max(1, len(warm[:10]))
    end = sum(size for _, size in warm[-10:]) / max(1, len(warm[-10:]))
    requests = sum(soak.asked.values())
    mib = 1024 * 1024
    return Figures(
        seconds=round(seconds, 1),
        requests=requests,
        requests_per_s=round(requests / seconds, 1),
        failed=len(soak.failed),
        events=dict(soak.events),
        by_kind=dict(soak.asked),
        memory_warm=round(level / mib, 2),
        memory_end=round(end / mib, 2),
        memory_most=round(max((size for _, size in soak.memory), default=0) / mib, 2),
        memory_slope_per_10_min=round(slope(warm) * 600 / mib, 2),
        files_before=soak.files_before,
        files_most=int(max((number for _, number in soak.files), default=0)),
        files_after=soak.files_after,
        leases_after=soak.leases_after,
        complaints=len(soak.complaints),
    )


def misses(soak: Soak, found: Figures) -> list[str]:
    """What the run fell short of."""
    missed = [f"failed: {line}" for line in soak.failed[:20]]
    if found.failed > 20:
        missed.append(f"and {found.failed - 20} more failed")
    if not found.requests:
        missed.append("nothing was asked")
    warm = after(soak.memory, min(WARM_SHARE * found.seconds, WARM_S))
    grown = slope(warm) * (warm[-1][0] - warm[0][0]) / (1024 * 1024) if warm else 0.0
    if grown > MOST_GROWTH * found.memory_warm:
        missed.append(f"memory grew by {grown:.1f} MiB from {found.memory_warm:.1f} MiB on")
    if found.files_after > found.files_before + MOST_FILES_LEFT:
        missed.append(f"{found.files_after} files are open, {found.files_before} were before")
    if found.leases_after:
        missed.append(f"{found.leases_after} leases are left")
    return missed + [f"log: {line}" for line in soak.complaints[:10]]


def report(found: Figures) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.by_kind.items()))
    events = ", ".join(f"{number} {what}" for what, number in sorted(found.events.items()))
    return "\n".join(
        [
            f"{found.requests} requests in {found.seconds:g} s ({found.requests_per_s:g}/s):"
            f" {found.failed} failed",
            f"  {kinds}",
            f"meanwhile: {events}",
            f"memory: {found.memory_warm:g} MiB warm, {found.memory_end:g} MiB at the end,"
            f" {found.memory_most:g} MiB at most; slope {found.memory_slope_per_10_min:+g} MiB"
            " in 10 minutes",
            f"files: {found.files_before} before, {found.files_most} at most,"
            f" {found.files_after} after; leases after: {found.leases_after}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    if not 0 < wanted.minutes <= 24 * 60:
        parser.error("--minutes: more than 0, at most a day")
    seconds = wanted.minutes * 60
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        soak = runner.run(run(seconds))
    found = figures(soak, seconds)
    missed = misses(soak, found)
    if wanted.json:
        print(json.dumps({**asdict(found), "missed": missed}, indent=1))
    else:
        print(report(found))
        for line in missed or ["target met"]:
            print(line)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
