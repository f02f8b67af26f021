"""A client's connection over real sockets: what is read of it, refused, limited; when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import pytest

from lb.half_closed import PROBES_S
from tests.fake_backend import Exchange, FakeBackend, hang
from tests.proxy_harness import Answer, Client, one, proxied, reason_of, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

PROBED = {"half_closed": 0.0}
"""Nobody is given up by time alone: only asking finds out who has left."""


async def echo(exchange: Exchange) -> None:
    await exchange.answer(exchange.seen.target + b" " + await exchange.read_body())


async def final(client: Client) -> Answer:
    """The next answer that is no interim one."""
    while True:
        answer = await client.answer()
        if answer.status >= 200:
            return answer


# ── what cannot be read ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"\x16\x03\x01 not http\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad field\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_refused"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (b"GET /" + b"x" * 70_000, 414, "target_too_long"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 129 + b"\r\n", 431, "head_too_large"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
            400,
            "bad_request",
        ),
    ],
)
async def test_it_is_refused_in_our_form_and_counted(
    sent: bytes, status: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            await client.send(sent)
            answer = await client.answer()
            assert await client.ended()
        assert caplog.text == "", "a scanner must not fill the log"
        assert answer.status == status
        assert answer.value("Content-Type") == "application/problem+json"
        assert answer.value("Connection") == "close"
        assert answer.value("Server") is None
        problem = json.loads(answer.body)
        assert (problem["status"], problem["reason"]) == (status, reason)
        assert "\n" not in problem["detail"]
        assert problem["request_id"] == answer.value("X-Request-Id")
        assert proxy.codes() == {status: 1}
        assert backend.seen == []


async def test_it_ends_a_connection_that_was_fine_so_far() -> None:
    async with one() as (proxy, _), proxy.client() as client:
        await client.send(GET)
        assert (await client.answer()).status == 200
        await client.send(b"no http\r\n\r\n")
        assert (await client.answer()).status == 400
        assert await client.ended()
        assert proxy.codes() == {200: 1, 400: 1}


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: 99\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nxx\r\n",
        b"bad field\r\n\r\n",
    ],
)
async def test_a_refusal_of_head_has_no_body(rest: bytes) -> None:
    async with one(limits={"body_bytes": 10}) as (proxy, _), proxy.client() as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n" + rest)
        assert (await client.answer("HEAD")).status in (400, 413)
        assert await client.ended()


async def test_nothing_behind_what_is_refused_is_answered() -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n" + GET)
        assert (await client.answer()).status == 400
        assert await client.ended()
        assert backend.seen == []


async def test_a_head_may_come_a_byte_at_a_time() -> None:
    async with one(echo) as (proxy, _), proxy.client() as client:
        for byte in b"\r\nPOST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab":
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).body == b"/x ab"


async def test_empty_lines_between_requests_are_forgiven() -> None:
    async with one(echo) as (proxy, _), proxy.client() as client:
        await client.send(b"\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer()).body == b"/1 "
        await client.send(b"\r\n")
        await client.send(b"\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer()).body == b"/2 "


async def test_a_malformed_chunk_while_the_request_runs_is_400() -> None:
    async with one(echo) as (proxy, backend), proxy.client() as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        await until(lambda: backend.seen)
        await client.send(b"ZZ\r\n")
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (400, "bad_request")
        assert await client.ended()
        assert proxy.counters.upstream_errors == {}
        await until(lambda: backend.open == 0)


# ── pipelining ────────────────────────────────────────────────────────────────────────────────────


async def test_requests_with_bodies_are_answered_in_order() -> None:
    async with one(echo) as (proxy, backend), proxy.client() as client:
        await client.send(
            b"POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nde\r\n1\r\nf\r\n0\r\nX: y\r\n\r\n"
            b"\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        bodies = [(await client.answer()).body for _ in range(4)]
        assert bodies == [b"/0 abc", b"/1 def", b"/2 ", b"/3 "]
        assert await client.ended()
        assert len(backend.seen) == 4


async def test_who_sends_far_ahead_is_held_back_and_loses_nothing() -> None:
    gate = asyncio.Event()

    async def gated(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.answer()

    padded = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 30_000 + b"\r\n\r\n"
    many = 600
    async with one(gated) as (proxy, backend), proxy.client() as client:
        sending = asyncio.ensure_future(client.send(padded * many))
        await until(lambda: backend.seen)
        connection = next(iter(proxy.server.proxy.connections))
        await until(lambda: len(connection._input) > 65536)
        held = -1
        while held != len(connection._input):
            held = len(connection._input)
            await asyncio.sleep(0.05)
        assert held < 1024 * 1024
        assert not sending.done()
        gate.set()
        for _ in range(many):
            assert (await client.answer()).status == 200
        await sending


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 11\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n",
    ],
)
async def test_a_body_beyond_the_limit_is_413_and_goes_nowhere(sent: bytes) -> None:
    async with one(limits={"body_bytes": 10}) as (proxy, backend), proxy.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + sent)
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (413, "body_too_large")
        assert await client.ended()
        assert backend.seen == []


async def test_a_body_that_grows_beyond_the_limit_is_413() -> None:
    async with one(echo, limits={"body_bytes": 10}) as (proxy, backend), proxy.client() as client:
        await client.request("POST", "/", "Transfer-Encoding: chunked", body=b"8\r\n01234567\r\n")
        await until(lambda: backend.seen)
        await client.send(b"8\r\n01234567\r\n0\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (413, "body_too_large")
        assert await client.ended()


async def test_a_body_as_long_as_the_limit_passes() -> None:
    async with one(echo, limits={"body_bytes": 10}) as (proxy, _), proxy.client() as client:
        await client.request("POST", "/", "Content-Length: 10", body=b"0123456789")
        assert (await client.answer()).body == b"/ 0123456789"


async def test_a_head_that_does_not_come_in_time_is_408() -> None:
    async with one(timeouts={"head": 0.2}) as (proxy, _), proxy.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost:")
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (408, "client_timeout")
        assert await client.ended()
        assert proxy.codes() == {408: 1}


async def test_a_head_does_not_get_more_time_by_dripping() -> None:
    async with one(timeouts={"head": 0.3}) as (proxy, _), proxy.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                await client.send(b"A: b\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.ensure_future(drip())
        assert (await client.answer()).status == 408
        dripping.cancel()


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with one(timeouts={"idle": 0.2}) as (proxy, _):
        async with proxy.client() as fresh:
            assert await fresh.ended()
        async with proxy.client() as used:
            await used.send(GET)
            assert (await used.answer()).status == 200
            assert await used.ended()
        assert proxy.codes() == {200: 1}


async def test_idle_is_not_what_waits_for_its_answer() -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer()

    async with one(slow, timeouts={"idle": 0.1}) as (proxy, backend), proxy.client() as client:
        await client.send(GET)
        await until(lambda: backend.seen)
        async with proxy.client() as other:
            assert await other.ended()
        release.set()
        assert (await client.answer()).status == 200


async def test_more_connections_than_allowed_are_closed_at_once() -> None:
    async with one(limits={"connections": 2}) as (proxy, _):
        async with proxy.client() as first, proxy.client() as second:
            for client in (first, second):
                await client.send(GET)
                assert (await client.answer()).status == 200
            async with proxy.client() as third:
                assert await third.ended()
            assert proxy.counters.turned_away == 1
        await until(lambda: not proxy.server.proxy.connections)
        assert (await proxy.get()).status == 200


async def test_one_client_has_no_more_connections_than_allowed() -> None:
    async with one(limits={"connections_per_client": 1}) as (proxy, _):
        async with proxy.client() as first:
            await first.send(GET)
            assert (await first.answer()).status == 200
            async with proxy.client() as second:
                assert await second.ended()
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", proxy.port, local_addr=("127.0.0.2", 0)
            )
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        await until(lambda: not proxy.server.proxy.connections)
        assert (await proxy.get()).status == 200


async def test_a_connection_serves_so_many_requests_and_says_when_it_is_the_last() -> None:
    async with one(limits={"requests_per_connection": 2}) as (proxy, _), proxy.client() as client:
        await client.send(GET * 3)
        assert (await client.answer()).value("Connection") is None
        assert (await client.answer()).value("Connection") == "close"
        assert await client.ended()
        assert proxy.codes() == {200: 2}


# ── who closes its side ───────────────────────────────────────────────────────────────────────────


async def half_closed(client: Client, data: bytes) -> None:
    await client.send(data)
    client.writer.write_eof()


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_client_that_half_closes_is_answered_and_then_left(version: bytes) -> None:
    async with one(echo) as (proxy, _), proxy.client() as client:
        await half_closed(client, b"GET /x HTTP/" + version + b"\r\nHost: a\r\n\r\n")
        answer = await client.answer()
        assert answer.body == b"/x "
        assert await client.ended()
        await until(lambda: not proxy.server.proxy.connections)


async def test_all_requests_before_a_half_close_are_answered() -> None:
    async with one(echo) as (proxy, _), proxy.client() as client:
        await half_closed(client, b"".join(GET.replace(b"/ ", b"/%d " % n, 1) for n in range(5)))
        assert [(await final(client)).body for _ in range(5)] == [b"/%d " % n for n in range(5)]
        assert await client.ended()


async def test_what_begins_before_a_half_close_and_never_comes_is_given_up() -> None:
    tails = (b"GET / HTT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    for tail in tails:
        async with one(echo) as (proxy, _), proxy.client() as client:
            await half_closed(client, GET + tail)
            assert (await final(client)).status == 200
            await until(lambda: not proxy.server.proxy.connections)
            assert await client.ended()


async def test_who_waits_half_closed_sees_interim_answers_and_then_its_own() -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(b"late")

    async with one(slow) as (proxy, _), proxy.client() as client:
        await half_closed(client, GET)
        assert (await client.answer()).status == 100, "is it still there?"
        assert (await client.answer()).status == 100
        release.set()
        assert (await final(client)).body == b"late"
        assert await client.ended()
        assert proxy.codes() == {200: 1}


async def test_no_probe_falls_into_an_answer_that_has_begun() -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await release.wait()
        await exchange.send(b"cd")

    async with one(slow) as (proxy, _), proxy.client() as client:
        await half_closed(client, GET)
        await client.reader.readuntil(b"ab")
        await asyncio.sleep(sum(PROBES_S[:2]) + 0.2)
        release.set()
        assert await client.reader.read() == b"cd"


async def test_an_http_1_0_client_that_closed_its_side_is_worked_for_only_so_long() -> None:
    async with one(hang, timeouts={"half_closed": 0.2}) as (proxy, _), proxy.client() as client:
        await half_closed(client, GET.replace(b"/1.1", b"/1.0"))
        assert await client.ended(), "an interim answer it would take for the final one"
        await proxy.settled(1)
        assert proxy.codes() == {499: 1}


async def test_a_client_that_closed_while_it_waits_for_a_backend_is_found_out() -> None:
    async with one(hang, timeouts=PROBED) as (proxy, backend):
        client = proxy.client()
        await client.__aenter__()
        await client.send(GET)
        await until(lambda: backend.seen)
        await client.close()
        async with asyncio.timeout(5):
            await proxy.settled(1)
        assert proxy.codes() == {499: 1}
        assert proxy.counters.upstream_errors == {}
        await until(lambda: backend.open == 0)


async def test_a_client_that_closed_while_it_waits_in_line_is_found_out() -> None:
    async with (
        one(hang, max_in_flight=1, timeouts=PROBED) as (proxy, backend),
        proxy.client() as first,
    ):
        await first.send(GET)
        await until(lambda: backend.seen)
        leaving = proxy.client()
        await leaving.__aenter__()
        await leaving.send(GET)
        await until(lambda: len(proxy.site.line) == 1)
        await leaving.close()
        async with asyncio.timeout(5):
            await until(lambda: not len(proxy.site.line))
        await until(lambda: proxy.codes() == {499: 1})
        assert len(backend.seen) == 1


async def test_a_client_that_closed_behind_an_answered_request_is_found_out_too() -> None:
    async with one(timeouts=PROBED) as (proxy, backend):
        gate = asyncio.Event()

        async def first_then_hang(exchange: Exchange) -> None:
            if len(backend.seen) == 1:
                await gate.wait()
                await exchange.answer()
            else:
                await exchange.client_gone()

        backend.script = first_then_hang
        client = proxy.client()
        await client.__aenter__()
        await half_closed(client, GET + GET)
        await until(lambda: backend.seen)
        gate.set()
        assert (await final(client)).status == 200
        await until(lambda: len(backend.seen) == 2)
        await client.close()
        await proxy.settled(2)
        assert proxy.codes() == {200: 1, 499: 1}


async def test_whoever_hangs_up_between_requests_leaves_nothing() -> None:
    async with one() as (proxy, _):
        for data in (b"", b"GET / HT", GET):
            client = proxy.client()
            await client.__aenter__()
            await client.send(data)
            if data == GET:
                await client.answer()
            client.abort()
        await until(lambda: not proxy.server.proxy.connections)


# ── who does not read ─────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_does_not_take_its_answer_is_cut_and_nobody_blamed() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.send(b"10000\r\n" + bytes(65536) + b"\r\n")

    async with (
        one(endless, timeouts={"between_bytes": 0.3}) as (proxy, backend),
        proxy.client() as client,
    ):
        await client.send(GET)
        await client.reader.readuntil(b"\r\n\r\n")
        await proxy.settled(1)
        assert proxy.codes() == {408: 1}
        assert proxy.counters.upstream_errors == {}
        assert proxy.pool.snapshot()[0].failures_total == 0
        await until(lambda: backend.open == 0)
        with pytest.raises(ConnectionError):
            await read_to_the_end(client)


async def read_to_the_end(client: Client) -> None:
    while await client.reader.read(1024 * 1024):
        pass


async def test_a_refusal_reaches_a_client_that_still_sends() -> None:
    """Closed with unread bytes, the connection would be reset, and the answer lost on the way."""
    async with one(limits={"body_bytes": 10}) as (proxy, _), proxy.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n")

        async def push() -> None:
            for _ in range(20):
                await client.send(bytes(65536))

        with contextlib.suppress(ConnectionError):
            await push()
        assert (await client.answer()).status == 413


async def test_connections_are_forgotten() -> None:
    async with FakeBackend() as backend, proxied(backend) as proxy:
        assert (await proxy.get()).status == 200
        await until(lambda: not proxy.server.proxy.connections)
        assert proxy.server.proxy._by_client == {}
