"""A client's connection: reads its requests off the wire one at a time, strictly.

Offers each to the fast lane first; what that leaves, aiohttp's server carries (`client_server`).
Heads, bodies, pipelining and what is refused are read here, by `wire`. What becomes of a request is
the lane's or the journey's.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from lb.client_body import ClientBody
from lb.client_phase import Phase
from lb.client_transport import ClientTransport, Tunnelled
from lb.deadline import Deadline
from lb.errors import (
    ClientGoneError,
    ClientTimeoutError,
    RequestError,
    refused,
)
from lb.fastlane import Begun, FastLane
from lb.half_closed import PROBE, Act, HalfClosed
from lb.site import Site
from lb.wire.chunked import ChunkReader
from lb.wire.errors import WireError
from lb.wire.framing import Ends, Framing, request_framing
from lb.wire.head import END, RequestHead, hopeless, request_head

if TYPE_CHECKING:
    from lb.client_server import Carrier, ClientServer

# Of requests that wait behind the running one.
AHEAD_BYTES: Final = 65536

# A connection that is closed with unread bytes on it is reset, and the reset may overtake the
# answer: so we close our side, and go on reading for this long.
LINGER_S: Final = 2.0

# What is unsent when a connection is closed still goes out, to whoever takes it by then.
FLUSH_S: float = 30.0

_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+").sub


class ClientConnection(ClientTransport):
    """`head`, `framing` and `body` are the running exchange's."""

    __slots__ = (
        "_body_full",
        "_carrier",
        "_chunked",
        "_chunks",
        "_deadline",
        "_half",
        "_input",
        "_lane",
        "_left",
        "_parted",
        "_phase",
        "_proxy",
        "_scanned",
        "_server",
        "_tunnel",
        "_tunnel_full",
        "body",
        "framing",
        "half_closed",
        "head",
        "redirect_to_https",
        "running",
        "served",
    )

    def __init__(self, server: ClientServer) -> None:
        super().__init__(server.loop, server.scheme)
        self._server = server
        self._proxy = server.proxy
        self.redirect_to_https = server.redirect_to_https
        self._carrier: Carrier | None = None
        self._lane: FastLane | None = None
        """Each carries exchanges, and is made for its first."""
        self._phase = Phase.HEAD
        self._input = b""
        self._scanned = 0
        """Bytes of the input that were looked at for the end of a head."""
        self._left = 0
        """Of a body with a Content-Length."""
        self._chunked = False
        self._chunks: ChunkReader
        self._tunnel: Tunnelled
        self.head: RequestHead
        self.framing: Framing = 0
        self.body: ClientBody
        self._deadline = Deadline(self._proxy.wheel, self)
        self._body_full = False
        self._tunnel_full = False
        self._half: HalfClosed
        self._parted: asyncio.Future[None] | None = None
        self.running = False
        """An exchange is to begin, or has, and it is not over."""
        self.half_closed = False
        self.served = 0
        """Requests begun."""

    # ── a connection comes and goes ──────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._proxy.arrived(self):
            self._phase = Phase.DEAF
            self.force_close()
            return
        self._deadline.after(self._proxy.config.timeouts.idle)

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
        if self._lane is not None:
            self._lane.client_lost()
        if self._carrier is not None:
            self._carrier.connection_lost(exc)
        # They lead back here: without them it goes at once, not when the collector comes by.
        self._carrier = self._lane = None

    def close(self) -> None:
        """Once the running exchange is over; no other begins."""
        if self._carrier is not None:
            self._carrier.close()

    def force_close(self) -> None:
        if self._carrier is not None:
            self._carrier.force_close()
        super().force_close()

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.HEAD and not self._input:
            if not self._take(data):
                self._input = data
                self._advance(offered=True)
        elif self._phase is Phase.TUNNEL:
            self._tunnel.from_client(data)
        elif self._phase is not Phase.DEAF:
            self._input = self._input + data if self._input else data
            self._advance()

    def eof_received(self) -> bool | None:
        """The client closed its side. True keeps ours open, which TLS cannot."""
        if self._phase is Phase.TUNNEL:
            self._tunnel.client_ended()
            return not self.is_tls
        if self._lane is not None and self._lane.busy:
            self._lane.hand_over()
        # One whose request was malformed waits to hear so.
        refused = self._phase is Phase.DEAF and self.running
        self.half_closed = refused or self._phase is Phase.ANSWER
        if self._phase is Phase.ANSWER:
            self._half_close()
        return self.half_closed and not self.is_tls

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._phase is Phase.TUNNEL:
            self._tunnel.client_full(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._phase is Phase.TUNNEL:
            self._tunnel.client_full(False)

    # ── the fast lane ────────────────────────────────────────────────────────────────────────

    def _take(self, data: bytes) -> bool:
        """Whether the fast lane carries the request that these bytes begin with."""
        if self.half_closed:
            return False
        lane = self._lane
        if lane is None:
            if not self._proxy.config.fast_lane:
                return False
            self._lane = lane = FastLane(self._proxy, self, self._loop)
        self._phase = Phase.ANSWER
        self.served += 1
        self.running = True
        try:
            used = lane.take(data)
        except Exception:
            if lane.busy:
                raise
            used = 0  # a bug of ours: the other lane answers for it
        if not used:
            self._phase = Phase.HEAD
            self.served -= 1
            self.running = False
            return False
        self._input = data[used:] if used < len(data) else b""
        return True

    def fast_over(self, keep: bool, now: float) -> None:
        """The answer is written. `keep`: the client may send another. `now`: the loop's."""
        self.running = False
        if not keep:
            self._phase = Phase.DEAF
            self._deadline.after(FLUSH_S)
            if self._input:
                self._input = b""
                self._hang_up()
            elif self.transport is not None:
                self.transport.close()
            return
        self._phase = Phase.HEAD
        self._scanned = 0
        self._deadline.at(now + self._proxy.rest_s)
        if self._input:
            self._advance()

    def hand_over(self, head: RequestHead, framing: int, body: ClientBody) -> None:
        """A journey goes on with what the lane began."""
        self.head, self.framing, self.body = head, framing, body
        self.written = 0
        self._deadline.clear()
        self._carry()

    def begun(self) -> Begun | None:
        """What a journey is to go on with; None: it is to begin."""
        return None if self._lane is None else self._lane.taken()

    # ── reading requests ─────────────────────────────────────────────────────────────────────

    def _advance(self, *, offered: bool = False) -> None:
        """Read as far as the input goes: at most one exchange runs at a time. `offered`: the fast
        lane does not want it."""
        try:
            if self._phase is Phase.HEAD:
                self._read_head(offered)
            elif self._phase is Phase.BODY:
                self._read_body()
        except WireError as error:
            self._malformed(refused(error.status, str(error)))
        except RequestError as error:
            self._malformed(error)
        self._regulate()

    def _read_head(self, offered: bool) -> None:
        data = self._input
        if data.startswith(b"\r\n"):
            # RFC 9112 §2.2: old clients send an empty line too many after a body.
            data = self._input = _EMPTY_LINES(b"", data, count=1)
            self._scanned = 0
        if not data or (not offered and self._take(data)):
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
        self._carry()

    def _carry(self) -> None:
        """Let a journey begin."""
        self.running = True
        if self.transport is None:
            return
        if self._carrier is None:
            self._carrier = self._server.carrier(self, self.transport)
        self._carrier.begin()

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
            self._half_close()

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
        proxy = self._proxy
        return (
            self._phase is Phase.ANSWER
            and self.served < proxy.most_requests
            and not (self.half_closed and not self._input)
            and not proxy.stopping
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
            self._deadline.after(self._proxy.rest_s)
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

    def _slim(self) -> bool:
        """Let go of what an idle connection has no use for; False where that was done before."""
        if self._carrier is None and self._lane is None:
            return False
        if self._carrier is not None:
            self._carrier.leave()
        self._carrier = self._lane = None
        idle_s = self._proxy.config.timeouts.idle
        self._deadline.after(max(idle_s - self._proxy.rest_s, 0.01) if idle_s else 0)
        return True

    # ── time ─────────────────────────────────────────────────────────────────────────────────

    def expired(self) -> None:
        transport = self.transport
        if transport is None:
            return
        if self._phase is Phase.ANSWER and self.half_closed:
            self._ask_half_closed(transport)
        elif self._phase is Phase.HEAD and self._input:
            self._malformed(ClientTimeoutError("the request's head did not come in time"))
        elif self._phase is Phase.HEAD and self._slim():
            return
        elif self._phase in (Phase.HEAD, Phase.DEAF):
            self._part()
            self.force_close()
            if transport.get_write_buffer_size():
                self._loop.call_later(FLUSH_S, transport.abort)

    def _ask_half_closed(self, transport: asyncio.Transport) -> None:
        if self._half.look(self.written, transport.get_write_buffer_size()) is Act.CUT:
            transport.abort()
            return
        if not (self.written or transport.is_closing()):
            transport.write(PROBE)
        self._deadline.after(self._half.next_s)

    def _half_close(self) -> None:
        """Only its answer is still to come: find out whether it waits for that."""
        silence_s = self._proxy.config.timeouts.half_closed
        self._half = HalfClosed(self.head.version, self.written, silence_s)
        self._deadline.after(self._half.next_s)

    # ── cutting it ───────────────────────────────────────────────────────────────────────────

    def abort(self) -> None:
        """Cut it: whatever was promised does not come."""
        self._phase = Phase.DEAF
        self.reset()

    def cut(self, site: Site) -> None:
        """End what the fast lane carries to this service."""
        lane = self._lane
        if lane is not None and lane.leads_to(site):
            self.abort()
            lane.client_lost()
            if self._carrier is not None:
                # a journey that was to go on with it would begin anew
                self._carrier.connection_lost(None)
                self._carrier = None

    def fault(self, error: BaseException | None) -> None:
        """The exchange met a fault of ours that nobody translated."""
        self._proxy.fault(error)
        self.abort()

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
        self.read(reading)

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
