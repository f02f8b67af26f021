"""The aiohttp reverse proxy: one request's journey from a client's connection to a lease and back.

Reads heads off aiohttp's low-level server, asks the rules (exchange, retry, pool), moves bodies
with back-pressure, and writes the answer's bytes itself, so that a backend's head reaches the
client as it was sent. Makes no rule of its own. Listening and stopping are `listener`'s.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import StreamReader, web

from lb import exchange
from lb.backend import Backend
from lb.config import ProxyConfig, QueueConfig
from lb.errors import (
    AllTriedError,
    BadAnswerError,
    BadRequestError,
    ClientGoneError,
    InternalError,
    NoBackendError,
    OverloadedError,
    Repeat,
    RequestError,
    UpstreamError,
)
from lb.exchange import Back, Framing, Onward, Request
from lb.headers import Connection, value_of
from lb.metrics import RequestMetrics
from lb.pool import Lease, Pool
from lb.retry import may_retry
from lb.upstream import Answer, Upstream
from lb.waiting import WaitingLine

log = logging.getLogger(__name__)


class _Sent(web.StreamResponse):
    """Tells aiohttp's server that the answer is already written, and whether to keep the
    connection. Holds nothing of a request: two of them serve all."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    @property
    def keep_alive(self) -> bool:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class RequestBody:
    """A request's body as it arrives; pulled by the upstream's writer, so that a backend which
    does not read stops us from reading the client (aiohttp pauses at 128 KiB)."""

    def __init__(self, journey: Journey, content: StreamReader, expects: bool) -> None:
        self._journey = journey
        self._content = content
        self._expects = expects
        self._timeout_s = journey.proxy.config.timeouts.between_bytes
        self.moved = 0
        self.error: RequestError | None = None
        self.waiting_for_client = False
        self.limit: asyncio.Timeout | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._expects:
            # The backend's connection stands: now the client may send. Answering here rather than
            # passing the question on costs an early refusal, and can never hang.
            self._expects = False
            self._journey.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._allow(waiting_for_client=True)
        try:
            piece = await self._content.readany()
        except ConnectionError as error:
            self.error = ClientGoneError("the client hung up within its request")
            raise self.error from error
        except Exception as error:
            # Whatever aiohttp's parser found wrong with it (it has several words for that).
            self.error = BadRequestError(f"the request's body is malformed: {error}")
            raise self.error from error
        if not piece:
            self._allow(waiting_for_client=False, limited=False)
            raise StopAsyncIteration
        self.moved += len(piece)
        self._allow(waiting_for_client=False)
        return piece

    def _allow(self, *, waiting_for_client: bool, limited: bool = True) -> None:
        self.waiting_for_client = waiting_for_client
        if self.limit is not None:
            now = asyncio.get_running_loop().time()
            until = now + self._timeout_s if limited and self._timeout_s else None
            self.limit.reschedule(until)


class Proxy:
    """Carries requests for one pool. `handle` is what aiohttp's server calls for each."""

    def __init__(
        self,
        config: ProxyConfig,
        pool: Pool,
        counters: RequestMetrics,
        request_ids: Callable[[], bytes],
        queue: QueueConfig,
    ) -> None:
        self.config = config
        self.pool = pool
        self.counters = counters
        self.request_ids = request_ids
        self.line = line = WaitingLine(pool, queue)
        counters.waiting = lambda: len(line)
        self.upstream = Upstream(config.timeouts)
        self.stopping = False
        """Answers close their connections; set once by the listener."""
        self.cutting = False
        self.running: set[Journey] = set()
        self.idle = asyncio.Event()
        """Set while nothing runs; looked at on stopping only."""
        self._unsubscribe = pool.subscribe(lambda change: self._let_go())

    def _let_go(self) -> None:
        """A backend drained or left: without running requests its idle connections may close."""
        for backend in self.upstream.backends():
            self.upstream.settle(backend)

    async def close(self) -> None:
        """Close every connection to a backend. Call when nothing runs any more."""
        self._unsubscribe()
        await self.upstream.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return await Journey(self, request).run()


class Journey:
    """One request. State: how far it has come, for the log, the metrics and the error's answer."""

    __slots__ = (
        "_http",
        "_identifier",
        "_status",
        "_task",
        "_written",
        "backend",
        "proxy",
        "request",
    )

    def __init__(self, proxy: Proxy, http: web.BaseRequest) -> None:
        self.proxy = proxy
        self._http = http
        version = http.version
        self.request = Request(
            method=http.method,
            target=http.raw_path.encode("utf-8", "surrogateescape"),
            version=(version.major, version.minor),
            fields=http.raw_headers,
            keep_alive=http.keep_alive,
        )
        self.backend: Backend | None = None
        self._identifier = b""
        self._status = 500
        self._task = asyncio.current_task()
        self._written = 0
        """Bytes of the answer given to the client's transport."""

    def __repr__(self) -> str:
        where = self.backend.name if self.backend else "no backend yet"
        return f"{self.request.method} {self.request.target.decode(errors='replace')} → {where}"

    @property
    def connection(self) -> web.RequestHandler:
        return self._http.protocol

    def cut(self) -> None:
        """End it now; the client sees its connection abort."""
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> web.StreamResponse:
        proxy = self.proxy
        counters = proxy.counters
        started = proxy.pool.clock()
        counters.in_flight += 1
        proxy.running.add(self)
        keep = False
        try:
            keep = await self._answer()
        except asyncio.CancelledError:
            # aiohttp cancels us when the client hangs up; the listener when it may wait no longer.
            self._status = 503 if proxy.cutting else 499
            if proxy.cutting:
                self._abort()
            raise
        finally:
            now = proxy.pool.clock()
            counters.in_flight -= 1
            counters.finished(self.request.method, self._status, now - started, now)
            proxy.running.discard(self)
            if proxy.stopping and not proxy.running:
                proxy.idle.set()
            if self.backend is not None:
                proxy.upstream.settle(self.backend)
        return _KEEP if keep else CLOSE

    async def _answer(self) -> bool:
        """The backend's answer, or ours. Returns whether the connection may serve another."""
        try:
            return await self._forward()
        except RequestError as error:
            return await self._refuse(error)
        except Exception:
            log.exception("request %s failed: %r", self._identifier.decode(), self)
            return await self._refuse(InternalError("the balancer failed; its log says how"))

    async def _forward(self) -> bool:
        proxy = self.proxy
        pool = proxy.pool
        request = self.request
        self._identifier = made = proxy.request_ids()
        onward = exchange.onward(request, self._client(), made)
        self._identifier = onward.identifier
        if proxy.counters.in_flight - len(proxy.line) > proxy.config.upstream_connections:
            raise OverloadedError(f"{proxy.config.upstream_connections} requests are running")
        body = self._body() if onward.has_body else None
        tried: list[Backend] = []
        lease = await self._first_lease()
        while True:
            with lease:
                backend = self.backend = lease.backend
                sent_at = pool.clock()
                try:
                    answer = await proxy.upstream.send(backend, onward, body)
                except UpstreamError as error:
                    failure = error
                    self._blame(lease, error)
                else:
                    return await self._pass_back(lease, answer, sent_at)
            proxy.upstream.settle(backend)
            tried.append(backend)
            lease = await self._lease_again(tried, failure, onward, body.moved if body else 0)

    async def _first_lease(self) -> Lease:
        """A lease, at once or after waiting in line."""
        proxy = self.proxy
        asked_at = proxy.pool.clock()
        try:
            return await proxy.line.lease()
        finally:
            now = proxy.pool.clock()
            proxy.counters.queue_wait.record(now - asked_at, now)

    async def _lease_again(
        self, tried: list[Backend], failure: UpstreamError, onward: Onward, moved: int
    ) -> Lease:
        """A lease for one more attempt, on another backend. Raises `failure` where there is none.

        After a reset the same backend may be asked once more where it is the only one: the usual
        cause is a kept connection that it closed just as we used it.
        """
        if not may_retry(failure.repeat, onward.method, len(tried), moved, self._written):
            raise failure
        line = self.proxy.line
        try:
            try:
                lease = await line.lease(exclude=tried)
            except AllTriedError:
                if failure.repeat is not Repeat.IDEMPOTENT:
                    raise
                lease = await line.lease()
        except NoBackendError:
            raise failure from None
        self.proxy.counters.retried(failure.reason)
        return lease

    def _blame(self, lease: Lease, error: UpstreamError) -> None:
        lease.failed(error)
        self.proxy.counters.upstream_error(error.reason)
        log.debug("request %s: %r: %s", self._identifier.decode(), self, error)

    # ── the answer ───────────────────────────────────────────────────────────────────────────

    async def _pass_back(self, lease: Lease, answer: Answer, sent_at: float) -> bool:
        try:
            try:
                back = exchange.back(
                    self.request, answer.status, answer.reason, answer.fields, stay=self._stay()
                )
            except BadAnswerError as error:
                self._blame(lease, error)
                raise
            self._status = answer.status
            try:
                await self._stream(answer, back)
            except UpstreamError as error:
                # Something was sent: a clean end would be a lie, so `_refuse` aborts.
                self._blame(lease, error)
                raise
        finally:
            answer.abandon()
        now = self.proxy.pool.clock()
        lease.answered(now - sent_at, now)
        return back.keep_alive

    async def _stream(self, answer: Answer, back: Back) -> None:
        if answer.complete or back.framing is Framing.NONE:
            # Most answers: all of it is here, and leaves in one write.
            body = b"" if back.framing is Framing.NONE else answer.take()
            if back.framing is Framing.CHUNKED:
                body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
            self.write(back.head + body)
            await self._drain()
            return
        self.write(back.head)
        chunked = back.framing is Framing.CHUNKED
        while piece := await answer.read():
            self.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await self._drain()
        if chunked:
            self.write(b"0\r\n\r\n")
            await self._drain()

    async def _refuse(self, error: RequestError) -> bool:
        """Our own answer. Where the backend's already began, the connection is cut instead."""
        self._status = error.status
        if self._written or isinstance(error, ClientGoneError):
            self._abort()
            return False
        identifier = self._identifier
        back, body = exchange.refusal(self.request, error, identifier, stay=self._stay())
        try:
            self.write(back.head + body)
            await self._drain()
        except ClientGoneError:
            self._status = 499
            return False
        return back.keep_alive

    # ── the client's connection ──────────────────────────────────────────────────────────────

    def write(self, data: bytes) -> None:
        """Give bytes to the client's transport. Raises ClientGoneError."""
        transport = self._http.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError("the client hung up")
        if not data.startswith(b"HTTP/1.1 100 "):
            self._written += len(data)
        transport.write(data)

    async def _drain(self) -> None:
        """Wait while the client reads more slowly than the backend answers."""
        if self._http.protocol.writing_paused:
            try:
                await self._http.writer.drain()
            except ConnectionError as error:
                raise ClientGoneError("the client hung up") from error

    def _abort(self) -> None:
        transport = self._http.transport
        if transport is not None:
            transport.abort()

    def _stay(self) -> bool:
        """May the connection be kept? Not with half a request's body still to come."""
        return not self.proxy.stopping and self._http.content.is_eof()

    def _client(self) -> Connection:
        connection = self._http.protocol
        peer, local = connection.peername, connection.sockname
        return _connection(
            peer[0] if isinstance(peer, tuple) else "unknown",
            local[1] if isinstance(local, tuple) else 0,
        )

    def _body(self) -> RequestBody:
        expect = value_of(self.request.fields, b"expect")
        expects = (
            expect is not None
            and expect.lower() == b"100-continue"
            and self.request.version >= (1, 1)
        )
        return RequestBody(self, self._http.content, expects)


@functools.lru_cache(maxsize=4096)
def _connection(peer: str, port: int) -> Connection:
    return Connection(peer=peer.encode(), port=b"%d" % port)


_KEEP: Final = _Sent(True)
CLOSE: Final = _Sent(False)
