"""Cases of connections: kept, closed, pipelined, half-closed; HTTP/1.0 clients; pieces."""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.case import (
    Arrival,
    Came,
    Case,
    Do,
    End,
    Reply,
    Until,
    answer,
    answered,
    get,
    head,
    passed,
    post,
    refused,
    request,
)

_OK: Final = Reply(200, b"ok")
_REUSE: Final = "which connections to the backend it uses again is its own matter"


def _ten(*lines: str, target: str = "/", method: str = "GET") -> bytes:
    """A request of HTTP/1.0."""
    return head(f"{method} {target} HTTP/1.0", "Host: a.example", *lines)


def _numbered(body: bytes) -> bytes:
    return answer(f"Content-Length: {len(body)}", body=body)


_KEPT = (
    passed("connection: kept without a word", "9112 §9.3", get(),
           client=(Reply(200, b"ok", lacks=("Connection",)),)),
    passed("connection: keep-alive is no news in HTTP/1.1", "9112 §9.3",
           get("Connection: keep-alive"), backend=(Arrival(lacks=("Keep-Alive",)),)),
    passed("connection: close is done, and said", "9112 §9.6", get("Connection: close"),
           client=(Reply(200, b"ok", has={"Connection": "close"}),), end=End.CLOSED),
    passed("connection: close in a list", "9112 §9.6", get("Connection: X-A, CLOSE", "X-A: 1"),
           client=(Reply(200, b"ok", has={"Connection": "close"}),), end=End.CLOSED,
           backend=(Arrival(lacks=("X-A",)),)),
    passed("connection: close in a second field", "9112 §9.6",
           get("Connection: keep-alive", "Connection: close"),
           client=(Reply(200, b"ok", has={"Connection": "close"}),), end=End.CLOSED),
    passed("connection: closed also beside keep-alive", "9112 §9.6",
           get("Connection: keep-alive, close"), end=End.CLOSED),
    passed("connection: enclosed is not close", "9112 §9.6", get("Connection: enclosed")),
    passed("connection: what comes after close is not read", "9112 §9.6",
           get("Connection: close") + get(target="/secret"), end=End.CLOSED),
    passed("connection: three requests, one after the other", "9112 §9.3",
           get(target="/1"), Until(b"ok"), get(target="/2"), get(target="/3"),
           client=(_OK, _OK, _OK),
           backend=tuple(Arrival(target=f"/{n}") for n in (1, 2, 3))),
    passed("connection: three requests use one to the backend", "9112 §9.3",
           get(target="/1"), Until(b"ok"), get(target="/2"), get(target="/3"),
           client=(_OK, _OK, _OK), connections=1, alone=_REUSE,
           backend=tuple(Arrival(target=f"/{n}") for n in (1, 2, 3))),
    passed("connection: a request after one with a body", "9112 §9.3",
           post("Content-Length: 5", body=b"hello"), get(target="/2"), client=(_OK, _OK),
           backend=(Arrival("POST", body=b"hello"), Arrival(target="/2"))),
    passed("connection: a request after one in chunks", "9112 §9.3",
           post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), get(target="/2"),
           client=(_OK, _OK), backend=(Arrival("POST", body=b"hello"), Arrival(target="/2"))),
)  # fmt: skip

_PIPELINED = (
    answered("pipelining: answers in order", "9112 §9.3.2",
             (Do.READ_BODY, Do.PAUSE, Do.PAUSE, _numbered(b"one")), Reply(200, b"one"), _OK, _OK,
             sends=(get(target="/1") + get(target="/2") + get(target="/3"),),
             backend=tuple(Arrival(target=f"/{n}") for n in (1, 2, 3))),
    passed("pipelining: with bodies between", "9112 §9.3.2",
           post("Content-Length: 5", body=b"hello")
           + post("Transfer-Encoding: chunked", body=b"2\r\nhe\r\n0\r\n\r\n") + get(target="/3"),
           client=(_OK, _OK, _OK),
           backend=(Arrival("POST", body=b"hello"), Arrival("POST", body=b"he"),
                    Arrival(target="/3"))),
    passed("pipelining: HEAD between", "9112 §9.3.2",
           get() + request("HEAD") + get(target="/3"),
           client=(_OK, Reply(200, to="HEAD"), _OK),
           backend=(Arrival(), Arrival("HEAD"), Arrival(target="/3"))),
    refused("pipelining: good ones before a bad one are served", "9112 §9.3.2",
            get(target="/1") + get(target="/2") + b"no http\r\n\r\n", after=(_OK, _OK),
            backend=(Arrival(target="/1"), Arrival(target="/2"))),
    refused("pipelining: what comes after a bad one is not read", "9112 §9.3.2",
            b"no http\r\n\r\n" + get(target="/secret")),
    refused("pipelining: a bad request in place of a body too long", "9112 §6.3",
            post("Content-Length: 3", body=b"hel{}") + get(), after=(_OK,),
            backend=(Arrival("POST", body=b"hel"),)),
    passed("pipelining: twenty at once", "9112 §9.3.2",
           b"".join(get(target=f"/{n}") for n in range(20)), client=(_OK,) * 20,
           backend=tuple(Arrival(target=f"/{n}") for n in range(20))),
    answered("pipelining: an answer cut short ends what waits behind it", "9112 §9.3.2",
             (Do.READ_BODY, answer("Content-Length: 5", body=b"he"), Until(b"he"), Do.CLOSE),
             Reply(200, b"he", whole=False), sends=(get() + get(target="/2"),), end=End.ABORTED,
             backend=(Arrival(),), alone="they may have begun on the second"),
)  # fmt: skip


def _old(name: str, *lines: str, **rest: Any) -> Case:
    return passed(f"HTTP/1.0: {name}", "9112 §9.3", _ten(*lines), **rest)


_OLD = (
    _old("closed after the answer", end=End.CLOSED),
    _old("the backend is spoken to in HTTP/1.1", end=End.CLOSED,
         backend=(Arrival(has={"Host": "a.example"}),)),
    _old("kept where it asks for that, and told so", "Connection: keep-alive",
         client=(Reply(200, b"ok", has={"Connection": "keep-alive"}),)),
    _old("kept in another case", "connection: Keep-Alive",
         client=(Reply(200, b"ok", has={"Connection": "keep-alive"}),)),
    _old("close is no news", "Connection: close", end=End.CLOSED),
    passed("HTTP/1.0: with a body", "9112 §6.2",
           _ten("Content-Length: 5", method="POST") + b"hello", end=End.CLOSED,
           backend=(Arrival("POST", body=b"hello"),)),
    passed("HTTP/1.0: pipelined without keep-alive, only the first is read", "9112 §9.3",
           _ten() + _ten(target="/secret"), end=End.CLOSED),
    answered("HTTP/1.0: chunks are taken apart", "9112 §7.1",
             answer("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
             Reply(200, b"hello", framing="close", lacks=("Transfer-Encoding",)),
             sends=(_ten(),), end=End.CLOSED),
    answered("HTTP/1.0: chunks end the connection even if it may be kept", "9112 §7.1",
             answer("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
             Reply(200, b"hello", framing="close", lacks=("Transfer-Encoding",)),
             sends=(_ten("Connection: keep-alive"),), end=End.CLOSED),
    answered("HTTP/1.0: trailers are left out", "9112 §7.1.2",
             answer("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"),
             Reply(200, b"hello", framing="close"), sends=(_ten("TE: trailers"),),
             end=End.CLOSED),
    answered("HTTP/1.0: 103 is left out", "9110 §15.2",
             head("HTTP/1.1 103 Early Hints", "Link: </a>") + answer("Content-Length: 2",
                                                                    body=b"ok"),
             _OK, sends=(_ten(),), end=End.CLOSED),
    answered("HTTP/1.0: a body cut short ends in a reset", "9112 §8",
             (Do.READ_BODY, answer("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
              Until(b"hello"), Do.CLOSE),
             Reply(200, b"hello", whole=False), sends=(_ten(),), end=End.ABORTED),
    answered("HTTP/1.0: a body cut short of its length", "9112 §8",
             (Do.READ_BODY, answer("Content-Length: 10", body=b"hello"), Until(b"hello"),
              Do.CLOSE),
             Reply(200, b"hello", whole=False), sends=(_ten(),), end=End.ABORTED),
)  # fmt: skip

_HALF = (
    passed("half-close: after the request, the answer still comes", "9112 §9.6",
           get(), Do.HALF_CLOSE, end=End.CLOSED),
    passed("half-close: with the request in one write", "9112 §9.6",
           get("Connection: close"), Do.HALF_CLOSE, end=End.CLOSED),
    answered("half-close: while the backend works", "9112 §9.6",
             (Do.READ_BODY, *(Do.PAUSE,) * 3, answer("Content-Length: 4", body=b"late")),
             Reply(200, b"late"), sends=(get(), Do.HALF_CLOSE), end=End.CLOSED),
    answered("half-close: while the answer streams", "9112 §9.6",
             (Do.READ_BODY, answer("Content-Length: 10", body=b"hello"), Until(b"hello"),
              Do.PAUSE, b"world"),
             Reply(200, b"helloworld"), sends=(get(), Until(b"hello"), Do.HALF_CLOSE),
             end=End.CLOSED),
    passed("half-close: after a body", "9112 §9.6",
           post("Content-Length: 5", body=b"hello"), Do.HALF_CLOSE, end=End.CLOSED,
           backend=(Arrival("POST", body=b"hello"),)),
    passed("half-close: after a chunked body", "9112 §9.6",
           post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), Do.HALF_CLOSE,
           end=End.CLOSED, backend=(Arrival("POST", body=b"hello"),)),
    passed("half-close: pipelined requests are all answered", "9112 §9.6",
           get(target="/1") + get(target="/2"), Do.HALF_CLOSE, client=(_OK, _OK), end=End.CLOSED,
           backend=(Arrival(target="/1"), Arrival(target="/2"))),
    passed("half-close: HTTP/1.0", "9112 §9.6", _ten(), Do.HALF_CLOSE, end=End.CLOSED),
    answered("client gone: it resets while the backend works", "9112 §9.5",
             (Do.READ_BODY, Until(b"never")), sends=(get(), Came(b"\r\n\r\n"), Do.RESET),
             end=End.EITHER),
    passed("half-close: between requests", "9112 §9.6", get(), Until(b"ok"), Do.HALF_CLOSE,
           end=End.EITHER),
)  # fmt: skip

_PIECES = (
    passed("pieces: the empty line in two", "9112 §2.2", get()[:-2], b"\r\n"),
    passed("pieces: CR and LF apart", "9112 §2.2", get()[:-1], b"\n"),
    passed("pieces: within the method", "9112 §2.2", b"G", get()[1:]),
    passed("pieces: between the request line and the fields", "9112 §2.2", get()[:16], get()[16:-3],
           get()[-3:]),
    passed("pieces: between two fields", "9112 §2.2", get("X-A: 1")[:-10],
           get("X-A: 1")[-10:-6], get("X-A: 1")[-6:],
           backend=(Arrival(has={"X-A": "1"}),)),
    passed("pieces: within a field's name", "9112 §2.2",
           get("X-A: 1")[:-9], get("X-A: 1")[-9:], backend=(Arrival(has={"X-A": "1"}),)),
    passed("pieces: a body with the head, its rest later", "9112 §2.2",
           post("Content-Length: 5", body=b"he"), b"llo",
           backend=(Arrival("POST", body=b"hello"),)),
    passed("pieces: the next request with the last of a body", "9112 §9.3.2",
           post("Content-Length: 5", body=b"he"), b"llo" + get(target="/2")[:9],
           get(target="/2")[9:], client=(_OK, _OK),
           backend=(Arrival("POST", body=b"hello"), Arrival(target="/2"))),
    passed("pieces: CR and LF of a chunk apart", "9112 §7.1",
           post("Transfer-Encoding: chunked", body=b"5\r"), b"\nhello\r", b"\n0\r", b"\n\r",
           b"\n", backend=(Arrival("POST", body=b"hello"),)),
    refused("pieces: CR and something else apart", "9112 §2.2",
            b"GET / HTTP/1.1\r\nHost: a.example\r", b"X: 1\r\n\r\n"),
    refused("pieces: a chunk's CR and something else apart", "9112 §2.2",
            post("Transfer-Encoding: chunked", body=b"5\r"), b"hello\r\n0\r\n\r\n",
            backend=(Arrival("POST", torn=True),)),
)  # fmt: skip

CASES = (*_KEPT, *_PIPELINED, *_OLD, *_HALF, *_PIECES)
