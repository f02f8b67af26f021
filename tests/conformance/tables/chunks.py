"""Cases of chunked requests: sizes, extensions, line ends, trailers. None is passed on as it came:
the backend gets chunks of our making."""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.case import Arrival, Came, Case, Do, End, Text, passed, post, raw, refused

CHUNKED: Final = "Transfer-Encoding: chunked"
LAST: Final = b"0\r\n\r\n"


def _good(name: str, body: bytes, arrives: bytes = b"hello", **rest: Any) -> Case:
    return passed(
        f"chunk: {name}", "9112 §7.1", post(CHUNKED, body=body),
        backend=(Arrival("POST", body=arrives, trailers={}),), **rest,
    )  # fmt: skip


_GOOD = (
    _good("several make one body", b"2\r\nhe\r\n3\r\nllo\r\n" + LAST),
    _good("of one byte each", b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello") + LAST),
    _good("5,000 of one byte", b"1\r\nx\r\n" * 5000 + LAST, b"x" * 5000),
    _good("leading zeros in a size", b"0005\r\nhello\r\n" + LAST),
    _good("several zeros are the end too", b"5\r\nhello\r\n000\r\n\r\n"),
    _good("sizes in upper case", b"A\r\n0123456789\r\n" + LAST, b"0123456789"),
    _good("sizes in lower case", b"a\r\n0123456789\r\n" + LAST, b"0123456789"),
    _good("data that looks like an end", b"7\r\n\r\n0\r\n\r\n\r\n" + LAST, b"\r\n0\r\n\r\n"),
    _good("an extension is not passed on", b"5;a\r\nhello\r\n" + LAST),
    _good("an extension with a value", b"5;a=b\r\nhello\r\n" + LAST),
    _good("an extension with a quoted value", b'5;a="b;c"\r\nhello\r\n' + LAST),
    _good("several extensions", b"5;a=b;c=d;e\r\nhello\r\n" + LAST),
    _good("an extension at the last chunk", b"5\r\nhello\r\n0;a=b\r\n\r\n"),
    _good("an extension of 200 bytes", b"5;a=" + b"x" * 197 + b"\r\nhello\r\n" + LAST),
    passed("chunk: arrives byte by byte", "9112 §7.1", post(CHUNKED),
           *(b"%c" % byte for byte in b"5\r\nhello\r\n" + LAST),
           backend=(Arrival("POST", body=b"hello"),)),
)  # fmt: skip


def _bad(name: str, body: Text, rfc: str = "9112 §7.1", **rest: Any) -> Case:
    """Head and chunks come in one piece, so nothing need be passed on before the fault is seen."""
    return refused(f"chunk: {name}", rfc, post(CHUNKED, body=raw(body)), **rest)


_SIZES = (
    _bad("size: hexadecimal as in C", b"0x5\r\nhello\r\n" + LAST),
    _bad("size: a plus sign", b"+5\r\nhello\r\n" + LAST),
    _bad("size: negative", b"-5\r\nhello\r\n" + LAST),
    _bad("size: no hexadecimal digit", b"g\r\nhello\r\n" + LAST),
    _bad("size: a letter after it", b"5x\r\nhello\r\n" + LAST),
    _bad("size: none", b"\r\nhello\r\n" + LAST),
    _bad("size: an extension alone", b";a=b\r\nhello\r\n" + LAST),
    _bad("size: a space before it", b" 5\r\nhello\r\n" + LAST),
    _bad("size: a space after it", b"5 \r\nhello\r\n" + LAST),
    _bad("size: a tab after it", b"5\t\r\nhello\r\n" + LAST),
    _bad("size: an underscore", b"0_5\r\nhello\r\n" + LAST),
    _bad("size: a comma", b"5,5\r\nhello\r\n" + LAST),
    _bad("size: a dot", b"5.0\r\nhello\r\n" + LAST),
    _bad("size: NUL after it", b"5\x00\r\nhello\r\n" + LAST),
    _bad("size: 2 to the 64th and five", b"10000000000000005\r\nhello\r\n" + LAST),
    _bad("size: 2 to the 64th less one", b"ffffffffffffffff\r\nhello\r\n" + LAST),
    _bad("size: 2 to the 63rd", b"8000000000000000\r\nhello\r\n" + LAST),
    _bad("size: zeros without end", b"0" * 70_000),
    _bad("size: digits without end", b"1" * 70_000),
)

_DATA = (
    _bad("data: longer than its size", b"4\r\nhello\r\n" + LAST),
    _bad("data: shorter than its size", b"6\r\nhello\r\n" + LAST),
    _bad("data: no line end after it", b"5\r\nhello" + LAST),
    _bad("data: two bytes for the line end", b"5\r\nhelloXX" + LAST),
)

_LINE_ENDS = (
    _bad("line end: LF after a size", b"5\nhello\r\n" + LAST, "9112 §2.2"),
    _bad("line end: CR after a size", b"5\rhello\r\n" + LAST, "9112 §2.2"),
    _bad("line end: CR CR LF after a size", b"5\r\r\nhello\r\n" + LAST, "9112 §2.2"),
    _bad("line end: LF after data", b"5\r\nhello\n" + LAST, "9112 §2.2"),
    _bad("line end: CR after data", b"5\r\nhello\r" + LAST, "9112 §2.2"),
    _bad("line end: LF after the last size", b"5\r\nhello\r\n0\n\r\n", "9112 §2.2"),
    _bad("line end: LF for the empty line", b"5\r\nhello\r\n0\r\n\n", "9112 §2.2"),
    _bad("line end: LF everywhere", b"5\nhello\n0\n\n", "9112 §2.2"),
    _bad("line end: CR in place of the last line end", b"5\r\nhello\r\n0\r\n\rX", "9112 §2.2"),
)

_EXTENSIONS = (
    _bad("extension: over the limit", b"5;a=" + b"x" * 300 + b"\r\nhello\r\n" + LAST, "ours"),
    _bad("extension: without end", b"5;a=" + b"x" * 70_000, "ours"),
    _bad("extension: over the limit at the last chunk", b"0;a=" + b"x" * 300 + b"\r\n\r\n", "ours"),
    _bad("extension: a bare LF in it", b"5;a=b\nhello\r\n" + LAST, "9112 §2.2"),
    _bad("extension: a bare CR in it", b"5;a\rb\r\nhello\r\n" + LAST, "9112 §2.2"),
    _bad("extension: NUL in it", b"5;a\x00b\r\nhello\r\n" + LAST, "9112 §7.1.1"),
    _bad("extension: a control character in it", b"5;a\x01b\r\nhello\r\n" + LAST, "9112 §7.1.1"),
)


def _trailer(name: str, *lines: Text, wanted: dict[str, str] | None = None) -> Case:
    body = b"5\r\nhello\r\n0\r\n" + b"".join(raw(line) + b"\r\n" for line in lines) + b"\r\n"
    return passed(
        f"trailer: {name}", "9110 §6.5", post("TE: trailers", CHUNKED, body=body),
        backend=(Arrival("POST", body=b"hello", trailers=wanted or {}),),
    )  # fmt: skip


def _bad_trailer(name: str, *lines: Text, **rest: Any) -> Case:
    body = b"5\r\nhello\r\n0\r\n" + b"".join(raw(line) + b"\r\n" for line in lines) + b"\r\n"
    return refused(f"trailer: {name}", "9112 §7.1.2", post(CHUNKED, body=body), **rest)


_TRAILERS = (
    _trailer("one is passed on", "X-Check: 1", wanted={"X-Check": "1"}),
    _trailer("two are", "X-Check: 1", "X-Other:  2 ", wanted={"X-Check": "1", "X-Other": "2"}),
    _trailer("Content-Length is not", "Content-Length: 5"),
    _trailer("Transfer-Encoding is not", "Transfer-Encoding: chunked"),
    _trailer("Host is not", "Host: b.example"),
    _trailer("Authorization is not", "Authorization: Basic eA=="),
    _trailer("Cookie is not", "Cookie: a=1"),
    _trailer("Content-Type is not", "Content-Type: text/html"),
    _trailer("Connection is not", "Connection: close"),
    _trailer("X-Forwarded-For is not", "X-Forwarded-For: 6.6.6.6"),
    _trailer("good ones beside bad ones are", "X-Check: 1", "Host: b", wanted={"X-Check": "1"}),
    _bad_trailer("a space before the colon", "X : 1"),
    _bad_trailer("no colon", "X"),
    _bad_trailer("no name", ": 1"),
    _bad_trailer("folded", "X: 1", " 2"),
    _bad_trailer("folded at once", " X: 1"),
    _bad_trailer("NUL", "X: \x00"),
    _bad_trailer("a bare LF", "X: 1\nY: 2"),
    _bad_trailer("a bare CR", "X: 1\rY: 2"),
    _bad_trailer("a request in their place", "GET /secret HTTP/1.1", "Host: a"),
    refused("trailer: more than a head may have", "ours",
            post(CHUNKED, body=b"5\r\nhello\r\n0\r\n" + b"X: 1\r\n" * 300 + b"\r\n"),
            alone="how many is each one's own matter"),
    refused("trailer: longer than a head may be", "ours",
            post(CHUNKED, body=b"5\r\nhello\r\n0\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"),
            alone="how long is each one's own matter"),
)  # fmt: skip

_BEGUN: Final = (post(CHUNKED, body=b"5\r\nhello\r\n"), Came(b"hello"))
_TORN: Final = (Arrival("POST", torn=True),)

_LATER = (
    refused("chunk: bad when the request is under way", "9112 §7.1", *_BEGUN,
            b"0x5\r\nhello\r\n" + LAST, backend=_TORN),
    refused("chunk: a bare LF when the request is under way", "9112 §2.2", *_BEGUN,
            b"0\n\n", backend=_TORN),
    refused("trailer: bad when the request is under way", "9112 §7.1.2", *_BEGUN,
            b"0\r\nX : 1\r\n\r\n", backend=_TORN),
    passed("chunk: the client ends within one", "9112 §8",
           *_BEGUN, b"5\r\nhe", Do.HALF_CLOSE, client=(), end=End.CLOSED, backend=_TORN),
    passed("chunk: the client ends before the last", "9112 §8",
           *_BEGUN, Do.HALF_CLOSE, client=(), end=End.CLOSED, backend=_TORN),
    passed("body: the client ends before its length", "9112 §8",
           post("Content-Length: 10", body=b"hello"), Came(b"hello"), Do.HALF_CLOSE,
           client=(), end=End.CLOSED, backend=_TORN),
    passed("body: the client goes before its length", "9112 §8",
           post("Content-Length: 10", body=b"hello"), Came(b"hello"), Do.CLOSE,
           client=(), end=End.EITHER, backend=_TORN),
    passed("chunk: the client goes before the last", "9112 §8", *_BEGUN, Do.CLOSE,
           client=(), end=End.EITHER, backend=_TORN),
)  # fmt: skip

CASES = (*_GOOD, *_SIZES, *_DATA, *_LINE_ENDS, *_EXTENSIONS, *_TRAILERS, *_LATER)
