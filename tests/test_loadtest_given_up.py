"""The pool of connections before a server that accepts nobody."""

from __future__ import annotations

import asyncio
import time

import pytest

from loadtest.connect import Address
from loadtest.connection import Exchange
from loadtest.plan import Plan
from loadtest.pool import MOST_OPENING, ConnectionPool
from loadtest.target import Settings


class Nobody:
    """Hears nothing: what is given up is not reported."""

    def sent(self, exchange: Exchange) -> None:
        raise AssertionError

    def answered(self, exchange: Exchange, status: int) -> None:
        raise AssertionError

    def failed(self, exchange: Exchange, kind: str) -> None:
        raise AssertionError


async def test_requests_given_up_wait_no_longer_and_are_owed_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never, attempts = asyncio.Event(), []

    async def connect(*_: object, **__: object) -> None:
        attempts.append(asyncio.current_task())
        await never.wait()
        raise TimeoutError

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect)
    (request,) = Settings("http://127.0.0.1:9/", Plan.constant(1, 1)).requests.requests
    pool = ConnectionPool(
        Address("127.0.0.1", 9),
        Nobody(),
        clock=time.monotonic,
        connect_timeout=600.0,
        late=lambda: True,
    )
    exchanges = [Exchange(float(n), 0, request) for n in range(MOST_OPENING + 50)]
    for exchange in exchanges:
        pool.send(exchange)
    await asyncio.sleep(0)
    assert len(attempts) == pool.opening == MOST_OPENING
    assert f"{MOST_OPENING + 50} waiting" in repr(pool)
    for exchange in exchanges:
        pool.give_up(exchange)
    assert " 0 waiting" in repr(pool)
    never.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(attempts) == MOST_OPENING
    assert pool.opening == 0
    await pool.close()
