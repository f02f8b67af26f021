"""One request's journey as values: what is asked, what goes on, what goes back, our own answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb import exchange
from lb.errors import (
    AllUnhealthyError,
    BadAnswerError,
    BadRequestError,
    ConnectRefusedError,
)
from lb.exchange import Asked, Body, Onward
from lb.headers import Connection
from lb.wire.framing import Ends, Framing
from lb.wire.head import AnswerHead, Fields, RequestHead, Version, request_head

CLIENT = Connection(peer=b"10.0.0.7", port=b"80")
HOST = (b"Host", b"app")


def head(
    method: str = "GET", target: bytes = b"/", *fields: tuple[bytes, bytes],
    version: Version = (1, 1),
) -> RequestHead:  # fmt: skip
    return RequestHead(method, target, version, [HOST, *fields])


def asked(*args: Any, **more: Any) -> Asked:
    return exchange.asked(head(*args, **more))


def onward(request: Asked, framing: Framing = 0, **more: Any) -> Onward:
    return exchange.onward(
        request, framing, CLIENT, identifier=b"id-1", target=request.target, host=b"app", **more
    )


def read(data: bytes) -> RequestHead:
    return request_head(data, target_bytes=8192, most_fields=100)


def values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name.lower()]


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "target", "host", "expected"),
    [
        ("GET", b"/", b"app", (b"app", b"/")),
        ("GET", b"/a//b/../c?d=%20", b"app:80", (b"app:80", b"/a//b/../c?d=%20")),
        ("OPTIONS", b"*", b"app", (b"app", b"*")),
        ("GET", b"http://x", b"x", (b"x", b"/")),
        ("OPTIONS", b"http://x", b"x", (b"x", b"*")),
        ("OPTIONS", b"http://x/", b"x", (b"x", b"/")),
        ("GET", b"HTTP://x:81?q", b"x:81", (b"x:81", b"/?q")),
        ("GET", b"https://X/a?b", b"x:443", (b"X", b"/a?b")),
        ("GET", b"http://x:80/", b"x", (b"x:80", b"/")),
        ("GET", b"http://[::1]:80/", b"[::1]", (b"[::1]:80", b"/")),
        ("GET", b"/", b"[::1]:8080", (b"[::1]:8080", b"/")),
    ],
)
def test_host_and_target(
    method: str, target: bytes, host: bytes, expected: tuple[bytes, bytes]
) -> None:
    found = exchange.asked(RequestHead(method, target, (1, 1), [(b"hOsT", host)]))
    assert (found.host, found.target) == expected


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", b"x"),
        ("GET", b"*"),
        ("GET", b"http://"),
        ("GET", b"http:///x"),
        ("GET", b"http://u@x/"),
        ("GET", b"http://x:y/"),
        ("GET", b"http://x:123456/"),
        ("GET", b"http://[::1/"),
        ("GET", b"ftp://x/"),
        ("GET", b"app:80"),
        ("GET", b"?q"),
    ],
)
def test_targets_that_are_none(method: str, target: bytes) -> None:
    with pytest.raises(BadRequestError):
        asked(method, target)


@pytest.mark.parametrize(
    "hosts",
    [[], [b""], [b"a", b"a"], [b"a", b"b"], [b"a b"], [b"a/b"], [b"u@a"], [b"a:x"],
     [b"http://a"], [b"a:80:80"], [b"\xe9"], [b"[::1"]],
)  # fmt: skip
def test_there_is_exactly_one_host_and_it_is_one(hosts: list[bytes]) -> None:
    request = RequestHead("GET", b"/", (1, 1), [(b"Host", host) for host in hosts])
    with pytest.raises(BadRequestError):
        exchange.asked(request)


def test_only_http_1_0_may_name_no_host() -> None:
    assert exchange.asked(RequestHead("GET", b"/", (1, 0), [])).host is None


@pytest.mark.parametrize("host", [b"y", b"x:81", b"x.", b""])
def test_host_and_absolute_target_agree(host: bytes) -> None:
    with pytest.raises(BadRequestError):
        exchange.asked(RequestHead("GET", b"http://x/", (1, 1), [(b"Host", host)]))


def test_connect_is_refused() -> None:
    with pytest.raises(ConnectRefusedError):
        asked("CONNECT", b"app:443")


@pytest.mark.parametrize(
    ("version", "options", "keep"),
    [
        ((1, 1), b"", True),
        ((1, 1), b"keep-alive", True),
        ((1, 1), b"x, Close", False),
        ((1, 0), b"", False),
        ((1, 0), b"Keep-Alive", True),
    ],
)
def test_who_wants_to_stay(version: Version, options: bytes, keep: bool) -> None:
    assert asked("GET", b"/", (b"Connection", options), version=version).keep_alive is keep


@given(target=st.binary(max_size=40), method=st.sampled_from(["GET", "OPTIONS"]))
def test_any_target_is_either_refused_or_in_origin_form(target: bytes, method: str) -> None:
    try:
        found = asked(method, target)
    except BadRequestError:
        return
    assert found.target == b"*" or found.target.startswith(b"/")


# ── onward ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("framing", "sent", "length", "coding"),
    [
        (0, [], [], []),
        (0, [(b"Content-Length", b"0")], [b"0"], []),
        (5, [(b"content-length", b"5")], [b"5"], []),
        (Ends.CHUNKED, [(b"transfer-encoding", b"chunked")], [], [b"chunked"]),
    ],
)
def test_exactly_one_framing_goes_on(
    framing: Framing, sent: Fields, length: list[bytes], coding: list[bytes]
) -> None:
    out = onward(asked("POST", b"/", *sent), framing)
    fields = read(out.head).fields
    assert values(fields, b"Content-Length") == length
    assert values(fields, b"Transfer-Encoding") == coding
    assert out.chunked is (framing is Ends.CHUNKED)


def test_the_line_says_1_1_whatever_the_client_spoke() -> None:
    out = onward(asked("GET", b"/x", version=(1, 0)))
    assert out.head.startswith(b"GET /x HTTP/1.1\r\nHost: app\r\n")
    assert values(read(out.head).fields, b"Via") == [b"1.0 lbctl"]


def test_edits_come_last_and_never_touch_the_framing() -> None:
    request = asked("POST", b"/", (b"Transfer-Encoding", b"chunked"), (b"X", b"1"))
    out = onward(request, Ends.CHUNKED, edit=lambda fields: [*fields, (b"X-Added", b"2")])
    fields = read(out.head).fields
    assert values(fields, b"X-Added") == [b"2"]
    assert fields[-1] == (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("connection", "upgrade", "offered"),
    [
        (b"Upgrade", b"websocket", b"websocket"),
        (b"keep-alive, upgrade", b"WebSocket", b"websocket"),
        (b"Upgrade", b"h2c, websocket", b"websocket"),
        (b"Upgrade", b"h2c", None),
        (b"Upgrade", b"TLS/1.2", None),
        (b"Upgrade", b"HTTP/2.0", None),
        (b"keep-alive", b"websocket", None),
    ],
)
def test_what_may_become_a_tunnel(connection: bytes, upgrade: bytes, offered: bytes | None) -> None:
    request = asked("GET", b"/", (b"Connection", connection), (b"Upgrade", upgrade))
    assert request.upgrade == offered
    out = onward(request)
    fields = read(out.head).fields
    assert out.upgrade is (offered is not None)
    assert values(fields, b"Upgrade") == ([] if offered is None else [offered])
    assert (b"Upgrade" in b", ".join(values(fields, b"Connection"))) is (offered is not None)


@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from(
                [b"Content-Length", b"Transfer-Encoding", b"Connection", b"X", b"TE", b"Upgrade",
                 b"X_Forwarded_For", b"Keep-Alive", b"content_length"]
            ),
            st.sampled_from([b"5", b"chunked", b"close", b"X, Content-Length", b"trailers", b""]),
        ),
        max_size=6,
    ),
    framing=st.sampled_from([0, 5, Ends.CHUNKED]),
)  # fmt: skip
def test_whatever_comes_a_head_goes_on_that_frames_once(fields: Fields, framing: Framing) -> None:
    """Even of fields that the readers would have refused."""
    out = read(onward(asked("POST", b"/", *fields), framing).head)
    assert values(out.fields, b"Host") == [b"app"]
    codings = values(out.fields, b"Transfer-Encoding")
    assert codings == ([b"chunked"] if framing is Ends.CHUNKED else [])
    for name in (b"Keep-Alive", b"X_Forwarded_For"):
        assert values(out.fields, name) == []


# ── back ──────────────────────────────────────────────────────────────────────────────────────────


def answer(status: int = 200, *fields: tuple[bytes, bytes]) -> AnswerHead:
    return AnswerHead(status, b"X", (1, 1), list(fields))


@pytest.mark.parametrize(
    ("method", "version", "status", "length", "body", "keep"),
    [
        ("GET", (1, 1), 200, 3, Body.LENGTH, True),
        ("GET", (1, 1), 200, None, Body.CHUNKED, True),
        ("GET", (1, 0), 200, None, Body.CLOSE, False),
        ("GET", (1, 0), 200, 3, Body.LENGTH, True),
        ("HEAD", (1, 1), 200, None, Body.NONE, True),
        ("GET", (1, 1), 204, 0, Body.NONE, True),
        ("GET", (1, 1), 304, 0, Body.NONE, True),
    ],
)
def test_answers_are_framed_for_the_client(
    method: str, version: Version, status: int, length: int | None, body: Body, keep: bool
) -> None:
    request = asked(method, b"/", (b"Connection", b"keep-alive"), version=version)
    fields = [] if length is None else [(b"Content-Length", b"3")]
    back = exchange.back(request, answer(status, *fields), stay=True, length=length)
    assert (back.body, back.keep_alive) == (body, keep)
    assert (b"Connection: close" in back.head) is not keep
    assert (b"Connection: keep-alive" in back.head) is (keep and version == (1, 0))
    assert back.head.count(b"Transfer-Encoding: chunked") == (body is Body.CHUNKED)
    if status == 204:
        assert b"Content-Length" not in back.head


def test_nobody_stays_who_may_not_or_does_not_want_to() -> None:
    for request, stay in ((asked(), False), (asked("GET", b"/", (b"Connection", b"close")), True)):
        back = exchange.back(request, answer(), stay=stay, length=0)
        assert not back.keep_alive
        assert b"Connection: close" in back.head
    assert not exchange.back(None, answer(), stay=True, length=0).keep_alive


def test_interim_answers_lose_what_is_not_theirs() -> None:
    data = exchange.interim(
        answer(103, (b"Link", b"</x>"), (b"Content-Length", b"5"), (b"Connection", b"close"))
    )
    assert data.startswith(b"HTTP/1.1 103 X\r\nLink: </x>\r\n")
    assert b"Content-Length" not in data
    assert b"Connection" not in data


def test_a_101_says_to_what() -> None:
    data = exchange.interim(answer(101, (b"Upgrade", b"websocket"), (b"Sec-X", b"1")))
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in data
    assert b"\r\nSec-X: 1\r\n" in data
    with pytest.raises(BadAnswerError):
        exchange.interim(answer(101))


# ── our own answers ───────────────────────────────────────────────────────────────────────────────


def test_a_refusal_says_why_and_when_to_come_back() -> None:
    made, body = exchange.refusal(AllUnhealthyError("nobody answers"), b"id-7")
    assert (made.status, made.reason) == (503, b"Service Unavailable")
    assert values(made.fields, b"Retry-After") == [b"2"]
    assert values(made.fields, b"Content-Length") == [b"%d" % len(body)]
    assert values(made.fields, b"X-Request-Id") == [b"id-7"]
    assert json.loads(body) == {
        "title": "Service Unavailable",
        "status": 503,
        "reason": "all_unhealthy",
        "detail": "nobody answers",
        "request_id": "id-7",
    }


def test_a_page_of_the_operator_is_shown_instead() -> None:
    made, body = exchange.refusal(AllUnhealthyError("x"), b"id", (b"text/html", b"<p>busy"))
    assert body == b"<p>busy"
    assert values(made.fields, b"Content-Type") == [b"text/html"]


def test_405_says_what_is_offered() -> None:
    made, _ = exchange.refusal(ConnectRefusedError("no"), b"id")
    assert b"GET" in values(made.fields, b"Allow")[0]


@pytest.mark.parametrize(
    ("host", "target", "port", "place"),
    [
        (b"app", b"/a?b", 443, b"https://app/a?b"),
        (b"app:80", b"/", None, b"https://app/"),
        (b"app:80", b"/", 8443, b"https://app:8443/"),
        (b"[::1]:80", b"/", 8443, b"https://[::1]:8443/"),
        (b"[::1]", b"/", 443, b"https://[::1]/"),
    ],
)
def test_the_same_place_by_https(
    host: bytes, target: bytes, port: int | None, place: bytes
) -> None:
    request = exchange.asked(RequestHead("GET", target, (1, 1), [(b"Host", host)]))
    assert exchange.https_place(request, b"127.0.0.1:80", port) == place


@pytest.mark.parametrize(
    ("method", "hops", "ours"),
    [("TRACE", b"0", True), ("OPTIONS", b"0", True), ("TRACE", b"1", False), ("GET", b"0", False),
     ("TRACE", b"x", False)],
)  # fmt: skip
def test_who_answers_the_last_hop(method: str, hops: bytes, ours: bool) -> None:
    request = asked(method, b"/", (b"Max-Forwards", hops), (b"Authorization", b"secret"))
    made = exchange.last_hop(request, b"id")
    assert (made is not None) is ours
    assert made is None or b"secret" not in made[1]


def test_the_same_place_by_https_of_one_that_names_no_host() -> None:
    old = exchange.asked(request_head(b"GET /x HTTP/1.0\r\n\r\n", target_bytes=99, most_fields=9))
    assert exchange.https_place(old, b"10.0.0.1:80", 8443) == b"https://10.0.0.1:8443/x"
