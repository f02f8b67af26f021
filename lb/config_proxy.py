"""The configuration of the public side: addresses, TLS, timeouts, limits, the access log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lb.config_types import Bytes, ListenAddress, Network, Seconds, Table, one_or_many


class ListenConfig(Table):
    """One address to listen on."""

    address: ListenAddress = "127.0.0.1:8080"
    tls: Literal["auto", "on", "off"] = "auto"
    """auto: where [proxy.tls] has a certificate."""
    proxy_protocol: bool = False
    """Every connection begins with a PROXY header, v1 or v2, from one of `trusted_proxies`."""
    redirect_to_https: bool = False
    """Answer every request with a redirect to https."""


class CertificateConfig(Table):
    """A certificate chain and its key, PEM files."""

    cert: str = ""
    key: str = ""

    @model_validator(mode="after")
    def _both(self) -> CertificateConfig:
        if not self.cert or not self.key:
            raise ValueError("a certificate needs both cert and key, paths of PEM files")
        return self


class TlsConfig(Table):
    """TLS towards clients."""

    self_signed: bool = False
    """Make a certificate for the listen addresses and localhost: for a first try."""
    certificates: tuple[CertificateConfig, ...] = ()
    """The first serves whoever names no host that another has."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    client_auth: Literal["off", "optional", "required"] = "off"
    client_ca: str = ""
    """PEM file of the authorities that clients' certificates must be signed by."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`tls = "self-signed"`, `tls = {cert=, key=}`, `tls = [{cert=, key=}, …]`."""
        if value == "self-signed":
            return {"self_signed": True}
        if isinstance(value, list | tuple):
            return {"certificates": tuple(value)}
        if isinstance(value, dict) and ("cert" in value or "key" in value):
            rest = {k: v for k, v in value.items() if k not in ("cert", "key")}
            first = {k: value[k] for k in ("cert", "key") if k in value}
            return {**rest, "certificates": (first, *value.get("certificates", ()))}
        return value

    @model_validator(mode="after")
    def _whole(self) -> TlsConfig:
        if self.self_signed and self.certificates:
            raise ValueError("self_signed makes a certificate: leave cert and key out")
        if self.client_auth != "off" and not self.client_ca:
            raise ValueError(f"client_auth = {self.client_auth!r} needs client_ca, a PEM file")
        return self

    @property
    def offered(self) -> bool:
        return self.self_signed or bool(self.certificates)


class TimeoutsConfig(Table):
    """How long the proxy waits, in seconds. 0 waits for ever."""

    head: Seconds = 10.0
    """For the whole head of a request, from its first byte; and for a PROXY header."""
    connect: Seconds = 2.0
    first_byte: Seconds = 60.0
    """From the request sent to the response's head."""
    between_bytes: Seconds = 30.0
    """Between two pieces of a body, either way."""
    whole: Seconds = 0.0
    """From the head of the request to the last byte of its answer, queue and retries included."""
    idle: Seconds = 75.0
    """How long a client's connection may wait for its next request."""
    half_closed: Seconds = 10.0
    """How long a client that closed its side, and that cannot be asked, is still worked for: one of
    HTTP/1.0, or one whose answer has begun and pauses."""
    tunnel_idle: Seconds = 3600.0
    """How long a WebSocket or another tunnel may be silent both ways."""


class LimitsConfig(Table):
    """What is more is refused."""

    target_bytes: Annotated[Bytes, Field(ge=128, le=1024**2)] = 8192
    """Of the request's target; longer gets 414."""
    head_bytes: Annotated[Bytes, Field(ge=1024, le=1024**2)] = 65536
    """Of a whole head, a request's (431) or an answer's (502); of trailers too."""
    fields: Annotated[int, Field(ge=8, le=10000)] = 128
    """Header fields in a head."""
    chunk_extension_bytes: Annotated[Bytes, Field(le=65536)] = 256
    """In one chunk's line."""
    body_bytes: Bytes = 0
    """Of a request's body; more gets 413. 0: no limit."""
    body_rate: Bytes = 0
    """Fewest bytes a second of a request's body, from its fifth second on. 0: no limit."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 20000
    """Of clients at a time; another one is closed at once."""
    connections_per_client: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """The same for one address. 0: no limit."""
    requests_per_connection: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Then it is closed, politely. 0: no limit."""


class AccessLogConfig(Table):
    """One line a request."""

    format: Literal["off", "common", "combined", "json"] = "off"
    path: Annotated[str, Field(min_length=1)] = "-"
    """A file, or - for standard output."""
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the requests that are written; errors of ours (5xx) always are."""


class ProxyConfig(Table):
    """The public side."""

    listen: Annotated[tuple[ListenConfig, ...], Field(min_length=1)] = (ListenConfig(),)
    tls: TlsConfig = TlsConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    limits: LimitsConfig = LimitsConfig()
    access_log: AccessLogConfig = AccessLogConfig()
    fast_lane: bool = True
    """Common requests are carried without aiohttp's server, at a fraction of the CPU."""
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-*, Forwarded and PROXY headers are believed."""
    underscores: Literal["drop", "drop_confusable", "pass"] = "drop_confusable"
    """Header names with _: an application may read X_Forwarded_For as X-Forwarded-For."""
    upstream_connections: Annotated[int, Field(ge=1, le=65536)] = 4096
    """Most requests running on all backends together."""
    shutdown_grace: Seconds = 30.0
    """How long SIGTERM waits for running requests."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the addresses, one a core. The first also does all the rest."""

    @model_validator(mode="before")
    @classmethod
    def _one_listen(cls, value: Any) -> Any:
        return one_or_many(value, "listen", "address")

    @model_validator(mode="after")
    def _whole(self) -> ProxyConfig:
        addresses = [listen.address for listen in self.listen]
        if len(set(addresses)) != len(addresses):
            raise ValueError("listen names an address twice")
        for listen in self.listen:
            if listen.tls == "on" and not self.tls.offered:
                raise ValueError(
                    f"{listen.address} is to speak TLS: give [proxy.tls] a certificate,"
                    ' or tls = "self-signed"'
                )
            if listen.redirect_to_https and self.speaks_tls(listen):
                raise ValueError(f"{listen.address} speaks TLS: it cannot redirect to https")
            if listen.proxy_protocol and not self.trusted_proxies:
                raise ValueError(
                    f"{listen.address} takes PROXY headers: say in trusted_proxies from whom"
                )
        return self

    def speaks_tls(self, listen: ListenConfig) -> bool:
        if listen.tls == "auto":
            return self.tls.offered and not listen.redirect_to_https
        return listen.tls == "on"
