"""A backend for mixed load, as a process that can be killed and started again on its port.

An ordinary aiohttp application: what is measured before it should meet an ordinary server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from multiprocessing.process import BaseProcess

from aiohttp import WSMsgType, web

from bench.parts.up import free_port

START_S = 20.0


async def small(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.query["s"]))
    return web.Response(text="ok\n")


async def large(request: web.Request) -> web.StreamResponse:
    """`bytes` of it; chunked where `chunked` is given."""
    left = int(request.query["bytes"])
    response = web.StreamResponse()
    if "chunked" in request.query:
        response.enable_chunked_encoding()
    else:
        response.content_length = left
    await response.prepare(request)
    piece = bytes(65536)
    while left > 0:
        await response.write(piece[:left])
        left -= len(piece)
    await response.write_eof()
    return response


async def echo(request: web.Request) -> web.StreamResponse:
    """The body back, as it comes, framed as it came."""
    response = web.StreamResponse()
    if request.content_length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = request.content_length
    await response.prepare(request)
    async for piece in request.content.iter_any():
        await response.write(piece)
    await response.write_eof()
    return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    answer = web.WebSocketResponse(max_msg_size=0)
    await answer.prepare(request)
    async for message in answer:
        if message.type is WSMsgType.TEXT:
            await answer.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await answer.send_bytes(message.data)
    return answer


def application() -> web.Application:
    app = web.Application(client_max_size=0)
    app.router.add_get("/readyz", small)
    app.router.add_route("*", "/small", small)
    app.router.add_get("/slow", slow)
    app.router.add_get("/large", large)
    app.router.add_route("*", "/echo", echo)
    app.router.add_get("/ws", websocket)
    app.router.add_get("/", websocket)
    return app


def _serve(port: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    web.run_app(
        application(),
        host="127.0.0.1",
        port=port,
        print=None,
        access_log=None,
        handle_signals=False,
        backlog=4096,
        keepalive_timeout=60.0,
    )


class Backend:
    """One process. Use as a context manager, or `start` and `kill` as often as wanted."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: BaseProcess | None = None

    def start(self) -> None:
        spawned = multiprocessing.get_context("spawn")
        self._process = spawned.Process(target=_serve, args=(self.port,), daemon=True)
        self._process.start()

    async def listening(self) -> None:
        """Wait until it accepts. Raises TimeoutError."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None

    def __enter__(self) -> Backend:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
