"""Where a body ends: one reading, or none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.wire.errors import WireError
from lb.wire.framing import Ends, Framing, answer_framing, request_framing
from lb.wire.head import AnswerHead, Fields, RequestHead, Version

LENGTH = b"Content-Length"
CODING = b"Transfer-Encoding"


def of_request(fields: Fields, version: Version = (1, 1)) -> Framing:
    return request_framing(RequestHead("POST", b"/", version, fields))


def of_answer(
    fields: Fields, status: int = 200, method: str = "GET", version: Version = (1, 1)
) -> Framing:
    return answer_framing(AnswerHead(status, b"", version, fields), method)


@pytest.mark.parametrize(
    ("fields", "request_ends", "answer_ends"),
    [
        ([], 0, Ends.CLOSE),
        ([(b"content-LENGTH", b"0")], 0, 0),
        ([(LENGTH, b"12")], 12, 12),
        ([(LENGTH, b"0012")], 12, 12),
        ([(LENGTH, b"9" * 18)], 10**18 - 1, 10**18 - 1),
        ([(b"transfer-ENCODING", b"chunked")], Ends.CHUNKED, Ends.CHUNKED),
        ([(b"X-Content-Length", b"x"), (b"Content_Length", b"5")], 0, Ends.CLOSE),
    ],
)
def test_framing_is_read(fields: Fields, request_ends: Framing, answer_ends: Framing) -> None:
    assert of_request(fields) == request_ends
    assert of_answer(fields) == answer_ends


@pytest.mark.parametrize(
    "value",
    [b"", b"+5", b"-5", b"0x5", b"5, 5", b"5,6", b"5.0", b"5 5", b"five", b"1_0", b"1" * 19,
     b"\xb2", "٥".encode()],
)  # fmt: skip
def test_a_length_is_plain_digits(value: bytes) -> None:
    for read in (of_request, of_answer):
        with pytest.raises(WireError):
            read([(LENGTH, value)])


@pytest.mark.parametrize(
    "value",
    [b"", b"Chunked", b"CHUNKED", b"gzip", b"identity", b"gzip, chunked", b"chunked, chunked",
     b"chunked;q=1", b"chunked,", b"xchunked", b"\x0bchunked", b'"chunked"'],
)  # fmt: skip
def test_a_coding_is_exactly_chunked(value: bytes) -> None:
    for read in (of_request, of_answer):
        with pytest.raises(WireError):
            read([(CODING, value)])


@pytest.mark.parametrize(
    "fields",
    [
        [(LENGTH, b"5"), (b"content-length", b"5")],
        [(LENGTH, b"5"), (LENGTH, b"6")],
        [(LENGTH, b"5"), (CODING, b"chunked")],
        [(CODING, b"chunked"), (LENGTH, b"5")],
        [(CODING, b"chunked"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_whatever_says_two_things_is_refused(fields: Fields) -> None:
    for read in (of_request, of_answer):
        with pytest.raises(WireError):
            read(fields)


def test_http_1_0_knows_no_chunks() -> None:
    with pytest.raises(WireError):
        of_request([(CODING, b"chunked")], version=(1, 0))
    with pytest.raises(WireError):
        of_answer([(CODING, b"chunked")], version=(1, 0))


@pytest.mark.parametrize(
    ("status", "method"), [(200, "HEAD"), (100, "GET"), (103, "GET"), (204, "GET"), (304, "GET")]
)
def test_answers_that_have_no_body_whatever_they_say(status: int, method: str) -> None:
    for fields in ([], [(LENGTH, b"5")], [(CODING, b"chunked")]):
        assert of_answer(fields, status, method) == 0
    with pytest.raises(WireError):
        of_answer([(LENGTH, b"x")], status, method)


@settings(max_examples=200)
@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from([LENGTH, CODING, b"content-length", b"X"]),
            st.sampled_from([b"0", b"5", b"chunked", b"Chunked", b"", b"5 ", b"x"]),
        ),
        max_size=4,
    ),
    version=st.sampled_from([(1, 0), (1, 1)]),
)
def test_one_framing_or_a_refusal(fields: Fields, version: Version) -> None:
    lengths = [v for n, v in fields if n.lower() == b"content-length"]
    codings = [v for n, v in fields if n == CODING]
    plain = (
        len(lengths) + len(codings) <= 1
        and all(v.isdigit() for v in lengths)
        and (not codings or (codings == [b"chunked"] and version == (1, 1)))
    )
    try:
        ends = of_request(fields, version)
    except WireError:
        assert not plain
        return
    assert plain
    assert ends == (Ends.CHUNKED if codings else int(lengths[0]) if lengths else 0)
