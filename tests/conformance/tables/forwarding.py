"""Cases of what we take off and put on a request: hop-by-hop fields, Via, Forwarded, identities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tests.conformance.case import Arrival, Case, End, Wanted, get, head, passed, post

_OURS: Final = "only we write it so"
_TRUSTED: Final = {"trusted_proxies": ("127.0.0.0/8",)}


def _drops(name: str, *lines: str, lacks: tuple[str, ...], **has: Wanted) -> Case:
    return passed(f"hop by hop: {name}", "9110 §7.6.1", get(*lines),
                  backend=(Arrival(has=has, lacks=lacks),))  # fmt: skip


def _keeps(field: str, value: str) -> Case:
    """An end-to-end field that a client cannot have taken off by naming it in Connection."""
    return passed(f"hop by hop: Connection cannot take {field} away", "9110 §7.6.1",
                  get(f"Connection: {field}", f"{field}: {value}"),
                  backend=(Arrival(has={field: value}, lacks=("Connection",)),))  # fmt: skip


_HOPS = (
    _drops("what Connection names goes", "Connection: X-Gone", "X-Gone: 1", "X-Stays: 1",
           lacks=("X-Gone", "Connection"), **{"X-Stays": "1"}),
    _drops("names in another case", "connection: x-gone", "X-GONE: 1", lacks=("X-Gone",)),
    _drops("several names", "Connection: X-A , ,X-B,\tX-C", "X-A: 1", "X-B: 1", "X-C: 1",
           lacks=("X-A", "X-B", "X-C")),
    _drops("several Connection fields", "Connection: X-A", "X-B: 1", "Connection: X-B", "X-A: 1",
           lacks=("X-A", "X-B", "Connection")),
    _drops("beside keep-alive", "Connection: keep-alive, X-Gone", "X-Gone: 1", lacks=("X-Gone",)),
    _drops("names of fields that are not there", "Connection: X-Gone", lacks=("X-Gone",)),
    _drops("every field of a named one", "Connection: X-A", "X-A: 1", "X-A: 2", lacks=("X-A",)),
    _drops("Keep-Alive", "Keep-Alive: timeout=5", lacks=("Keep-Alive",)),
    _drops("Proxy-Connection", "Proxy-Connection: keep-alive", lacks=("Proxy-Connection",)),
    _drops("TE without trailers", "TE: gzip", "Connection: TE", lacks=("TE",)),
    _drops("TE alone, which Connection does not name", "TE: gzip;q=0.5", lacks=("TE",)),
    _drops("Upgrade that Connection does not name", "Upgrade: h2c", lacks=("Upgrade",)),
    _drops("HTTP2-Settings that Connection names", "Connection: HTTP2-Settings",
           "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", lacks=("HTTP2-Settings",)),
    passed("hop by hop: TE: trailers passes, and Connection names it", "9110 §10.1.4",
           get("TE: trailers", "Connection: TE"),
           backend=(Arrival(has={"TE": "trailers", "Connection": re.compile(rb"(?i).*\bte\b.*")}),
                    )),
    passed("hop by hop: of TE only trailers passes", "9110 §10.1.4",
           get("TE: gzip;q=0.5, trailers, deflate"), backend=(Arrival(has={"TE": "trailers"}),)),
    passed("hop by hop: Connection cannot take Host away", "9110 §7.6.1",
           get("Connection: Host"), backend=(Arrival(has={"Host": "a.example"}),)),
    passed("hop by hop: Connection cannot take Content-Length away", "9110 §7.6.1",
           post("Connection: Content-Length", "Content-Length: 5", body=b"hello"),
           backend=(Arrival("POST", body=b"hello"),)),
    passed("hop by hop: Connection cannot take Transfer-Encoding away", "9110 §7.6.1",
           post("Connection: Transfer-Encoding", "Transfer-Encoding: chunked",
                body=b"5\r\nhello\r\n0\r\n\r\n"),
           backend=(Arrival("POST", body=b"hello"),)),
    _keeps("Authorization", "Basic eA=="),
    _keeps("Cookie", "a=1"),
    _keeps("Content-Type", "text/plain"),
    _keeps("Content-Encoding", "gzip"),
    _keeps("Cache-Control", "no-store"),
    _keeps("Origin", "http://a.example"),
    _keeps("Range", "bytes=0-1"),
    passed("hop by hop: Connection cannot take our X-Forwarded-For away", "9110 §7.6.1",
           get("Connection: X-Forwarded-For, X-Forwarded-Host, X-Request-Id, Via"),
           backend=(Arrival(ours={"X-Forwarded-For": "127.0.0.1", "Via": "1.1 lbctl",
                                  "X-Forwarded-Host": "a.example",
                                  "X-Request-Id": re.compile(rb".+")}),)),
)  # fmt: skip


def _writes(
    name: str, rfc: str, *lines: str, wanted: Mapping[str, Wanted], sends: bytes | None = None,
    lacks: tuple[str, ...] = (), **rest: Any,
) -> Case:  # fmt: skip
    """What this proxy writes, and others only where they are configured to."""
    return passed(name, rfc, sends or get(*lines), backend=(Arrival(ours=wanted, lacks=lacks),),
                  alone=_OURS, **rest)  # fmt: skip


_VIA = (
    _writes("Via: we sign", "9110 §7.6.3", wanted={"Via": "1.1 lbctl"}),
    passed("Via: behind those who signed before", "9110 §7.6.3", get("Via: 1.0 edge"),
           backend=(Arrival(ours={"Via": ("1.0 edge", "1.1 lbctl")}),), alone=_OURS),
    _writes("Via: with the client's version", "9110 §7.6.3",
            sends=head("GET / HTTP/1.0", "Host: a.example"), wanted={"Via": "1.0 lbctl"},
            end=End.CLOSED),
)  # fmt: skip

_FORWARDED = (
    _writes("forwarded: who asked, by what, for whom", "ours",
            wanted={"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http",
               "X-Forwarded-Host": "a.example"}),
    _writes("forwarded: Forwarded says it in one field", "7239 §4",
            wanted={"Forwarded": re.compile(
                rb"(?=.*for=127\.0\.0\.1)(?=.*proto=http)(?=.*host=\"?a\.example).*")}),
    _writes("forwarded: a stranger's X-Forwarded-For is not believed", "ours",
            "X-Forwarded-For: 6.6.6.6", wanted={"X-Forwarded-For": "127.0.0.1"}),
    _writes("forwarded: nor three of them", "ours", "X-Forwarded-For: 6.6.6.6",
            "x-forwarded-for: 6.6.6.7, 6.6.6.8", wanted={"X-Forwarded-For": "127.0.0.1"}),
    _writes("forwarded: nor X-Forwarded-Proto", "ours", "X-Forwarded-Proto: https",
            wanted={"X-Forwarded-Proto": "http"}),
    _writes("forwarded: nor X-Forwarded-Host", "ours", "X-Forwarded-Host: bank.example",
            wanted={"X-Forwarded-Host": "a.example"}),
    _writes("forwarded: nor X-Forwarded-Port", "ours", "X-Forwarded-Port: 443",
            wanted={"X-Forwarded-Port": re.compile(rb"(?!443$)[0-9]+")}),
    _writes("forwarded: nor Forwarded", "7239 §8.1", "Forwarded: for=6.6.6.6;proto=https",
            wanted={"Forwarded": re.compile(rb"(?!.*6\.6\.6\.6)(?!.*https).*")}),
    _writes("forwarded: a trusted proxy's X-Forwarded-For is added to", "ours",
            "X-Forwarded-For: 6.6.6.6", settings=_TRUSTED,
            wanted={"X-Forwarded-For": re.compile(rb"6\.6\.6\.6, ?127\.0\.0\.1")}),
    _writes("forwarded: a trusted proxy's X-Forwarded-Proto stays", "ours",
            "X-Forwarded-Proto: https", settings=_TRUSTED, wanted={"X-Forwarded-Proto": "https"}),
    _writes("forwarded: a trusted proxy's X-Forwarded-Host stays", "ours",
            "X-Forwarded-Host: bank.example", settings=_TRUSTED,
            wanted={"X-Forwarded-Host": "bank.example", "Host": "a.example"}),
    _writes("forwarded: a trusted proxy's Forwarded is added to", "7239 §5",
            "Forwarded: for=6.6.6.6;proto=https", settings=_TRUSTED,
            wanted={"Forwarded": re.compile(
                rb"for=6\.6\.6\.6;proto=https, ?.*for=127\.0\.0\.1.*")}),
    _writes("forwarded: who is not in the list is a stranger", "ours",
            "X-Forwarded-For: 6.6.6.6", settings={"trusted_proxies": ("10.0.0.0/8",)},
            wanted={"X-Forwarded-For": "127.0.0.1"}),
)  # fmt: skip

_MADE: Final = re.compile(rb"[0-9A-Za-z._~+/=:@-]{8,128}")
_TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_SAME_TRACE: Final = re.compile(
    rb"00-4bf92f3577b34da6a3ce929d0e0e4736-(?!0{16})[0-9a-f]{16}-0[0-9a-f]"
)
_NEW_TRACE: Final = re.compile(
    rb"00-(?!0{32}|4bf92f3577b34da6a3ce929d0e0e4736)[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-9a-f]"
)


def _id(name: str, *lines: str, wanted: Wanted) -> Case:
    return _writes(f"request id: {name}", "ours", *lines, wanted={"X-Request-Id": wanted})


def _trace(name: str, *lines: str, wanted: Wanted, lacks: tuple[str, ...] = ()) -> Case:
    return _writes(f"traceparent: {name}", "W3C Trace Context §3.2", *lines, lacks=lacks,
                   wanted={"traceparent": wanted})  # fmt: skip


_IDENTITIES = (
    _id("is made", wanted=_MADE),
    _id("the client's passes", "X-Request-Id: from-the-client.1", wanted="from-the-client.1"),
    _id("one with a space is replaced", "X-Request-Id: a b", wanted=_MADE),
    _id("one with quotes is replaced", 'X-Request-Id: "><script>', wanted=_MADE),
    _id("an empty one is replaced", "X-Request-Id:", wanted=_MADE),
    _id("one of 1,000 bytes is replaced", "X-Request-Id: " + "x" * 1000, wanted=_MADE),
    passed("request id: two become one", "ours", get("X-Request-Id: one", "X-Request-Id: two"),
           alone=_OURS, backend=(Arrival(ours={"X-Request-Id": re.compile(rb".+")}),)),
    _trace("is made", wanted=_NEW_TRACE),
    _trace("a good one's trace goes on", f"traceparent: {_TRACE}", wanted=_SAME_TRACE),
    passed("traceparent: tracestate goes with it", "W3C Trace Context §3.3",
           get(f"traceparent: {_TRACE}", "tracestate: a=1,b=2"), alone=_OURS,
           backend=(Arrival(ours={"traceparent": _SAME_TRACE, "tracestate": "a=1,b=2"}),)),
    _trace("all zeros is no trace", f"traceparent: 00-{'0' * 32}-00f067aa0ba902b7-01",
           wanted=_NEW_TRACE),
    _trace("no parent is no trace", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16
           + "-01", wanted=_NEW_TRACE),
    _trace("version ff is no trace", "traceparent: ff" + _TRACE[2:], wanted=_NEW_TRACE),
    _trace("upper case is no trace", f"traceparent: {_TRACE.upper()}", wanted=_NEW_TRACE),
    _trace("one cut short is no trace", f"traceparent: {_TRACE[:40]}", wanted=_NEW_TRACE),
    _trace("two are none", f"traceparent: {_TRACE}", f"traceparent: {_TRACE}", wanted=_NEW_TRACE),
    _trace("tracestate without a trace goes", "traceparent: x", "tracestate: a=1",
           wanted=_NEW_TRACE, lacks=("tracestate",)),
)  # fmt: skip

_PLAIN = (
    passed("forwarding: nothing that the client did not say but what is ours", "9110 §3.7",
           get(), backend=(Arrival(lacks=("Connection", "Accept", "Accept-Encoding", "User-Agent",
                                          "Content-Length", "Transfer-Encoding", "Date")),)),
    passed("forwarding: what the client says of itself passes", "9110 §10.1.5",
           get("User-Agent: test/1", "Accept: */*"),
           backend=(Arrival(has={"User-Agent": "test/1", "Accept": "*/*"}),)),
)  # fmt: skip

CASES = (*_HOPS, *_VIA, *_FORWARDED, *_IDENTITIES, *_PLAIN)
