"""The aiohttp reverse proxy: what all requests share, and the handler that sends each on its way.

Owns who is connected, what runs, and whether we are stopping; finds a request's route and site. A
request's own steps are `journey`'s, listening and stopping are `listener`'s.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Final, cast

from aiohttp import web
from mypy_extensions import mypyc_attr

from lb import exchange, headers
from lb.access_line import Entry
from lb.access_log import AccessLog
from lb.client_connection import ClientConnection
from lb.client_server import Carrier
from lb.config import ProxyConfig, ServiceConfig, TimeoutsConfig
from lb.deadline import Wheel
from lb.errors import RequestError
from lb.fast_plan import Shape
from lb.journey import Journey
from lb.overdue import Overdue
from lb.request_metrics import RequestMetrics
from lb.routes import Route, Routes
from lb.site import Site
from lb.trace import traces
from lb.trust import Trust
from lb.wire.head import Fields

log = logging.getLogger(__name__)


SLIM_S: Final = 0.5
"""An idle connection lets go of what only exchanges need, some 10 KiB."""


@mypyc_attr(native_class=False)  # aiohttp's are not
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


_KEEP: Final = _Sent(True)
_CLOSE: Final = _Sent(False)


class Proxy:
    """Carries requests to the sites. `handle` is what aiohttp's server calls for each.

    `counters` takes what belongs to no service: requests that could not be read, or that no route
    leads on. `random` gives so many random bytes.
    """

    def __init__(
        self,
        config: ProxyConfig,
        sites: Mapping[str, Site],
        routes: Routes,
        counters: RequestMetrics,
        *,
        clock: Callable[[], float],
        request_ids: Callable[[], bytes],
        access_log: AccessLog,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.counters = counters
        self.clock = clock
        self.trace = traces(random)
        """A traceparent for a request that has none."""
        self.access_log = access_log
        self.https_port: int | None = None
        """Where a client that is sent to https connects; None: nowhere."""
        self.stopping = False
        """Answers close their connections; set once by the listener."""
        self.cutting = False
        self.running: set[Journey] = set()
        self.idle = asyncio.Event()
        """Set while nothing runs; looked at on stopping only."""
        self.connections: set[ClientConnection] = set()
        self.overdue = Overdue(asyncio.get_running_loop())
        """Of the fast lane: what runs in it."""
        self.wheel = Wheel(asyncio.get_running_loop())
        """Every connection's deadlines."""
        self._by_client: dict[str, int] = {}
        self.new_identifier = request_ids
        self.configure(config, sites, routes)

    def configure(self, config: ProxyConfig, sites: Mapping[str, Site], routes: Routes) -> None:
        """What requests that begin from now on go by."""
        self.config = config
        self.sites = sites
        self.routes = routes
        self.trust = Trust(config.trusted_proxies)
        self.rules: object = object()
        """Another one after each change of what a request goes by."""
        self.most_sent = config.upstream_connections
        self.most_requests = config.limits.requests_per_connection or math.inf
        """On one client connection."""
        self.rest_s = min(SLIM_S, config.timeouts.idle or SLIM_S)
        """After so long an idle connection is looked at for the first time."""
        self._timeouts: dict[int, tuple[Route, TimeoutsConfig]] = {}
        self._shapes: dict[tuple[int, int, str, bool], Shape] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(Carrier, request.protocol).connection
        return _KEEP if await Journey(self, connection).run() else _CLOSE

    # ── connections ──────────────────────────────────────────────────────────────────────────

    def arrived(self, connection: ClientConnection) -> bool:
        """A client connected. False: there are too many, or we stop; close it."""
        if not self.knocked(connection.peer):
            return False
        self.connections.add(connection)
        return True

    def left(self, connection: ClientConnection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            self.settled(connection.peer)

    def knocked(self, client: str) -> bool:
        """One more connection begins; empty: of a client not known yet. False: close it."""
        if self.stopping:
            return False
        limits = self.config.limits
        mine = self._by_client.get(client, 0)
        most = limits.connections_per_client if client else 0
        if self.counters.connections >= limits.connections or (most and mine >= most):
            self.counters.turned_away += 1
            return False
        self.counters.connections += 1
        self._by_client[client] = mine + 1
        return True

    def settled(self, client: str) -> None:
        """One that `knocked` ended, or is told by another name from now on."""
        self.counters.connections -= 1
        mine = self._by_client[client] - 1
        if mine:
            self._by_client[client] = mine
        else:
            del self._by_client[client]

    def client_of(self, connection: ClientConnection) -> headers.Connection:
        """Who is at the other end, as far as the connection tells."""
        return _client(
            connection.peer,
            connection.local[1],
            connection.scheme,
            connection.peer in self.trust,
            connection.client_cert,
        )

    def refuse_unread(
        self, connection: ClientConnection, error: RequestError, *, bodiless: bool
    ) -> None:
        """Answer what could not even be read, and count it."""
        identifier = self.new_identifier()
        head, body = exchange.refusal(error, identifier)
        back = exchange.back(None, head, stay=False, length=len(body), date=self.date(), ours=True)
        self.counters.finished("", error.status, 0.0, self.clock())
        if self.access_log.enabled:
            self.access_log.write(_unread(connection, error, identifier))
        log.debug("request %s of %s: %s", identifier.decode(), connection.peer, error)
        transport = connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(back.head if bodiless else back.head + body)

    def fault(self, error: BaseException | None) -> None:
        """The journey translates whatever it meets, so this is a bug of it."""
        log.error("a connection was cut after a fault of ours", exc_info=error)

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    @property
    def sent_on(self) -> int:
        """Requests that are neither waiting in line nor answered."""
        return sum(site.counters.in_flight - len(site.line) for site in self.sites.values())

    @property
    def is_full(self) -> bool:
        """Not one more request may be sent on."""
        return self.sent_on >= self.most_sent

    def shape(self, route: Route, *, method: str, keep: bool, config: ServiceConfig) -> Shape:
        """The one object for these, for as long as they count."""
        # by identity: the hash of a route is that of all it holds; the shape keeps both alive
        key = (id(route), id(config), method, keep)
        known = self._shapes.get(key)
        if known is None:
            known = self._shapes[key] = Shape(route, method, keep, config)
        return known

    def identify(self, fields: Fields) -> bytes:
        return headers.request_id(fields, self.new_identifier())

    def timeouts_of(self, route: Route) -> TimeoutsConfig:
        """The timeouts of a route: its own, else the proxy's."""
        found = self._timeouts.get(id(route))
        if found is None:
            changed = route.timeouts.model_dump(exclude_none=True)
            found = route, self.config.timeouts.model_copy(update=changed)
            self._timeouts[id(route)] = found
        return found[1]

    def date(self) -> bytes:
        """Now, as a Date field says it."""
        return _date(int(time.time()))


@functools.lru_cache(maxsize=1)
def _date(unix_s: int) -> bytes:
    return formatdate(unix_s, usegmt=True).encode("ascii")


def _unread(connection: ClientConnection, error: RequestError, identifier: bytes) -> Entry:
    return Entry(
        time=time.time(),
        client=connection.peer,
        client_port=connection.peer_port,
        method="",
        target=b"",
        version=(1, 1),
        status=error.status,
        bytes_sent=0,
        bytes_received=0,
        duration_s=0.0,
        error_reason=error.reason,
        request_id=identifier,
        tls_version=connection.tls_version,
        tls_client=connection.tls_client,
        connection_requests=connection.served + 1,
    )


@functools.lru_cache(maxsize=4096)
def _client(
    peer: str, port: int, scheme: bytes, trusted: bool, cert: bytes | None
) -> headers.Connection:
    return headers.Connection(
        peer=peer.encode(),
        port=b"%d" % port,
        scheme=scheme,
        trusted=trusted,
        client_cert=cert,
    )
