"""aiohttp's server before a proxy: makes the connections of one listener, carries their exchanges.

An exchange that the fast lane leaves is a task of aiohttp's: cancelled when the client leaves,
waited for when we stop. aiohttp is told of it by a bare token, and of nothing else: the wire is
`client_connection`'s, what becomes of a request the journey's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from lb.client_connection import ClientConnection

if TYPE_CHECKING:
    import asyncio

    from lb.proxy import Proxy

# One exchange, in the only words that aiohttp's server needs for it.
_TOKEN: Final = b"GET / HTTP/1.1\r\nHost: exchange\r\n\r\n"


class ClientServer(web.Server):
    """One listener's."""

    def __init__(self, proxy: Proxy, *, scheme: bytes, redirect_to_https: bool) -> None:
        super().__init__(proxy.handle, handler_cancellation=True)
        self.proxy = proxy
        self.scheme = scheme
        self.redirect_to_https = redirect_to_https

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def connection(self) -> ClientConnection:
        """What carries one accepted connection."""
        return ClientConnection(self)

    def carrier(self, connection: ClientConnection, transport: asyncio.Transport) -> Carrier:
        return Carrier(self, connection, transport)


class Carrier(web.RequestHandler):
    """aiohttp's side of one client connection: 6 KiB with its parser and its task, so there is one
    only from its first exchange in this lane until it has been idle for a moment."""

    __slots__ = ("connection",)

    def __init__(
        self, server: ClientServer, connection: ClientConnection, transport: asyncio.Transport
    ) -> None:
        # Idle connections are closed elsewhere, so aiohttp's own timer must never be the first.
        super().__init__(
            server,
            loop=server.loop,
            access_log=cast(Any, None),
            keepalive_timeout=10**9,
            tcp_keepalive=False,
        )
        self.connection = connection
        self.connection_made(transport)

    def begin(self) -> None:
        """An exchange."""
        self.data_received(_TOKEN)

    def leave(self) -> None:
        """End, and leave the connection alone."""
        self.transport = None
        self.connection_lost(None)

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, *_: Any
    ) -> web.StreamResponse:
        """aiohttp asks for an answer to a fault of ours that the journey did not translate."""
        self.connection.fault(exc)
        return web.Response(status=status)
