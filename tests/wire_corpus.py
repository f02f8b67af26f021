"""What fuzzing starts from: messages that are fine, messages that lie, and the ways to spoil both.

Pure: an edit is a plain value, so that one found by chance is found again from its seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

HOST: Final = b"Host: a.example\r\n"

BODIES: Final = (
    b"5\r\nhello\r\n0\r\n\r\n",
    b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
    b"A;name=value\r\n0123456789\r\n0\r\n\r\n",
    b'00005 ; q="a;b"\r\nhello\r\n000\r\n\r\n',
    b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Other: \r\n\r\n",
    b"2\r\n\r\n\r\n0\r\n\r\n",
    b"24\r\nGET /hidden HTTP/1.1\r\nHost: evil\r\n\r\n\r\n0\r\n\r\n",
    b"0\r\n\r\n",
)

REQUESTS: Final = (
    b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a?b=c HTTP/1.1\r\n" + HOST + b"Accept: */*\r\nCookie: a=b; c=d\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"GET http://a.example/abs HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /p HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"PUT /p HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    b"POST /p HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /p HTTP/1.0\r\n" + HOST + b"Content-Length: 36\r\n\r\n"
    b"GET /hidden HTTP/1.1\r\nHost: evil\r\n\r\n",
    b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: keep-alive, x-private\r\nX-Private: 1\r\n\r\n",
    b"POST /p HTTP/1.1\r\nConnection: content-length, host\r\n"
    + HOST
    + b"Content-Length: 5\r\n\r\nhello",
    b"GET / HTTP/1.1\r\n" + HOST + b"TE: trailers, deflate\r\nConnection: TE\r\n\r\n",
    *(
        b"POST /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + body
        for body in BODIES
    ),
)

LIES: Final = (
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\nG",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 5\r\n\r\nhello",
    b"GET / HTTP/1.1\n" + HOST + b"\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rGET /hidden HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Host: b.example\r\n\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    b"PRI /c HTTP/1.1\r\n" + HOST + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)

ANSWERS: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: "a"\r\n\r\n',
    b"HTTP/1.1 404 N\xf6t Found\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx",
    *(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body for body in BODIES),
)

ANSWER_LIES: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 2\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 099 No\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
)

TOKENS: Final = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\x0b", b":", b";", b",", b"0", b"1", b"5", b"a",
    b"\x7f", b"\x80", b"\xff", b"_", b"-", b"+", b"0x", b"\r\n\r\n", b"\r\n ", b"0\r\n\r\n",
    b"5\r\nhello\r\n", b"Content-Length: 5\r\n", b"content-length:0\r\n", b"Content-Length : 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\tchunked\r\n",
    b"transfer-encoding: Chunked\r\n", b"Transfer_Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Connection: content-length, host\r\n", b"Host: b.example\r\n",
    b"Expect: 100-continue\r\n", b"Max-Forwards: 0\r\n", b" HTTP/1.1", b" HTTP/1.0", b"GET ",
    b"GET /hidden HTTP/1.1\r\nHost: a.example\r\n\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b";ext=\"\r\n\"", b"X: \xe2\x98\x83\r\n", b"%0d%0a",
    b"//", b"*",
)  # fmt: skip

KINDS: Final = ("insert", "replace", "delete", "double", "swap", "flip", "case", "splice")


@dataclass(frozen=True, slots=True)
class Edit:
    """One change. `at` and `to` are shares of the length, so that it fits whatever it meets."""

    kind: str
    at: float
    to: float
    token: bytes


def edited(data: bytes, edits: list[Edit]) -> bytes:
    for edit in edits:
        data = _edited(data, edit)[:8192]
    return data


def _edited(data: bytes, edit: Edit) -> bytes:
    at = int(edit.at * len(data))
    near = min(len(data), at + 1 + int(edit.to * 12))
    match edit.kind:
        case "insert":
            return data[:at] + edit.token + data[at:]
        case "replace":
            return data[:at] + edit.token + data[near:]
        case "delete":
            return data[:at] + data[near:]
        case "double":
            return data[:near] + data[at:]
        case "swap":
            return data[:at] + data[at:near][::-1] + data[near:]
        case "flip":
            return (
                data[:at]
                + bytes(b ^ (1 << int(edit.to * 8)) for b in data[at : at + 1])
                + (data[at + 1 :])
            )
        case "case":
            return data[:at] + data[at:near].swapcase() + data[near:]
        case _:
            to = int(edit.to * len(data))
            return data[:at] + data[min(at, to) : max(at, to)] + data[at:]


def drawn(random: random.Random, bases: tuple[bytes, ...]) -> bytes:
    """One input by chance: one to three messages in a row, with up to five edits."""
    data = b"".join(random.choices(bases, k=random.choice((1, 1, 2, 3))))
    number = random.choice((0, 1, 1, 1, 2, 2, 3, 5))
    return edited(
        data,
        [
            Edit(
                random.choice(KINDS),
                min(random.random(), 0.999),
                min(random.random(), 0.999),
                random.choice(TOKENS),
            )
            for _ in range(number)
        ],
    )


def cuts(random: random.Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces: whole, byte by byte, or at random."""
    way = random.randrange(3)
    if way == 0 or len(data) < 2:
        return [data]
    if way == 1:
        return [data[i : i + 1] for i in range(len(data))]
    ends = sorted(random.sample(range(1, len(data)), min(len(data) - 1, random.randint(1, 6))))
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
