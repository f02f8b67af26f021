"""What the fast lane makes of a head, and what it leaves to the other lane."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb import exchange
from lb.client_connection import ClientConnection
from lb.config import RouteConfig
from lb.fast_plan import MOST_BODY, Plan, _pieces, plan_for
from tests.proxy_harness import Client, Proxied, one

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@contextlib.asynccontextmanager
async def asked(**settings: Any) -> AsyncIterator[tuple[Proxied, ClientConnection]]:
    """A proxy, and a connection of a client to it."""
    async with one(**settings) as (proxy, _), proxy.client() as client:
        yield proxy, await connected(proxy, client)


async def connected(proxy: Proxied, client: Client) -> ClientConnection:
    await client.send(GET)
    await client.answer()
    (connection,) = proxy.server.proxy.connections
    return connection


def onward(plan: Plan) -> bytes:
    trace, between, after = plan.onward
    return trace + (b"TRACE" if plan.traced else b"") + between + (
        b"ID" if plan.marked else b""
    ) + after  # fmt: skip


async def test_the_plan_is_what_the_other_lane_would_send() -> None:
    async with asked() as (proxy, connection):
        data = b"POST /x?y HTTP/1.1\r\nHost: a\r\nCookie: b=c\r\nContent-Length: 2\r\n\r\nhi"
        plan = plan_for(proxy.server.proxy, connection, data)
        assert plan is not None
        assert (plan.head, plan.length) == (data[:-2], 2)
        assert not plan.repeatable
        sent = exchange.onward(
            plan.asked, 2, proxy.server.proxy.client_of(connection), identifier=b"ID",
            target=b"/x?y", host=b"a", told=plan.told, trace=lambda: b"TRACE",
        ).head  # fmt: skip
        assert onward(plan) == sent


async def test_what_the_client_says_itself_is_not_made_anew() -> None:
    async with asked() as (proxy, connection):
        trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        own = GET[:-2] + b"X-Request-Id: mine\r\ntraceparent: " + trace + b"\r\n\r\n"
        plan = plan_for(proxy.server.proxy, connection, own)
        assert plan is not None
        assert (plan.identifier, plan.traced, plan.marked) == (b"mine", False, False)
        assert onward(plan).count(trace) == 1


async def test_what_a_route_takes_away_is_not_put_in() -> None:
    edits = {"remove": ["X-Request-Id", "traceparent"]}
    routes = [RouteConfig.model_validate({"service": "web", "request": edits})]
    async with asked(routes=routes) as (proxy, connection):
        plan = plan_for(proxy.server.proxy, connection, GET)
        assert plan is not None
        assert (plan.traced, plan.marked) == (False, False)
        assert b"\0" not in onward(plan)


@pytest.mark.parametrize(
    "data",
    [
        GET[:-1],
        b"\r\n" + GET,
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \0identifier\0\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n" + GET,
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MOST_BODY + 1),
        b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 66000 + b"\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_not_common_has_no_plan(data: bytes) -> None:
    async with asked() as (proxy, connection):
        assert plan_for(proxy.server.proxy, connection, data) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"fast_lane": False},
        {"service": {"send_proxy_protocol": "v1"}},
        {"service": {"retry": {"hedge_after": 1.0}}},
        {"timeouts": {"first_byte": 1.0}},
        {"timeouts": {"whole": 1.0}},
        {"routes": [RouteConfig(redirect="https://new.example{target}")]},
        {"routes": [RouteConfig(host="elsewhere.example", service="web")]},
    ],
)
async def test_settings_that_the_lane_knows_nothing_of_have_no_plan(
    settings: dict[str, Any],
) -> None:
    async with asked(**settings) as (proxy, connection):
        assert plan_for(proxy.server.proxy, connection, GET) is None


async def test_a_body_that_is_too_long_has_no_plan() -> None:
    async with asked(limits={"body_bytes": 3}) as (proxy, connection):
        for length, fits in ((3, True), (4, False)):
            data = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nabcd" % length
            assert (plan_for(proxy.server.proxy, connection, data) is not None) is fits


async def test_one_shape_stands_for_all_that_are_equal() -> None:
    async with asked() as (proxy, connection):
        plans = [
            plan_for(proxy.server.proxy, connection, GET[:-2] + extra + b"\r\n")
            for extra in (b"", b"A: b\r\n", b"Connection: close\r\n")
        ]
        first, second, closing = (plan.shape for plan in plans if plan is not None)
        assert first is second
        assert closing is not first


@given(st.binary(max_size=20).filter(lambda part: b"\0" not in part), st.booleans(), st.booleans())
def test_a_head_is_cut_where_its_own_parts_go(part: bytes, traced: bool, marked: bool) -> None:
    trace, identifier = b"\0trace\0" * traced, b"\0identifier\0" * marked
    pieces = _pieces(part + trace + part + identifier + part)
    assert pieces is not None
    assert b"".join((pieces[0], trace, pieces[1], identifier, pieces[2])) == (
        part + trace + part + identifier + part
    )


def test_a_head_with_two_places_for_one_part_is_not_cut() -> None:
    assert _pieces(b"\0trace\0 and \0trace\0") is None
    assert _pieces(b"\0identifier\0 then \0trace\0") is None
