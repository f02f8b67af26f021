"""The proxy over real sockets, told as exchanges: what went in, what the backend saw, what came."""

from __future__ import annotations

import asyncio

import pytest

from lb.pool import Report
from tests.fake_backend import (
    CHUNKED,
    Exchange,
    FakeBackend,
    hang,
    in_turn,
    reset_at_once,
    send,
)
from tests.proxy_harness import one, proxied, reason_of, until

MIB = 1024 * 1024


# ── what passes, and how ──────────────────────────────────────────────────────────────────────────


async def test_a_request_passes_and_its_answer_comes_back_byte_for_byte() -> None:
    head = (
        b"HTTP/1.1 201 Made It\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nServer: fake/1\r\n"
        b"x-odd-CASE:  two  spaces\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Latin: caf\xe9\r\nContent-Length: 5\r\n\r\n"
    )
    async with one(send(head + b"hello")) as (proxy, backend):
        answer = await proxy.get("/a/../b?q=%7e&x", "Accept: text/odd", "X-Own: 1")
    assert answer.raw_head == head.replace(b":  two", b": two")[:-2] + b"Via: 1.1 lbctl\r\n\r\n"
    assert answer.body == b"hello"
    (seen,) = backend.seen
    assert seen.target == b"/a/../b?q=%7e&x"
    assert seen.values(b"Host") == [b"app.example"]
    assert seen.values(b"Accept") == [b"text/odd"]
    assert seen.values(b"X-Own") == [b"1"]


async def test_nothing_is_added_that_the_client_did_not_say() -> None:
    async with one() as (proxy, backend):
        await proxy.get("/")
    names = [name.lower() for name, _ in backend.seen[0].fields]
    assert sorted(names) == [
        b"forwarded", b"host", b"traceparent", b"via", b"x-forwarded-for", b"x-forwarded-host",
        b"x-forwarded-port", b"x-forwarded-proto", b"x-request-id",
    ]  # fmt: skip


async def test_forwarded_fields_tell_the_clients_address_and_no_tale_of_its_own() -> None:
    async with one() as (proxy, backend):
        await proxy.get(
            "/", "X-Forwarded-For: 6.6.6.6", "X_Forwarded_For: 6.6.6.6", "Forwarded: for=6.6.6.6",
            "X-Forwarded-Proto: https",
        )  # fmt: skip
        port = proxy.port
    seen = backend.seen[0]
    assert seen.values(b"X-Forwarded-For") == [b"127.0.0.1"]
    assert seen.values(b"X-Forwarded-Proto") == [b"http"]
    assert seen.values(b"X-Forwarded-Host") == [b"app.example"]
    assert seen.values(b"X-Forwarded-Port") == [b"%d" % port]
    assert b"6.6.6.6" not in seen.head


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PUT"])
async def test_an_absent_body_stays_absent(method: str) -> None:
    async with one() as (proxy, backend):
        answer = await proxy.get("/", method=method)
    assert answer.status == 200
    seen = backend.seen[0]
    assert seen.values(b"Transfer-Encoding") == []
    assert seen.values(b"Content-Length") in ([], [b"0"])
    assert seen.method == method


async def test_content_length_is_kept_both_ways() -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        await client.request("POST", "/", "Content-Length: 5", body=b"12345")
        answer = await client.answer()
    assert backend.seen[0].values(b"Content-Length") == [b"5"]
    assert backend.seen[0].values(b"Transfer-Encoding") == []
    assert backend.seen[0].body == b"12345"
    assert answer.value("Content-Length") == "2"
    assert answer.value("Transfer-Encoding") is None


async def test_a_chunked_request_is_framed_anew() -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        body = b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        await client.request("POST", "/", "Transfer-Encoding: chunked", body=body)
        answer = await client.answer()
    assert answer.status == 200
    seen = backend.seen[0]
    assert seen.body == b"abcde"
    assert seen.values(b"Transfer-Encoding") == [b"chunked"]
    assert seen.values(b"Content-Length") == []


async def test_a_chunked_answer_is_framed_anew() -> None:
    script = send(CHUNKED, b"3;x=y\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
    async with one(script) as (proxy, _), proxy.client() as client:
        for _ in range(2):
            await client.request("GET", "/")
            answer = await client.answer()
            assert answer.body == b"abcde"
            assert answer.values("Transfer-Encoding") == ["chunked"]
            assert answer.value("Content-Length") is None


async def test_an_http_1_0_client_gets_the_body_unchunked_and_then_the_end() -> None:
    script = send(CHUNKED, b"5\r\nabcde\r\n0\r\n\r\n")
    async with one(script) as (proxy, backend), proxy.client() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await client.answer()
    assert answer.body == b"abcde"
    assert answer.value("Transfer-Encoding") is None
    assert answer.value("Connection") == "close"
    assert backend.seen[0].values(b"Via") == [b"1.0 lbctl"]


async def test_a_close_delimited_answer_arrives_whole() -> None:
    script = send(b"HTTP/1.1 200 OK\r\n\r\n", b"some ", b"bytes", then="close")
    async with one(script) as (proxy, _):
        answer = await proxy.get()
    assert answer.body == b"some bytes"
    assert answer.whole


async def test_hop_by_hop_fields_stay_on_their_hop() -> None:
    script = send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Own, Set-Cookie\r\n"
        b"Keep-Alive: timeout=5\r\nX-Own: 1\r\nSet-Cookie: a=1\r\n\r\n"
    )
    async with one(script) as (proxy, backend):
        answer = await proxy.get(
            "/", "Connection: X-Gone, Authorization, Host", "X-Gone: 1", "Authorization: Basic x",
            "TE: gzip, trailers", "Keep-Alive: 5", "Proxy-Connection: x",
        )  # fmt: skip
    names = {name.lower() for name, _ in backend.seen[0].fields}
    assert names.isdisjoint({b"x-gone", b"keep-alive", b"proxy-connection"})
    assert backend.seen[0].values(b"Authorization") == [b"Basic x"]
    assert backend.seen[0].values(b"TE") == [b"trailers"]
    assert answer.value("Keep-Alive") is None
    assert answer.value("X-Own") is None
    assert answer.value("Set-Cookie") == "a=1"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nDate: x\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nDate: x\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_keep_the_connection(method: str, head: bytes) -> None:
    async with one(send(head)) as (proxy, backend), proxy.client() as client:
        for _ in range(3):
            await client.request(method, "/")
            answer = await client.answer(method)
            assert answer.raw_head == head[:-2] + b"Via: 1.1 lbctl\r\n\r\n"
    assert backend.connections == 1


async def test_absolute_form_becomes_origin_form_and_its_authority_the_host() -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        await client.send(
            b"GET http://other.example:81/path?x HTTP/1.1\r\nHost: other.example:81\r\n\r\n"
        )
        await client.answer()
    assert backend.seen[0].target == b"/path?x"
    assert backend.seen[0].values(b"Host") == [b"other.example:81"]


async def test_options_star_passes() -> None:
    async with one() as (proxy, backend):
        await proxy.get("*", method="OPTIONS")
    assert backend.seen[0].target == b"*"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.answer(exchange.seen.target)

    async with one(echo) as (proxy, _), proxy.client() as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(9)))
        bodies = [(await client.answer()).body for _ in range(9)]
    assert bodies == [b"/%d" % n for n in range(9)]


async def test_expect_100_continue_is_passed_on_and_so_is_its_grant() -> None:
    async def grant(exchange: Exchange) -> None:
        assert exchange.seen.values(b"Expect") == [b"100-continue"]
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await exchange.read_body()
        await exchange.answer(b"ok")

    async with one(grant) as (proxy, backend), proxy.client() as client:
        await client.request("POST", "/", "Content-Length: 3", "Expect: 100-continue")
        assert (await client.answer()).status == 100
        await client.send(b"abc")
        assert (await client.answer()).status == 200
    assert backend.seen[0].body == b"abc"


async def test_compressed_bodies_pass_as_they_are() -> None:
    script = send(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8bxx"
    )
    async with one(script) as (proxy, backend), proxy.client() as client:
        await client.request(
            "POST", "/", "Content-Encoding: gzip", "Content-Length: 2", body=b"\x1f\x8b"
        )
        answer = await client.answer()
    assert answer.body == b"\x1f\x8bxx"
    assert answer.value("Content-Encoding") == "gzip"
    assert backend.seen[0].body == b"\x1f\x8b"


async def test_cookies_and_redirects_are_the_clients_business() -> None:
    script = send(
        b"HTTP/1.1 302 Found\r\nLocation: /else\r\nSet-Cookie: s=1\r\nContent-Length: 0\r\n\r\n"
    )
    async with one(script) as (proxy, backend):
        assert (await proxy.get()).status == 302
        await proxy.get()
    assert len(backend.seen) == 2
    assert backend.seen[1].values(b"Cookie") == []


# ── refused at the door ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 405),
        (b"GET /#x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /caf\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_what_cannot_be_forwarded_is_refused(raw: bytes, status: int) -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        await client.send(raw)
        answer = await client.answer()
        assert answer.status == status
    assert backend.seen == []


# ── nobody there ──────────────────────────────────────────────────────────────────────────────────


async def test_an_empty_pool_answers_503_and_when_to_come_back() -> None:
    async with proxied() as proxy:
        answer = await proxy.get()
    assert (answer.status, reason_of(answer.body)) == (503, "pool_empty")
    assert int(answer.value("Retry-After") or 0) > 0
    assert proxy.codes() == {503: 1}


async def test_before_the_first_probe_the_answer_is_503_none_ready() -> None:
    async with FakeBackend() as backend, proxied(backend, ready=False) as proxy:
        answer = await proxy.get()
    assert (answer.status, reason_of(answer.body)) == (503, "none_ready")


async def test_with_every_backend_unhealthy_it_fails_closed() -> None:
    async with one() as (proxy, backend):
        for _ in range(3):
            proxy.pool.observe(Report(backend.address, backend.address, ok=False))
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (503, "all_unhealthy")
        assert answer.value("Retry-After") is not None
    assert backend.seen == []


async def test_a_503_to_head_has_no_body() -> None:
    async with proxied() as proxy, proxy.client() as client:
        await client.request("HEAD", "/")
        assert (await client.answer("HEAD")).status == 503
        await client.request("GET", "/")
        assert (await client.answer()).status == 503, "the connection is still in step"


async def test_more_requests_than_connections_allowed_are_shed() -> None:
    async with one(hang, upstream_connections=1) as (proxy, backend), proxy.client() as first:
        await first.request("GET", "/")
        await until(lambda: len(backend.seen) == 1)
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (503, "overloaded")


# ── membership under traffic ──────────────────────────────────────────────────────────────────────


async def test_a_draining_backend_gets_nothing_new_and_finishes_what_runs() -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(b"done")

    async with (
        FakeBackend(slow) as leaving,
        FakeBackend() as staying,
        proxied(leaving) as proxy,
        proxy.client() as client,
    ):
        await client.request("GET", "/")
        await until(lambda: len(leaving.seen) == 1)
        proxy.pool.add_static(staying.address)
        proxy.pool.observe(Report(staying.address, staying.address, ok=True))
        proxy.pool.drain(leaving.address)
        for _ in range(5):
            assert (await proxy.get()).status == 200
        proxy.pool.remove(leaving.address)
        release.set()
        answer = await client.answer()
        assert answer.body == b"done"
        assert len(leaving.seen) == 1
        assert len(staying.seen) == 5
        await until(lambda: leaving.open == 0)
        assert proxy.counters.requests_total == 6


async def test_idle_connections_to_a_draining_backend_close() -> None:
    async with one() as (proxy, backend):
        await proxy.get()
        assert backend.open == 1
        proxy.pool.drain(backend.address)
        await until(lambda: backend.open == 0)


async def test_a_retry_sees_a_backend_that_joined_meanwhile() -> None:
    async with FakeBackend() as late, one() as (proxy, early):

        async def vanish(exchange: Exchange) -> None:
            proxy.pool.add_static(late.address)
            proxy.pool.observe(Report(late.address, late.address, ok=True))
            exchange.reset()

        early.script = vanish
        assert (await proxy.get()).status == 200
        assert len(late.seen) == 1


async def test_scripts_in_turn_and_a_request_id_that_lasts() -> None:
    async with one(in_turn([reset_at_once])) as (proxy, backend):
        answer = await proxy.get("/", "X-Request-Id: from-the-client")
        assert answer.status == 200
    ids = [seen.values(b"X-Request-Id") for seen in backend.seen]
    assert ids == [[b"from-the-client"]] * 2
