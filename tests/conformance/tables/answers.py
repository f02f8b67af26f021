"""Cases of answers that pass: their heads as they are, 1xx, no-body statuses, early ones."""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.case import (
    Arrival,
    Case,
    Do,
    End,
    Reply,
    Steps,
    Until,
    Wanted,
    answer,
    answered,
    get,
    head,
    post,
    request,
)

_LENGTH: Final = "Content-Length: 2"
_OK: Final = answer(_LENGTH, body=b"ok")


def _status(status: str, **rest: Any) -> Case:
    code, _, reason = status.partition(" ")
    return answered(f"answer: {status or code} passes", "9110 §15",
                    answer(_LENGTH, body=b"ok", status=status),
                    Reply(int(code), b"ok", reason=reason.encode("latin-1")), **rest)  # fmt: skip


def _field(name: str, *lines: str, **has: Wanted) -> Case:
    return answered(f"answer field: {name}", "9110 §5",
                    answer(*lines, _LENGTH, body=b"ok"), Reply(200, b"ok", has=has))  # fmt: skip


_HEADS = (
    _status("201 Created"),
    _status("206 Partial Content"),
    _status("299 Whatever"),
    _status("302 Found"),
    _status("404 Not Found"),
    _status("418 I'm a teapot"),
    _status("500 Internal Server Error"),
    _status("599 Nobody knows"),
    _status("200 C'est \xe7a"),
    answered("answer: an empty reason", "9112 §4", answer(_LENGTH, body=b"ok", status="200 "),
             Reply(200, b"ok")),
    # The space before an empty reason is often left out, and nobody reads anything else into it.
    answered("answer: no reason, and no space before it", "9112 §4",
             head("HTTP/1.1 200", _LENGTH) + b"ok", Reply(200, b"ok")),
    answered("answer: HTTP/1.0 is answered on in HTTP/1.1", "9110 §2.5",
             head("HTTP/1.0 200 OK", _LENGTH) + b"ok", Reply(200, b"ok")),
    answered("answer: HTTP/1.0 with keep-alive", "9112 §9.3",
             head("HTTP/1.0 200 OK", _LENGTH, "Connection: keep-alive") + b"ok",
             Reply(200, b"ok", lacks=("Connection",))),
    _field("several of a name keep their order", "X: 1", "Y: 1", "x: 2", X=("1", "2"), Y="1"),
    _field("several cookies stay several", "Set-Cookie: a=1", "Set-Cookie: b=2; Path=/",
           **{"Set-Cookie": ("a=1", "b=2; Path=/")}),
    _field("bytes above 127 pass", "X: caf\xe9 \xff", X="caf\xe9 \xff"),
    _field("an empty value", "X:", X=""),
    _field("whitespace around a value", "X: \t a b \t", X="a b"),
    _field("a name with _", "X_Y: 1", X_Y="1"),
    _field("Date and Server are the backend's", "Date: Thu, 01 Jan 1970 00:00:00 GMT",
           "Server: fake/1", Date="Thu, 01 Jan 1970 00:00:00 GMT", Server="fake/1"),
    _field("Location passes", "Location: /else", Location="/else"),
    _field("Content-Encoding passes", "Content-Encoding: gzip", **{"Content-Encoding": "gzip"}),
    _field("a value of 30,000 bytes", "X: " + "x" * 30_000, X="x" * 30_000),
)  # fmt: skip


def _drops(name: str, *lines: str, lacks: tuple[str, ...], **has: Wanted) -> Case:
    return answered(f"answer, hop by hop: {name}", "9110 §7.6.1",
                    answer(*lines, _LENGTH, body=b"ok"),
                    Reply(200, b"ok", has=has, lacks=lacks))  # fmt: skip


_HOPS = (
    _drops("what Connection names goes", "Connection: X-Gone", "X-Gone: 1", "X-Stays: 1",
           lacks=("X-Gone", "Connection"), **{"X-Stays": "1"}),
    _drops("names in another case, with spaces", "connection:  x-gone ,", "X-GONE: 1",
           lacks=("X-Gone",)),
    _drops("Keep-Alive", "Keep-Alive: timeout=5", "Connection: keep-alive", lacks=("Keep-Alive",)),
    _drops("Proxy-Connection", "Proxy-Connection: close", lacks=("Proxy-Connection",)),
    _drops("Connection cannot take Content-Length away", "Connection: Content-Length",
           lacks=("Transfer-Encoding",), **{"Content-Length": "2"}),
    _drops("Connection cannot take Set-Cookie away", "Connection: Set-Cookie", "Set-Cookie: a=1",
           lacks=(), **{"Set-Cookie": "a=1"}),
    _drops("Connection cannot take Content-Type away", "Connection: Content-Type",
           "Content-Type: text/plain", lacks=(), **{"Content-Type": "text/plain"}),
    _drops("Connection cannot take Cache-Control away", "Connection: Cache-Control",
           "Cache-Control: private", lacks=(), **{"Cache-Control": "private"}),
    _drops("the backend's close is not the client's", "Connection: close", lacks=("Connection",)),
)  # fmt: skip

_HINTS: Final = head("HTTP/1.1 103 Early Hints", "Link: </a.css>; rel=preload")

_INTERIM = (
    answered("1xx: 103 passes with its fields", "8297 §2", _HINTS + _OK,
             Reply(103, has={"Link": "</a.css>; rel=preload"}), Reply(200, b"ok")),
    answered("1xx: 103 passes at once", "8297 §2", (Do.READ_BODY, _HINTS, Until(b"103"), _OK),
             Reply(103), Reply(200, b"ok")),
    answered("1xx: several 103", "8297 §2", _HINTS * 3 + _OK, Reply(103), Reply(103), Reply(103),
             Reply(200, b"ok")),
    answered("1xx: 102", "9110 §15.2", head("HTTP/1.1 102 Processing") + _OK, Reply(102),
             Reply(200, b"ok")),
    answered("1xx: one that nobody knows", "9110 §15.2",
             head("HTTP/1.1 199 Soon", "X: 1") + _OK, Reply(199, has={"X": "1"}),
             Reply(200, b"ok")),
    answered("1xx: 100, then 103, then the answer", "9110 §15.2",
             (head("HTTP/1.1 100 Continue"), Do.READ_BODY, _HINTS + _OK),
             Reply(100), Reply(103), Reply(200, b"ok"),
             sends=(post("Expect: 100-continue", "Content-Length: 5"), Until(b"100 Continue"),
                    b"hello"), backend=(Arrival("POST", body=b"hello"),)),
    answered("1xx: before an answer to HEAD", "9110 §15.2", _HINTS + answer("Content-Length: 9"),
             Reply(103), Reply(200, to="HEAD", has={"Content-Length": "9"}), to="HEAD"),
    answered("1xx: before an answer without a body", "9110 §15.2",
             _HINTS + answer(status="204 No Content"), Reply(103), Reply(204)),
    answered("1xx: its hop-by-hop fields go", "9110 §7.6.1",
             head("HTTP/1.1 103 Early Hints", "Connection: X-Gone", "X-Gone: 1", "Link: </a>")
             + _OK, Reply(103, has={"Link": "</a>"}, lacks=("X-Gone",)), Reply(200, b"ok")),
    answered("1xx: pipelined requests stay in step", "9112 §9.3.2", _HINTS + _OK, Reply(103),
             Reply(200, b"ok"), Reply(200, b"ok"), sends=(get() + get(target="/2"),),
             backend=(Arrival(), Arrival(target="/2"))),
)  # fmt: skip


def _bodiless(name: str, rfc: str, steps: bytes | Steps, reply: Reply, **rest: Any) -> Case:
    """Then the client asks again: whoever waited for a body, or took one for a head, would fail."""
    return answered(f"no body: {name}", rfc, steps, reply, **rest)


_BODILESS = (
    _bodiless("204", "9110 §15.3.5", answer(status="204 No Content"),
              Reply(204, lacks=("Content-Length", "Transfer-Encoding"))),
    _bodiless("204 has no length", "9110 §8.6",
              answer("Content-Length: 0", status="204 No Content"),
              Reply(204, lacks=("Content-Length",))),
    _bodiless("304", "9110 §15.4.5", answer('ETag: "x"', status="304 Not Modified"),
              Reply(304, has={"ETag": '"x"'}, lacks=("Transfer-Encoding",))),
    _bodiless("304 may say a length", "9110 §8.6",
              answer("Content-Length: 1234", status="304 Not Modified"),
              Reply(304, has={"Content-Length": "1234"})),
    _bodiless("a length of 0", "9112 §6.3", answer("Content-Length: 0"),
              Reply(200, b"", has={"Content-Length": "0"})),
    _bodiless("no chunk but the last", "9112 §7.1",
              answer("Transfer-Encoding: chunked", body=b"0\r\n\r\n"), Reply(200, b"")),
    _bodiless("closed after the head", "9112 §6.3", (Do.READ_BODY, answer(), Do.CLOSE),
              Reply(200, b"")),
)  # fmt: skip

_BIG: Final = "Content-Length: 1000000"

_EARLY = (
    answered("early: an answer before the body has come", "9112 §9.3",
             (answer("Content-Length: 3", body=b"too", status="413 Content Too Large"),),
             Reply(413, b"too"), sends=(post(_BIG, body=b"hello"),), end=End.CLOSED,
             backend=(Arrival("POST", torn=True),)),
    answered("early: and the backend closes", "9112 §9.3",
             (answer("Content-Length: 3", "Connection: close", body=b"too",
                     status="413 Content Too Large"), Do.CLOSE),
             Reply(413, b"too"), sends=(post(_BIG, body=b"hello"),), end=End.CLOSED,
             backend=(Arrival("POST", torn=True),)),
    answered("early: to a chunked request", "9112 §9.3",
             (answer("Content-Length: 3", body=b"too", status="413 Content Too Large"),),
             Reply(413, b"too"),
             sends=(post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),), end=End.CLOSED,
             backend=(Arrival("POST", torn=True),)),
    answered("early: the answer streams while the body does", "9110 §7.5",
             (answer("Content-Length: 10", body=b"hello"), Do.READ_BODY, b"world"),
             Reply(200, b"helloworld"),
             sends=(post("Content-Length: 5", body=b"he"), Until(b"hello"), b"llo"),
             end=End.CLOSED, backend=(Arrival("POST", body=b"hello"),)),
    answered("early: an answer before a body that still comes", "9110 §7.5",
             (answer("Content-Length: 4", body=b"soon"), Do.READ_BODY), Reply(200, b"soon"),
             sends=(post("Content-Length: 5", body=b"hello"),), end=End.EITHER,
             backend=(Arrival("POST", body=b"hello"),)),
    answered("early: HEAD with a length, asked twice", "9110 §9.3.2",
             answer("Content-Length: 9"), Reply(200, to="HEAD", has={"Content-Length": "9"}),
             Reply(200, to="HEAD"), to="HEAD", sends=(request("HEAD"), request("HEAD")),
             backend=(Arrival("HEAD"), Arrival("HEAD")), alone="the second answer has a body"),
)  # fmt: skip

CASES = (*_HEADS, *_HOPS, *_INTERIM, *_BODILESS, *_EARLY)
