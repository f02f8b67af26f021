"""aiohttp's server before a proxy: makes the connections of one listener, and stops them.

Says what is the same for all of them; what happens on one is `client_connection`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from lb.client_connection import ClientConnection

if TYPE_CHECKING:
    from lb.proxy import Proxy


class ClientServer(web.Server):
    """One listener's."""

    def __init__(self, proxy: Proxy, *, scheme: bytes, redirect_to_https: bool) -> None:
        super().__init__(proxy.handle, handler_cancellation=True)
        self.proxy = proxy
        self.scheme = scheme
        self.redirect_to_https = redirect_to_https

    def __call__(self) -> web.RequestHandler:
        return self.connection()

    def connection(self) -> ClientConnection:
        """What carries one accepted connection."""
        return ClientConnection(self)
