"""The backend's side of a request: sends a head and a body, gives back a head and a body.

Speaks plain values to its caller. Every error of aiohttp's client is translated here, once. Picks
no backend and decides no retry.

Each backend has a session of its own, so that its idle connections can be closed when it drains
without touching another's, and a VM that comes back under an old address never meets a connection
of its predecessor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from lb.address import split_address
from lb.backend import Backend
from lb.config import TimeoutsConfig
from lb.errors import (
    BadAnswerError,
    BadRequestError,
    BodyCutError,
    BodyTimeoutError,
    ClientTimeoutError,
    ConnectFailedError,
    ConnectTimeoutError,
    FirstByteTimeoutError,
    RequestError,
    SendTimeoutError,
    UpstreamResetError,
)
from lb.exchange import Onward
from lb.headers import Fields
from lb.tasks import spawn

# Shorter than the idle timeout of every common server (Apache's 5 s is the shortest, aiohttp's
# 75 s the guest's): a connection is dropped by us before the backend may close it under a request.
IDLE_S: Final = 4.0

# On loopback a connection stands within microseconds, or its first packet was dropped.
KNOCK_S: Final = 0.05
KNOCK_PAUSE_S: Final = 0.02
DOOR_S: Final = 10.0

# A field block as long as common servers allow; the server side refuses longer ones before.
MAX_FIELD_BYTES: Final = 65536

# aiohttp would add these to a request that lacks them.
_NOT_ADDED: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class Body(Protocol):
    """A request's body on its way from the client, for one attempt at most."""

    error: RequestError | None
    """Why reading it failed, where that was the client's doing."""
    waiting_for_client: bool
    limit: asyncio.Timeout | None
    """Moved on by the body at every piece; None once the answer's head is there."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def __anext__(self) -> bytes: ...


class Answer:
    """A backend's answer: its head, and its body piece by piece. Give it up with `abandon`."""

    __slots__ = ("_closed", "_content", "_protocol", "_response", "fields", "status")

    def __init__(self, response: aiohttp.ClientResponse, between_bytes_s: float) -> None:
        self._response = response
        self._content = response.content
        self.status = response.status
        self.fields: Fields = response.raw_headers
        self._protocol: ResponseHandler | None = None
        self._closed: asyncio.Future[None] | None = None
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            self._still_coming(connection.protocol, between_bytes_s)

    def _still_coming(self, protocol: ResponseHandler, between_bytes_s: float) -> None:
        self._protocol = protocol
        # From here on a shorter silence is a stall.
        protocol.read_timeout = between_bytes_s or None
        protocol.start_timeout()
        # aiohttp leaves a body's reader waiting for ever where a malformed chunk made it close
        # the connection: the end of the connection must be the end of the body.
        closed = self._closed = protocol.closed
        if closed is None:
            self._lost()
        else:
            closed.remove_done_callback(_heard)
            closed.add_done_callback(_heard)
            closed.add_done_callback(self._lost)

    def _lost(self, _: object = None) -> None:
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("malformed, and then its end"))

    @property
    def reason(self) -> bytes:
        return (self._response.reason or "").encode("utf-8", "surrogateescape")

    @property
    def complete(self) -> bool:
        """The whole body is here: `take` gives it without waiting."""
        return self._content.is_eof() and self._content.exception() is None

    def take(self) -> bytes:
        return self._content.read_nowait()

    async def read(self) -> bytes:
        """The next piece, empty at the end. Raises BodyCutError or BodyTimeoutError."""
        try:
            piece = await self._content.readany()
        except aiohttp.ServerTimeoutError:
            raise BodyTimeoutError("the answer's body stalled") from None
        except (aiohttp.ClientError, OSError) as error:
            raise BodyCutError(f"the answer broke off: {error}") from error
        if not piece and self._protocol is not None and self._ends_with_connection():
            # aiohttp ends such a body cleanly even where the connection was reset.
            ended = self._protocol.exception()
            if isinstance(ended, OSError):
                raise BodyCutError(f"the answer broke off: {ended}") from ended
        return piece

    def _ends_with_connection(self) -> bool:
        names = self._response.headers
        return "Content-Length" not in names and "Transfer-Encoding" not in names

    def abandon(self) -> None:
        """Close the connection it came on, unless the answer was read to its end."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._lost)
        if not self._response.closed:
            self._response.close()


def _heard(closed: asyncio.Future[None]) -> None:
    """An idle connection that the backend reset is no news: keep asyncio from logging it."""
    if not closed.cancelled():
        closed.exception()


class Upstream:
    """Connections to the backends, kept alive between requests."""

    def __init__(self, timeouts: TimeoutsConfig) -> None:
        self._timeouts = timeouts
        self._sessions: dict[Backend, aiohttp.ClientSession] = {}
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=timeouts.connect or None,
            sock_read=timeouts.first_byte or None,
        )

    async def send(self, backend: Backend, onward: Onward, body: Body | None) -> Answer:
        """One attempt. Returns once the answer's head is there; raises a RequestError."""
        try:
            fields = [(name.decode(), value.decode()) for name, value in onward.fields]
            target = onward.target.decode()
        except UnicodeDecodeError:
            # aiohttp's client writes text: other bytes would reach the backend mangled.
            raise BadRequestError("the request's head holds bytes that are not UTF-8") from None
        if body is None:
            return await self._send(backend, onward, target, fields, None)
        try:
            async with asyncio.timeout(None) as body.limit:
                try:
                    return await self._send(backend, onward, target, fields, body)
                finally:
                    body.limit = None
        except TimeoutError:
            if body.waiting_for_client:
                raise ClientTimeoutError("the request's body stalled") from None
            raise SendTimeoutError("the backend does not take the request's body") from None

    async def _send(
        self,
        backend: Backend,
        onward: Onward,
        target: str,
        fields: list[tuple[str, str]],
        body: Body | None,
    ) -> Answer:
        session = self._sessions.get(backend) or self._open(backend)
        try:
            response = await session.request(
                onward.method,
                _url(backend.address, target),
                headers=fields,
                data=body,
                allow_redirects=False,
            )
        except RequestError as error:
            if body is not None and body.error is not None:
                raise body.error from error
            raise
        return Answer(response, self._timeouts.between_bytes)

    def _open(self, backend: Backend) -> aiohttp.ClientSession:
        session = self._sessions[backend] = aiohttp.ClientSession(
            connector=_CleanConnector(one_by_one=backend.vm is not None and _is_loopback(backend)),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_NOT_ADDED,
            timeout=self._timeout,
            middlewares=(_exactly_once,),
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
        )
        return session

    def backends(self) -> list[Backend]:
        """Those with a connection, or that had one lately."""
        return list(self._sessions)

    def settle(self, backend: Backend) -> None:
        """Close the connections of a backend that gets no new request and runs none."""
        if backend.in_flight or backend.probed:
            return
        session = self._sessions.pop(backend, None)
        if session is not None:
            spawn(session.close(), name=f"close connections to {backend.name}")

    async def close(self) -> None:
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()


class _CleanConnector(aiohttp.TCPConnector):
    """Never hands out a kept connection with unread bytes on it, and never knocks twice at once.

    aiohttp does the first: an answer that nobody asked for, sent while the connection idled, would
    be given to the next request, and so to another client.

    The second is for forwarded ports (`one_by_one`): QEMU listens on them with a backlog of 1, so
    of several connections opened at once the kernel drops all but two. Their first packets are
    sent again after 1, 2, 4 … 32 s: of 64 at once, up to 49 had no answer after 20 s.
    """

    def __init__(self, *, one_by_one: bool) -> None:
        # No limit here: the proxy admits no more requests than it allows connections.
        super().__init__(limit=0, keepalive_timeout=IDLE_S)
        self._door = asyncio.Semaphore(1) if one_by_one else None

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        if self._door is None:
            return await super()._create_connection(req, traces, timeout)
        async with asyncio.timeout(DOOR_S), self._door:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + (timeout.sock_connect or DOOR_S)
            knock = aiohttp.ClientTimeout(sock_connect=KNOCK_S)
            while True:
                try:
                    return await super()._create_connection(req, traces, knock)
                except TimeoutError:
                    # dropped: knocking anew is quicker than waiting for the kernel to
                    if loop.time() > deadline:
                        raise
                await asyncio.sleep(KNOCK_PAUSE_S)

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                return connection
            connection.close()


def _is_loopback(backend: Backend) -> bool:
    host, _ = split_address(backend.address)
    return host == "::1" or host.startswith("127.")


def _url(address: str, target: str) -> URL:
    if target == "*":
        host, _, port = address.rpartition(":")
        return URL.build(
            scheme="http", host=host.strip("[]"), port=int(port), path="*", encoded=True
        )
    return URL(f"http://{address}{target}", encoded=True)


async def _exactly_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Translates errors where aiohttp would otherwise quietly send an idempotent request again to
    the same backend: its loop repeats on its own exceptions only, so ours pass through it."""
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError) as error:
        raise translate(error) from error


def translate(error: BaseException) -> RequestError:
    """What went wrong before the answer's head was there, in our words."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectTimeoutError("no connection in time")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return FirstByteTimeoutError("connected, and no answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectFailedError(f"no connection: {error.os_error.strerror or error.os_error}")
    if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str):
        return BadAnswerError("the connection ended within the answer's head")
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return UpstreamResetError("the connection ended before an answer")
    return BadAnswerError("what came back is not HTTP")
