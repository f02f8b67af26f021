"""One request and its answer on one connection to a backend: sends, reads strictly, and says when.

Both directions run at once: an answer may begin, or end, before the request's body did. Every
failure leaves here as a RequestError that says whose fault it is. Retries are not its business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from lb.backend_connection import HIGH_BYTES, BackendConnection
from lb.client_transport import ClientTransport
from lb.config import LimitsConfig, TimeoutsConfig
from lb.errors import (
    BadAnswerError,
    BodyCutError,
    BodyTimeoutError,
    FirstByteTimeoutError,
    RequestError,
    SendTimeoutError,
    StaleConnectionError,
    UpstreamResetError,
)
from lb.exchange import Onward
from lb.headers import tokens
from lb.pour import Pour
from lb.request_body import RequestBody
from lb.sockets import taken
from lb.tasks import spawn
from lb.wire.chunked import ChunkReader, chunk, last_chunk
from lb.wire.errors import WireError
from lb.wire.framing import Ends, Framing, answer_framing
from lb.wire.head import END, AnswerHead, Fields, answer_head, hopeless

# A backend that sends interim answers without end would keep a request alive for ever.
MOST_INTERIM: Final = 32

SMALL_BYTES: Final = 65536
TOGETHER_S: Final = 0.1
"""An answer of at most so many bytes is passed on as a whole if it comes within this time: one that
breaks off between head and body can then be asked of another backend. Many applications write the
two one after the other, and a machine held to a share of a core may stand still in between, for as
long as its accounting period lasts, 0.1 s."""

Interim = Callable[[AnswerHead], None]


class BackendExchange:
    """Call `send`, then `head` once, then `read` to the end (or `enter` a tunnel)."""

    def __init__(
        self,
        connection: BackendConnection,
        onward: Onward,
        body: RequestBody | None,
        timeouts: TimeoutsConfig,
        limits: LimitsConfig,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.connection = connection
        self._onward = onward
        self._body = body
        self._timeouts = timeouts
        self._limits = limits
        self._loop = loop
        self._pump: asyncio.Task[None] | None = None
        self._pump_error: RequestError | None = None
        self._head_due: float | None = None
        self._heard = False
        """The backend sent at least one byte."""
        self._scanned = 0
        """Bytes of an unfinished head that were looked at."""
        self._keep = False
        self._framing: Framing = 0
        self._length: int | None = None
        self._chunks: ChunkReader | None = None
        self._ready: deque[bytes] = deque()
        self.trailers: Fields = []
        self.complete = False
        """The whole answer is in memory."""

    # ── the request ──────────────────────────────────────────────────────────────────────────

    def send(self) -> None:
        """Write the head; the body follows as it comes."""
        self.connection.used += 1
        self.connection.write(self._onward.head)
        if self._body is None:
            self.sent(self._loop.time())
        else:
            self._pump = spawn(self._send_body(self._body), name="request body")

    def sent(self, at: float) -> None:
        """The whole request went out, by the loop's clock."""
        limit_s = self._timeouts.first_byte
        self._head_due = at + limit_s if limit_s else None

    async def _send_body(self, body: RequestBody) -> None:
        connection, chunked = self.connection, self._onward.chunked
        try:
            async for piece in body.pieces():
                if connection.transport.is_closing():
                    return
                connection.write(chunk(piece) if chunked else piece)
                await self._taken()
            if chunked:
                connection.write(last_chunk(self._onward.trailers(body.trailers)))
        except RequestError as error:
            self._pump_error = error
        self.sent(self._loop.time())
        connection.poke()

    async def _taken(self) -> None:
        connection = self.connection
        try:
            await taken(connection.transport, connection.drain, self._timeouts.between_bytes)
        except TimeoutError:
            raise SendTimeoutError("the backend does not take the request's body") from None

    @property
    def _request_sent(self) -> bool:
        return self._pump is None or (self._pump.done() and self._pump_error is None)

    # ── the answer's head ────────────────────────────────────────────────────────────────────

    async def head(self, interim: Interim) -> AnswerHead:
        """The final answer's head (or a 101). `interim` is told of every other 1xx."""
        for _ in range(MOST_INTERIM):
            head = await self._next_head()
            if head.status == 101:
                if not self._onward.upgrade:
                    raise BadAnswerError("101 was not asked for")
                if not self._request_sent:
                    # RFC 9110 §7.8: what follows would be half body, half tunnel.
                    raise BadAnswerError("101 before the end of the request")
                return head
            if head.status >= 200:
                self._begin_body(head)
                return head
            interim(head)
        raise BadAnswerError(f"more than {MOST_INTERIM} interim answers")

    async def _next_head(self) -> AnswerHead:
        connection = self.connection
        while True:
            data = connection.buffer
            if data:
                self._heard = True
                end = data.find(END, max(0, self._scanned - 3))
                if 0 <= end <= self._limits.head_bytes:
                    connection.buffer = data[end + 4 :]
                    self._scanned = 0
                    return self._parse(data[: end + 4])
                if end >= 0 or len(data) > self._limits.head_bytes:
                    raise BadAnswerError("the answer's head is too long")
                if hopeless(data, max(0, self._scanned - 1)):
                    raise BadAnswerError("a bare CR, LF or NUL in the answer's head")
                self._scanned = len(data)
            if connection.ended:
                raise self._ended()
            if self._pump_error is not None:
                raise self._pump_error
            await self._wait_for_head()

    def _parse(self, data: bytes) -> AnswerHead:
        try:
            return answer_head(data, most_fields=self._limits.fields)
        except WireError as error:
            raise BadAnswerError(str(error)) from None

    def _ended(self) -> RequestError:
        if self._heard:
            return BadAnswerError("the connection ended within the answer's head")
        kind = StaleConnectionError if self.connection.used > 1 else UpstreamResetError
        return kind("the connection ended before an answer")

    async def _wait_for_head(self) -> None:
        try:
            async with asyncio.timeout_at(self._head_due):
                await self.connection.more()
        except TimeoutError:
            raise FirstByteTimeoutError("connected, and no answer in time") from None

    @property
    def length(self) -> int | None:
        """Bytes of the answer's body by its Content-Length; None where only its end will tell."""
        return self._length

    # ── the answer's body ────────────────────────────────────────────────────────────────────

    async def small_whole(self) -> None:
        """Wait for the rest of a small answer, but not long. Raises BodyCutError or
        BodyTimeoutError."""
        if self.complete or self._length is None or self._length > SMALL_BYTES:
            return
        try:
            async with asyncio.timeout(TOGETHER_S):
                while not self.complete:
                    await self._read_on()
        except TimeoutError:
            pass  # it is passed on as it comes

    def _begin_body(self, head: AnswerHead) -> None:
        try:
            self._framing = framing = answer_framing(head, self._onward.method)
            self._length = framing if isinstance(framing, int) else None
            if framing is Ends.CHUNKED:
                self._chunks = ChunkReader(
                    extension_bytes=self._limits.chunk_extension_bytes,
                    trailer_bytes=self._limits.head_bytes,
                    most_fields=self._limits.fields,
                )
            self._keep = framing is not Ends.CLOSE and stays(head)
            # What is malformed in the same breath as the head is still a 502, not a cut answer.
            self._take()
        except WireError as error:
            raise BadAnswerError(str(error)) from None

    def _take(self) -> None:
        """Move what the connection has into `_ready`. Raises WireError."""
        connection = self.connection
        if self._chunks is not None:
            # In one piece: many tiny ones cost a write each, and 50 bytes of memory beside theirs.
            if payload := b"".join(self._chunks.feed(connection.take(HIGH_BYTES))):
                self._ready.append(payload)
            if self._chunks.done:
                connection.buffer = self._chunks.rest + connection.buffer
                self.trailers = self._chunks.trailers
                self.complete = True
            return
        framing = self._framing
        if isinstance(framing, int):
            if framing and (piece := connection.take(min(framing, HIGH_BYTES))):
                self._ready.append(piece)
                self._framing = framing = framing - len(piece)
            self.complete = not framing
            return
        if piece := connection.take(HIGH_BYTES):
            self._ready.append(piece)

    def all(self) -> bytes:
        """The whole body, or what is left of it, once `complete`."""
        body = b"".join(self._ready)
        self._ready.clear()
        return body

    async def read(self) -> bytes:
        """The next piece, empty at the end. Raises BodyCutError or BodyTimeoutError."""
        while not self._ready:
            if self.complete:
                return b""
            await self._read_on()
        return self._ready.popleft()

    async def pour(self, client: ClientTransport, silence_s: float) -> None:
        """Write the rest of the body to the client as it comes. Raises what `read` does, and a
        ClientFaultError where the client takes nothing for `silence_s`, or is gone."""
        while self._ready:
            client.write(self._ready.popleft())
        if isinstance(self._framing, Ends) or self.complete:
            return
        pour = Pour(self.connection, client, self._framing, self._loop)
        try:
            await pour.run(self._timeouts.between_bytes, silence_s)
        finally:
            self._framing = pour.left
            self.complete = not pour.left
        if pour.left:
            self._body_ended()

    async def _read_on(self) -> None:
        connection = self.connection
        if not connection.buffer:
            if connection.ended:
                self._body_ended()
                return
            try:
                async with asyncio.timeout(self._timeouts.between_bytes or None):
                    await connection.more()
            except TimeoutError:
                raise BodyTimeoutError("the answer's body stalled") from None
        try:
            self._take()
        except WireError as error:
            raise BodyCutError(str(error)) from None

    def _body_ended(self) -> None:
        if self._framing is not Ends.CLOSE:
            raise BodyCutError("the answer broke off")
        if self.connection.lost is not None:
            raise BodyCutError(f"the answer broke off: {self.connection.lost}")
        self.complete = True

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    @property
    def reusable(self) -> bool:
        """May the connection serve another request?"""
        return (
            self._keep
            and self.complete
            and not self._ready
            and self._request_sent
            and self.connection.clean
        )

    def stop_sending(self) -> None:
        """The rest of the request's body is of no use to anybody."""
        if self._pump is not None and not self._pump.done():
            self._pump.cancel()


def stays(head: AnswerHead) -> bool:
    """May the connection be used again, by what the answer's head says?"""
    options = tokens(head.fields, b"connection")
    if head.status == 204 and _announces_body(head.fields):
        return False
    return b"close" not in options if head.version >= (1, 1) else b"keep-alive" in options


def _announces_body(fields: Fields) -> bool:
    """Does it say that a body follows, which a 204 has none of? It may well come."""
    return any(
        name.lower() == b"transfer-encoding"
        or (name.lower() == b"content-length" and value.strip(b"0"))
        for name, value in fields
    )
