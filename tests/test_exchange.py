"""One request's journey as values: targets, framing, refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb import exchange
from lb.errors import (
    AllUnhealthyError,
    BadAnswerError,
    BadRequestError,
    ConnectRefusedError,
    RequestError,
    UpgradeRefusedError,
)
from lb.exchange import Framing, Request, RequestIds
from lb.headers import Connection, Fields

CLIENT = Connection(peer=b"10.0.0.7", port=b"80")


def request(
    method: str = "GET",
    target: bytes = b"/",
    fields: Fields = ((b"Host", b"app"),),
    version: tuple[int, int] = (1, 1),
    keep_alive: bool = True,
) -> Request:
    return Request(method, target, version, fields, keep_alive)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", (None, b"/")),
        (b"/a//b?c", (None, b"/a//b?c")),
        (b"*", (None, b"*")),
        (b"http://x", (b"x", b"/")),
        (b"HTTP://x:81?q", (b"x:81", b"/?q")),
        (b"https://x/a?b", (b"x", b"/a?b")),
    ],
)
def test_targets_become_origin_form(target: bytes, expected: tuple[bytes | None, bytes]) -> None:
    assert exchange.origin_form(target) == expected


@pytest.mark.parametrize(
    "target", [b"", b"x", b"/#f", b"/a b", b"http://", b"http://u@x/", b"ftp://x/", b"/\x00"]
)
def test_bad_targets_are_refused(target: bytes) -> None:
    with pytest.raises(BadRequestError):
        exchange.origin_form(target)


@given(st.binary(max_size=40))
def test_any_target_is_either_refused_or_in_origin_form(target: bytes) -> None:
    try:
        _, origin = exchange.origin_form(target)
    except BadRequestError:
        return
    assert origin == b"*" or origin.startswith(b"/")
    assert not set(origin) & set(range(0x21))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], (None, False)),
        ([(b"content-LENGTH", b"0")], (0, False)),
        ([(b"Content-Length", b"12")], (12, False)),
        ([(b"Transfer-Encoding", b"Chunked")], (None, True)),
    ],
)
def test_framing_is_read(fields: Fields, expected: tuple[int | None, bool]) -> None:
    assert exchange.body_of(fields) == expected


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Content-Length", b"+5")],
        [(b"Content-Length", b"5, 5")],
        [(b"Content-Length", b"")],
        [(b"Content-Length", b"1" * 20)],
        [(b"Content-Length", b"5"), (b"content-length", b"5")],
        [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
    ],
)
def test_doubtful_framing_is_refused(fields: Fields) -> None:
    with pytest.raises(BadRequestError):
        exchange.body_of(fields)
    with pytest.raises(BadAnswerError):
        exchange.back(request(), 200, b"OK", fields, stay=True)


@pytest.mark.parametrize(
    ("method", "fields", "error"),
    [
        ("CONNECT", ((b"Host", b"x"),), ConnectRefusedError),
        ("GET", ((b"Upgrade", b"WebSocket"),), UpgradeRefusedError),
    ],
)
def test_what_is_not_carried(method: str, fields: Fields, error: type[RequestError]) -> None:
    with pytest.raises(error):
        exchange.onward(request(method, fields=fields), CLIENT, b"id")


def test_an_upgrade_nobody_knows_is_ignored() -> None:
    fields = ((b"Host", b"x"), (b"Connection", b"Upgrade"), (b"Upgrade", b"h2c"))
    out = exchange.onward(request(fields=fields), CLIENT, b"id")
    assert b"upgrade" not in {name.lower() for name, _ in out.fields}


@pytest.mark.parametrize(
    ("method", "version", "status", "fields", "framing", "keep"),
    [
        ("GET", (1, 1), 200, [(b"Content-Length", b"3")], Framing.LENGTH, True),
        ("GET", (1, 1), 200, [], Framing.CHUNKED, True),
        ("GET", (1, 0), 200, [], Framing.CLOSE, False),
        ("GET", (1, 0), 200, [(b"Content-Length", b"3")], Framing.LENGTH, True),
        ("HEAD", (1, 1), 200, [(b"Content-Length", b"3")], Framing.NONE, True),
        ("GET", (1, 1), 204, [], Framing.NONE, True),
        ("GET", (1, 1), 304, [(b"Content-Length", b"3")], Framing.NONE, True),
    ],
)
def test_answers_are_framed_for_the_client(
    method: str,
    version: tuple[int, int],
    status: int,
    fields: Fields,
    framing: Framing,
    keep: bool,
) -> None:
    back = exchange.back(request(method, version=version), status, b"X", fields, stay=True)
    assert (back.framing, back.keep_alive) == (framing, keep)
    assert (b"Connection: close" in back.head) is not keep
    assert (b"Connection: keep-alive" in back.head) is (keep and version == (1, 0))
    assert back.head.count(b"Transfer-Encoding") == (framing is Framing.CHUNKED)


def test_a_refusal_says_why_and_when_to_come_back() -> None:
    error = AllUnhealthyError("nobody answers")
    back, body = exchange.refusal(request(), error, b"id-7", stay=True)
    assert back.head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 2\r\n" in back.head
    assert json.loads(body) == {
        "title": "Service Unavailable",
        "status": 503,
        "reason": "all_unhealthy",
        "detail": "nobody answers",
        "request_id": "id-7",
    }
    assert b"Content-Length: %d\r\n" % len(body) in back.head


def test_request_ids_differ() -> None:
    make = RequestIds("cafe")
    assert [make(), make()] == [b"cafe-00000001", b"cafe-00000002"]
