"""A client's connection: reads its requests off the wire one at a time, strictly.

aiohttp's server carries each exchange (a task that is cancelled when the client leaves, waited for
when we stop) and is told of it by a bare token: heads, bodies, pipelining and what is refused are
read here, by `wire`. What becomes of a request is the journey's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from aiohttp import web

from lb.client_body import ClientBody
from lb.deadline import Deadline
from lb.errors import (
    BadRequestError,
    ClientFaultError,
    ClientGoneError,
    ClientTimeoutError,
    HeadTooLargeError,
    RequestError,
    TargetTooLongError,
    VersionRefusedError,
)
from lb.proxy_protocol import Parsed
from lb.sockets import reset, taken
from lb.tls import peer_name
from lb.wire.chunked import ChunkReader
from lb.wire.errors import WireError
from lb.wire.framing import Ends, Framing, request_framing
from lb.wire.head import END, RequestHead, hopeless, request_head

if TYPE_CHECKING:
    from lb.client_server import ClientServer

# One exchange, in the only words that aiohttp's server needs for it.
_TOKEN: Final = b"GET / HTTP/1.1\r\nHost: exchange\r\n\r\n"

# Of requests that wait behind the running one.
AHEAD_BYTES: Final = 65536

# A connection that is closed with unread bytes on it is reset, and the reset may overtake the
# answer: so we close our side, and go on reading for this long.
LINGER_S: Final = 2.0

# What is unsent when a connection is closed still goes out, to whoever takes it by then.
FLUSH_S: Final = 30.0

# When a client has closed its side: has it hung up, or does it wait for its answer? Only sending
# tells. An interim answer is harmless to who waits; who left resets it, found out by the second.
PROBES_S: Final = (0.25, 0.25, 0.5, 1.0, 2.0, 5.0)
_PROBE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+").sub

_REFUSALS: Final[dict[int, type[ClientFaultError]]] = {
    400: BadRequestError,
    414: TargetTooLongError,
    431: HeadTooLargeError,
    505: VersionRefusedError,
}


class Phase(Enum):
    HEAD = "head"
    """Between two requests, or within a head."""
    BODY = "body"
    """An exchange runs, and its body is still coming."""
    ANSWER = "answer"
    """An exchange runs, and its request is here."""
    TUNNEL = "tunnel"
    DEAF = "deaf"
    """Nothing more will be answered here; what comes is thrown away."""


class Tunnelled(Protocol):
    """Who gets a connection's bytes once it is a tunnel."""

    def from_client(self, data: bytes) -> None: ...
    def client_ended(self) -> None: ...
    def client_lost(self) -> None: ...
    def client_full(self, full: bool) -> None: ...


class ClientConnection(web.RequestHandler):
    """`head`, `framing` and `body` are the running exchange's."""

    head: RequestHead
    framing: Framing
    body: ClientBody
    _chunks: ChunkReader
    _tunnel: Tunnelled

    def __init__(self, server: ClientServer) -> None:
        # Idle connections are closed here, so aiohttp's own timer must never be the first.
        super().__init__(
            server, loop=server._loop, access_log=cast(Any, None), keepalive_timeout=10**9
        )
        self._proxy = server.proxy
        self.scheme = server.scheme
        self.redirect_to_https = server.redirect_to_https
        self._phase = Phase.HEAD
        self._input = b""
        self._scanned = 0
        """Bytes of the input that were looked at for the end of a head."""
        self._left = 0
        """Of a body with a Content-Length."""
        self._chunked = False
        self._deadline = Deadline(self._loop, self._expired)
        self._body_full = False
        self._tunnel_full = False
        self._reading = True
        self._probes = 0
        self._written_before = 0
        self._parted: asyncio.Future[None] | None = None
        self.running = False
        """An exchange is to begin, or has, and it is not over."""
        self.half_closed = False
        self.served = 0
        """Requests begun."""
        self.written = 0
        """Bytes of the running exchange's final answer."""
        self.on_made: Callable[[], None] = lambda: None
        """Called first, once it stands."""
        self.introduced: Parsed | None = None
        """What a PROXY header said of it."""
        self.peer = ""
        self.peer_port = 0
        self.local: tuple[str, int] = ("", 0)
        """What the client connected to."""
        self.client_cert: bytes | None = None
        """The client's certificate, DER, where it proved one."""
        self.tls_version = ""
        self.tls_client = ""
        """The subject of that certificate."""

    # ── aiohttp's side: a connection comes and goes ──────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.on_made()
        self._meet(transport)
        super().connection_made(transport)
        if not self._proxy.arrived(self):
            self._phase = Phase.DEAF
            self.force_close()
            return
        self._deadline.after(self._proxy.config.timeouts.idle)

    def _meet(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        local = transport.get_extra_info("sockname")
        if self.introduced is not None:
            peer = self.introduced.source or peer
            local = self.introduced.destination or local
        if isinstance(peer, tuple):
            self.peer, self.peer_port = peer[0], peer[1]
        if isinstance(local, tuple):
            self.local = (local[0], local[1])
        if self._is_tls:
            encrypted = transport.get_extra_info("ssl_object")
            self.client_cert = encrypted.getpeercert(binary_form=True) or None
            self.tls_version = encrypted.version() or ""
            self.tls_client = peer_name(encrypted) or ""

    def connection_lost(self, exc: BaseException | None) -> None:
        self._deadline.close()
        self._proxy.left(self)
        if self._phase is Phase.BODY:
            self.body.fail(ClientGoneError("the client hung up within its request"))
        if self._phase is Phase.TUNNEL:
            self._tunnel.client_lost()
        self._phase = Phase.DEAF
        self._part()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.TUNNEL:
            self._tunnel.from_client(data)
        elif self._phase is not Phase.DEAF:
            self._input = self._input + data if self._input else data
            self._advance()

    def eof_received(self) -> bool | None:  # type: ignore[override] # asyncio's, not aiohttp's
        """The client closed its side. True keeps ours open, which TLS cannot."""
        if self._phase is Phase.TUNNEL:
            self._tunnel.client_ended()
            return not self._is_tls
        # One whose request was malformed waits to hear so.
        refused = self._phase is Phase.DEAF and self.running
        self.half_closed = refused or self._phase is Phase.ANSWER
        if self._phase is Phase.ANSWER:
            self._probe_again()
        return self.half_closed and not self._is_tls

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._phase is Phase.TUNNEL:
            self._tunnel.client_full(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._phase is Phase.TUNNEL:
            self._tunnel.client_full(False)

    @property
    def local_name(self) -> bytes:
        """What the client connected to, as a Host field would say it."""
        host, port = self.local
        return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()

    @property
    def _is_tls(self) -> bool:
        return self.scheme == b"https"

    # ── reading requests ─────────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """Read as far as the input goes: at most one exchange runs at a time."""
        try:
            if self._phase is Phase.HEAD:
                self._read_head()
            elif self._phase is Phase.BODY:
                self._read_body()
        except WireError as error:
            self._malformed(_REFUSALS[error.status](str(error)))
        except RequestError as error:
            self._malformed(error)
        self._regulate()

    def _read_head(self) -> None:
        data = self._input
        if data.startswith(b"\r\n"):
            # RFC 9112 §2.2: old clients send an empty line too many after a body.
            data = self._input = _EMPTY_LINES(b"", data, count=1)
            self._scanned = 0
        if not data:
            return
        limits = self._proxy.config.limits
        end = data.find(END, max(0, self._scanned - 3))
        if end < 0 or end > limits.head_bytes:
            self._head_so_far(data, limits.head_bytes)
            return
        self._deadline.clear()
        head = request_head(
            data[: end + 4], target_bytes=limits.target_bytes, most_fields=limits.fields
        )
        self.framing = framing = request_framing(head)
        self._scanned = 0
        self._input = data[end + 4 :]
        self.head = head
        self.body = ClientBody(self._loop, limits, self._flow)
        self.written = 0
        self._phase = Phase.BODY
        self._chunked = isinstance(framing, Ends)
        if isinstance(framing, Ends):
            self._chunks = ChunkReader(
                extension_bytes=limits.chunk_extension_bytes,
                trailer_bytes=limits.head_bytes,
                most_fields=limits.fields,
            )
        else:
            self._left = framing
            self.body.announce(framing)
        # Before anybody is told: what is malformed in the same breath is never forwarded.
        self._read_body()
        self.served += 1
        self.running = True
        super().data_received(_TOKEN)

    def _head_so_far(self, data: bytes, head_bytes: int) -> None:
        if not self._scanned:
            self._deadline.after(self._proxy.config.timeouts.head)
        if hopeless(data, max(0, self._scanned - 1)):
            raise WireError("a bare CR, LF or NUL in the head")
        if len(data) > head_bytes:
            line_ended = b"\r\n" in data
            raise WireError(
                f"the head is longer than {head_bytes} bytes", 431 if line_ended else 414
            )
        self._scanned = len(data)

    def _read_body(self) -> None:
        data, self._input = self._input, b""
        if self._chunked:
            if not data:
                return
            # In one piece: many tiny ones would take 50 bytes of memory beside theirs.
            if payload := b"".join(self._chunks.feed(data)):
                self.body.feed(payload)
            if not self._chunks.done:
                return
            self._input = self._chunks.rest
            self._request_is_here(self._chunks.trailers)
            return
        piece, self._input = data[: self._left], data[self._left :]
        self._left -= len(piece)
        if piece:
            self.body.feed(piece)
        if not self._left:
            self._request_is_here([])

    def _request_is_here(self, trailers: list[tuple[bytes, bytes]]) -> None:
        self._phase = Phase.ANSWER
        self.body.finish(trailers)
        if self.half_closed:
            self._probe_again()

    def _malformed(self, error: RequestError) -> None:
        """Where the next request would begin, nobody knows: this is the last that is read."""
        begun, self._input = self._input, b""
        phase, self._phase = self._phase, Phase.DEAF
        if self.running:
            self.body.fail(error)
            return
        # an answer to HEAD has no body, however bad the rest of the request is
        of_head = begun[:5] == b"HEAD " if phase is Phase.HEAD else self.head.method == "HEAD"
        self._proxy.refuse_unread(self, error, bodiless=of_head)
        self._hang_up()

    # ── an exchange ends ─────────────────────────────────────────────────────────────────────

    def may_stay(self) -> bool:
        """May the client be promised another request on this connection?"""
        most = self._proxy.config.limits.requests_per_connection
        return (
            self._phase is Phase.ANSWER
            and not (most and self.served >= most)
            and not (self.half_closed and not self._input)
            and not self._proxy.stopping
        )

    async def exchange_over(self, keep: bool) -> None:
        """The answer is written. `keep`: it promised another; else linger until the client ends."""
        self.running = False
        if self.transport is None:
            return
        if keep and self._phase is Phase.ANSWER:
            self._phase = Phase.HEAD
            self._body_full = False  # by a body that nobody read
            self._scanned = 0
            self._deadline.after(self._proxy.config.timeouts.idle)
            self._advance()
            if self.half_closed and self._phase in (Phase.HEAD, Phase.BODY):
                self.transport.close()  # whatever has begun will never be whole
            return
        if self._phase is Phase.TUNNEL:
            self._phase = Phase.DEAF
            return
        unread = self._phase is not Phase.ANSWER or self._input
        self._phase = Phase.DEAF
        self._input = b""
        self._deadline.after(FLUSH_S)
        if unread and not self.half_closed and not self.transport.is_closing():
            self._parted = self._loop.create_future()
            self._hang_up()
            await self._parted

    def _hang_up(self) -> None:
        """Close our side, and read on for a moment, into the void."""
        transport = self.transport
        if transport is None or transport.is_closing():
            self._part()
            return
        if transport.can_write_eof():  # TLS cannot: there `Connection: close` has to do
            transport.write_eof()
        self._body_full = False
        self._regulate()
        self._deadline.after(LINGER_S)

    def _part(self) -> None:
        if self._parted is not None and not self._parted.done():
            self._parted.set_result(None)

    # ── time ─────────────────────────────────────────────────────────────────────────────────

    def _expired(self) -> None:
        transport = self.transport
        if transport is None:
            return
        if self._phase is Phase.ANSWER and self.half_closed:
            self._probe(transport)
        elif self._phase is Phase.HEAD and self._input:
            self._malformed(ClientTimeoutError("the request's head did not come in time"))
        elif self._phase in (Phase.HEAD, Phase.DEAF):
            self._part()
            self.force_close()
            if transport.get_write_buffer_size():
                self._loop.call_later(FLUSH_S, transport.abort)

    def _probe(self, transport: asyncio.Transport) -> None:
        quiet = 0 < self.written == self._written_before and not transport.get_write_buffer_size()
        if self.head.version < (1, 1) or quiet:
            # It would take an interim answer for the final one, or for a part of it.
            transport.abort()
            return
        if not (self.written or transport.is_closing()):
            transport.write(_PROBE)
        self._probe_again(self._probes + 1)

    def _probe_again(self, probes: int = 0) -> None:
        """Arrange for the next probe, after so many of this request."""
        self._probes, self._written_before = probes, self.written
        next_s = PROBES_S[min(probes, len(PROBES_S) - 1)]
        may_ask = self.head.version >= (1, 1) and not self.written
        self._deadline.after(next_s if may_ask else self._proxy.config.timeouts.half_closed)

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def write(self, data: bytes) -> None:
        """Bytes of the final answer. Raises ClientGoneError."""
        self._send(data)
        self.written += len(data)

    def write_interim(self, data: bytes) -> None:
        """An interim (1xx) answer. Raises ClientGoneError."""
        self._send(data)

    def _send(self, data: bytes) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError("the client hung up")
        transport.write(data)

    async def drain(self, silence_s: float) -> None:
        """Wait while the client reads more slowly than the backend answers. Raises ClientGoneError,
        or ClientTimeoutError where it takes nothing at all for `silence_s`."""
        transport = self.transport
        if not self.writing_paused or transport is None:
            return
        try:
            await taken(transport, self._drained, silence_s)
        except TimeoutError:
            raise ClientTimeoutError("the client does not take its answer") from None
        except ConnectionError as error:
            raise ClientGoneError("the client hung up") from error

    async def _drained(self) -> None:
        try:
            await self._drain_helper()
        finally:
            self._drain_waiter = None  # aiohttp would wait for a cancelled one again

    def abort(self) -> None:
        """Cut it: whatever was promised does not come. With a reset, because to a body that lasts
        as long as its connection, a plain end would be a good one."""
        self._phase = Phase.DEAF
        transport = self.transport
        if transport is not None and not transport.is_closing():
            reset(transport)

    # ── reading on and off ───────────────────────────────────────────────────────────────────

    def _flow(self, may_come: bool) -> None:
        self._body_full = not may_come
        self._regulate()

    def pause_tunnel(self, full: bool) -> None:
        """The other end of the tunnel takes no more, or takes more again."""
        self._tunnel_full = full
        self._regulate()

    def _regulate(self) -> None:
        ahead = self._phase is Phase.ANSWER and len(self._input) > AHEAD_BYTES
        reading = not (self._body_full or self._tunnel_full or ahead)
        transport = self.transport
        if reading == self._reading or transport is None or transport.is_closing():
            return
        self._reading = reading
        if reading:
            transport.resume_reading()
        else:
            transport.pause_reading()

    # ── tunnels ──────────────────────────────────────────────────────────────────────────────

    def enter_tunnel(self, tunnel: Tunnelled) -> None:
        """From now on bytes go there, those that came ahead first. Returns when it is over."""
        ahead, self._input = self._input, b""
        self._phase = Phase.TUNNEL
        self._tunnel = tunnel
        self._deadline.clear()
        self._body_full = False
        if self.writing_paused:
            tunnel.client_full(True)
        if ahead:
            tunnel.from_client(ahead)
        self._regulate()

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, *_: Any
    ) -> web.StreamResponse:
        """aiohttp asks for an answer to a fault of ours that the journey did not translate."""
        self._proxy.fault(exc)
        self.abort()
        return web.Response(status=status)
