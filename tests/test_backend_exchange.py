"""One exchange on one connection, over real sockets: what is sent, read, waited for and refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.address import split_address
from lb.backend_connection import BackendConnection
from lb.backend_exchange import BackendExchange
from lb.client_body import ClientBody
from lb.config import LimitsConfig, TimeoutsConfig
from lb.errors import (
    BadAnswerError,
    BodyCutError,
    BodyTimeoutError,
    ClientGoneError,
    FirstByteTimeoutError,
    SendTimeoutError,
    UpstreamResetError,
)
from lb.exchange import Onward
from lb.request_body import RequestBody
from lb.wire.head import AnswerHead
from tests.fake_backend import CHUNKED, OK, Exchange, FakeBackend, Script, hang, reset_at_once, send
from tests.proxy_harness import until

MIB = 1024 * 1024


def onward(method: str = "GET", *lines: str, **more: Any) -> Onward:
    head = "\r\n".join([f"{method} / HTTP/1.1", "Host: a", *lines]) + "\r\n\r\n"
    return Onward(method, head.encode(), b"id", **more)


class Sent:
    """An exchange whose request is on its way."""

    def __init__(self, exchange: BackendExchange, body: ClientBody) -> None:
        self.exchange = exchange
        self.body = body
        self.interim: list[int] = []

    async def head(self) -> AnswerHead:
        async with asyncio.timeout(20):
            return await self.exchange.head(lambda head: self.interim.append(head.status))

    async def read_all(self) -> bytes:
        async with asyncio.timeout(20):
            whole = b""
            while piece := await self.exchange.read():
                whole += piece
            return whole


@asynccontextmanager
async def sent(
    address: str, request: Onward | None = None, *, with_body: bool = False, **timeouts: float
) -> AsyncIterator[Sent]:
    loop = asyncio.get_running_loop()
    host, port = split_address(address)
    _, connection = await loop.create_connection(lambda: BackendConnection(loop), host, port)
    body = ClientBody(loop, LimitsConfig(), lambda more: None)
    exchange = BackendExchange(
        connection,
        request or onward(),
        RequestBody(body, 65536, 20.0) if with_body else None,
        TimeoutsConfig(**timeouts),
        LimitsConfig(head_bytes=2048),
        loop,
    )
    exchange.send()
    try:
        yield Sent(exchange, body)
    finally:
        exchange.stop_sending()
        connection.close()


@asynccontextmanager
async def one(
    script: Script, request: Onward | None = None, **more: Any
) -> AsyncIterator[tuple[Sent, FakeBackend]]:
    async with FakeBackend(script) as backend, sent(backend.address, request, **more) as exchange:
        yield exchange, backend


# ── answers ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "body", "length", "reusable"),
    [
        (OK, b"ok", 2, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", 0, True),
        (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc", None, True),
        (b"HTTP/1.1 204 None\r\n\r\n", b"", 0, True),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 99\r\n\r\n", b"", 0, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", 2, False),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: x, Close\r\n\r\n"), b"ok", 2, False),
        (OK + b"x", b"ok", 2, False),
        (CHUNKED + b"0\r\n\r\nx", b"", None, False),
    ],
)
async def test_an_answer_is_read_to_its_end_and_no_further(
    answer: bytes, body: bytes, length: int | None, reusable: bool
) -> None:
    async with one(send(answer)) as (exchange, _):
        await exchange.head()
        assert exchange.exchange.length == length
        assert await exchange.read_all() == body
        assert exchange.exchange.complete
        assert exchange.exchange.reusable is reusable


async def test_an_answer_may_come_a_byte_at_a_time() -> None:
    answer = b"HTTP/1.1 103 Hint\r\n\r\n" + CHUNKED + b"3;x\r\nabc\r\n0\r\nX: y\r\n\r\n"

    async def dripping(exchange: Exchange) -> None:
        for byte in answer:
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0)

    async with one(dripping) as (exchange, _):
        assert (await exchange.head()).status == 200
        assert exchange.interim == [103]
        assert await exchange.read_all() == b"abc"
        assert exchange.exchange.trailers == [(b"X", b"y")]
        assert exchange.exchange.reusable


async def test_what_is_all_here_can_be_taken_at_once() -> None:
    async with one(send(OK)) as (exchange, _):
        await exchange.head()
        assert exchange.exchange.complete
        assert exchange.exchange.all() == b"ok"
        assert exchange.exchange.all() == b""
        assert await exchange.exchange.read() == b""


async def test_a_body_that_ends_with_the_connection() -> None:
    script = send(b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two", then="close")
    async with one(script) as (exchange, _):
        await exchange.head()
        assert exchange.exchange.length is None
        assert await exchange.read_all() == b"onetwo"
        assert not exchange.exchange.reusable


async def test_an_answer_to_head_has_no_body() -> None:
    script = send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
    async with one(script, onward("HEAD")) as (exchange, _):
        await exchange.head()
        assert await exchange.read_all() == b""
        assert exchange.exchange.reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x01\x00\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 3000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 3000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 40,
    ],
)
async def test_what_is_no_answer_is_the_backends_fault(answer: bytes) -> None:
    async with one(send(answer, then="hang")) as (exchange, _):
        with pytest.raises(BadAnswerError):
            await exchange.head()


@pytest.mark.parametrize(
    "script", [reset_at_once, send(then="close"), send(b"HTTP/1.1 200", then="close")]
)
async def test_an_end_before_the_answer(script: Script) -> None:
    async with one(script) as (exchange, _):
        with pytest.raises((UpstreamResetError, BadAnswerError)) as caught:
            await exchange.head()
        heard = "within the answer's head" in str(caught.value)
        assert isinstance(caught.value, BadAnswerError) is heard


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"1234", then="close"),
            BodyCutError,
        ),
        (
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"1234", then="reset"),
            BodyCutError,
        ),
        (send(CHUNKED, b"4\r\n1234\r\n", then="close"), BodyCutError),
        (send(CHUNKED, b"4\r\n1234\r\n", b"zz\r\n", then="hang"), BodyCutError),
        (send(b"HTTP/1.1 200 OK\r\n\r\n", b"1234", then="reset"), BodyCutError),
        (send(CHUNKED, b"4\r\n1234\r\n", then="hang"), BodyTimeoutError),
    ],
)
async def test_a_body_that_breaks_off_is_no_end(script: Script, error: type[Exception]) -> None:
    between = 0.2 if error is BodyTimeoutError else 20.0
    async with one(script, between_bytes=between) as (exchange, _):
        await exchange.head()
        with pytest.raises(error):
            await exchange.read_all()
        assert not exchange.exchange.reusable


async def test_no_answer_in_time() -> None:
    async with one(hang, first_byte=0.1) as (exchange, _):
        with pytest.raises(FirstByteTimeoutError):
            await exchange.head()


async def test_a_101_that_was_asked_for_is_handed_on() -> None:
    script = send(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nahead", then="hang")
    async with one(script, onward(upgrade=True)) as (exchange, _):
        assert (await exchange.head()).status == 101
        assert exchange.exchange.connection.buffer == b"ahead"


# ── requests with bodies ──────────────────────────────────────────────────────────────────────────

POST = ("POST", "Content-Length: 6")


async def test_a_body_goes_out_as_it_comes() -> None:
    async with one(lambda exchange: exchange.answer(), onward(*POST), with_body=True) as (
        exchange,
        backend,
    ):
        exchange.body.feed(b"abc")
        await until(lambda: backend.seen)
        assert not exchange.exchange.reusable
        exchange.body.feed(b"def")
        exchange.body.finish([])
        assert (await exchange.head()).status == 200
        assert backend.seen[0].body == b"abcdef"
        assert await exchange.read_all() == b"ok"
        assert exchange.exchange.reusable


async def test_a_chunked_body_is_framed_anew_with_the_trailers_that_may_pass() -> None:
    arrived = bytearray()

    async def raw(exchange: Exchange) -> None:
        while not arrived.endswith(b"\r\n\r\n"):
            arrived.extend(await exchange.receive())
        await exchange.send(OK)

    request = onward("POST", "Transfer-Encoding: chunked", chunked=True)
    async with one(raw, request, with_body=True) as (exchange, _):
        exchange.body.feed(b"abc")
        await until(lambda: arrived == b"3\r\nabc\r\n")
        exchange.body.feed(b"d" * 17)
        exchange.body.finish([(b"X", b"y"), (b"Content-Length", b"5")])
        await exchange.head()
    assert arrived == b"3\r\nabc\r\n11\r\n" + b"d" * 17 + b"\r\n0\r\nX: y\r\n\r\n"


async def test_time_for_the_answer_begins_when_the_request_is_sent() -> None:
    async with one(hang, onward(*POST), with_body=True, first_byte=0.2) as (exchange, _):
        waiting = asyncio.ensure_future(exchange.head())
        exchange.body.feed(b"abc")
        await asyncio.sleep(0.5)
        assert not waiting.done()
        exchange.body.feed(b"def")
        exchange.body.finish([])
        with pytest.raises(FirstByteTimeoutError):
            await waiting


async def test_an_early_answer_is_an_answer_and_ends_the_connection() -> None:
    async def early(exchange: Exchange) -> None:
        await exchange.send(OK)
        await exchange.client_gone()

    async with one(early, onward(*POST), with_body=True) as (exchange, _):
        assert (await exchange.head()).status == 200
        assert await exchange.read_all() == b"ok"
        assert not exchange.exchange.reusable


async def test_a_client_that_fails_is_not_the_backends_fault() -> None:
    async with one(hang, onward(*POST), with_body=True) as (exchange, backend):
        exchange.body.feed(b"abc")
        await until(lambda: backend.seen)
        exchange.body.fail(ClientGoneError("gone"))
        with pytest.raises(ClientGoneError):
            await exchange.head()


async def test_a_backend_that_takes_nothing_in_time() -> None:
    stop = asyncio.Event()

    async def deaf(exchange: Exchange) -> None:
        await stop.wait()

    async with one(
        deaf, onward("POST", f"Content-Length: {64 * MIB}"), with_body=True, between_bytes=0.2
    ) as (exchange, _):
        for _ in range(64):
            exchange.body.feed(bytes(MIB))
        exchange.body.finish([])
        with pytest.raises(SendTimeoutError):
            await exchange.head()
        stop.set()


# ── however it comes ──────────────────────────────────────────────────────────────────────────────

ANSWERS = (
    (OK, b"ok"),
    (CHUNKED + b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nT: u\r\n\r\n", b"abcd"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789", b"123456789"),
)


@settings(max_examples=40)
@given(which=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(1, 90), max_size=6))
def test_any_cut_of_an_answer_reads_the_same(which: tuple[bytes, bytes], cuts: list[int]) -> None:
    data, body = which
    places = [0, *sorted({cut % len(data) for cut in cuts}), len(data)]

    class Transport(asyncio.Transport):
        def write(self, data: Any) -> None:
            pass

        def is_closing(self) -> bool:
            return False

        def resume_reading(self) -> None:
            pass

        pause_reading = resume_reading

    async def run() -> None:
        loop = asyncio.get_running_loop()
        connection = BackendConnection(loop)
        connection.connection_made(Transport())
        exchange = BackendExchange(
            connection, onward(), None, TimeoutsConfig(), LimitsConfig(), loop
        )
        exchange.send()
        for at, to in pairwise(places):
            loop.call_soon(connection.data_received, data[at:to])
        assert (await exchange.head(lambda head: None)).status == 200
        got = b""
        while piece := await exchange.read():
            got += piece
        assert got == body
        assert exchange.reusable

    asyncio.run(run())
