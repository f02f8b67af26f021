"""A request's body between the connection that brings it and whoever sends it on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb import client_body
from lb.client_body import HIGH_BYTES, ClientBody
from lb.config import LimitsConfig
from lb.errors import BodyTooLargeError, ClientGoneError, ClientTimeoutError


def body(**limits: Any) -> tuple[ClientBody, list[bool]]:
    flow: list[bool] = []
    loop = asyncio.get_running_loop()
    return ClientBody(loop, LimitsConfig(**limits), flow.append), flow


async def test_it_is_read_in_order_and_ends() -> None:
    one, flow = body()
    for piece in (b"a", b"bc", b"d"):
        one.feed(piece)
    one.finish([(b"X", b"y")])
    assert await one.read(1.0) == b"abcd"
    assert await one.read(1.0) == b""
    assert await one.read(1.0) == b""
    assert (one.received, one.complete, one.trailers) == (4, True, [(b"X", b"y")])
    assert flow == []


async def test_a_reader_waits_for_what_comes() -> None:
    one, _ = body()
    reading = asyncio.ensure_future(one.read(10.0))
    await asyncio.sleep(0)
    one.feed(b"late")
    assert await reading == b"late"
    ending = asyncio.ensure_future(one.read(10.0))
    await asyncio.sleep(0)
    one.finish([])
    assert await ending == b""


async def test_the_sender_is_held_back_while_nobody_reads() -> None:
    one, flow = body()
    for _ in range(10):
        one.feed(bytes(HIGH_BYTES // 5))
    assert flow == [False]
    assert len(await one.read(1.0)) == HIGH_BYTES // 5 * 10
    assert flow == [False, True]
    one.feed(b"x")
    assert flow == [False, True]


async def test_a_body_that_fails_gives_what_came_and_then_says_why() -> None:
    one, _ = body()
    one.feed(b"abc")
    one.fail(ClientGoneError("gone"))
    one.fail(BodyTooLargeError("the first reason counts"))
    assert await one.read(1.0) == b"abc"
    with pytest.raises(ClientGoneError):
        await one.read(1.0)


async def test_a_complete_body_cannot_fail_any_more() -> None:
    one, _ = body()
    one.finish([])
    one.fail(ClientGoneError("gone"))
    assert await one.read(1.0) == b""


async def test_a_waiting_reader_is_told_of_the_failure() -> None:
    one, _ = body()
    reading = asyncio.ensure_future(one.read(10.0))
    await asyncio.sleep(0)
    one.fail(ClientGoneError("gone"))
    with pytest.raises(ClientGoneError):
        await reading


async def test_a_cancelled_reader_loses_nothing() -> None:
    one, _ = body()
    reading = asyncio.ensure_future(one.read(10.0))
    await asyncio.sleep(0)
    one.feed(b"abc")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    one.feed(b"d")
    assert await one.read(1.0) == b"abcd"


async def test_more_than_the_limit_is_refused() -> None:
    one, _ = body(body_bytes=10)
    one.feed(bytes(10))
    with pytest.raises(BodyTooLargeError):
        one.feed(b"x")


async def test_silence_is_a_timeout() -> None:
    one, _ = body()
    with pytest.raises(ClientTimeoutError, match="stalled"):
        await one.read(0.01)


async def test_too_slow_is_a_timeout_too_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_body, "PACE_GRACE_S", 0.05)
    one, _ = body(body_rate=1000)
    loop = asyncio.get_running_loop()

    async def dripped() -> None:
        while True:
            loop.call_later(0.01, one.feed, b"x")
            await one.read(10.0)

    with pytest.raises(ClientTimeoutError, match="less than 1000 bytes a second"):
        await dripped()


async def test_time_in_which_nobody_reads_is_not_the_senders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_body, "PACE_GRACE_S", 0.2)
    one, _ = body(body_rate=1)
    for _ in range(10):
        one.feed(b"x")
        await asyncio.sleep(0.05)
        assert await one.read(10.0) == b"x"
    one.finish([])
    assert await one.read(10.0) == b""


@settings(max_examples=50)
@given(steps=st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=50_000)), max_size=20))
def test_whatever_is_fed_is_read_once_and_in_order(steps: list[bytes | None]) -> None:
    """None is a read; between two of them pressure is on exactly while much is held."""

    async def run() -> None:
        one, flow = body()
        fed = got = b""
        for step in [*steps, None]:
            if step is None:
                if one._pieces:
                    got += await one.read(1.0)
            else:
                fed += step
                one.feed(step)
            assert (len(fed) - len(got) > HIGH_BYTES) is (bool(flow) and not flow[-1])
        one.finish([])
        while piece := await one.read(1.0):
            got += piece
        assert got == fed
        assert flow == [bool(n % 2) for n in range(len(flow))]

    asyncio.run(run())
