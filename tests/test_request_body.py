"""A body as attempts send it: the same bytes each time, or not at all a second time."""

from __future__ import annotations

import asyncio

import pytest

from lb.client_body import ClientBody
from lb.config import LimitsConfig
from lb.errors import ClientGoneError
from lb.request_body import RequestBody


def pair(keep_bytes: int) -> tuple[ClientBody, RequestBody]:
    client = ClientBody(asyncio.get_running_loop(), LimitsConfig(), lambda more: None)
    return client, RequestBody(client, keep_bytes, 5.0)


async def read(body: RequestBody) -> bytes:
    return b"".join([piece async for piece in body.pieces()])


async def test_a_small_body_can_be_sent_again_and_again() -> None:
    client, body = pair(10)
    client.feed(b"0123456789")
    client.finish([(b"X", b"y")])
    assert body.here
    for _ in range(3):
        assert await read(body) == b"0123456789"
        assert body.replayable
    assert body.trailers == [(b"X", b"y")]


async def test_a_larger_one_only_once() -> None:
    client, body = pair(10)
    client.feed(b"0123456789x")
    client.finish([])
    before = body.replayable
    assert await read(body) == b"0123456789x"
    assert (before, body.replayable) == (True, False)
    with pytest.raises(RuntimeError):
        await read(body)


async def test_an_attempt_that_broke_off_is_followed_by_one_from_the_first_byte() -> None:
    client, body = pair(100)
    client.feed(b"abc")
    async for piece in body.pieces():
        assert piece == b"abc"
        break
    client.feed(b"def")
    client.finish([])
    assert await read(body) == b"abcdef"


async def test_an_attempt_cancelled_while_it_waits_loses_nothing() -> None:
    client, body = pair(100)
    client.feed(b"abc")
    waiting = asyncio.ensure_future(read(body))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    client.feed(b"def")
    client.finish([])
    assert await read(body) == b"abcdef"


async def test_what_no_attempt_will_follow_is_not_kept() -> None:
    client, body = pair(100)
    client.feed(b"abc")
    body.forget()
    assert not body.replayable
    assert body._kept is None


async def test_forgetting_within_an_attempt_does_not_disturb_it() -> None:
    client, body = pair(100)
    client.feed(b"abc")
    pieces = body.pieces()
    assert await anext(pieces) == b"abc"
    body.forget()
    client.feed(b"def")
    client.finish([])
    assert await anext(pieces) == b"def"


async def test_the_clients_failure_is_the_attempts() -> None:
    client, body = pair(100)
    client.feed(b"abc")
    client.fail(ClientGoneError("gone"))
    assert not body.here
    with pytest.raises(ClientGoneError):
        await read(body)
