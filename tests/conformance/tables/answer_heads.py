"""Cases of answers whose head is not HTTP, or says two things at once: 502, and none of it passes.

As strict as with requests: what a client could read otherwise than we do is no answer.
"""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.case import (
    Case,
    Do,
    Reply,
    Text,
    answer,
    answered,
    bad_answer,
    head,
    request,
)

_OK: Final = "Content-Length: 2"


def _line(name: str, line: Text, **rest: Any) -> Case:
    return bad_answer(f"status line: {name}", "9112 §4", head(line, _OK) + b"ok", **rest)


_LINES = (
    _line("a word", "nonsense"),
    _line("no status", "HTTP/1.1"),
    _line("a status of letters", "HTTP/1.1 abc OK"),
    _line("two digits", "HTTP/1.1 20 OK"),
    _line("four digits", "HTTP/1.1 2000 OK"),
    _line("000", "HTTP/1.1 000 No"),
    _line("099", "HTTP/1.1 099 No"),
    _line("a sign", "HTTP/1.1 +20 OK"),
    _line("two spaces", "HTTP/1.1  200 OK"),
    _line("a tab", "HTTP/1.1\t200 OK"),
    _line("begins with a space", " HTTP/1.1 200 OK"),
    _line("HTTP/2.0", "HTTP/2.0 200 OK"),
    _line("HTTP/0.9", "HTTP/0.9 200 OK"),
    _line("HTTP/1.10", "HTTP/1.10 200 OK"),
    _line("HTTP in lower case", "http/1.1 200 OK"),
    _line("Shoutcast's", "ICY 200 OK"),
    _line("a request", "GET / HTTP/1.1"),
    _line("NUL in the reason", "HTTP/1.1 200 O\x00K"),
    _line("a bare CR in the reason", "HTTP/1.1 200 O\rK"),
    _line("a control character in the reason", "HTTP/1.1 200 O\x01K"),
    bad_answer("status line: ended by LF", "9112 §2.2",
               b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok"),
    bad_answer("status line: an empty line before it", "9112 §2.2",
               b"\r\n" + answer(_OK, body=b"ok")),
    bad_answer("status line: a body without a head, as in HTTP/0.9", "9112 §4",
               (Do.READ_BODY, b"<html>hello</html>\r\n\r\n", Do.CLOSE)),
    bad_answer("status line: a TLS alert", "9112 §4",
               (Do.READ_BODY, b"\x15\x03\x03\x00\x02\x02\x28", Do.CLOSE)),
)  # fmt: skip


def _bad(name: str, *lines: Text, rfc: str = "9112 §5", **rest: Any) -> Case:
    return bad_answer(f"answer field: {name}", rfc, answer(*lines, _OK, body=b"ok"), **rest)


_FIELDS = (
    # RFC 9112 §5.1 would have us take the space out; whoever sends it is not to be trusted.
    _bad("a space before the colon", "X : 1", rfc="9112 §5.1"),
    _bad("a tab before the colon", "X\t: 1", rfc="9112 §5.1"),
    _bad("a space in the name", "X Y: 1"),
    _bad("no colon", "X"),
    _bad("no name", ": 1"),
    _bad("folded", "X: 1", " 2", rfc="9112 §5.2"),
    _bad("folded with a tab", "X: 1", "\t2", rfc="9112 §5.2"),
    _bad("NUL in a name", "X\x00: 1"),
    _bad("a byte above 127 in a name", "X\xe9: 1"),
    _bad("a bracket in a name", "X(: 1"),
    _bad("NUL in a value", "X: a\x00b", rfc="9110 §5.5"),
    _bad("a control character in a value", "X: a\x01b", rfc="9110 §5.5"),
    _bad("DEL in a value", "X: a\x7fb", rfc="9110 §5.5"),
    _bad("a bare CR in a value", "X: a\rb", rfc="9112 §2.2"),
    _bad("a field hidden behind CR", "X: a\rSet-Cookie: b=1", rfc="9112 §2.2"),
    _bad("a bare LF in a value", "X: a\nb", rfc="9112 §2.2"),
    _bad("CR CR LF", "X: a\r", rfc="9112 §2.2"),
    bad_answer("answer field: LF everywhere", "9112 §2.2",
               b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    bad_answer("answer field: LF for the empty line", "9112 §2.2",
               b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok"),
    bad_answer("answer field: a line that begins with a space, first", "9112 §2.2",
               head("HTTP/1.1 200 OK", " X: 1", _OK) + b"ok"),
    _bad("129 of them", *(f"X-{n}: 1" for n in range(128)), rfc="ours",
         alone="how many is each one's own matter"),
    _bad("70,000 bytes", "X: " + "x" * 70_000, rfc="ours",
         alone="how long is each one's own matter"),
    bad_answer("answer field: without end", "ours",
               (Do.READ_BODY, b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 20_000),
               alone="how long is each one's own matter"),
)  # fmt: skip


def _framed(name: str, *lines: Text, body: bytes = b"hello", rfc: str = "9112 §6.3",
            **rest: Any) -> Case:  # fmt: skip
    return bad_answer(f"answer framing: {name}", rfc, answer(*lines, body=body), **rest)


_CHUNKS: Final = b"5\r\nhello\r\n0\r\n\r\n"

_FRAMING = (
    _framed("a plus sign", "Content-Length: +5"),
    _framed("negative", "Content-Length: -5"),
    _framed("hexadecimal", "Content-Length: 0x5"),
    _framed("a word", "Content-Length: five"),
    _framed("empty", "Content-Length:"),
    _framed("a space within", "Content-Length: 5 5"),
    _framed("a fraction", "Content-Length: 5.0"),
    _framed("2 to the 64th and five", "Content-Length: 18446744073709551621"),
    _framed("thirty digits", "Content-Length: " + "9" * 30),
    _framed("a list of different ones", "Content-Length: 5, 6"),
    _framed("a list of two alike", "Content-Length: 5, 5"),
    _framed("twice, different", "Content-Length: 5", "Content-Length: 6"),
    _framed("twice, alike", "Content-Length: 5", "Content-Length: 5"),
    _framed("twice, in different case", "Content-Length: 5", "content-length: 4"),
    _framed("both Content-Length and chunked", "Content-Length: 5", "Transfer-Encoding: chunked",
            body=_CHUNKS),
    _framed("both chunked and Content-Length", "Transfer-Encoding: chunked", "Content-Length: 5",
            body=_CHUNKS),
    _framed("gzip", "Transfer-Encoding: gzip", rfc="9112 §6.1"),
    _framed("gzip, then chunked", "Transfer-Encoding: gzip, chunked", body=_CHUNKS,
            rfc="9112 §6.1"),
    _framed("identity", "Transfer-Encoding: identity", rfc="9112 §6.1"),
    _framed("chunked twice", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked",
            body=_CHUNKS, rfc="9112 §6.1"),
    _framed("chunked twice in a list", "Transfer-Encoding: chunked, chunked", body=_CHUNKS,
            rfc="9112 §6.1"),
    _framed("chunked with a letter more", "Transfer-Encoding: xchunked", body=_CHUNKS,
            rfc="9112 §6.1"),
    _framed("chunked with a vertical tab", "Transfer-Encoding: \x0bchunked", body=_CHUNKS,
            rfc="9112 §6.1"),
    _framed("an empty Transfer-Encoding", "Transfer-Encoding:", rfc="9112 §6.1"),
    bad_answer("answer framing: chunked in HTTP/1.0", "9112 §6.1",
               head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked") + _CHUNKS),
    bad_answer("answer framing: bad in an answer to HEAD too", "9112 §6.3",
               answer("Content-Length: 5", "Content-Length: 6"), to="HEAD",
               sends=(request("HEAD"),)),
    bad_answer("answer framing: both in a 304 too", "9112 §6.3",
               answer("Content-Length: 5", "Transfer-Encoding: chunked",
                      status="304 Not Modified")),
)  # fmt: skip

_ENDS = (
    bad_answer("answer: half a head, then the end", "9112 §8",
               (Do.READ_BODY, b"HTTP/1.1 200 OK\r\nContent-", Do.CLOSE)),
    bad_answer("answer: half a status line, then the end", "9112 §8",
               (Do.READ_BODY, b"HTTP/1.1 2", Do.CLOSE)),
    bad_answer("answer: half a head, then a reset", "9112 §8",
               (Do.READ_BODY, b"HTTP/1.1 200 OK\r\nContent-", Do.PAUSE, Do.RESET)),
    answered("answer: a 1xx and nothing more", "9112 §8",
             (Do.READ_BODY, head("HTTP/1.1 102 Processing"), Do.PAUSE, Do.CLOSE),
             Reply(102), Reply(502)),
)  # fmt: skip

CASES = (*_LINES, *_FIELDS, *_FRAMING, *_ENDS)
