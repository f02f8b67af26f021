"""Backends that reset, stall, lie or babble at every stage of an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from tests.fake_backend import OK, FakeBackend, refused_address
from tests.faults.ground import Ground, ground
from tests.faults.raw_backend import RawBackend, RawScript, Wire, black_hole
from tests.proxy_harness import PATIENCE_S, Client, reason_of

AT_ONCE = 3
"""Clients that meet a fault together."""

HEAD = b"HTTP/1.1 200 OK\r\n"
TEN = HEAD + b"Content-Length: 10\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = HEAD + b"Connection: close\r\n\r\n"

End = Callable[[Wire], Awaitable[None]]
IMPATIENT = {"first_byte": 0.3, "between_bytes": 0.3}


async def resets(wire: Wire) -> None:
    wire.reset()


async def closes(wire: Wire) -> None:
    """The backend's connection is closed where its script ends."""


async def stalls(wire: Wire) -> None:
    await wire.gone()


def then(end: End, said: bytes = b"", *, read: bool = True) -> RawScript:
    """Read the request's head (or nothing), say this, and end."""

    async def script(wire: Wire) -> None:
        if read:
            await wire.head()
        await wire.send(said)
        await end(wire)

    return script


# ── before the client has anything: an answer of ours ────────────────────────────────────────────


class Early(NamedTuple):
    what: str
    script: RawScript
    answer: tuple[int, str]
    impatience: dict[str, float] = {}  # noqa: RUF012 - never changed


async def reset_within_the_request(wire: Wire) -> None:
    await wire.reader.readexactly(10)
    wire.reset()


async def babble(wire: Wire) -> None:
    """A head that never ends."""
    await wire.head()
    await wire.send(HEAD)
    with contextlib.suppress(ConnectionError):
        while True:
            await wire.send(b"X-Field: " + b"x" * 1000 + b"\r\n")


async def dribble_a_head(wire: Wire) -> None:
    """Something every now and then, and never an answer."""
    await wire.head()
    with contextlib.suppress(ConnectionError):
        await wire.send(HEAD)
        while True:
            await wire.send(b"X: y\r\n")
            await asyncio.sleep(0.05)


async def interim_for_ever(wire: Wire) -> None:
    await wire.head()
    with contextlib.suppress(ConnectionError):
        while True:
            await wire.send(b"HTTP/1.1 102 Processing\r\n\r\n")


BAD, RESET, LATE = (502, "bad_answer"), (502, "reset"), (504, "first_byte_timeout")

EARLY = [
    Early("resets on accepting", then(resets, read=False), RESET),
    Early("closes on accepting", then(closes, read=False), RESET),
    Early("stalls on accepting", then(stalls, read=False), LATE, IMPATIENT),
    Early("resets within the request's head", reset_within_the_request, RESET),
    Early("resets after the request", then(resets), RESET),
    Early("closes after the request", then(closes), RESET),
    Early("stalls after the request", then(stalls), LATE, IMPATIENT),
    Early("closes within the status line", then(closes, b"HTTP/1.1 2"), BAD),
    Early("stalls within the status line", then(stalls, b"HTTP/1.1 2"), LATE, IMPATIENT),
    Early("closes within the head", then(closes, HEAD + b"Content-Le"), BAD),
    Early("stalls within the head", then(stalls, HEAD + b"Content-Le"), LATE, IMPATIENT),
    Early("closes before the empty line", then(closes, TEN[:-2]), BAD),
    Early("dribbles a head", dribble_a_head, LATE, IMPATIENT),
    Early("a head without end", babble, BAD),
    Early("interim answers without end", interim_for_ever, BAD),
    Early("stalls after an interim answer",
          then(stalls, b"HTTP/1.1 103 Early Hints\r\n\r\n"), LATE, IMPATIENT),
    Early("closes after an interim answer",
          then(closes, b"HTTP/1.1 103 Early Hints\r\n\r\n"), BAD),
    Early("zeros", then(stalls, bytes(1000)), BAD),
    Early("noise", then(stalls, bytes(range(256)) * 40), BAD),
    Early("a TLS record", then(closes, b"\x15\x03\x01\x00\x02\x02\x46"), BAD),
    Early("HTTP/2's preface", then(stalls, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), BAD),
    Early("HTTP/0.9", then(closes, b"<html>hello</html>\n"), BAD),
    Early("another protocol's greeting", then(stalls, b"220 mail.example ESMTP\r\n\r\n"), BAD),
    Early("a request", then(stalls, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), BAD),
    Early("a negative length", then(stalls, HEAD + b"Content-Length: -1\r\n\r\n"), BAD),
    Early("a length that is none", then(stalls, HEAD + b"Content-Length: ten\r\n\r\n"), BAD),
    Early("two lengths",
          then(stalls, HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), BAD),
    Early("length and chunked",
          then(stalls, CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n0\r\n\r\n"), BAD),
    Early("a tunnel nobody asked for",
          then(stalls, b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), BAD),
    Early("a bad first chunk, with the head", then(stalls, CHUNKED + b"-5\r\nhello\r\n"), BAD),
]  # fmt: skip


@pytest.mark.parametrize("fault", EARLY, ids=lambda fault: fault.what)
async def test_a_fault_before_the_answer_is_a_502_or_504(fault: Early) -> None:
    async with (
        RawBackend(fault.script) as backend,
        ground(backend, impatience=fault.impatience) as place,
    ):
        answers = await asyncio.gather(*(_own_answer(place) for _ in range(AT_ONCE)))
        assert answers == [fault.answer] * AT_ONCE
        assert place.codes == {fault.answer[0]: AT_ONCE}
        assert set(place.bad.counters.upstream_errors) == {fault.answer[1]}


async def _own_answer(place: Ground) -> tuple[int, str]:
    async with place.client() as client:
        await client.request("GET", "/bad")
        answer = await client.answer()
        while answer.status < 200:
            answer = await client.answer()
        return answer.status, reason_of(answer.body)


# ── once the client has the head: its connection is cut ──────────────────────────────────────────


class Late(NamedTuple):
    what: str
    head: bytes
    body: bytes
    """What comes after the client has seen the head."""
    end: End
    reason: str


LATE_FAULTS = [
    Late(f"{end.__name__} {where}", head, body, end,
         "body_timeout" if end is stalls else "body_cut")
    for where, head, body in (
        ("before the body", TEN, b""),
        ("within the body", TEN, b"12345"),
        ("before the first chunk", CHUNKED, b""),
        ("within a chunk's size", CHUNKED, b"5"),
        ("within a chunk", CHUNKED, b"5\r\n123"),
        ("before a chunk's end", CHUNKED, b"5\r\n12345"),
        ("between two chunks", CHUNKED, b"5\r\n12345\r\n"),
        ("within the last chunk", CHUNKED, b"5\r\n12345\r\n0\r\n"),
        ("within the trailers", CHUNKED, b"5\r\n12345\r\n0\r\nX-Sum: 1"),
    )
    for end in (resets, closes, stalls)
] + [
    Late("resets a body without length", UNTIL_CLOSE, b"12345", resets, "body_cut"),
    Late("stalls in a body without length", UNTIL_CLOSE, b"12345", stalls, "body_timeout"),
    Late("a bad chunk size", CHUNKED, b"5\r\n12345\r\nXX\r\n", stalls, "body_cut"),
    Late("a chunk longer than its size", CHUNKED, b"5\r\n123456\r\n", stalls, "body_cut"),
    Late("a chunk shorter than its size", CHUNKED, b"5\r\n1234\r\n0\r\n\r\n", stalls, "body_cut"),
    Late("a chunk of 16 digits", CHUNKED, b"FFFFFFFFFFFFFFFFF\r\n", stalls, "body_cut"),
    Late("a chunk extension without end", CHUNKED, b"5;" + b"x" * 10_000, stalls, "body_cut"),
    Late("trailers without end", CHUNKED, b"0\r\n" + b"X: y\r\n" * 20_000, stalls, "body_cut"),
]  # fmt: skip


@pytest.mark.parametrize("fault", LATE_FAULTS, ids=lambda fault: fault.what)
async def test_a_fault_within_the_body_cuts_the_connection(fault: Late) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(fault.head)
        await wire.go.wait()
        await wire.send(fault.body)
        await fault.end(wire)

    impatience = IMPATIENT if fault.end is stalls else {}
    async with (
        RawBackend(script) as backend,
        ground(backend, impatience=impatience) as place,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(place.client()) for _ in range(AT_ONCE)]
        for client in clients:
            await client.request("GET", "/bad")
            assert (await _head(client)).startswith(HEAD)
        backend.go.set()
        for client in clients:
            body = await _to_the_end(client)
            assert len(body) < 10 or fault.head is not TEN
            assert not body.endswith(b"0\r\n\r\n")
        assert place.bad.counters.upstream_errors == {fault.reason: AT_ONCE}


async def _head(client: Client) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await client.reader.readuntil(b"\r\n\r\n")


async def _to_the_end(client: Client) -> bytes:
    """What else comes. A cut connection is one that is reset, never one that ends well."""
    body = b""
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ConnectionError):  # noqa: PT012 - it may come after any piece
            while piece := await client.reader.read(65536):
                body += piece
            raise AssertionError(f"a clean end after {body!r}")
    return body


# ── wrong, but not the client's concern ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (HEAD + b"Content-Length: 2\r\n\r\nok and more", b"ok"),
        (OK + OK, b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\nmore", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\nok", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", b""),
    ],
)
async def test_what_comes_after_an_answer_reaches_nobody(said: bytes, body: bytes) -> None:
    async with (
        RawBackend(then(stalls, said)) as backend,
        ground(backend) as place,
        place.client() as client,
    ):
        for _ in range(3):
            await client.request("GET", "/bad")
            answer = await client.answer()
            assert (answer.whole, answer.body) == (True, body)
        assert backend.connections == 3, "a connection with unread bytes is not used again"


async def test_a_byte_at_a_time_is_slow_and_whole() -> None:
    said = CHUNKED + b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n"

    async def slowly(wire: Wire) -> None:
        await wire.head()
        for byte in said:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0.001)
        await wire.gone()

    async with RawBackend(slowly) as backend, ground(backend) as place:

        async def ask() -> None:
            async with place.client() as client:
                await client.request("GET", "/bad", "TE: trailers", "Connection: TE")
                await client.reader.readuntil(b"\r\n\r\n")
                rest = await client.reader.readuntil(b"X-Sum: 11\r\n\r\n")
                assert rest.replace(b"1\r\n", b"").startswith(b"h\r\ne\r\nl\r\n")

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))


# ── on the way to it ─────────────────────────────────────────────────────────────────────────────


async def test_nobody_listens() -> None:
    async with ground(refused_address()) as place:
        answers = await asyncio.gather(*(_own_answer(place) for _ in range(AT_ONCE)))
        assert answers == [(502, "connect_failed")] * AT_ONCE


async def test_nobody_accepts() -> None:
    with black_hole() as address:
        async with ground(address, timeouts={"connect": 0.3}) as place:
            answers = await asyncio.gather(*(_own_answer(place) for _ in range(AT_ONCE)))
            assert answers == [(504, "connect_timeout")] * AT_ONCE


async def deaf(wire: Wire) -> None:
    await wire.head()
    await wire.go.wait()


async def reset_within_the_body(wire: Wire) -> None:
    await wire.head()
    await wire.reader.readexactly(100_000)
    wire.reset()


async def close_within_the_body(wire: Wire) -> None:
    await wire.head()
    await wire.reader.readexactly(100_000)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("script", "answer"),
    [
        (deaf, (504, "send_timeout")),
        (reset_within_the_body, (502, "reset")),
        (close_within_the_body, (502, "reset")),
    ],
)
async def test_a_backend_that_takes_no_body(
    script: RawScript, answer: tuple[int, str], chunked: bool
) -> None:
    impatience = IMPATIENT if script is deaf else {}
    async with (
        RawBackend(script) as backend,
        ground(backend, impatience=impatience) as place,
        place.client() as client,
    ):
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {10**10}"
        await client.request("POST", "/bad", framing)

        async def push() -> None:
            piece = bytes(65536)
            with contextlib.suppress(ConnectionError):
                while True:
                    await client.send(b"10000\r\n" + piece + b"\r\n" if chunked else piece)

        pushing = asyncio.create_task(push())
        found = await client.answer()
        assert (found.status, reason_of(found.body)) == answer
        backend.go.set()
        pushing.cancel()
        client.abort()


async def test_a_backend_that_dies_takes_all_its_requests_and_nobody_elses() -> None:
    async def hang(wire: Wire) -> None:
        await wire.head()
        await wire.send(TEN + b"123")
        await wire.gone()

    async with contextlib.AsyncExitStack() as stack:
        backend = await FakeBackend.start(RawBackend(hang))
        place = await stack.enter_async_context(ground(backend))
        clients = [await stack.enter_async_context(place.client()) for _ in range(30)]
        for client in clients:
            await client.request("GET", "/bad")
            await _head(client)
        await backend.stop()
        for client in clients:
            await _to_the_end(client)
