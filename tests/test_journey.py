"""One request's journey end to end, over real sockets: every part of the way that a setting of the
proxy, the service or the route decides."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lb.config_service import RouteConfig
from lb.error_pages import ErrorPages
from lb.proxy_protocol import SIGNATURE, parse
from tests.fake_backend import (
    CHUNKED,
    OK,
    Exchange,
    FakeBackend,
    hang,
    in_turn,
    reset_at_once,
    send,
)
from tests.proxy_harness import Proxied, one, proxied, reason_of, until

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


async def port_of_it(exchange: Exchange) -> None:
    await exchange.answer(b"%d" % exchange.port)


# ── interim answers, Expect, trailers ─────────────────────────────────────────────────────────────


async def test_interim_answers_pass_in_order_and_103_with_its_links() -> None:
    script = send(
        b"HTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nContent-Length: 5\r\n"
        b"Connection: X-Own\r\nX-Own: 1\r\n\r\n",
        OK,
    )
    async with one(script) as (proxy, _), proxy.client() as client:
        for _ in range(2):
            await client.request("GET", "/")
            answers = [await client.answer() for _ in range(3)]
            assert [answer.status for answer in answers] == [102, 103, 200]
            hints = answers[1]
            assert hints.value("Link") == "</a.css>; rel=preload"
            assert hints.value("Content-Length") is None
            assert hints.value("X-Own") is None
        assert proxy.codes() == {200: 2}


async def test_an_http_1_0_client_gets_no_interim_answer() -> None:
    script = send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK)
    async with one(script) as (proxy, _), proxy.client() as client:
        await client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_interim_answers_without_end_are_502() -> None:
    script = send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100, then="hang")
    async with one(script) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        statuses: list[int] = []
        while not statuses or statuses[-1] < 200:
            statuses.append((await client.answer()).status)
        assert (len(statuses), statuses[-1]) == (33, 502)


async def test_a_declined_expectation_leaves_the_body_unsent() -> None:
    async def decline(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        await exchange.client_gone()

    async with one(decline) as (proxy, backend), proxy.client() as client:
        await client.send(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.value("Connection")) == (417, "close")
        assert await client.ended()
        await until(lambda: backend.open == 0)
        assert backend.seen[0].body == b""


async def test_expect_is_nothing_for_http_1_0() -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        await client.send(
            b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx"
        )
        assert (await client.answer()).status == 200
    assert backend.seen[0].values(b"Expect") == []


async def test_trailers_pass_both_ways_and_forbidden_ones_do_not() -> None:
    arrived = bytearray()

    async def trailing(exchange: Exchange) -> None:
        while b"\r\n\r\n" not in arrived:
            arrived.extend(await exchange.receive())
        await exchange.send(
            CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 9\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\n"
        )

    async with one(trailing) as (proxy, _), proxy.client() as client:
        await client.request(
            "POST", "/", "Transfer-Encoding: chunked", "Trailer: X-Check",
            body=b"3\r\nabc\r\n0\r\nX-Check: 1\r\nHost: evil\r\nContent-Length: 9\r\n"
            b"Authorization: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        )  # fmt: skip
        await client.reader.readuntil(b"\r\n\r\n")
        end = await client.reader.readuntil(b"\r\n\r\n")
    assert arrived == b"3\r\nabc\r\n0\r\nX-Check: 1\r\n\r\n"
    assert end.startswith(b"2\r\nok\r\n0\r\n")
    assert b"X-Sum: 9\r\n" in end
    assert b"Content-Length" not in end


async def test_max_forwards_ends_here_or_is_counted_down() -> None:
    async with one() as (proxy, backend):
        answer = await proxy.get("/x", "Max-Forwards: 0", "Cookie: secret", method="TRACE")
        assert answer.status == 200
        assert answer.body.startswith(b"TRACE /x HTTP/1.1\r\n")
        assert b"secret" not in answer.body
        options = await proxy.get("*", "Max-Forwards: 0", method="OPTIONS")
        assert (options.status, options.body) == (200, b"")
        assert "GET" in (options.value("Allow") or "")
        assert backend.seen == []
        await proxy.get("*", "Max-Forwards: 3", method="OPTIONS")
        await proxy.get("/", "Max-Forwards: 3")
        assert [seen.values(b"Max-Forwards") for seen in backend.seen] == [[b"2"], [b"3"]]


async def test_a_trace_parent_is_made_or_passed() -> None:
    given = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with one() as (proxy, backend):
        await proxy.get()
        await proxy.get("/", f"traceparent: {given.decode()}", "tracestate: a=b")
        await proxy.get("/", "traceparent: nonsense", "tracestate: a=b")
    made, passed, replaced = [seen.values(b"traceparent") for seen in backend.seen]
    assert passed == [given]
    assert backend.seen[1].values(b"tracestate") == [b"a=b"]
    assert len(made) == len(replaced) == 1
    assert len({made[0], replaced[0], given, b"nonsense"}) == 4
    assert backend.seen[2].values(b"tracestate") == []


# ── time ──────────────────────────────────────────────────────────────────────────────────────────


async def test_the_whole_request_has_a_deadline() -> None:
    async with one(hang, timeouts={"whole": 0.2}) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/")
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (504, "deadline")
        await client.request("GET", "/")
        assert (await client.answer()).status == 504, "the connection is still in step"
        await until(lambda: backend.open == 0)
        (view,) = proxy.pool.snapshot()
        assert view.failures_total == 0


async def test_the_deadline_covers_the_queue_and_the_answers_body() -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await exchange.client_gone()

    async with one(half, max_in_flight=1, timeouts={"whole": 0.4}) as (proxy, backend):
        async with proxy.client() as first, proxy.client() as second:
            await first.request("GET", "/")
            await until(lambda: backend.seen)
            await second.request("GET", "/")
            cut = await first.answer()
            assert (cut.status, cut.whole) == (200, False)
            await second.answer()
        await proxy.settled(2)
        assert set(proxy.codes()) == {504}


async def test_a_route_has_timeouts_of_its_own() -> None:
    route = RouteConfig.model_validate(
        {"path": "/quick", "service": "web", "timeouts": {"first_byte": 0.2}}
    )
    rest = RouteConfig(service="web")
    async with one(hang, routes=(route, rest)) as (proxy, backend), proxy.client() as slow:
        await slow.request("GET", "/slow")
        answer = await proxy.get("/quick/x")
        assert (answer.status, reason_of(answer.body)) == (504, "first_byte_timeout")
        assert proxy.pool.in_flight == 1, "the other one still waits"
        assert len(backend.seen) == 2


@pytest.mark.parametrize("rate_of", ["slow", "quick"])
async def test_a_body_has_to_come_at_a_pace(rate_of: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("lb.client_body.PACE_GRACE_S", 0.3)
    rate = 1_000_000 if rate_of == "slow" else 1

    async with one(limits={"body_rate": rate}) as (proxy, _), proxy.client() as client:
        await client.request("POST", "/", "Content-Length: 40")

        async def drip() -> None:
            for _ in range(40):
                await client.send(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        answer = await client.answer()
        dripping.cancel()
        if rate_of == "slow":
            assert (answer.status, reason_of(answer.body)) == (408, "client_timeout")
        else:
            assert answer.status == 200
        assert proxy.counters.upstream_errors == {}


# ── routes and services' pages ────────────────────────────────────────────────────────────────────


async def test_routes_decide_where_and_how() -> None:
    routes = (
        RouteConfig(path="/old", redirect="https://new.example{target}", redirect_status=301),
        RouteConfig.model_validate(
            {
                "host": "*.example", "path": "/api", "service": "web", "strip_path": True,
                "request": {"set": {"X-Env": "prod"}, "remove": ["X-Debug"]},
                "response": {"add": {"X-Served": "yes"}, "remove": ["Server"]},
            }
        ),
    )  # fmt: skip
    script = send(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n")
    async with one(script, routes=routes) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/old/x?y", "X: 1")
        moved = await client.answer()
        assert (moved.status, moved.value("Location")) == (301, "https://new.example/old/x?y")
        await client.request("GET", "/api/v1?q", "X-Debug: 1", "X-Env: dev")
        served = await client.answer()
        assert (served.value("X-Served"), served.value("Server")) == ("yes", None)
        await client.request("GET", "/apiary")
        lost = await client.answer()
        assert (lost.status, reason_of(lost.body)) == (404, "no_route")
    (seen,) = backend.seen
    assert seen.target == b"/v1?q"
    assert seen.values(b"X-Env") == [b"prod"]
    assert seen.values(b"X-Debug") == []


async def test_an_error_page_of_the_service_is_the_answer(tmp_path: Path) -> None:
    (tmp_path / "busy.html").write_text("<h1>busy</h1>")
    async with proxied() as proxy:
        proxy.site.pages = ErrorPages.load({"503": "busy.html"}, tmp_path)
        answer = await proxy.get()
        assert (answer.status, answer.body) == (503, b"<h1>busy</h1>")
        assert (answer.value("Content-Type") or "").startswith("text/html")
        assert answer.value("Retry-After") is not None


# ── who gets which client ─────────────────────────────────────────────────────────────────────────


async def test_a_sticky_client_comes_back_while_its_backend_is_there() -> None:
    async with (
        FakeBackend(port_of_it) as first,
        FakeBackend(port_of_it) as second,
        proxied(first, second, policy="round_robin", service={"sticky": {}}) as proxy,
    ):
        begun = await proxy.get()
        cookie = begun.value("Set-Cookie") or ""
        assert "HttpOnly" in cookie
        mine = "Cookie: " + cookie.partition(";")[0]
        again = [await proxy.get("/", mine) for _ in range(5)]
        assert {answer.body for answer in again} == {begun.body}
        assert {answer.value("Set-Cookie") for answer in again} == {None}
        proxy.pool.drain(f"127.0.0.1:{begun.body.decode()}")
        moved = await proxy.get("/", mine)
        assert moved.body != begun.body
        assert moved.value("Set-Cookie") is not None, "it comes back to the other one from now on"
        forged = await proxy.get("/", "Cookie: lbctl=nonsense")
        assert forged.status == 200


@pytest.mark.parametrize(
    ("by", "line"),
    [
        ({"by": "header", "name": "X-Key"}, "X-Key: {}"),
        ({"by": "cookie", "name": "sid"}, "Cookie: a=b; sid={}"),
    ],
)
async def test_consistent_hash_keeps_each_key_at_its_backend(by: dict[str, str], line: str) -> None:
    async with (
        FakeBackend(port_of_it) as first,
        FakeBackend(port_of_it) as second,
        FakeBackend(port_of_it) as third,
        proxied(first, second, third, policy="consistent_hash", service={"hash": by}) as proxy,
    ):
        proxy.pool.configure(proxy.site.config)
        where: dict[int, set[bytes]] = {}
        for _ in range(3):
            for key in range(20):
                answer = await proxy.get("/", line.format(key))
                where.setdefault(key, set()).add(answer.body)
        assert all(len(places) == 1 for places in where.values())
        assert len({place for places in where.values() for place in places}) == 3
        unkeyed = {(await proxy.get()).body for _ in range(5)}
        assert len(unkeyed) == 1, "by its address then"


# ── PROXY headers for backends ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_backends_are_told_the_client_before_each_request(version: str) -> None:
    headers: list[bytes] = []

    async def behind_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readuntil(b"\r\n\r\n")
        if data == SIGNATURE[:4]:
            data += await reader.readuntil(b"\r\n\r\n")
        parsed = parse(data)
        assert parsed is not None
        assert parsed.source is not None
        headers.append(data[parsed.consumed :])
        sources.append(parsed.source)
        writer.write(OK)
        await reader.read()
        writer.close()

    sources: list[tuple[str, int]] = []
    server = await asyncio.start_server(behind_header, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    service = {"send_proxy_protocol": version}
    async with (
        server,
        proxied(f"{host}:{port}", service=service) as proxy,
        proxy.client() as client,
    ):
        mine = client.writer.get_extra_info("sockname")
        for _ in range(2):
            await client.request("GET", "/")
            assert (await client.answer()).status == 200
    assert sources == [tuple(mine)] * 2, "a connection each: the next client is another one"
    assert all(head.startswith(b"GET / HTTP/1.1\r\n") for head in headers)


# ── the access log ────────────────────────────────────────────────────────────────────────────────


async def soon(exchange: Exchange) -> None:
    await asyncio.sleep(0.02)
    await exchange.answer()


async def logged(proxy: Proxied, path: Path) -> list[dict[str, Any]]:
    """The lines of the log, once the proxy has stopped."""
    await proxy.server.stop(1.0)
    text = await asyncio.to_thread(path.read_text)
    return [json.loads(line) for line in text.splitlines()]


async def test_each_request_is_a_line_that_tells_how_it_went(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with (
        FakeBackend(in_turn([reset_at_once, soon])) as backend,
        proxied(backend, access_log={"format": "json", "path": str(path)}) as proxy,
    ):
        async with proxy.client() as client:
            await client.request(
                "POST", "/a?b=c", "Content-Length: 3", "User-Agent: test", "Referer: /x",
                body=b"abc",
            )  # fmt: skip
            assert (await client.answer()).status == 502
            await client.request("GET", "/again", "X-Request-Id: mine-1")
            assert (await client.answer()).status == 200
            await client.send(b"nonsense\r\n\r\n")
            assert (await client.answer()).status == 400
        refused, served, unread = await logged(proxy, path)
    assert (refused["status"], refused["error_reason"]) == (502, "reset")
    assert (refused["method"], refused["target"], refused["host"]) == (
        "POST", "/a?b=c", "app.example",
    )  # fmt: skip
    assert (refused["user_agent"], refused["referer"]) == ("test", "/x")
    assert (refused["attempts"], refused["backend"]) == (1, backend.address)
    assert refused["bytes_received"] == 3
    assert served["status"] == 200
    assert (served["service"], served["backend"], served["attempts"]) == (
        "web", backend.address, 1,
    )  # fmt: skip
    assert (served["bytes_sent"], served["request_id"]) == (2, "mine-1")
    assert served["connection_requests"] == 2
    assert 0 < served["upstream_s"] <= served["duration_s"]
    assert unread["status"] == 400


async def test_the_log_tells_of_retries_and_of_clients_that_left(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with (
        FakeBackend(reset_at_once) as bad,
        FakeBackend() as good,
        proxied(
            bad, good, policy="round_robin", access_log={"format": "json", "path": str(path)}
        ) as proxy,
    ):
        for _ in range(2):
            assert (await proxy.get()).status == 200
        good.script = hang
        bad.script = hang
        async with proxy.client() as client:
            await client.request("GET", "/left")
            await until(lambda: proxy.pool.in_flight == 1)
            client.abort()
            await proxy.settled(3)
        *served, left = await logged(proxy, path)
    told = {(line["attempts"], line["retry_reason"]) for line in served}
    # a retry takes the other one's turn, so the next request may begin with the bad one again
    assert (2, "reset") in told
    assert told <= {(1, None), (2, "reset")}
    assert {line["backend"] for line in served} == {good.address}
    assert (left["status"], left["target"], left["error_reason"]) == (499, "/left", "client_gone")


# ── faults of ours ────────────────────────────────────────────────────────────────────────────────


class Broken:
    """A policy."""

    name: ClassVar[str] = "broken"
    goes_by_latency: ClassVar[bool] = False

    def slate(self, members: object, rng: object) -> Any:
        raise ZeroDivisionError("a bug")


async def test_a_bug_of_ours_is_500_with_an_id_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        FakeBackend() as a,
        FakeBackend() as b,
        proxied(a, b) as proxy,
        proxy.client() as client,
    ):
        pool = proxy.site.pool
        good, pool.policy = pool.policy, Broken()
        pool._stale()
        await client.request("GET", "/", "X-Request-Id: find-me")
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (500, "internal")
        assert b"a bug" not in answer.body
        pool.policy = good
        await client.request("GET", "/")
        assert (await client.answer()).status == 200
        assert len(a.seen) + len(b.seen) == 1
    assert "find-me" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text
