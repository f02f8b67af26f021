"""One keep-alive HTTP/1.1 client connection, one request at a time.

Owns the framing: when an answer is complete, whether the connection may be used again, and what
a connection that ended means for the request on it. Decides neither which request goes where nor
whether one is tried again; it reports to its `Owner`.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from loadtest.mix import Request

# Only used to tell a truncated answer from one that is meant to end with the connection.
_FRAMED = re.compile(rb"\r\n(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)
_MAX_HEAD = 65_536
_KINDS: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("refused", (ConnectionRefusedError,)),
    ("reset", (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)),
    ("timeout", (TimeoutError,)),
    ("tls", (ssl.SSLError,)),
)
_ERRNO_KINDS = {
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: "local_ports",
    errno.EMFILE: "local_files",
    errno.ENFILE: "local_files",
}
# Shortages on this side: they say nothing about the server.
LOCAL_KINDS = frozenset({"local_ports", "local_files"})
KINDS = (
    "refused", "reset", "closed", "timeout", "bad_response", "unreachable", "tls", "local_ports",
    "local_files", "os_error",
)  # fmt: skip
"""All that a request without an answer can be counted under."""


class Exchange:
    """One request on its way. Times are on the owner's clock; `visit` is its stay in a phase."""

    __slots__ = ("connection", "done", "intended", "request", "retried", "visit", "written")

    def __init__(self, intended: float, visit: int, request: Request) -> None:
        self.intended = intended
        self.request = request
        self.visit = visit
        self.written = 0.0  # when its bytes were handed to the socket; 0: not yet
        self.connection: Connection | None = None
        self.retried = False
        self.done = False  # answered, failed or given up: whoever finds it later drops it


class Owner(Protocol):
    """Who gets a connection's reports. Each exchange gets exactly one of the first two."""

    def answered(self, connection: Connection, exchange: Exchange, status: int) -> None:
        """The answer is complete; the connection is free again or about to close."""

    def broken(
        self, connection: Connection, exchange: Exchange, kind: str, *, untouched: bool
    ) -> None:
        """No complete answer. `untouched`: it was a reused connection and not a byte came."""

    def gone(self, connection: Connection) -> None:
        """The connection is closed, with or without an exchange before."""


class Connection(asyncio.Protocol):
    """See the module. `reusable` says, after an answer, whether to send again."""

    __slots__ = (
        "_bodiless",
        "_clock",
        "_head",
        "_head_complete",
        "_owner",
        "_parser",
        "_status",
        "_transport",
        "bytes_received",
        "exchange",
        "reusable",
        "uses",
    )

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        # for the whole life
        self._owner = owner
        self._clock = clock
        # per connection
        self._transport: asyncio.Transport | None = None
        self._parser = self._new_parser()
        self.reusable = True
        self.uses = 0
        self.bytes_received = 0
        # per exchange
        self.exchange: Exchange | None = None
        self._head = b""
        self._head_complete = False
        self._status = 0
        self._bodiless = False  # an answer to HEAD: a Content-Length, but no body

    @property
    def connected(self) -> bool:
        """Between connection_made and connection_lost."""
        return self._transport is not None

    @property
    def head(self) -> bytes:
        """Of the newest answer, as it came; a part of its body may follow."""
        return self._head

    def send(self, exchange: Exchange) -> None:
        """Writes the request. The caller has seen that the connection is idle."""
        if self._transport is None:
            raise RuntimeError("not connected")
        self.exchange = exchange
        exchange.connection = self
        self.uses += 1
        self._head = b""
        self._head_complete = False
        self._status = 0
        self._bodiless = exchange.request.bodiless
        exchange.written = self._clock()
        self._transport.write(exchange.request.data)

    def abort(self) -> None:
        """Closes at once and forgets the exchange without a report about it."""
        self.exchange = None
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        exchange = self.exchange
        if exchange is None:  # nobody asked: whatever follows could not be matched to a request
            self.abort()
            return
        if not self._head_complete:
            self._head = self._head + data if self._head else data
            self._head_complete = b"\r\n\r\n" in self._head
            if not self._head_complete and len(self._head) > _MAX_HEAD:
                self._fail(exchange, "bad_response")
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # What follows a complete answer costs the connection only, not that answer.
            self.reusable = False
            if not self._status:
                self._fail(exchange, "bad_response")
                return
        if self._status:
            self._complete(exchange)

    def eof_received(self) -> bool:
        return False  # close our side as well; connection_lost judges

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        exchange = self.exchange
        if exchange is not None:
            self.reusable = False
            if exc is None and self._ends_with_connection():
                self._status = self._parser.get_status_code()
                self._complete(exchange)
            else:
                self.exchange = None
                untouched = self.uses > 1 and not self._head
                # An end without an error is the server's orderly close in mid-answer.
                kind = "closed" if exc is None else error_kind(exc)
                self._owner.broken(self, exchange, kind, untouched=untouched)
        self._owner.gone(self)

    # httptools. Only these two: every further callback costs on every answer.

    def on_headers_complete(self) -> None:
        if self._bodiless:
            self.on_message_complete()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._status:  # a second answer in the same bytes
            self.reusable = False
        elif status >= 200:
            self._status = status
            self.reusable = self._parser.should_keep_alive()
        else:  # 103 and the like precede the answer
            self._head = b""
            self._head_complete = False

    def _new_parser(self) -> httptools.HttpResponseParser:
        return httptools.HttpResponseParser(self)

    def _ends_with_connection(self) -> bool:
        """A complete head that gave no length: then the end of the connection is the end."""
        return self._head_complete and not _FRAMED.search(self._head.partition(b"\r\n\r\n")[0])

    def _complete(self, exchange: Exchange) -> None:
        self.exchange = None
        if self._bodiless:  # the parser still waits for the body that never comes
            self._parser = self._new_parser()
        if not self.reusable and self._transport is not None:
            self._transport.close()
        self._owner.answered(self, exchange, self._status)

    def _fail(self, exchange: Exchange, kind: str) -> None:
        self.abort()
        self._owner.broken(self, exchange, kind, untouched=False)


def error_kind(error: BaseException) -> str:
    """The short word under which a connection's error is counted."""
    for kind, types in _KINDS:
        if isinstance(error, types):
            return kind
    number = getattr(error, "errno", None)
    return _ERRNO_KINDS.get(number, "os_error") if isinstance(number, int) else "os_error"
