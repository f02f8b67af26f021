"""What the names of header fields mean to a balancer: for one connection only, protected, ours.

Pure tables, and the fate of a request's field by its name. What then happens to it is `headers`'.
"""

from __future__ import annotations

from typing import Final

# RFC 9110 §7.6.1, and the fields of its forerunners: Proxy-* of RFC 2616 §13.5.1, HTTP2-Settings of
# RFC 7540 §3.2.1.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"http2-settings", b"keep-alive", b"proxy-authenticate",
        b"proxy-authentication-info", b"proxy-authorization", b"proxy-connection", b"te",
        b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip

FORWARDED: Final = frozenset(
    {
        b"client-cert", b"client-cert-chain", b"forwarded", b"x-forwarded-for",
        b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip",
    }
)  # fmt: skip
"""What says who the client is and what it asked for; with all that begins with FORWARDED_PREFIX."""

FORWARDED_PREFIX: Final = b"x-forwarded-"

# End-to-end fields that `Connection: …` may not take away: a client could otherwise make the proxy
# drop the credentials, the length or the address that the application decides by. RFC 9110 §7.6.1
# forbids to name what is meant for all recipients. A name that is not known here may be one of an
# extension of the connection, and goes.
PROTECTED: Final = FORWARDED | {
    b"accept", b"accept-encoding", b"accept-language", b"accept-ranges", b"age", b"allow",
    b"authentication-info", b"authorization", b"cache-control", b"content-digest",
    b"content-disposition", b"content-encoding", b"content-language", b"content-length",
    b"content-location", b"content-md5", b"content-range", b"content-security-policy",
    b"content-type", b"cookie", b"date", b"etag", b"expect", b"expires", b"from", b"host",
    b"idempotency-key", b"if-match", b"if-modified-since", b"if-none-match", b"if-range",
    b"if-unmodified-since", b"last-event-id", b"last-modified", b"link", b"location",
    b"max-forwards", b"origin", b"pragma", b"priority", b"proxy-status", b"range", b"referer",
    b"repr-digest", b"retry-after", b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site",
    b"sec-fetch-user", b"sec-websocket-accept", b"sec-websocket-extensions",
    b"sec-websocket-key", b"sec-websocket-protocol", b"sec-websocket-version", b"server",
    b"set-cookie", b"signature", b"signature-input", b"strict-transport-security",
    b"traceparent", b"tracestate", b"trailer", b"user-agent", b"vary", b"via",
    b"www-authenticate", b"x-content-type-options", b"x-csrf-token", b"x-frame-options",
    b"x-http-method-override", b"x-request-id", b"x-requested-with",
}  # fmt: skip

# RFC 9110 §6.5.1: fields of framing, routing, authentication, request modifiers and content
# handling mean nothing behind the content, and are dangerous where somebody merges them into the
# head. Digests of the content are what trailers are for (RFC 9530), so they are not here.
NEVER_TRAILING: Final = HOP_BY_HOP | FORWARDED | {
    b"accept", b"accept-encoding", b"accept-language", b"age", b"authorization",
    b"cache-control", b"content-disposition", b"content-encoding", b"content-language",
    b"content-length", b"content-location", b"content-range", b"content-security-policy",
    b"content-type", b"cookie", b"date", b"expect", b"expires", b"host", b"if-match",
    b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"location",
    b"max-forwards", b"origin", b"pragma", b"proxy", b"range", b"referer", b"retry-after",
    b"set-cookie", b"strict-transport-security", b"traceparent", b"tracestate", b"trailer",
    b"vary", b"via", b"www-authenticate", b"x-http-method-override", b"x-request-id",
}  # fmt: skip

_FOLD: Final = bytes(
    byte if bytes([byte]).isalnum() else ord("-") for byte in bytes(range(256)).lower()
)


def folded(name: bytes) -> bytes:
    """What the most careless application takes a name for.

    Those that turn names into variables (CGI, WSGI) read X_Forwarded_For and X-Forwarded-For as
    one, and some of them X.Forwarded.For too.
    """
    return name.translate(_FOLD)


# What becomes of a request's field. Plain integers: it is asked for each field of each request.
PASS: Final = 0
DROP: Final = 1
CONNECTION: Final = 2
TE: Final = 3
TOLD: Final = 4
"""Passes from a trusted proxy."""
CERT: Final = 5
"""The same, where the connection has no certificate of its own."""
PARENT: Final = 6
STATE: Final = 7
EXPECT: Final = 8
TRAILER: Final = 9
UNDERSCORED: Final = 10
CONFUSABLE: Final = 11
"""An odd spelling of a name that means something here."""

_FATES: Final = {
    **dict.fromkeys(PROTECTED, PASS),
    # `Proxy` is nobody's field: CGI makes of it HTTP_PROXY, which programs obey
    **dict.fromkeys(HOP_BY_HOP | FORWARDED | {b"host", b"proxy", b"x-request-id"}, DROP),
    b"client-cert": CERT,
    b"client-cert-chain": CERT,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"te": TE,
    b"traceparent": PARENT,
    b"tracestate": STATE,
    b"trailer": TRAILER,
    b"x-real-ip": TOLD,
}


def fate_of(name: bytes) -> int:
    """What becomes of a request's field of this name."""
    plain = folded(name)
    found = _FATES.get(plain)
    if found is None and plain.startswith(FORWARDED_PREFIX):
        found = TOLD
    if found is None:
        return UNDERSCORED if b"_" in name else PASS
    return found if plain == name.lower() else CONFUSABLE


# A look into a table takes 40 ns, `fate_of` 400. The usual names in their usual spellings are in
# this one from the start; nothing is added later, so no client can fill it.
FATES: Final = {
    spelling: fate_of(spelling)
    for name in (
        *_FATES, b"access-control-request-headers", b"access-control-request-method",
        b"accept-charset", b"dnt", b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform",
        b"save-data", b"upgrade-insecure-requests", b"x-api-key",
    )
    for spelling in (name, name.title(), name.upper())
} | {spelling: fate_of(spelling) for spelling in (b"ETag", b"X-Request-ID")}  # fmt: skip
