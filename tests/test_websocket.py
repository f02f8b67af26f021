"""Ordinary WebSocket sessions through the proxy, by aiohttp's client and server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import ClientWebSocketResponse, WSCloseCode, WSMessage, WSMsgType, web

from tests.proxy_harness import PATIENCE_S, Proxied, proxied, until

MIB = 1024 * 1024
Handler = Callable[[web.WebSocketResponse], Awaitable[None]]


async def echo(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)


@dataclass
class App:
    """The application behind the proxy."""

    handler: Handler
    options: dict[str, bool] = field(default_factory=dict)
    close_codes: list[int | None] = field(default_factory=list)
    """What its sessions ended with."""
    asked: list[web.BaseRequest] = field(default_factory=list)

    async def __call__(self, request: web.BaseRequest) -> web.WebSocketResponse:
        self.asked.append(request)
        socket = web.WebSocketResponse(
            protocols=("chat", "other"), max_msg_size=0, timeout=PATIENCE_S, **self.options
        )
        await socket.prepare(request)
        await self.handler(socket)
        self.close_codes.append(socket.close_code)
        return socket


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    server = web.Server(app)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        listening.close()
        await server.shutdown(PATIENCE_S)


@contextlib.asynccontextmanager
async def chatting(
    handler: Handler = echo, **settings: object
) -> AsyncIterator[tuple[Proxied, App, aiohttp.ClientSession]]:
    options = settings.pop("options", {})
    assert isinstance(options, dict)
    app = App(handler, options)
    async with (
        serving(app) as address,
        aiohttp.ClientSession() as session,
        proxied(address, **settings) as proxy,  # type: ignore[arg-type]
    ):
        yield proxy, app, session


def place(proxy: Proxied) -> str:
    return f"ws://127.0.0.1:{proxy.port}/chat"


async def heard(socket: ClientWebSocketResponse) -> WSMessage:
    async with asyncio.timeout(PATIENCE_S):
        return await socket.receive()


async def test_text_and_binary_pass_both_ways_in_order() -> None:
    async with chatting() as (proxy, _, session), session.ws_connect(place(proxy)) as socket:
        for number in range(100):
            await socket.send_str(f"nº {number}")
            await socket.send_bytes(bytes([number]) * number)
        for number in range(100):
            assert (await heard(socket)).data == f"nº {number}"
            assert (await heard(socket)).data == bytes([number]) * number


async def test_the_handshake_passes_subprotocols_and_says_who_asks() -> None:
    async with (
        chatting() as (proxy, app, session),
        session.ws_connect(place(proxy), protocols=("unknown", "chat")) as socket,
    ):
        assert socket.protocol == "chat"
        (request,) = app.asked
        assert request.headers["X-Forwarded-For"] == "127.0.0.1"
        assert request.headers["Sec-WebSocket-Version"] == "13"
        assert request.path == "/chat"


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "permessage-deflate"])
async def test_large_messages_pass_whole(compress: int) -> None:
    sent = b"".join(b"%07d " % number for number in range(MIB))
    async with (
        chatting() as (proxy, _, session),
        session.ws_connect(place(proxy), max_msg_size=0, compress=compress) as socket,
    ):
        sending = asyncio.ensure_future(socket.send_bytes(sent))
        assert (await heard(socket)).data == sent
        await sending


async def test_pings_and_pongs_pass_both_ways() -> None:
    pings: list[bytes] = []

    async def ping_back(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.PING:
                pings.append(bytes(message.data))
                await socket.pong(message.data)
                await socket.ping(b"from the server")
            elif message.type is WSMsgType.PONG:
                pings.append(bytes(message.data))
                await socket.close()

    async with (
        chatting(ping_back, options={"autoping": False}) as (proxy, _, session),
        session.ws_connect(place(proxy), autoping=False) as socket,
    ):
        await socket.ping(b"from the client")
        assert await heard(socket) == WSMessage(WSMsgType.PONG, b"from the client", "")
        assert await heard(socket) == WSMessage(WSMsgType.PING, b"from the server", "")
        await socket.pong(b"heard")
        assert (await heard(socket)).type is WSMsgType.CLOSE
    assert pings == [b"from the client", b"heard"]


async def test_the_client_closes() -> None:
    async with chatting() as (proxy, app, session):
        async with session.ws_connect(place(proxy)) as socket:
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"bye")
        await until(lambda: app.close_codes == [WSCloseCode.GOING_AWAY])
        await proxy.settled(1)
        assert proxy.codes() == {101: 1}


async def test_the_server_closes() -> None:
    async def refuse(socket: web.WebSocketResponse) -> None:
        await socket.close(code=4321, message=b"not you")

    async with chatting(refuse) as (proxy, _, session):
        async with session.ws_connect(place(proxy)) as socket:
            message = await heard(socket)
            assert (message.type, message.data, message.extra) == (
                WSMsgType.CLOSE, 4321, "not you",
            )  # fmt: skip
        await proxy.settled(1)
        assert proxy.codes() == {101: 1}


async def test_a_server_that_breaks_off_breaks_the_clients_connection() -> None:
    async def die(socket: web.WebSocketResponse) -> None:
        await socket.send_str("almost")
        assert socket._req is not None
        assert socket._req.transport is not None
        socket._req.transport.abort()

    async with chatting(die) as (proxy, _, session):
        async with session.ws_connect(place(proxy)) as socket:
            assert (await heard(socket)).data == "almost"
            assert (await heard(socket)).type in (WSMsgType.CLOSED, WSMsgType.ERROR)
            assert socket.close_code == WSCloseCode.ABNORMAL_CLOSURE
        await proxy.settled(1)


async def test_many_at_once_each_get_their_own_and_are_counted() -> None:
    many = 100
    async with chatting(max_in_flight=many) as (proxy, _, session):
        everybody = asyncio.Barrier(many + 1)

        async def talk(number: int) -> None:
            async with session.ws_connect(place(proxy)) as socket:
                await everybody.wait()
                await everybody.wait()
                for turn in range(5):
                    await socket.send_str(f"{number}: {turn}")
                    assert (await heard(socket)).data == f"{number}: {turn}"

        talking = [asyncio.ensure_future(talk(number)) for number in range(many)]
        await everybody.wait()
        assert proxy.counters.tunnels == many
        assert proxy.pool.in_flight == many
        await everybody.wait()
        await asyncio.gather(*talking)
        await proxy.settled(many)
        assert proxy.counters.tunnels == 0
        assert proxy.codes() == {101: many}


async def test_a_silent_session_ends_and_one_that_speaks_does_not() -> None:
    async with (
        chatting(timeouts={"tunnel_idle": 0.6}) as (proxy, _, session),
        session.ws_connect(place(proxy)) as silent,
        session.ws_connect(place(proxy)) as speaking,
    ):
        ended = asyncio.ensure_future(heard(silent))
        while not ended.done():
            await speaking.send_str("still here")
            assert (await heard(speaking)).data == "still here"
            await asyncio.sleep(0.02)
        assert (await ended).type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert proxy.counters.tunnels == 1


async def test_a_refused_handshake_is_passed_on() -> None:
    async def refuse(request: web.BaseRequest) -> web.Response:
        return web.Response(status=403, text="members only")

    server = web.Server(refuse)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    async with aiohttp.ClientSession() as session, proxied(f"{host}:{port}") as proxy:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(place(proxy))
        assert refused.value.status == 403
        assert proxy.counters.tunnels == 0
    listening.close()
    await server.shutdown(PATIENCE_S)


async def test_a_draining_backend_keeps_its_sessions() -> None:
    async with chatting() as (proxy, _, session), session.ws_connect(place(proxy)) as socket:
        (backend,) = proxy.pool
        proxy.pool.drain(backend.name)
        await socket.send_str("still here?")
        assert (await heard(socket)).data == "still here?"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(place(proxy))
        assert refused.value.status == 503


async def test_shutdown_waits_for_a_session_to_end() -> None:
    async with chatting() as (proxy, _, session), session.ws_connect(place(proxy)) as socket:
        stopping = asyncio.ensure_future(proxy.server.stop(PATIENCE_S))
        await until(lambda: proxy.server.proxy.stopping)
        await socket.send_str("a last word")
        assert (await heard(socket)).data == "a last word"
        assert not stopping.done()
        await socket.close()
        stopped = await stopping
        assert (stopped.finished, stopped.cut) == (1, ())


async def test_shutdown_cuts_a_session_at_the_deadline() -> None:
    async with chatting() as (proxy, _, session), session.ws_connect(place(proxy)) as socket:
        stopped = await proxy.server.stop(0.1)
        (line,) = stopped.cut
        assert line.startswith("GET /chat")
        assert (await heard(socket)).type in (WSMsgType.CLOSED, WSMsgType.ERROR)
