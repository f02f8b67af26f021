"""One request's journey: from a client's connection over a route and a lease to a backend and back.

Asks the rules (exchange, routes, retry, pool), moves bodies with back-pressure, and writes the
answer. Makes no rule of its own. The connection's bytes are `client_connection`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from lb import exchange, headers, proxy_protocol
from lb.access_line import Entry
from lb.attempt import Attempt
from lb.attempts import Attempts, Sending
from lb.config import TimeoutsConfig
from lb.errors import (
    BadRequestError,
    ClientGoneError,
    ClientTimeoutError,
    DeadlineError,
    Fault,
    InternalError,
    NoRouteError,
    OverloadedError,
    RequestError,
    UpstreamError,
)
from lb.exchange import Asked, Body, Onward
from lb.logged import entry
from lb.relay import promised, relay
from lb.request_body import RequestBody
from lb.routes import Route
from lb.site import Site
from lb.tunnel import Tunnel
from lb.wire.head import AnswerHead

if TYPE_CHECKING:
    from lb.client_connection import ClientConnection
    from lb.fastlane import Begun
    from lb.proxy import Proxy

log = logging.getLogger(__name__)


class Journey:
    """State: how far it has come, for the log, the metrics and the error's answer."""

    __slots__ = (
        "_asked",
        "_attempts",
        "_began",
        "_begun",
        "_client",
        "_deadline",
        "_error",
        "_head_bytes",
        "_identifier",
        "_proxy",
        "_status",
        "_task",
        "_told",
        "_upstream_s",
        "connection",
        "site",
    )

    def __init__(self, proxy: Proxy, connection: ClientConnection) -> None:
        self._proxy = proxy
        self.connection = connection
        self._task = asyncio.current_task()
        self._begun = begun = connection.begun()
        """What the fast lane has done of it, where it is to be gone on with."""
        self._began = proxy.clock() if begun is None else begun.began
        self._asked: Asked | None = None
        self._client = proxy.client_of(connection)
        self._told = self._client.told
        """Who asks: the peer, or whom it tells of where it is a trusted proxy."""
        self.site: Site | None = None
        self._identifier = b""
        self._status = 500
        self._error: RequestError | None = None
        self._attempts: Attempts | None = None
        self._upstream_s = 0.0
        self._head_bytes = 0
        self._deadline: asyncio.Timeout | None = None

    def __repr__(self) -> str:
        head = self.connection.head
        backend = self._attempts.backend if self._attempts is not None else None
        where = backend.name if backend is not None else "no backend yet"
        return f"{head.method} {head.target.decode('latin-1')} → {where}"

    def cut(self) -> None:
        """End it now; the client sees its connection abort."""
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> bool:
        """Returns whether the connection may serve another request."""
        proxy = self._proxy
        proxy.running.add(self)
        keep = False
        try:
            keep = await self._answer()
        except asyncio.CancelledError:
            # aiohttp cancels us when the client hangs up; the listener when it may wait no longer.
            self._status = 503 if proxy.cutting else 499
            self._error = None if proxy.cutting else ClientGoneError("the client hung up")
            self.connection.abort()
            raise
        finally:
            self._over()
        await self.connection.exchange_over(keep)
        return keep

    def _over(self) -> None:
        proxy, site = self._proxy, self.site
        proxy.running.discard(self)
        now = proxy.clock()
        counters = proxy.counters if site is None else site.counters
        counters.finished(self.connection.head.method, self._status, now - self._began, now)
        if site is not None:
            site.counters.in_flight -= 1
        if self._attempts is not None:
            self._attempts.forgotten()
        if proxy.access_log.enabled:
            proxy.access_log.write(self._entry(now))
        if proxy.stopping and not proxy.running:
            proxy.idle.set()
        # These lead back to us: without them, a request's objects go at once, and not when the
        # collector has looked at all there are.
        self._attempts = self._deadline = self._error = self._task = None

    def _entry(self, now: float) -> Entry:
        connection, told = self.connection, self._error
        site, attempts = self.site, self._attempts
        backend = attempts.backend if attempts is not None else None
        return entry(
            connection,
            connection.head,
            began_unix_s=time.time() - (now - self._began),
            client=self._told.client,
            status=self._status,
            bytes_sent=max(0, connection.written - self._head_bytes),
            bytes_received=connection.body.received,
            duration_s=now - self._began,
            host=self._asked.host if self._asked is not None else None,
            service=site.name if site is not None else "",
            backend=backend.name if backend is not None else "",
            attempts=attempts.made if attempts is not None else 0,
            queue_s=attempts.queue_s if attempts is not None else 0.0,
            upstream_s=self._upstream_s,
            retry_reason=attempts.retry_reason if attempts is not None else "",
            error_reason=told.reason if told is not None else "",
            request_id=self._identifier,
        )

    # ── the answer ───────────────────────────────────────────────────────────────────────────

    async def _answer(self) -> bool:
        """A backend's answer, or ours. Returns whether the connection may serve another."""
        try:
            return await self._forward()
        except RequestError as error:
            return await self._refuse(error)
        except Exception:
            log.exception("request %s failed: %r", self._identifier.decode(), self)
            return await self._refuse(InternalError("the balancer failed; its log says how"))

    async def _forward(self) -> bool:
        proxy, connection = self._proxy, self.connection
        if self._begun is not None:
            return await self._go_on(self._begun)
        self._identifier = proxy.identify(connection.head.fields)
        self._asked = asked = exchange.asked(connection.head)
        self._told = headers.told(connection.head.fields, self._client, proxy.trust)
        if connection.redirect_to_https:
            place = exchange.https_place(asked, connection.local_name, proxy.https_port)
            return await self._give(*exchange.redirect(308, place, self._identifier))
        ours = exchange.last_hop(asked, self._identifier)
        if ours is not None:
            return await self._give(*ours)
        route = proxy.routes.match(asked.host, asked.target)
        if route is None:
            raise NoRouteError("no route leads anywhere from here")
        if route.service is None:
            place = route.location(self._told.scheme, asked.host, asked.target)
            return await self._give(*exchange.redirect(route.status, place, self._identifier))
        self.site = site = proxy.sites[route.service]
        site.counters.arrived += 1
        site.counters.in_flight += 1
        timeouts = proxy.timeouts_of(route)
        if connection.body.error is not None:
            raise connection.body.error  # before it takes anybody's place
        if proxy.sent_on > proxy.config.upstream_connections:
            raise OverloadedError(f"{proxy.config.upstream_connections} requests are running")
        return await self._in_time(self._onward(asked, route, site), asked, route, site, timeouts)

    async def _go_on(self, begun: Begun) -> bool:
        """With what the fast lane began: its request is understood, counted, and perhaps sent."""
        plan = begun.plan
        self._identifier, self._told, self.site = begun.identifier, plan.told, plan.site
        self._asked = asked = plan.asked
        onward = Onward(asked.method, begun.head, begun.identifier)
        return await self._in_time(onward, asked, plan.route, plan.site, plan.timeouts)

    async def _in_time(
        self, onward: Onward, asked: Asked, route: Route, site: Site, timeouts: TimeoutsConfig
    ) -> bool:
        passed_s = self._proxy.clock() - self._began
        limit_s = max(0.0, timeouts.whole - passed_s) if timeouts.whole else None
        try:
            async with asyncio.timeout(limit_s) as self._deadline:
                return await self._serve(onward, asked, route, site, timeouts)
        except TimeoutError:
            raise DeadlineError(f"not answered within {timeouts.whole:g} s") from None

    async def _serve(
        self, onward: Onward, asked: Asked, route: Route, site: Site, timeouts: TimeoutsConfig
    ) -> bool:
        proxy, connection, begun = self._proxy, self.connection, self._begun
        body: RequestBody | None = None
        if connection.framing:
            keep_bytes = site.config.retry.body_bytes
            body = RequestBody(connection.body, keep_bytes, timeouts.between_bytes)
            if begun is not None and begun.connection is not None:
                body.sent(begun.body)
        sending = Sending(
            onward,
            body,
            timeouts,
            self._told.client,
            asked.head.fields,
            self._interim,
            lambda: connection.written,
        )
        self._attempts = attempts = Attempts(site, sending, proxy.clock)
        with await attempts.answer(begun) as attempt:
            if body is not None:
                body.forget()
            if attempt.head.status == 101:
                return await self._tunnel(attempt, attempts, site, timeouts)
            keep = await self._pass_back(attempt, asked, route, site, timeouts)
            attempts.judged(ok=attempt.head.status < 500)
            return keep

    def _onward(self, asked: Asked, route: Route, site: Site) -> Onward:
        return exchange.onward(
            asked,
            self.connection.framing,
            self._client,
            identifier=self._identifier,
            target=route.onward_target(asked.target),
            host=asked.host or self.connection.local_name,
            told=self._told,
            trace=self._proxy.trace,
            edit=route.edit_request,
            underscores=self._proxy.config.underscores,
            proxy_header=self._proxy_header(site),
        )

    def _proxy_header(self, site: Site) -> bytes:
        version = site.config.send_proxy_protocol
        if version == "off":
            return b""
        source = (self._told.client.decode(), self.connection.peer_port)
        return proxy_protocol.encode(1 if version == "v1" else 2, source, self.connection.local)

    # ── passing back ─────────────────────────────────────────────────────────────────────────

    async def _pass_back(
        self, attempt: Attempt, asked: Asked, route: Route, site: Site, timeouts: TimeoutsConfig
    ) -> bool:
        sent = attempt.exchange
        head = attempt.head
        back, gzip = promised(
            asked, head, sent.length, route, site, attempt.backend, self._told.scheme,
            stay=self.connection.may_stay(), date=self._proxy.date(),
        )  # fmt: skip
        self._status = head.status
        self._head_bytes = len(back.head)
        try:
            await relay(sent, self.connection, back, gzip, timeouts.between_bytes)
        except UpstreamError as error:
            # Something was sent: a clean end would be a lie, so `_refuse` aborts.
            attempt.failed(error)
            raise
        self._upstream_s = attempt.answered()
        return back.keep_alive

    def _interim(self, head: AnswerHead) -> None:
        if self.connection.head.version >= (1, 1):
            self.connection.write_interim(exchange.interim(head))

    async def _tunnel(
        self, attempt: Attempt, attempts: Attempts, site: Site, timeouts: TimeoutsConfig
    ) -> bool:
        self.connection.write(exchange.interim(attempt.head))
        self._status = 101
        attempts.judged(ok=True)
        if self._deadline is not None:
            self._deadline.reschedule(None)
        tunnel = Tunnel(
            self.connection,
            attempt.exchange.connection,
            timeouts.tunnel_idle,
            self._proxy.wheel,
        )
        site.counters.tunnels += 1
        try:
            await tunnel.over()
        finally:
            site.counters.tunnels -= 1
            self.connection.written += tunnel.to_client_bytes
            self.connection.body.received += tunnel.to_backend_bytes
        return False

    # ── our own answers ──────────────────────────────────────────────────────────────────────

    async def _give(self, head: AnswerHead, body: bytes, *, last: bool = False) -> bool:
        """An answer made here; the `last` on its connection where something is wrong with it."""
        self._status = head.status
        back = exchange.back(
            self._asked,
            head,
            stay=self.connection.may_stay() and not last,
            length=len(body),
            date=self._proxy.date(),
            ours=True,
        )
        self._head_bytes = len(back.head)
        try:
            # what could not be understood is answered without a request: that it is HEAD counts
            bodiless = back.body is Body.NONE or self.connection.head.method == "HEAD"
            self.connection.write(back.head if bodiless else back.head + body)
            await self.connection.drain(self._proxy.config.timeouts.between_bytes)
        except (ClientGoneError, ClientTimeoutError):
            self._status = 499
            self.connection.abort()
            return False
        return back.keep_alive

    async def _refuse(self, error: RequestError) -> bool:
        """Our own answer. Where the backend's already began, the connection is cut instead."""
        self._status = error.status
        self._error = error
        if self._attempts is not None and error.fault is Fault.BACKEND:
            self._attempts.judged(ok=False)
        if self.connection.written or isinstance(error, ClientGoneError):
            self.connection.abort()
            return False
        page = self.site.pages.page(error.status) if self.site is not None else None
        answer = exchange.refusal(error, self._identifier, page)
        return await self._give(*answer, last=isinstance(error, BadRequestError))
