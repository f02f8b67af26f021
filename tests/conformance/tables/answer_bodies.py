"""Cases of answers' bodies: framed anew, whole or visibly cut, and never one byte of the next."""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.case import (
    Answered,
    Arrival,
    Case,
    Do,
    End,
    Reply,
    Steps,
    Until,
    answer,
    answered,
    get,
    request,
)

_CHUNKED: Final = "Transfer-Encoding: chunked"
_LAST: Final = b"0\r\n\r\n"


def _chunks(name: str, body: bytes, reply: Reply, **rest: Any) -> Case:
    return answered(f"answer chunks: {name}", "9112 §7.1", answer(_CHUNKED, body=body), reply,
                    **rest)  # fmt: skip


def _trailer(name: str, *lines: str, wanted: dict[str, str]) -> Case:
    body = b"5\r\nhello\r\n0\r\n" + b"".join(f"{line}\r\n".encode() for line in lines) + b"\r\n"
    return answered(
        f"answer trailer: {name}", "9110 §6.5", answer(_CHUNKED, "Trailer: X-Check", body=body),
        Reply(200, b"hello", trailers=wanted), sends=(get("TE: trailers", "Connection: TE"),),
    )  # fmt: skip


_WHOLE = (
    answered("answer body: by length", "9112 §6.2", answer("Content-Length: 5", body=b"hello"),
             Reply(200, b"hello", framing="length", has={"Content-Length": "5"})),
    _chunks("make one body", b"2\r\nhe\r\n3\r\nllo\r\n" + _LAST,
            Reply(200, b"hello", framing="chunked", lacks=("Content-Length",))),
    _chunks("extensions are not passed on", b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
            Reply(200, b"hello", trailers={})),
    _chunks("data that looks like an end", b"7\r\n\r\n0\r\n\r\n\r\n" + _LAST,
            Reply(200, b"\r\n0\r\n\r\n")),
    _chunks("leading zeros, upper case", b"000A\r\n0123456789\r\n" + _LAST,
            Reply(200, b"0123456789")),
    answered("answer chunks: arrive byte by byte", "9112 §7.1",
             (Do.READ_BODY, *(part for byte in answer(_CHUNKED, body=b"5\r\nhello\r\n" + _LAST)
                              for part in (b"%c" % byte,))), Reply(200, b"hello")),
    answered("answer chunks: one of 300,000 bytes", "9112 §7.1",
             answer(_CHUNKED, body=b"493E0\r\n" + b"x" * 300_000 + b"\r\n" + _LAST),
             Reply(200, b"x" * 300_000)),
    answered("answer chunks: 5,000 of one byte", "9112 §7.1",
             answer(_CHUNKED, body=b"1\r\nx\r\n" * 5000 + _LAST), Reply(200, b"x" * 5000)),
    answered("answer chunks: each passes as it comes", "9112 §7.1",
             (Do.READ_BODY, answer(_CHUNKED, body=b"2\r\nhe\r\n"), Until(b"he"),
              b"3\r\nllo\r\n", Until(b"llo"), _LAST), Reply(200, b"hello")),
    answered("answer body: until the end of the connection", "9112 §6.3",
             (Do.READ_BODY, answer(body=b"hello"), Do.CLOSE),
             Reply(200, b"hello", framing="chunked")),
    answered("answer body: until the end, of HTTP/1.0", "9112 §6.3",
             (Do.READ_BODY, b"HTTP/1.0 200 OK\r\n\r\nhello", Do.CLOSE),
             Reply(200, b"hello", framing="chunked")),
    answered("answer body: 300,000 bytes by length", "9112 §6.2",
             answer("Content-Length: 300000", body=b"x" * 300_000), Reply(200, b"x" * 300_000)),
    answered("answer body: every byte there is", "9110 §6.4",
             answer("Content-Length: 256", body=bytes(range(256))),
             Reply(200, bytes(range(256)))),
    answered("answer body: gzip is not undone", "9110 §8.4",
             answer("Content-Encoding: gzip", "Content-Length: 4", body=b"\x1f\x8bxx"),
             Reply(200, b"\x1f\x8bxx", has={"Content-Encoding": "gzip", "Content-Length": "4"})),
    answered("answer body: it is no answer, whatever it looks like", "9112 §6.3",
             answer("Content-Length: 38", body=answer("Content-Length: 0")),
             Reply(200, answer("Content-Length: 0"))),
    _trailer("one passes", "X-Check: 1", wanted={"X-Check": "1"}),
    _trailer("two pass", "X-Check: 1", "X-Other: 2", wanted={"X-Check": "1", "X-Other": "2"}),
    _trailer("Content-Length does not", "Content-Length: 5", wanted={}),
    _trailer("Transfer-Encoding does not", "Transfer-Encoding: chunked", wanted={}),
    _trailer("Set-Cookie does not", "Set-Cookie: a=1", wanted={}),
    _trailer("Content-Type does not", "Content-Type: text/html", wanted={}),
)  # fmt: skip


def _torn(name: str, first: bytes, *then: bytes | Do, got: bytes = b"hello", **rest: Any) -> Case:
    """The client has the first bytes before the fault comes: it must see that this is no end."""
    return answered(
        f"cut: {name}", "9112 §8", (Do.READ_BODY, first, Until(got), *then),
        Reply(200, got, whole=False), end=End.ABORTED, **rest,
    )  # fmt: skip


def _bad_chunk(name: str, body: bytes, **rest: Any) -> Case:
    """A fault after a chunk that the client already has."""
    return _torn(f"a chunk {name}", answer(_CHUNKED, body=b"5\r\nhello\r\n"), body, **rest)


_TORN = (
    _torn("short of its length, closed", answer("Content-Length: 10", body=b"hello"), Do.CLOSE),
    _torn("short of its length, reset", answer("Content-Length: 10", body=b"hello"), Do.RESET),
    _torn("before the last chunk, closed", answer(_CHUNKED, body=b"5\r\nhello\r\n"), Do.CLOSE),
    _torn("before the last chunk, reset", answer(_CHUNKED, body=b"5\r\nhello\r\n"), Do.RESET),
    _torn("within a chunk, closed", answer(_CHUNKED, body=b"a\r\nhello"), Do.CLOSE),
    _torn("within a chunk's size", answer(_CHUNKED, body=b"5\r\nhello\r\n1"), Do.CLOSE),
    _torn("before the last empty line", answer(_CHUNKED, body=b"5\r\nhello\r\n0\r\n"), Do.CLOSE),
    _torn("within the trailers", answer(_CHUNKED, body=b"5\r\nhello\r\n0\r\nX: 1"), Do.CLOSE),
    _torn("until the end, but by a reset", answer(body=b"hello"), Do.RESET),
    _bad_chunk("size of no hexadecimal", b"zz\r\nhello\r\n" + _LAST),
    _bad_chunk("size as in C", b"0x5\r\nhello\r\n" + _LAST),
    _bad_chunk("size with a sign", b"-5\r\nhello\r\n" + _LAST),
    _bad_chunk("size with a space", b"5 \r\nhello\r\n" + _LAST),
    _bad_chunk("size of nothing", b"\r\nhello\r\n" + _LAST),
    _bad_chunk("size of 2 to the 64th and five", b"10000000000000005\r\nhello\r\n" + _LAST),
    _bad_chunk("size that ends in LF", b"0\n\r\n"),
    _bad_chunk("end of LF", b"0\r\n\n"),
    _bad_chunk("size without end", b"1" * 5000),
    _bad_chunk("extension over the limit", b"0;a=" + b"x" * 300 + b"\r\n\r\n"),
    _bad_chunk("extension with a bare LF", b"0;a\nb\r\n\r\n"),
    _torn("a chunk longer than its size", answer(_CHUNKED, body=b"5\r\nhello"),
          b"XX" + _LAST),
    _torn("trailers with a space before the colon", answer(_CHUNKED, body=b"5\r\nhello\r\n"),
          b"0\r\nX : 1\r\n\r\n"),
    _torn("trailers folded", answer(_CHUNKED, body=b"5\r\nhello\r\n"),
          b"0\r\nX: 1\r\n 2\r\n\r\n"),
)  # fmt: skip

_EXTRA: Final = answer("Content-Length: 6", body=b"poison")


def _more(name: str, steps: bytes | Steps, reply: Reply, to: str = "GET") -> Case:
    """The backend sends more than its answer; a second request must not get that for its own."""
    return answered(
        f"more than the answer: {name}", "9112 §6.3", steps, reply, Reply(200, b"ok"),
        sends=(request(to), Until(b"\r\n\r\n"), Answered(1), Do.PAUSE, get(target="/2")),
        backend=(Arrival(to), Arrival(target="/2")), connections=2,
    )  # fmt: skip


_MORE = (
    _more("bytes after the length", answer("Content-Length: 2", body=b"okpoison"),
          Reply(200, b"ok")),
    _more("a whole answer after it", answer("Content-Length: 2", body=b"ok") + _EXTRA,
          Reply(200, b"ok")),
    _more("a whole answer after the last chunk",
          answer(_CHUNKED, body=b"2\r\nok\r\n" + _LAST) + _EXTRA, Reply(200, b"ok")),
    _more("a body in answer to HEAD", answer("Content-Length: 6", body=b"poison"),
          Reply(200, b"", to="HEAD", has={"Content-Length": "6"}), to="HEAD"),
    _more("a body in a 204", answer("Content-Length: 6", body=b"poison", status="204 No Content"),
          Reply(204, lacks=("Content-Length",))),
    _more("a body in a 304",
          answer("Content-Length: 6", body=b"poison", status="304 Not Modified"), Reply(304)),
    _more("an answer a moment later",
          (Do.READ_BODY, answer("Content-Length: 2", body=b"ok"), Do.PAUSE, _EXTRA),
          Reply(200, b"ok")),
    _more("a 408 on an idle connection",
          (Do.READ_BODY, answer("Content-Length: 2", body=b"ok"), Do.PAUSE,
           answer("Content-Length: 0", status="408 Request Timeout"), Do.CLOSE),
          Reply(200, b"ok")),
)  # fmt: skip

CASES = (*_WHOLE, *_TORN, *_MORE)
