"""Clients that vanish at every stage, politely (FIN) or not (RST): nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lb.config import ListenConfig, QueueConfig, TlsConfig
from tests.fake_backend import CHUNKED, Exchange, FakeBackend, Script, hang
from tests.faults.ground import Ground, ground
from tests.faults.raw_backend import black_hole, reset
from tests.proxy_harness import Client, until

AT_ONCE = 3

Vanish = Callable[[Client], Awaitable[None]]
Stage = Callable[[Ground, FakeBackend, Client], Awaitable[None]]


async def by_fin(client: Client) -> None:
    await client.close()


async def by_rst(client: Client) -> None:
    reset(client.writer)


# ── what the backend does meanwhile ──────────────────────────────────────────────────────────────


async def sink(exchange: Exchange) -> None:
    async for _ in exchange.pieces(keep=False):
        pass
    await exchange.answer()


async def endless(exchange: Exchange) -> None:
    await exchange.send(CHUNKED)
    while True:
        await exchange.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")


async def begin(exchange: Exchange) -> None:
    """A head, the beginning of a body, and silence."""
    await exchange.send(CHUNKED + b"5\r\nhello\r\n")
    await exchange.client_gone()


async def echo_tunnel(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    while data := await exchange._reader.read(65536):
        await exchange.send(data)
    exchange.keep = False


async def flood_tunnel(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    while True:
        await exchange.send(bytes(65536))


async def early(exchange: Exchange) -> None:
    """Answers before the body is complete, and does not read it."""
    await exchange.send(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
    await exchange.client_gone()


async def continues(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await exchange.client_gone()


# ── how far a client comes before it vanishes ────────────────────────────────────────────────────


async def arrives(place: Ground, _: FakeBackend, client: Client) -> None:
    """Connected, and nothing said."""


async def in_the_request_line(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.send(b"GET /ba")


async def in_the_head(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.send(b"GET /bad HTTP/1.1\r\nHost: x\r\nX-")


async def in_the_body(place: Ground, backend: FakeBackend, client: Client) -> None:
    seen = len(backend.seen)
    await client.request("POST", "/bad", "Content-Length: 1000", body=bytes(500))
    await until(lambda: len(backend.seen) > seen)


async def in_a_chunk(place: Ground, backend: FakeBackend, client: Client) -> None:
    seen = len(backend.seen)
    await client.request("POST", "/bad", "Transfer-Encoding: chunked", body=b"10\r\nabc")
    await until(lambda: len(backend.seen) > seen)


async def in_a_body_nobody_reads(place: Ground, backend: FakeBackend, client: Client) -> None:
    seen = len(backend.seen)
    await client.request("POST", "/bad", f"Content-Length: {10**9}")
    client.writer.write(bytes(16_000_000))
    await until(lambda: len(backend.seen) > seen)


async def after_an_early_answer(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.request("POST", "/bad", "Content-Length: 1000", body=bytes(500))
    assert (await client.answer()).status == 413


async def told_to_continue(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.request("POST", "/bad", "Content-Length: 1000", "Expect: 100-continue")
    assert (await client.answer()).status == 100


async def waiting_for_an_answer(place: Ground, backend: FakeBackend, client: Client) -> None:
    seen = len(backend.seen)
    await client.request("GET", "/bad")
    await until(lambda: len(backend.seen) > seen)


async def waiting_with_more_behind(place: Ground, backend: FakeBackend, client: Client) -> None:
    seen = len(backend.seen)
    request = b"GET /bad HTTP/1.1\r\nHost: x\r\n\r\n"
    await client.send(request * 3 + b"GET /bad HT")
    await until(lambda: len(backend.seen) > seen)


async def within_the_answer(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.request("GET", "/bad")
    await client.reader.readuntil(b"hello\r\n")


async def reading_nothing(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.request("GET", "/bad")
    await client.reader.readuntil(b"\r\n\r\n")


async def between_two_requests(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.request("GET", "/bad")
    assert (await client.answer()).status == 200


async def after_a_refusal(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.send(b"nonsense\r\n\r\n")
    assert (await client.answer()).status == 400


async def in_a_tunnel(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.request("GET", "/bad", "Connection: upgrade", "Upgrade: echo")
    assert (await client.answer()).status == 101
    await client.send(b"hello")
    assert await client.reader.readexactly(5) == b"hello"


async def in_a_flood(place: Ground, _: FakeBackend, client: Client) -> None:
    await client.request("GET", "/bad", "Connection: upgrade", "Upgrade: echo")
    assert (await client.answer()).status == 101
    await client.reader.readexactly(65536)


STAGES: list[tuple[Stage, Script, set[int]]] = [
    (arrives, hang, set()),
    (in_the_request_line, hang, set()),
    (in_the_head, hang, set()),
    (in_the_body, sink, {499}),
    (in_the_body, hang, {499}),
    (in_a_chunk, sink, {499}),
    (in_a_body_nobody_reads, begin, {499}),
    (after_an_early_answer, early, {413}),
    (told_to_continue, continues, {499}),
    (waiting_for_an_answer, hang, {499}),
    (waiting_with_more_behind, hang, {499}),
    (within_the_answer, begin, {499}),
    (reading_nothing, endless, {499}),
    (between_two_requests, sink, {200}),
    (after_a_refusal, hang, {400}),
    (in_a_tunnel, echo_tunnel, {101, 499}),
    (in_a_flood, flood_tunnel, {101, 499}),
]


@pytest.mark.parametrize("vanish", [by_fin, by_rst], ids=lambda vanish: vanish.__name__)
@pytest.mark.parametrize(
    ("stage", "script", "codes"),
    STAGES,
    ids=[f"{stage.__name__}, {script.__name__}" for stage, script, _ in STAGES],
)
async def test_a_client_that_vanishes_leaves_nothing(
    stage: Stage, script: Script, codes: set[int], vanish: Vanish
) -> None:
    async with (
        FakeBackend(script) as backend,
        ground(backend, timeouts={"half_closed": 0.2}) as place,
        clients(place) as leaving,
    ):
        for client in leaving:
            await stage(place, backend, client)
        for client in leaving:
            await vanish(client)
        await until(lambda: not (place.bad.counters.in_flight or place.bad.pool.in_flight))
        await until(lambda: len(place.server.proxy.connections) <= 2)
        assert set(place.codes) <= codes
        assert sum(place.codes.values()) == (AT_ONCE if codes else 0)
        assert place.bad.counters.upstream_errors == {}


@contextlib.asynccontextmanager
async def clients(place: Ground, number: int = AT_ONCE) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(place.client()) for _ in range(number)]


# ── stages that need a place of their own ────────────────────────────────────────────────────────


@pytest.mark.parametrize("vanish", [by_fin, by_rst], ids=lambda vanish: vanish.__name__)
async def test_who_vanishes_in_the_queue_leaves_the_queue(vanish: Vanish) -> None:
    answer = asyncio.Event()

    async def gated(exchange: Exchange) -> None:
        await answer.wait()
        await exchange.answer()

    async with (
        FakeBackend(gated) as backend,
        ground(backend, max_in_flight=1, queue=QueueConfig(length=10)) as place,
        clients(place) as leaving,
        place.client() as first,
        place.client() as last,
    ):
        await first.request("GET", "/bad")
        await until(lambda: backend.seen)
        for client in leaving:
            await client.request("GET", "/bad")
        await until(lambda: len(place.bad.line) == AT_ONCE)
        await last.request("GET", "/bad")
        await until(lambda: len(place.bad.line) == AT_ONCE + 1)
        for client in leaving:
            await vanish(client)
        await until(lambda: len(place.bad.line) == 1)
        answer.set()
        assert [(await one.answer()).status for one in (first, last)] == [200, 200]
        assert place.codes == {499: AT_ONCE, 200: 2}
        assert len(backend.seen) == 2


@pytest.mark.parametrize("vanish", [by_fin, by_rst], ids=lambda vanish: vanish.__name__)
async def test_who_vanishes_while_we_connect(vanish: Vanish) -> None:
    with black_hole() as address:
        async with ground(address) as place, clients(place) as leaving:
            for client in leaving:
                await client.request("GET", "/bad")
            await until(lambda: place.bad.pool.in_flight == AT_ONCE)
            for client in leaving:
                await vanish(client)
            await until(lambda: place.codes == {499: AT_ONCE})
            assert place.bad.counters.upstream_errors == {}


async def test_an_old_client_that_closed_its_side_is_worked_for_only_so_long() -> None:
    async with (
        FakeBackend(hang) as backend,
        ground(backend, timeouts={"half_closed": 0.2}) as place,
        place.client() as client,
    ):
        await client.send(b"GET /bad HTTP/1.0\r\n\r\n")
        await until(lambda: backend.seen)
        await client.close()
        await until(lambda: place.codes == {499: 1})


async def test_a_tunnel_whose_backend_does_not_notice_ends_when_it_was_idle() -> None:
    async def deaf_tunnel(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        await exchange.client_gone()
        # its own side stays open for as long as the other does
        await exchange.send(b"")
        await done.wait()

    done = asyncio.Event()
    async with (
        FakeBackend(deaf_tunnel) as backend,
        ground(backend, timeouts={"tunnel_idle": 0.3}) as place,
    ):
        async with place.client() as client:
            await client.request("GET", "/bad", "Connection: upgrade", "Upgrade: echo")
            assert (await client.answer()).status == 101
        await until(lambda: place.codes == {101: 1})
        done.set()


@pytest.mark.parametrize("vanish", [by_fin, by_rst], ids=lambda vanish: vanish.__name__)
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["nothing", "half"])
async def test_who_vanishes_within_the_tls_handshake(
    tmp_path: Path, said: bytes, vanish: Vanish
) -> None:
    listen = (
        ListenConfig(address="127.0.0.1:0", tls="off"),
        ListenConfig(address="0.0.0.0:0", tls="on"),
    )
    async with (
        FakeBackend() as backend,
        ground(backend, listen=listen, tls=TlsConfig(self_signed=True), home=tmp_path) as place,
    ):
        port = int(place.server.addresses[1].rpartition(":")[2])
        for _ in range(AT_ONCE):
            async with Client(port) as client:
                await client.send(said)
                await vanish(client)
        async with Client(port) as client:
            await client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert await client.ended()


# ── those that stay, and say nothing ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "timeouts", "status"),
    [
        (b"", {"idle": 0.2}, None),
        (b"GET /bad HTTP/1.1\r\nHost: x\r\n", {"head": 0.2}, 408),
        (b"GET /bad HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", None, 408),
        (b"GET /bad HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nha", None, 408),
    ],
    ids=["no request", "half a head", "half a body", "half a chunk"],
)
async def test_who_stalls_is_shown_the_door(
    said: bytes, timeouts: dict[str, float] | None, status: int | None
) -> None:
    impatience = {} if timeouts else {"between_bytes": 0.2}
    async with (
        FakeBackend(sink) as backend,
        ground(backend, timeouts=timeouts, impatience=impatience) as place,
        clients(place) as stalling,
    ):
        for client in stalling:
            await client.send(said)
        for client in stalling:
            if status is not None:
                assert (await client.answer()).status == status
            assert await client.ended()
        assert place.codes == ({status: AT_ONCE} if status else {})


async def test_who_does_not_read_the_answer_is_shown_the_door() -> None:
    async with (
        FakeBackend(endless) as backend,
        ground(backend, impatience={"between_bytes": 0.2}) as place,
        clients(place) as deaf,
    ):
        for client in deaf:
            await reading_nothing(place, backend, client)
        await until(lambda: place.bad.counters.requests_total == AT_ONCE)
        assert place.bad.counters.upstream_errors == {}
