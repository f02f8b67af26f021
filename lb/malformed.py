"""Requests that aiohttp's parser refuses: answered and counted as every other refusal of ours.

aiohttp would answer them itself, in plain text under its own name, and no metric would see them.
Knows no request that could be read: those are the proxy's.
"""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lb import exchange
from lb.errors import BadRequestError
from lb.exchange import Request
from lb.proxy import CLOSE, Proxy

log = logging.getLogger(__name__)


class ClientServer(web.Server):
    """aiohttp's server before a proxy; `settings` are RequestHandler's."""

    def __init__(self, proxy: Proxy, **settings: Any) -> None:
        super().__init__(proxy.handle, handler_cancellation=True)
        self.proxy = proxy
        self._settings = settings

    def __call__(self) -> web.RequestHandler:
        return _ClientConnection(self, self._settings)


class _ClientConnection(web.RequestHandler):
    """A client's connection. What its parser refuses ends it: where the next request would begin,
    nobody knows."""

    __slots__ = ("_proxy",)

    def __init__(self, server: ClientServer, settings: dict[str, Any]) -> None:
        super().__init__(server, loop=server._loop, **settings)
        self._proxy = server.proxy

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, HttpProcessingError):
            self._refuse(f"the request cannot be parsed: {_first_line(message)}")
        else:
            # The proxy translates whatever it meets, so this is a bug of it; how much of an answer
            # was sent, only it knew.
            log.error("a connection was cut after a fault of ours", exc_info=exc)
            if self.transport is not None:
                self.transport.abort()
        return CLOSE

    def _refuse(self, detail: str) -> None:
        proxy = self._proxy
        identifier = proxy.request_ids()
        error = BadRequestError(detail)
        unknown = Request("", b"", (1, 1), (), keep_alive=False)
        back, body = exchange.refusal(unknown, error, identifier, stay=False)
        proxy.counters.finished(unknown.method, error.status, 0.0, proxy.pool.clock())
        log.debug("request %s: %s", identifier.decode(), detail)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(back.head + body)


def _first_line(message: str | None) -> str:
    """aiohttp's messages go on with the bytes and an arrow under the wrong one."""
    line = (message or "").strip().partition("\n")[0].rstrip(": ")
    return "".join(char if char.isprintable() else " " for char in line) or "it is not HTTP"
