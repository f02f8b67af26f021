"""Cases of methods and fields that ask for more than a plain exchange: HEAD, OPTIONS, TRACE,
CONNECT, Max-Forwards, Expect, Upgrade."""

from __future__ import annotations

import re
from typing import Any, Final

from tests.conformance.case import (
    Arrival,
    Came,
    Case,
    Do,
    End,
    Reply,
    Steps,
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

_LONG: Final = answer("Content-Length: 1234", 'ETag: "x"')

_HEAD = (
    answered("HEAD: the length of what GET would bring, and no body", "9110 §9.3.2", _LONG,
             Reply(200, b"", to="HEAD", has={"Content-Length": "1234", "ETag": '"x"'}), to="HEAD"),
    answered("HEAD: an answer without length", "9110 §9.3.2", answer(),
             Reply(200, b"", to="HEAD", lacks=("Content-Length",)), to="HEAD"),
    answered("HEAD: an answer that GET would bring in chunks", "9110 §9.3.2",
             answer("Transfer-Encoding: chunked"),
             Reply(200, b"", to="HEAD", lacks=("Content-Length",)), to="HEAD"),
    answered("HEAD: 404 has no body either", "9110 §9.3.2",
             answer("Content-Length: 9", status="404 Not Found"),
             Reply(404, b"", to="HEAD", has={"Content-Length": "9"}), to="HEAD"),
    answered("HEAD: three on one connection stay in step", "9110 §9.3.2", _LONG,
             Reply(200, b"", to="HEAD"), Reply(200, b"ok"), sends=(request("HEAD"), get()),
             backend=(Arrival("HEAD"), Arrival()), connections=1, alone="they reuse otherwise"),
)  # fmt: skip


def _forwards(method: str, given: str, arrives: str) -> Case:
    return passed(
        f"Max-Forwards: {method} with {given}", "9110 §7.6.2",
        request(method, f"Max-Forwards: {given}"),
        backend=(Arrival(method, has={"Max-Forwards": arrives}),),
    )  # fmt: skip


_OPTIONS = (
    passed("OPTIONS: * passes", "9112 §3.2.4", request("OPTIONS", target="*"),
           backend=(Arrival("OPTIONS", "*"),)),
    passed("OPTIONS: a path passes", "9110 §9.3.7", request("OPTIONS", target="/x"),
           backend=(Arrival("OPTIONS", "/x"),)),
    passed("OPTIONS: a URL without a path is *", "9112 §3.2.4",
           request("OPTIONS", target="http://a.example"), backend=(Arrival("OPTIONS", "*"),)),
    passed("OPTIONS: a URL with a path is that path", "9112 §3.2.4",
           request("OPTIONS", target="http://a.example/"), backend=(Arrival("OPTIONS", "/"),)),
    _forwards("OPTIONS", "1", "0"),
    _forwards("OPTIONS", "10", "9"),
    _forwards("TRACE", "5", "4"),
    _forwards("GET", "5", "5"),
    _forwards("GET", "0", "0"),
    passed("Max-Forwards: OPTIONS with 0 is ours to answer", "9110 §7.6.2",
           request("OPTIONS", "Max-Forwards: 0"), client=(Reply(200),), backend=(),
           end=End.EITHER),
    passed("Max-Forwards: OPTIONS * with 0 is ours to answer", "9110 §7.6.2",
           request("OPTIONS", "Max-Forwards: 0", target="*"), client=(Reply(200),),
           backend=(), end=End.EITHER),
    passed("Max-Forwards: TRACE with 0 is ours to answer", "9110 §7.6.2",
           request("TRACE", "Max-Forwards: 0"), client=(Reply(200),), backend=(),
           end=End.EITHER),
    refused("CONNECT: to a host", "9110 §9.3.6",
            head("CONNECT a.example:443 HTTP/1.1", "Host: a.example:443"), status=405),
    refused("CONNECT: what follows is no request", "9110 §9.3.6",
            head("CONNECT a.example:443 HTTP/1.1", "Host: a.example:443") + get(target="/secret"),
            status=405),
    refused("CONNECT: to a path", "9112 §3.2.3", head("CONNECT / HTTP/1.1", "Host: a.example"),
            status=405),
    refused("CONNECT: Host and target differ", "9112 §3.2.3",
            head("CONNECT a.example:443 HTTP/1.1", "Host: b.example"), status=405),
)  # fmt: skip

_EXPECTS: Final = "Expect: 100-continue"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_ANSWER: Final = answer("Content-Length: 2", body=b"ok")
_LATE: Final = answer("Content-Length: 4", body=b"late", status="417 Expectation Failed")

_EXPECT = (
    answered("Expect: the backend is asked, and says so", "9110 §10.1.1",
             (_CONTINUE, Do.READ_BODY, _ANSWER), Reply(100), Reply(200, b"ok"),
             sends=(post(_EXPECTS, "Content-Length: 5"), Until(b"100 Continue"), b"hello"),
             backend=(Arrival("POST", body=b"hello", has={"Expect": "100-continue"}),)),
    answered("Expect: with a chunked body", "9110 §10.1.1",
             (_CONTINUE, Do.READ_BODY, _ANSWER), Reply(100), Reply(200, b"ok"),
             sends=(post(_EXPECTS, "Transfer-Encoding: chunked"), Until(b"100 Continue"),
                    b"5\r\nhello\r\n0\r\n\r\n"),
             backend=(Arrival("POST", body=b"hello"),)),
    answered("Expect: in another case", "9110 §10.1.1",
             (_CONTINUE, Do.READ_BODY, _ANSWER), Reply(100), Reply(200, b"ok"),
             sends=(post("expect: 100-Continue", "Content-Length: 5"), Until(b"100 Continue"),
                    b"hello"),
             backend=(Arrival("POST", body=b"hello"),)),
    answered("Expect: the backend refuses, and no body is sent", "9110 §10.1.1",
             (_LATE,), Reply(417, b"late"),
             sends=(post(_EXPECTS, "Content-Length: 5"),),
             backend=(Arrival("POST", torn=True),), end=End.CLOSED),
    answered("Expect: the backend asks for credentials instead", "9110 §10.1.1",
             (answer("Content-Length: 0", 'WWW-Authenticate: Basic realm="x"',
                     status="401 Unauthorized"),),
             Reply(401, b"", has={"WWW-Authenticate": 'Basic realm="x"'}),
             sends=(post(_EXPECTS, "Content-Length: 5"),),
             backend=(Arrival("POST", torn=True),), end=End.CLOSED),
    answered("Expect: the client does not wait", "9110 §10.1.1",
             (_CONTINUE, Do.READ_BODY, _ANSWER), Reply(100), Reply(200, b"ok"),
             sends=(post(_EXPECTS, "Content-Length: 5", body=b"hello"),),
             backend=(Arrival("POST", body=b"hello"),)),
    answered("Expect: the backend says nothing before its answer", "9110 §10.1.1",
             (Do.READ_BODY, _ANSWER), Reply(200, b"ok"),
             sends=(post(_EXPECTS, "Content-Length: 5", body=b"hello"),),
             backend=(Arrival("POST", body=b"hello"),)),
    answered("Expect: from HTTP/1.0 means nothing", "9110 §10.1.1",
             (Do.READ_BODY, _ANSWER), Reply(200, b"ok"),
             sends=(head("POST / HTTP/1.0", "Host: a.example", _EXPECTS, "Content-Length: 5")
                    + b"hello",),
             backend=(Arrival("POST", body=b"hello"),), end=End.CLOSED),
    answered("Expect: HTTP/1.0 gets no 100", "9110 §15.2",
             (_CONTINUE, Do.READ_BODY, _ANSWER), Reply(200, b"ok"),
             sends=(head("POST / HTTP/1.0", "Host: a.example", _EXPECTS, "Content-Length: 5")
                    + b"hello",),
             backend=(Arrival("POST", body=b"hello"),), end=End.CLOSED),
)  # fmt: skip

_WS: Final = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
_101: Final = head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
                   "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")  # fmt: skip
_UPGRADE: Final = re.compile(rb"upgrade", re.IGNORECASE)
_PING: Final = b"\x81\x04ping"
_PONG: Final = b"\x81\x04pong"


def _tunnel(name: str, sends: Steps, steps: Steps, to_client: bytes, to_backend: bytes,
            protocol: str = "websocket", **rest: Any) -> Case:  # fmt: skip
    return answered(
        f"upgrade: {name}", "9110 §7.8", steps,
        Reply(101, to_client, has={"Upgrade": protocol, "Connection": _UPGRADE}), sends=sends,
        backend=(Arrival(body=to_backend, has={"Upgrade": protocol, "Connection": _UPGRADE}),),
        end=End.EITHER, **rest,
    )  # fmt: skip


_UPGRADES = (
    _tunnel("both ways", (get(*_WS), Until(b"\r\n\r\n"), _PING, Until(_PONG)),
            (_101, Came(_PING), _PONG), _PONG, _PING),
    _tunnel("the backend speaks first", (get(*_WS), Until(_PING), _PONG),
            (_101 + _PING, Came(_PONG)), _PING, _PONG),
    _tunnel("bytes sent before the 101 arrive behind it", (get(*_WS) + _PING,),
            (_101, Came(_PING), _PONG), _PONG, _PING),
    _tunnel("bytes that look like HTTP are none",
            (get(*_WS), Until(b"\r\n\r\n"), get(target="/secret")),
            (_101, Came(get(target="/secret")), _PONG), _PONG, get(target="/secret")),
    _tunnel("another protocol", (get("Connection: upgrade", "Upgrade: chat/2"),
                                 Until(b"\r\n\r\n"), b"hey"),
            (head("HTTP/1.1 101 Switching", "Connection: upgrade", "Upgrade: chat/2"),
             Came(b"hey"), b"you"), b"you", b"hey", protocol="chat/2"),
    answered("upgrade: the backend closes, and so do we", "9110 §7.8",
             (_101, _PONG, Do.CLOSE), Reply(101, _PONG), sends=(get(*_WS),), end=End.CLOSED),
    answered("upgrade: the backend declines", "9110 §7.8",
             answer("Content-Length: 2", body=b"no"), Reply(200, b"no"), sends=(get(*_WS),),
             end=End.EITHER, backend=(Arrival(has={"Upgrade": "websocket"}),)),
    answered("upgrade: 426 passes with what it asks for", "9110 §15.5.22",
             answer("Content-Length: 0", "Connection: upgrade", "Upgrade: websocket",
                    status="426 Upgrade Required"),
             Reply(426, b"")),
    passed("upgrade: without Connection it asks for nothing", "9110 §7.8",
           get("Upgrade: websocket"), backend=(Arrival(lacks=("Upgrade",)),)),
    passed("upgrade: Connection alone asks for nothing", "9110 §7.8",
           get("Connection: Upgrade"), backend=(Arrival(lacks=("Upgrade",)),)),
    passed("upgrade: HTTP/1.0 cannot ask", "9110 §7.8",
           head("GET / HTTP/1.0", "Host: a.example", *_WS), end=End.CLOSED,
           backend=(Arrival(lacks=("Upgrade",)),)),
    answered("upgrade: 101 that nobody asked for", "9110 §15.2.2", _101, Reply(502)),
    answered("upgrade: 101 to HTTP/1.0", "9110 §7.8", _101, Reply(502), end=End.CLOSED,
             sends=(head("GET / HTTP/1.0", "Host: a.example", *_WS),),
             backend=(Arrival(lacks=("Upgrade",)),)),
)  # fmt: skip

CASES = (*_HEAD, *_OPTIONS, *_EXPECT, *_UPGRADES)
