"""The configuration of one service: its members, how they are chosen, asked, spared and retried."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lb.config_fleet import ScaleConfig, VmConfig, disagreements
from lb.config_types import (
    BackendAddress,
    Bytes,
    FieldName,
    FieldValue,
    Name,
    PathPrefix,
    Seconds,
    Table,
    one_or_many,
)

_ROUTE_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\*|\[[0-9a-f:.]+\]").fullmatch

_PLAIN = re.compile(r"(?:%(?:20|23|25|3F|[89A-F][0-9A-F])|[^%?#;\\])*").fullmatch
_PLACE = re.compile(
    r"(?:https?://[!-~]|\{scheme\}://[!-~]|/(?![/\\])|\{path\}|\{target\})[!-~]*"
).fullmatch
_HOST_VALUE = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?").fullmatch

# What frames a message or belongs to one connection (RFC 9110 §7.6.1, RFC 9112 §6): edited, it
# would tell a backend another end than the one the proxy keeps to.
_FRAMING = frozenset(
    {
        "connection", "content-length", "expect", "http2-settings", "keep-alive",
        "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip

PolicyName = Literal["least_requests", "round_robin", "random_two", "peak_ewma", "consistent_hash"]
PageName = Annotated[str, Field(pattern=r"^([45]\d\d|[45]xx|default)$")]


class BackendConfig(Table):
    """A member that is always there."""

    address: BackendAddress = "127.0.0.1:8000"
    weight: Annotated[int, Field(ge=1, le=256)] = 1
    """Its share of the requests beside the others'."""


class HashConfig(Table):
    """What `consistent_hash` hangs on."""

    by: Literal["address", "header", "cookie"] = "address"
    name: str = ""
    """Of the header or the cookie. A request without it is hashed by address."""
    load: Annotated[float, Field(gt=1, le=10)] = 1.25
    """No backend gets more than so many times the average; then the next on the ring does."""

    @model_validator(mode="after")
    def _named(self) -> HashConfig:
        if (self.by == "address") == bool(self.name):
            raise ValueError("name goes with by = header or by = cookie, and is needed there")
        return self


class StickyConfig(Table):
    """A signed cookie brings a client back to the backend that served it, while it is there."""

    cookie: FieldName = "lbctl"
    max_age: Seconds = 0.0
    """0: until the browser ends."""
    same_site: Literal["lax", "strict", "none"] = "lax"


class HealthConfig(Table):
    """How the prober asks, and how the pool judges its reports."""

    path: PathPrefix = "/readyz"
    status: Annotated[
        str, Field(pattern=r"^[1-5]\d\d(-[1-5]\d\d)?(, ?[1-5]\d\d(-[1-5]\d\d)?)*$")
    ] = "200-299"
    """Which answers are good: codes and ranges."""
    body: str = ""
    """Text that the first 64 KiB of a good answer contain."""
    interval: Annotated[Seconds, Field(ge=0.05)] = 1.0
    interval_down: Annotated[Seconds, Field(ge=0.05)] = 0.25
    """While starting or unhealthy: sooner asked, sooner back."""
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Each interval is longer or shorter by up to this share, so that probes do not march."""
    timeout: Annotated[Seconds, Field(ge=0.05)] = 2.0
    rise: Annotated[int, Field(ge=1, le=100)] = 1
    fall: Annotated[int, Field(ge=1, le=100)] = 3

    @model_validator(mode="after")
    def _upwards(self) -> HealthConfig:
        for part in self.status.split(","):
            low, _, high = part.strip().partition("-")
            if high and high < low:
                raise ValueError(f"status = {self.status!r}: {low}-{high} runs downwards")
        return self


class OutlierConfig(Table):
    """What requests themselves tell of a backend: it is ejected for a while."""

    enabled: bool = True
    consecutive_5xx: Annotated[int, Field(ge=1, le=1000)] = 5
    """So many answers of 5xx, resets and timeouts in a row, while others do better."""
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Success rates are compared for backends with so many requests within `window`."""
    success_margin: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Ejected where its success rate is this far below the median of the others."""
    window: Annotated[Seconds, Field(ge=1, le=600)] = 10.0
    ejection: Annotated[Seconds, Field(ge=0.1)] = 10.0
    """The first time; twice as long each further time, forgotten again while it does well."""
    max_ejection: Annotated[Seconds, Field(ge=0.1)] = 300.0
    max_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Never more than this share of the backends is ejected, and never all."""

    @model_validator(mode="after")
    def _growing(self) -> OutlierConfig:
        if self.ejection > self.max_ejection:
            raise ValueError(
                f"ejection = {self.ejection:g} is more than max_ejection = {self.max_ejection:g}"
            )
        return self


class QueueConfig(Table):
    """Where requests wait while every backend is at its limit."""

    length: Annotated[int, Field(ge=0, le=1_000_000)] = 1024
    max_wait: Seconds = 30.0
    fair: bool = True
    """Clients take turns, whoever of them has how many waiting."""


class RetryConfig(Table):
    """When a request that failed is tried on another backend."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """The first included."""
    budget: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Retries are at most this share of the requests of the last ten seconds."""
    min_per_second: Annotated[float, Field(ge=0, le=1000)] = 3.0
    """So many retries a second are always allowed."""
    on_status: tuple[Literal[502, 503, 504], ...] = ()
    """Answers of a backend after which an idempotent request is tried elsewhere."""
    body_bytes: Annotated[Bytes, Field(le=16 * 1024**2)] = 65536
    """A request's body up to this size is kept until an answer begins, to be sent again."""
    hedge_after: Seconds = 0.0
    """Ask a second backend where a GET has no answer after this long. 0: never."""


class BreakerConfig(Table):
    """Stops asking backends that fail anyway: 503 at once, and a few requests now and then."""

    enabled: bool = False
    failures: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of failed requests within `window` that opens it."""
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    window: Annotated[Seconds, Field(ge=1, le=600)] = 10.0
    open: Annotated[Seconds, Field(ge=0.1)] = 5.0
    """How long before a few requests may try again."""
    trials: Annotated[int, Field(ge=1, le=1000)] = 3
    """So many good ones in a row close it."""


class AdaptiveConfig(Table):
    """Finds by itself how many requests the service can carry, by how latency grows."""

    enabled: bool = False
    min: Annotated[int, Field(ge=1, le=1_000_000)] = 4
    max: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    tolerance: Annotated[float, Field(ge=1, le=10)] = 1.5
    """Latency may grow to so many times that of an idle service."""
    max_wait: Seconds = 1.0
    """Instead of the queue's, while it is on: what waits longer is shed."""

    @model_validator(mode="after")
    def _min_max(self) -> AdaptiveConfig:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is more than max = {self.max}")
        return self


class UpstreamTlsConfig(Table):
    """TLS towards the backends."""

    enabled: bool = False
    verify: bool = True
    ca: str = ""
    """PEM file; empty: the system's authorities."""
    server_name: str = ""
    """Asked for and verified instead of the backend's address."""
    cert: str = ""
    key: str = ""
    """A certificate of our own, PEM files, where backends ask for one."""

    @model_validator(mode="after")
    def _both(self) -> UpstreamTlsConfig:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together")
        return self


class CompressionConfig(Table):
    """Compress answers that are not compressed yet, for clients that take gzip."""

    enabled: bool = False
    min_bytes: Bytes = 1024
    level: Annotated[int, Field(ge=1, le=9)] = 4
    types: tuple[str, ...] = (
        "text/*", "application/json", "application/javascript", "image/svg+xml",
    )  # fmt: skip


class FieldEdits(Table):
    """Edits of header fields, in this order: remove, set, add."""

    remove: tuple[FieldName, ...] = ()
    set: dict[FieldName, FieldValue] = {}
    """Instead of whatever is there under that name."""
    add: dict[FieldName, FieldValue] = {}
    """Beside whatever is there under that name."""

    @model_validator(mode="after")
    def _none_of_ours(self) -> FieldEdits:
        for name in (*self.remove, *self.set, *self.add):
            if name.lower() in _FRAMING:
                raise ValueError(
                    f"the field {name} frames a message or is one connection's: the proxy alone"
                    " writes it"
                )
        return self


class RouteTimeouts(Table):
    """Instead of those in [proxy.timeouts], for one route."""

    first_byte: Seconds | None = None
    between_bytes: Seconds | None = None
    whole: Seconds | None = None


class RouteConfig(Table):
    """Which requests go where. The most exact host wins, then the longest path."""

    host: str = "*"
    """app.example.org, *.example.org (one or more names before it), or * for any."""
    path: PathPrefix = "/"
    """Itself and what lies below: /api is /api and /api/x, not /apix."""
    service: Name | None = None
    redirect: str | None = None
    """Answer with this place instead: https://new.example.org{target} keeps path and query.
    Placeholders: {scheme}, {host} (without port), {path}, {query} (with its ?), {target} (both)."""
    redirect_status: Literal[301, 302, 303, 307, 308] = 308
    strip_path: bool = False
    """The backend sees the target without `path`."""
    timeouts: RouteTimeouts = RouteTimeouts()
    request: FieldEdits = FieldEdits()
    response: FieldEdits = FieldEdits()

    @model_validator(mode="after")
    def _one_end(self) -> RouteConfig:
        if (self.service is None) == (self.redirect is None):
            raise ValueError("a route leads to a service or is a redirect: one of the two")
        if not _ROUTE_HOST(self.host):
            raise ValueError(
                f"host = {self.host!r}: write a name in lower case without port, *.name, or *"
            )
        return self

    @model_validator(mode="after")
    def _plain_path(self) -> RouteConfig:
        """One spelling for each place: requests that write it otherwise are found out by that."""
        parts = self.path.split("/")[1:]
        if not _PLAIN(self.path) or "" in parts[:-1] or {".", ".."} & {*parts}:
            raise ValueError(
                f"path = {self.path!r}: write it without ?, #, ;, \\, //, /./ and /../, and with"
                " %XX in capitals only where it must be"
            )
        return self

    @model_validator(mode="after")
    def _usable_place(self) -> RouteConfig:
        if self.redirect is not None:
            holes = re.sub(r"\{(scheme|host|path|query|target)\}", "", self.redirect)
            if not _PLACE(self.redirect) or "{" in holes or "}" in holes:
                raise ValueError(
                    f"redirect = {self.redirect!r}: write a URL or a path; {{scheme}}, {{host}},"
                    " {path}, {query} and {target} are filled in"
                )
        return self

    @model_validator(mode="after")
    def _one_host(self) -> RouteConfig:
        edits = self.request
        if any(name.lower() == "host" for name in (*edits.remove, *edits.add)):
            raise ValueError("a request has one Host: it may be set, neither removed nor added")
        hosts = [value for name, value in edits.set.items() if name.lower() == "host"]
        if hosts and not (len(hosts) == 1 and _HOST_VALUE(hosts[0])):
            raise ValueError(
                f"a Host {hosts[0]!r}: write one name or address, with or without port"
            )
        return self


class ServiceConfig(Table):
    """One application: its static members, its VMs, how it is balanced and scaled."""

    backends: tuple[BackendConfig, ...] = ()
    policy: PolicyName = "least_requests"
    hash: HashConfig = HashConfig()
    sticky: StickyConfig | None = None
    slow_start: Seconds = 0.0
    """A backend that joins gets a growing share for this long."""
    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Requests running on one backend at a time. What is more waits here, where a replica that
    joins can take it, and where it cannot choke the guest's health checks."""
    none_available: Literal["refuse", "try_anyway"] = "refuse"
    """Where every backend is unhealthy or ejected: 503, or ask them all the same."""
    queue: QueueConfig = QueueConfig()
    health: HealthConfig = HealthConfig()
    outlier: OutlierConfig = OutlierConfig()
    retry: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    tls: UpstreamTlsConfig = UpstreamTlsConfig()
    send_proxy_protocol: Literal["off", "v1", "v2"] = "off"
    """Tell backends the client's address before the first request of a connection."""
    compression: CompressionConfig = CompressionConfig()
    error_pages: dict[PageName, str] = {}
    """Files for our own answers: "503" = "busy.html", "5xx" = "error.html"."""
    vm: VmConfig | None = None
    scale: ScaleConfig = ScaleConfig()

    @model_validator(mode="before")
    @classmethod
    def _short_backends(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("backends"), str):
            return value  # a list is meant, also for one
        return one_or_many(value, "backends", "address")

    @model_validator(mode="after")
    def _each_once(self) -> ServiceConfig:
        seen: set[str] = set()
        for backend in self.backends:
            if backend.address in seen:
                raise ValueError(f"{backend.address} is there twice: give it a weight instead")
            seen.add(backend.address)
        return self

    @model_validator(mode="after")
    def _scale_needs_machines(self) -> ServiceConfig:
        if self.vm is None and self.scale != ScaleConfig():
            raise ValueError("scale needs VMs: add a [service.NAME.vm] table, it may be empty")
        if self.vm is not None:
            found = disagreements(self.vm, self.scale, self.max_in_flight, self.queue.length)
            for complaint in found:
                raise ValueError(complaint)
        return self
