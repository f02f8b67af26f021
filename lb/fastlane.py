"""The fast lane: the common exchange, carried by the two connections' protocols alone.

No task, no timer, no parsing of what was parsed before: a head that is byte for byte one already
accepted on this connection goes by the plan made for it. Whatever is not common is left to the
aiohttp server before anything of it was sent; whatever becomes so later (an answer that is late,
long, malformed or missing) is handed over with the bytes it has, before the client was sent any. So
this file knows success alone: every failure, timeout and retry is the journey's. Makes no rule.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from lb.backend import Backend
from lb.backend_connection import BackendConnection
from lb.backend_exchange import SMALL_BYTES, stays
from lb.breaker import BreakerState
from lb.client_body import ClientBody
from lb.errors import ClientGoneError, NoBackendError, Repeat
from lb.exchange import Body
from lb.fast_plan import Plan, Shape, plan_for
from lb.headers import value_of
from lb.latency import bucket_of
from lb.logged import entry
from lb.pool import Lease
from lb.relay import promised, whole
from lb.request_metrics import key_of
from lb.retry import repeat_of_status
from lb.site import Site
from lb.wire.chunked import ChunkReader
from lb.wire.errors import WireError
from lb.wire.framing import Ends, answer_framing
from lb.wire.head import END, Fields, answer_head

if TYPE_CHECKING:
    from lb.client_connection import ClientConnection
    from lb.overdue import Overdue
    from lb.proxy import Proxy

_CLOSED: Final = BreakerState.CLOSED


class Known:
    """An answer's head as this backend's connection brought it last, and what the client got. Never
    changed, and no dataclass for the reason that `Plan` is none."""

    def __init__(
        self, head: bytes, size: int, shape: Shape, back: bytes, key: tuple[str, int], until: float
    ) -> None:
        self.head = head
        self.head_bytes = len(head)
        self.size = size
        """Of the whole answer."""
        self.shape = shape
        self.back = back
        self.back_bytes = len(back)
        self.key = key
        """What it is counted by; the second is its status."""
        self.until = until
        """By the proxy's clock: then the date in it is the one before. Infinite where the date is
        the backend's own."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An exchange that a journey goes on with: its place is reserved and counted, and where there
    is a `connection`, all of the request was sent there."""

    plan: Plan
    lease: Lease
    connection: BackendConnection | None
    identifier: bytes
    head: bytes
    """For the backend."""
    body: bytes
    began: float
    """By the proxy's clock."""
    sent_at: float
    """By the loop's."""


class FastLane:
    """One client connection's. At most one exchange runs, `busy` from `take` to its end."""

    __slots__ = (
        "_backend",
        "_body",
        "_client",
        "_clock",
        "_connection",
        "_given",
        "_head",
        "_identifier",
        "_loop",
        "_overdue",
        "_plan",
        "_proxy",
        "_started",
        "began",
        "busy",
        "heard_at",
    )

    def __init__(
        self, proxy: Proxy, client: ClientConnection, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._loop = loop
        self._clock = proxy.clock
        self._overdue: Overdue = proxy.overdue
        self._plan: Plan | None = None
        self._backend: Backend
        self._connection: BackendConnection | None = None
        self._identifier = b""
        self._head = b""
        self._body = b""
        self._given = False
        """Handed over, and not taken yet."""
        self._started = 0.0
        """By the proxy's clock."""
        self.began = 0.0
        self.heard_at = 0.0
        self.busy = False

    # ── the request ──────────────────────────────────────────────────────────────────────────

    def take(self, data: bytes) -> int:
        """Begin the exchange that these bytes ask for. Returns how many of them are its request's;
        0: it is not for this lane, and nothing has happened."""
        proxy, plan = self._proxy, self._plan
        if plan is None or not data.startswith(plan.head):
            self._plan = plan = plan_for(proxy, self._client, data)
            if plan is None:
                return 0
        site = plan.site
        if plan.rules is not proxy.rules or plan.config is not site.config:
            self._plan = None
            return self.take(data)
        size, overdue = plan.size, self._overdue
        if (
            len(data) < size
            or proxy.stopping
            or site.breaker.state is not _CLOSED
            # more cannot run than the two have
            or (len(overdue.running) + len(proxy.running) >= proxy.most_sent and proxy.is_full)
        ):
            return 0
        now = self._clock()
        try:
            backend = site.line.reserve_now(now, plan.key, plan.prefer)
        except NoBackendError:
            return 0
        self._backend = backend
        self._started = now
        counters = site.counters
        counters.arrived += 1
        counters.in_flight += 1
        counters.unqueued += 1
        site.budget.request(now)
        self._identifier = identifier = plan.identifier or proxy.new_identifier()
        before, between, after = plan.onward
        trace = proxy.trace() if plan.traced else b""
        mark = identifier if plan.marked else b""
        self._head = head = b"".join((before, trace, between, mark, after))
        self._body = body = data[plan.head_bytes : size] if plan.length else b""
        self.busy = True
        self.began = began = self._loop.time()
        overdue.begin(self)
        connection = site.upstream.idle(backend, began, repeatable=plan.repeatable)
        self._connection = connection
        if connection is None:
            self.hand_over()
            return size
        connection.lane = self
        connection.used += 1
        connection.transport.write(head + body if body else head)
        return size

    # ── the answer ───────────────────────────────────────────────────────────────────────────

    def from_backend(self, data: bytes) -> None:
        connection, plan, client = self._connection, self._plan, self._client
        if connection is None or plan is None:
            return
        if connection.buffer:
            data, connection.buffer = connection.buffer + data, b""
        transport = client.transport
        if transport is None or client.writing_paused or transport.is_closing():
            self._hand_back(data, connection)  # a journey waits for a slow client
            return
        known = connection.known
        now = self._clock()
        if (
            known is None
            or known.shape is not plan.shape
            or not data.startswith(known.head)
            or now >= known.until
            or not (client.may_stay() or not plan.shape.keep)
        ):
            self._read(data, connection, plan, now)
        elif len(data) == known.size:
            back = known.back + data[known.head_bytes :]
            self._pass_back(back, known.key, known.back_bytes, plan.shape.keep, now)
        elif len(data) < known.size:
            self._wait(data, connection)
        else:
            self._hand_back(data, connection)

    def broken(self) -> None:
        """The backend's connection ended: the journey finds out what that means."""
        self.hand_over()

    def _wait(self, data: bytes, connection: BackendConnection) -> None:
        """For the rest of a small answer."""
        connection.buffer = data
        if not self.heard_at:
            self.heard_at = self._loop.time()
            self._overdue.heard(self)

    def _read(self, data: bytes, connection: BackendConnection, plan: Plan, now: float) -> None:
        """An answer whose head is not the one that came last."""
        limits, site = self._proxy.config.limits, plan.site
        end = data.find(END, 0, limits.head_bytes + 4)
        if end < 0:
            if len(data) > limits.head_bytes:
                self._hand_back(data, connection)
            else:
                self._wait(data, connection)
            return
        try:
            head = answer_head(data[: end + 4], most_fields=limits.fields)
            framing = answer_framing(head, plan.asked.method)
        except WireError:
            self._hand_back(data, connection)
            return
        if (
            head.status < 200
            or framing is Ends.CLOSE
            or not stays(head)
            or repeat_of_status(head.status, site.config.retry) is not Repeat.NEVER
            or (isinstance(framing, int) and framing > SMALL_BYTES)
        ):
            self._hand_back(data, connection)
            return
        trailers: Fields = []
        if isinstance(framing, Ends):
            chunks = ChunkReader(
                extension_bytes=limits.chunk_extension_bytes,
                trailer_bytes=limits.head_bytes,
                most_fields=limits.fields,
            )
            try:
                body = b"".join(chunks.feed(data[end + 4 :]))
            except WireError:
                self._hand_back(data, connection)
                return
            if not chunks.done or chunks.rest or len(body) > SMALL_BYTES:
                # not whole: how long it gets, nobody knows
                self._hand_back(data, connection)
                return
            length, trailers = None, chunks.trailers
        else:
            length, size = framing, end + 4 + framing
            if len(data) < size:
                self._wait(data, connection)
                return
            if len(data) > size:
                self._hand_back(data, connection)
                return
            body = data[end + 4 :]
        back, gzip = promised(
            plan.asked,
            head,
            length,
            plan.route,
            site,
            self._backend,
            plan.told.scheme,
            stay=self._client.may_stay(),
            date=self._proxy.date(),
        )
        key = key_of(plan.asked.method, head.status)
        if (
            back.keep_alive is plan.shape.keep
            and back.body is not Body.CHUNKED
            and site.sticky is None
            and not site.config.compression.enabled
        ):
            dated = value_of(head.fields, b"date") is not None
            until = math.inf if dated else now + 1 - time.time() % 1
            connection.known = Known(data[: end + 4], len(data), plan.shape, back.head, key, until)
        rest = whole(back, body, gzip, trailers)
        self._pass_back(back.head + rest, key, len(back.head), back.keep_alive, now)

    def _pass_back(
        self, data: bytes, key: tuple[str, int], head_bytes: int, keep: bool, now: float
    ) -> None:
        """The whole answer, to a client that takes it."""
        client, plan, connection = self._client, self._plan, self._connection
        if plan is None or connection is None or client.transport is None:
            return
        client.transport.write(data)
        site, backend, status = plan.site, self._backend, key[1]
        loop_now = self._loop.time()
        took_s = now - self._started
        bucket = bucket_of(took_s)
        site.pool.record_answer(backend, took_s, now, status, bucket)
        if plan.learns:
            self._learn(site, status, took_s, now)
        connection.lane = None
        site.upstream.keep(backend, connection, loop_now)
        site.pool.release(backend)
        site.counters.finished_fast(key, bucket, took_s, now)
        if self._proxy.access_log.enabled:
            self._log(status, len(data) - head_bytes, took_s, now)
        self._overdue.end(self)
        self._connection = None
        self.busy = False
        self.heard_at = 0.0
        client.fast_over(keep, loop_now)

    def _learn(self, site: Site, status: int, took_s: float, now: float) -> None:
        if site.config.breaker.enabled:
            site.breaker.done(status < 500, now, self._started)
        if site.config.adaptive.enabled:
            site.learn(took_s, status == HTTPStatus.SERVICE_UNAVAILABLE, now)

    # ── what is not common ───────────────────────────────────────────────────────────────────

    def _hand_back(self, data: bytes, connection: BackendConnection) -> None:
        """Everything that the backend said stands in its buffer for who reads it next."""
        connection.buffer = data
        self.hand_over()

    def hand_over(self) -> None:
        """Let a journey go on with it. Idempotent."""
        if self._given:
            return
        self._given = True
        self._overdue.end(self)
        plan, connection = self._plan, self._connection
        if plan is None:
            return
        body = ClientBody(self._loop, self._proxy.config.limits, _freely)
        if connection is not None:
            connection.lane = None
            body.received = len(self._body)
        elif self._body:
            body.feed(self._body)
        body.finish([])
        self._client.hand_over(plan.asked.head, plan.length, body)

    def taken(self) -> Begun | None:
        """What was handed over, for the journey that takes it; None where nothing was."""
        plan = self._plan
        if not self._given or plan is None:
            return None
        self._given = self.busy = False
        connection, self._connection = self._connection, None
        self.heard_at = 0.0
        lease = Lease(plan.site.pool, self._backend)
        return Begun(
            plan, lease, connection, self._identifier, self._head, self._body,
            self._started, self.began,
        )  # fmt: skip

    def client_lost(self) -> None:
        """The client hung up, or is to be cut: nobody needs the answer."""
        plan, connection = self._plan, self._connection
        if not self.busy or plan is None:
            return
        if not self._given:
            self._overdue.end(self)
        self._given = False
        if connection is not None:
            connection.lane = None
            plan.site.upstream.cut(self._backend, connection)
        plan.site.pool.release(self._backend)
        now = self._clock()
        took_s = now - self._started
        if self._proxy.access_log.enabled:
            self._log(499, 0, took_s, now, ClientGoneError.reason)
        counters = plan.site.counters
        counters.finished(plan.asked.method, 499, took_s, now)
        counters.in_flight -= 1
        self._connection = None
        self.busy = False
        self.heard_at = 0.0

    def leads_to(self, site: Site) -> bool:
        """Does it carry a request to this service?"""
        return self.busy and self._plan is not None and self._plan.site is site

    def _log(self, status: int, sent: int, took_s: float, now: float, error: str = "") -> None:
        plan = self._plan
        if plan is None:
            return
        self._proxy.access_log.write(
            entry(
                self._client,
                plan.asked.head,
                began_unix_s=time.time() - (now - self._started),
                client=plan.told.client,
                status=status,
                bytes_sent=sent,
                bytes_received=len(self._body),
                duration_s=took_s,
                host=plan.asked.host,
                service=plan.site.name,
                backend=self._backend.name,
                attempts=1,
                upstream_s=0.0 if error else took_s,
                error_reason=error,
                request_id=self._identifier,
            )
        )


def _freely(_may_come: bool) -> None:
    """A whole body holds nobody up."""
