"""Cases of connections to the backend: kept, closed, stale, and what is asked a second time."""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.case import (
    OK,
    Answered,
    Arrival,
    Case,
    Do,
    Reply,
    Steps,
    Until,
    answer,
    get,
    head,
    passed,
    post,
    request,
)

_OK: Final = Reply(200, b"ok")
_OWN: Final = "which connections to the backend it uses again is its own matter"
_BODY: Final = answer("Content-Length: 2", body=b"ok")


def _then(name: str, rfc: str, first: Steps, second: bytes, *, connections: int,
          backend: tuple[Arrival, ...], answers: tuple[Steps, ...] = (), last: Reply = _OK,
          **rest: Any) -> Case:  # fmt: skip
    """A request whose answer leaves the connection in some state, then a second one."""
    return passed(
        f"upstream: {name}", rfc, get(target="/1"), Until(b"ok"), Answered(1), Do.PAUSE, second,
        answers=(first, *answers), client=(_OK, last), connections=connections, alone=_OWN,
        backend=(Arrival(target="/1"), *backend), **rest,
    )  # fmt: skip


_SECOND: Final = Arrival(target="/2")
_POST: Final = post("Content-Length: 5", body=b"hello")
_PUT: Final = request("PUT", "Content-Length: 5", body=b"hello")
_PUT_CHUNKED: Final = request("PUT", "Transfer-Encoding: chunked",
                              body=b"5\r\nhello\r\n0\r\n\r\n")  # fmt: skip

CASES: tuple[Case, ...] = (
    _then("a good connection is used again", "9112 §9.3", OK, get(target="/2"), connections=1,
          backend=(_SECOND,)),
    _then("one that the backend will close is not", "9112 §9.6",
          (Do.READ_BODY, answer("Content-Length: 2", "Connection: close", body=b"ok")),
          get(target="/2"), connections=2, backend=(_SECOND,)),
    _then("one that it closes without a word is not", "9112 §9.5",
          (Do.READ_BODY, _BODY, Do.CLOSE), get(target="/2"), connections=2, backend=(_SECOND,)),
    _then("nor one that it resets", "9112 §9.5", (Do.READ_BODY, _BODY, Do.PAUSE, Do.RESET),
          get(target="/2"), connections=2, backend=(_SECOND,)),
    _then("of HTTP/1.0 none is", "9112 §9.3",
          (Do.READ_BODY, head("HTTP/1.0 200 OK", "Content-Length: 2") + b"ok"),
          get(target="/2"), connections=2, backend=(_SECOND,)),
    _then("a stale one is reset: GET is sent again, unseen", "9112 §9.3.1", OK, get(target="/2"),
          answers=((Do.RESET,),), connections=2, backend=(_SECOND, _SECOND)),
    _then("a stale one is closed: GET is sent again, unseen", "9112 §9.3.1", OK,
          get(target="/2"), answers=((Do.CLOSE,),), connections=2, backend=(_SECOND, _SECOND)),
    _then("HEAD is sent again", "9110 §9.2.2", OK, request("HEAD", target="/2"),
          answers=((Do.RESET,), (answer("Content-Length: 9"),)), connections=2,
          last=Reply(200, b"", to="HEAD"),
          backend=(Arrival("HEAD", "/2"), Arrival("HEAD", "/2"))),
    _then("PUT is sent again, with its body", "9110 §9.2.2", OK, _PUT,
          answers=((Do.READ_BODY, Do.RESET),), connections=2,
          backend=(Arrival("PUT", body=b"hello"), Arrival("PUT", body=b"hello"))),
    _then("PUT in chunks is sent again, with its body", "9110 §9.2.2", OK, _PUT_CHUNKED,
          answers=((Do.READ_BODY, Do.RESET),), connections=2,
          backend=(Arrival("PUT", body=b"hello"), Arrival("PUT", body=b"hello"))),
    _then("POST is not sent again: it may have been done", "9110 §9.2.2", OK, _POST,
          answers=((Do.READ_BODY, Do.RESET),), connections=1, last=Reply(502),
          backend=(Arrival("POST", body=b"hello"),)),
    _then("nothing is sent again once an answer has begun", "9110 §9.2.2", OK, get(target="/2"),
          answers=((Do.READ_BODY, b"HTTP/1.1 200", Do.PAUSE, Do.RESET),), connections=1,
          last=Reply(502), backend=(_SECOND,)),
    _then("a 500 is an answer like another", "9110 §15.6.1", OK, get(target="/2"),
          answers=((Do.READ_BODY, answer("Content-Length: 2", body=b"no",
                                         status="500 Internal Server Error")),),
          connections=1, last=Reply(500, b"no"), backend=(_SECOND,)),
)  # fmt: skip
