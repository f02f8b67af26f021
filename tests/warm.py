"""A proxy that keeps a connection to its backend, so that the fast lane carries what comes next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from lb.fastlane import FastLane
from tests.fake_backend import (
    Exchange,
    FakeBackend,
    Script,
    answer_ok,
)
from tests.proxy_harness import Proxied, one


@contextlib.asynccontextmanager
async def warm(
    *scripts: Script, then: Script = answer_ok, **settings: Any
) -> AsyncIterator[tuple[Proxied, FakeBackend]]:
    """A proxy that keeps a connection to its backend; the scripts are for the requests to come,
    `then` for those after them."""
    left = iter([answer_ok, *scripts])

    async def script(exchange: Exchange) -> None:
        await next(left, then)(exchange)

    async with one(script, **settings) as (proxy, backend):
        assert (await proxy.get("/warm", "Connection: close")).status == 200
        assert proxy.counters.fast == 0
        yield proxy, backend


class Gate:
    """A script that answers once it may."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.read_body()
        self.reached.set()
        await self.open.wait()
        await exchange.answer()


def lane_of(proxy: Proxied) -> FastLane:
    """The one that runs."""
    (lane,) = proxy.server.proxy.overdue.running
    assert isinstance(lane, FastLane)
    return lane


def running(proxy: Proxied) -> int:
    return len(proxy.server.proxy.overdue.running)
