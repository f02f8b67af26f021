"""Heads as bytes: what is read of them, and everything that is refused instead of mended."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lb.wire.errors import WireError
from lb.wire.head import END, AnswerHead, RequestHead, answer_head, field_lines, hopeless
from lb.wire.head import request_head as parse

TARGET_BYTES = 200
MOST_FIELDS = 8


def request_head(data: bytes) -> RequestHead:
    return parse(data, target_bytes=TARGET_BYTES, most_fields=MOST_FIELDS)


def read_answer(data: bytes) -> AnswerHead:
    return answer_head(data, most_fields=MOST_FIELDS)


def with_fields(block: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: x\r\n" + block + b"\r\n"


def test_a_request_head() -> None:
    head = request_head(
        b"PO~ST /a?b=%20 HTTP/1.1\r\nHost: x:80\r\nX-Empty:\r\nX-Odd:\t a \xff b \t\r\n\r\n"
    )
    assert head == RequestHead(
        "PO~ST",
        b"/a?b=%20",
        (1, 1),
        [(b"Host", b"x:80"), (b"X-Empty", b""), (b"X-Odd", b"a \xff b")],
    )


def test_a_head_without_fields() -> None:
    assert request_head(b"GET / HTTP/1.0\r\n\r\n") == RequestHead("GET", b"/", (1, 0), [])


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 204", 204, b""),
        (b"HTTP/1.1 204 ", 204, b""),
        (b"HTTP/1.0 599 two  words \xe9", 599, b"two  words \xe9"),
    ],
)
def test_an_answer_head(line: bytes, status: int, reason: bytes) -> None:
    head = read_answer(line + b"\r\nA: b\r\n\r\n")
    assert (head.status, head.reason, head.fields) == (status, reason, [(b"A", b"b")])


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b" GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/11", 400),
        (b"GET / HTTP/1.10", 400),
        (b"GET / HTTP/1", 400),
        (b"GET / HTTPS/1.1", 400),
        (b"GET /", 400),
        (b"GET", 400),
        (b"", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"G\xc3T / HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"GET /caf\xe9 HTTP/1.1", 400),
        (b"GET /#f HTTP/1.1", 400),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET /" + b"x" * TARGET_BYTES + b" HTTP/1.1", 414),
        (b"GET /" + b"\xe9" * TARGET_BYTES + b" HTTP/1.1", 414),
    ],
)
def test_a_request_line_that_is_none(line: bytes, status: int) -> None:
    with pytest.raises(WireError) as caught:
        request_head(line + b"\r\nHost: x\r\n\r\n")
    assert caught.value.status == status


def test_a_target_may_be_as_long_as_the_limit() -> None:
    target = b"/" + b"x" * (TARGET_BYTES - 1)
    assert request_head(b"GET " + target + b" HTTP/1.1\r\n\r\n").target == target


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1",
        b"ICY 200 OK",
        b"",
    ],
)
def test_a_status_line_that_is_none(line: bytes) -> None:
    with pytest.raises(WireError):
        read_answer(line + b"\r\n\r\n")


BAD_FIELDS = {
    "space before the colon": b"A : b\r\n",
    "tab before the colon": b"A\t: b\r\n",
    "folded": b"A: b\r\n c\r\n",
    "folded by a tab": b"A: b\r\n\tc\r\n",
    "no colon": b"A\r\n",
    "empty name": b": b\r\n",
    "NUL in a value": b"A: b\x00c\r\n",
    "control character": b"A: b\x0bc\r\n",
    "DEL": b"A: b\x7f\r\n",
    "bare LF": b"A: b\nC: d\r\n",
    "bare CR": b"A: b\rC: d\r\n",
    "LF-ended line": b"A: b\n",
    "name with a slash": b"A/B: c\r\n",
    "name beyond ASCII": b"\xc3\x84: c\r\n",
    "name with NUL": b"A\x00: c\r\n",
}


@pytest.mark.parametrize("block", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_fields_that_are_none(block: bytes) -> None:
    asked = with_fields(block)
    answered = asked.replace(b"GET / HTTP/1.1", b"HTTP/1.1 200 OK")
    for data in (asked, answered):
        with pytest.raises(WireError) as caught:
            request_head(data) if data is asked else read_answer(data)
        assert caught.value.status == 400
        assert str(caught.value).isprintable()
    with pytest.raises(WireError):
        field_lines(block + b"\r\n", MOST_FIELDS)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length:  5",
        b"Content-Length:5 ",
        b"content-length: 5\t",
        b"Transfer-Encoding:\tchunked",
        b"TRANSFER-ENCODING:  chunked",
    ],
)
def test_lengths_are_not_hidden_by_spaces(line: bytes) -> None:
    with pytest.raises(WireError, match="odd spaces"):
        request_head(with_fields(line + b"\r\n"))


def test_as_many_fields_as_the_limit_and_no_more() -> None:
    at_most = b"A: b\r\n" * (MOST_FIELDS - 1)
    assert len(request_head(with_fields(at_most)).fields) == MOST_FIELDS
    with pytest.raises(WireError) as caught:
        request_head(with_fields(at_most + b"A: b\r\n"))
    assert caught.value.status == 431


@pytest.mark.parametrize(
    "data", [b"", b"GET", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nA: b\r\n\r"]
)
def test_a_beginning_may_become_a_head(data: bytes) -> None:
    assert not hopeless(data)


@pytest.mark.parametrize("data", [b"\n", b"a\nb", b"a\rb", b"\r\rb", b"a\x00", b"a\r\n\n"])
def test_a_beginning_that_never_becomes_one(data: bytes) -> None:
    assert hopeless(data)


token = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode)
name = token.filter(lambda t: t.lower() not in (b"content-length", b"transfer-encoding"))
value = st.binary(max_size=20).map(
    lambda raw: bytes(b for b in raw if b == 9 or (b >= 32 and b != 127)).strip(b" \t")
)
fields = st.lists(st.tuples(name, value), max_size=MOST_FIELDS)
targets = st.text(
    "".join(chr(c) for c in range(33, 127) if c != ord("#")), min_size=1, max_size=TARGET_BYTES
).map(str.encode)


@settings(max_examples=100)
@given(
    method=token, target=targets, version=st.sampled_from([(1, 0), (1, 1)]), fields=fields,
    before=st.sampled_from([b"", b" ", b"\t", b" \t "]),
    after=st.sampled_from([b"", b" ", b"\t "]),
)  # fmt: skip
def test_what_is_written_is_read(
    method: bytes, target: bytes, version: tuple[int, int],
    fields: list[tuple[bytes, bytes]], before: bytes, after: bytes,
) -> None:  # fmt: skip
    data = b"%b %b HTTP/%d.%d\r\n" % (method, target, *version)
    data += b"".join(n + b":" + before + v + after + b"\r\n" for n, v in fields) + b"\r\n"
    assert request_head(data) == RequestHead(method.decode(), target, version, fields)
    # no strict beginning of it is hopeless: else it would be refused for how it is cut into pieces
    assert not any(hopeless(data[:at]) for at in range(len(data)))


pieces = st.sampled_from(
    [b"GET / HTTP/1.1", b"HTTP/1.1 200 OK", b"\r\n", b"\r", b"\n", b" ", b":", b"Host: x", b"\x00",
     b"Content-Length: 5", b"\t", b"a", b"\xff", b"HTTP/"]
)  # fmt: skip


@settings(max_examples=200)
@given(data=st.lists(pieces | st.binary(max_size=6), max_size=12).map(b"".join))
@example(b"")
@example(b"GET / HTTP/1.1\r\n\n")
def test_whatever_comes_is_a_head_or_a_wire_error(data: bytes) -> None:
    whole = data.partition(END)[0] + END
    heads: list[RequestHead | AnswerHead] = []
    refused: set[int] = set()
    for read in (request_head, read_answer):
        try:
            heads.append(read(whole))
        except WireError as error:
            refused.add(error.status)
    assert refused <= {400, 414, 431, 505}
    for head in heads:
        assert not hopeless(whole)
        for field, content in head.fields:
            assert not set(field + content) & {0, 10, 13}
            assert field.strip(b" \t:") == field != b""
