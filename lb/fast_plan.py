"""What the fast lane does with one head, found out by the rules that every request goes by.

A plan is worth as long as the same bytes come on the same connection under the same configuration:
it is made by `wire`, `exchange`, `routes` and `headers`, in full, and then compared with, not read
again. Owns what is common enough for the lane; sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lb import exchange, headers
from lb.config import ServiceConfig, TimeoutsConfig
from lb.errors import RequestError
from lb.exchange import Asked
from lb.forwarded import Told
from lb.request_metrics import counted_as
from lb.retry import IDEMPOTENT, may_hedge
from lb.routes import Route
from lb.site import Site
from lb.wire.errors import WireError
from lb.wire.framing import Ends, request_framing
from lb.wire.head import END, request_head

if TYPE_CHECKING:
    from lb.client_connection import ClientConnection
    from lb.proxy import Proxy

MOST_BODY: Final = 65536
"""A body is sent in one piece with its head, and kept until it was answered."""

# Stand where what differs from request to request goes. No head holds a NUL.
_IDENTIFIER: Final = b"\0identifier\0"
_TRACE: Final = b"\0trace\0"

# A deadline shorter than this would be over before anybody looked (see `overdue`).
_SHORTEST_S: Final = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What the client's head of an answer hangs on, beside the backend's, and how it is counted."""

    route: Route
    method: str
    """As it is counted by: one of a few, so HEAD is told from others."""
    keep: bool
    """The client asks for another request on its connection."""
    config: ServiceConfig
    """The service's."""


class Plan:
    """For the requests of one connection that have this head. Never changed.

    No dataclass: compiled, this is made in a tenth of a microsecond, and a frozen one in three;
    each new connection makes one.
    """

    def __init__(
        self,
        head: bytes,
        asked: Asked,
        length: int,
        site: Site,
        told: Told,
        timeouts: TimeoutsConfig,
        identifier: bytes,
        onward: bytes,
        pieces: tuple[bytes, bytes, bytes],
        shape: Shape,
        rules: object,
    ) -> None:
        config, fields = site.config, asked.head.fields
        self.head = head
        self.head_bytes = len(head)
        self.size = len(head) + length
        """Of the whole request."""
        self.asked = asked
        self.length = length
        """Of the body."""
        self.site = site
        self.route = shape.route
        self.told = told
        self.timeouts = timeouts
        self.identifier = None if identifier is _IDENTIFIER else identifier
        """The client's own; None: each request gets one."""
        self.onward = pieces
        """The head for the backend: up to the trace, up to the identifier, the rest."""
        self.traced = _TRACE in onward
        """A trace is to be put in."""
        self.marked = _IDENTIFIER in onward
        """The identifier is to be put in."""
        self.key = site.key_of(fields, told.client)
        self.prefer = site.preferred(fields)
        self.repeatable = asked.method in IDEMPOTENT
        self.shape = shape
        self.learns = config.breaker.enabled or config.adaptive.enabled
        """Its answers are told to a breaker, or to a limit that finds itself."""
        self.rules = rules
        """The proxy's, and the service's, that it was made by."""
        self.config = config


def plan_for(proxy: Proxy, connection: ClientConnection, data: bytes) -> Plan | None:
    """The plan for the request that begins these bytes; None where it is not common, not whole, or
    not to be forwarded at all: the other lane finds out what to answer."""
    limits = proxy.config.limits
    end = data.find(END)
    if end < 0 or end > limits.head_bytes or connection.redirect_to_https:
        return None
    if not proxy.config.fast_lane:  # switched off since the connection came
        return None
    head_bytes = data[: end + 4]
    try:
        head = request_head(head_bytes, target_bytes=limits.target_bytes, most_fields=limits.fields)
        length = request_framing(head)
        asked = exchange.asked(head)
        route = proxy.routes.match(asked.host, asked.target)
    except (WireError, RequestError):
        return None
    if (
        isinstance(length, Ends)
        or length > min(MOST_BODY, limits.body_bytes or MOST_BODY)
        or head.version < (1, 1)
        or asked.upgrade is not None
        or exchange.last_hop(asked, b"") is not None
        or headers.value_of(head.fields, b"expect") is not None
        or route is None
        or route.service is None
    ):
        return None
    site = proxy.sites[route.service]
    timeouts = proxy.timeouts_of(route)
    config = site.config
    if (
        config.send_proxy_protocol != "off"
        or (config.retry.hedge_after and may_hedge(head.method, bool(length)))
        or 0 < timeouts.whole < _SHORTEST_S
        or 0 < timeouts.first_byte < _SHORTEST_S
    ):
        return None
    told = headers.told(head.fields, proxy.client_of(connection), proxy.trust)
    identifier = headers.request_id(head.fields, _IDENTIFIER)
    onward = exchange.onward(
        asked,
        length,
        proxy.client_of(connection),
        identifier=identifier,
        target=route.onward_target(asked.target),
        host=asked.host or connection.local_name,
        told=told,
        trace=lambda: _TRACE,
        edit=route.edit_request,
        underscores=proxy.config.underscores,
    )
    pieces = _pieces(onward.head)
    if pieces is None:
        return None
    shape = proxy.shape(route, method=counted_as(head.method), keep=asked.keep_alive, config=config)
    return Plan(
        head_bytes, asked, length, site, told, timeouts, identifier, onward.head, pieces, shape,
        proxy.rules,
    )  # fmt: skip


def _pieces(head: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Around the trace and the identifier, which come in this order, either of them or neither."""
    before, _, rest = head.rpartition(_TRACE) if _TRACE in head else (b"", b"", head)
    between, _, after = rest.rpartition(_IDENTIFIER)
    pieces = (before, between, after)
    return None if any(b"\0" in piece for piece in pieces) else pieces
