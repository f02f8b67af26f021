"""The chunked coding: however it is cut into pieces, the same payload or the same refusal."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lb.wire.chunked import LAST, ChunkReader, chunk, last_chunk
from lb.wire.errors import WireError
from lb.wire.head import Fields

EXTENSION_BYTES = 16
TRAILER_BYTES = 64
MOST_FIELDS = 4


def reader() -> ChunkReader:
    return ChunkReader(
        extension_bytes=EXTENSION_BYTES, trailer_bytes=TRAILER_BYTES, most_fields=MOST_FIELDS
    )


def read(*segments: bytes) -> tuple[bytes, Fields, bytes, bool]:
    """(payload, trailers, what follows, whether it is done)."""
    chunks = reader()
    payload = bytearray()
    rest = b""
    for segment in segments:
        if chunks.done:
            rest += segment
            continue
        for piece in chunks.feed(segment):
            assert piece
            payload += piece
        rest = chunks.rest
    return bytes(payload), chunks.trailers, rest, chunks.done


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)] or [b""]


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"A\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n", b"0123456789x"),
        (b"00000000000000a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"3;a=b\r\nabc\r\n0;last\r\n\r\n", b"abc"),
        (b'3 ; a="q; \xe9"\r\nabc\r\n0\r\n\r\n', b"abc"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    ],
)
def test_payload(data: bytes, payload: bytes) -> None:
    assert read(data) == (payload, [], b"", True)
    assert read(data + b"GET / HTTP/1.1\r\n") == (payload, [], b"GET / HTTP/1.1\r\n", True)
    bytewise = [data[at : at + 1] for at in range(len(data))]
    assert read(*bytewise) == (payload, [], b"", True)


def test_trailers() -> None:
    data = b"1\r\nx\r\n0\r\nA: b\r\nX-Odd:  c \r\n\r\nrest"
    assert read(data) == (b"x", [(b"A", b"b"), (b"X-Odd", b"c")], b"rest", True)


REFUSED = {
    "no size": b"\r\n",
    "empty line": b"\r\n3\r\nabc\r\n",
    "sign": b"+3\r\nabc\r\n",
    "minus": b"-3\r\nabc\r\n",
    "prefix": b"0x3\r\nabc\r\n",
    "underscore": b"1_0\r\n",
    "space before": b" 3\r\nabc\r\n",
    "space after": b"3 \r\nabc\r\n",
    "tab after": b"3\t\r\nabc\r\n",
    "letters": b"xyz\r\n",
    "too many digits": b"0000000000000003\r\nabc\r\n",
    "huge": b"f" * 16 + b"\r\n",
    "LF-ended size": b"3\nabc\r\n",
    "CR alone": b"3\rabc\r\n",
    "NUL in an extension": b"3;a\x00\r\nabc\r\n",
    "CR in an extension": b"3;a\rb\r\nabc\r\n",
    "long extension": b"3;" + b"a" * EXTENSION_BYTES + b"\r\nabc\r\n",
    "endless extension": b"3;" + b"a" * 1000,
    "endless spaces": b"3" + b" " * 1000,
    "payload longer than said": b"3\r\nabcd\r\n",
    "payload shorter than said": b"3\r\nab\r\n0\r\n\r\n",
    "LF after payload": b"3\r\nabc\n0\r\n\r\n",
    "CR CR after payload": b"3\r\nabc\r\r",
    "LF-ended trailers": b"0\r\nA: b\n\n",
    "LF ends it": b"0\r\n\n",
    "NUL in a trailer": b"0\r\nA: b\x00\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "nameless trailer": b"0\r\n: b\r\n\r\n",
    "trailer without a colon": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "space before the colon": b"0\r\nA : b\r\n\r\n",
    "too many trailers": b"0\r\n" + b"A: b\r\n" * (MOST_FIELDS + 1) + b"\r\n",
    "long trailers": b"0\r\nA: " + b"b" * TRAILER_BYTES + b"\r\n\r\n",
    "endless trailers": b"0\r\nA: " + b"b" * 1000,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_chunked_is_refused_however_it_comes(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        read(data)
    assert caught.value.status == 400
    with pytest.raises(WireError):
        read(*(data[at : at + 1] for at in range(len(data))))


def test_an_extension_may_be_as_long_as_the_limit() -> None:
    data = b"3;" + b"a" * (EXTENSION_BYTES - 1) + b"\r\nabc\r\n0\r\n\r\n"
    assert read(data)[0] == b"abc"


def test_a_body_of_one_byte_chunks_passes_and_one_of_extensions_does_not() -> None:
    many = 20_000
    assert len(read(b"1\r\nx\r\n" * many + LAST)[0]) == many
    with pytest.raises(WireError, match="more chunk extensions than payload"):
        read(b"1;" + b"a" * 15 + b"\r\nx\r\n", *[b"1;" + b"a" * 15 + b"\r\nx\r\n"] * many)


def test_a_size_is_not_believed_before_its_payload_came() -> None:
    chunks = reader()
    assert chunks.feed(b"f" * 15 + b"\r\nabc") == [b"abc"]
    assert chunks.feed(b"") == []
    assert not chunks.done


def held(chunks: ChunkReader) -> int:
    """Bytes that it keeps from one call to the next."""
    return len(chunks._buffer) + len(chunks.rest)


longest = max(16 + EXTENSION_BYTES + 2, TRAILER_BYTES + 1)
bodies = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=40),
        st.sampled_from([b"", b";a", b" ;a=b", b';q="x y"', b";\xff"]),
        st.sampled_from(["%x", "%X", "%04x"]),
    ),
    max_size=6,
)
trailers = st.lists(
    st.tuples(st.sampled_from([b"A", b"X-B"]), st.sampled_from([b"", b"b", b"c d"])),
    max_size=MOST_FIELDS,
)
cuts = st.lists(st.integers(0, 2000), max_size=12)


@settings(max_examples=150)
@given(body=bodies, trailers=trailers, places=cuts, after=st.binary(max_size=20))
def test_any_body_reads_back_however_it_is_cut(
    body: list[tuple[bytes, bytes, str]], trailers: Fields, places: list[int], after: bytes
) -> None:
    data = b"".join(
        (form % len(piece)).encode() + extension + b"\r\n" + piece + b"\r\n"
        for piece, extension, form in body
    )
    data += last_chunk(trailers) + after
    payload = b"".join(piece for piece, _, _ in body)
    assert read(*cut(data, places)) == (payload, trailers, after, True)


pieces = st.sampled_from(
    [b"0", b"1", b"3", b"f", b"\r\n", b"\r", b"\n", b";", b"abc", b"x", b" ", b"0\r\n\r\n", b"A: b",
     b"\x00", b"3\r\nabc\r\n"]
)  # fmt: skip


@settings(max_examples=300)
@given(data=st.lists(pieces | st.binary(max_size=5), max_size=14).map(b"".join), places=cuts)
@example(b"3\r\nabc\r\n0\r\n\r\n", [4, 5, 6])
@example(b"3\r\nabc\r\n0\r\nA: b\r\n\r\n", [16])
def test_whatever_comes_only_the_cut_changes_nothing(data: bytes, places: list[int]) -> None:
    """Refused or not is the same for every cut; so is the payload, where it is not refused."""

    def outcome(*segments: bytes) -> object:
        try:
            return read(*segments)
        except WireError:
            return "refused"

    assert outcome(*cut(data, places)) == outcome(data)


@settings(max_examples=150)
@given(
    segments=st.lists(
        st.one_of(st.binary(max_size=200), st.lists(pieces, max_size=60).map(b"".join)),
        max_size=20,
    )
)
def test_what_is_kept_between_two_calls_is_bounded(segments: list[bytes]) -> None:
    chunks = reader()
    fed = given_back = 0
    try:
        for segment in segments:
            if chunks.done:
                break
            fed += len(segment)
            given_back += sum(map(len, chunks.feed(segment)))
            if not chunks.done:
                assert held(chunks) <= longest
    except WireError:
        return
    assert given_back + held(chunks) <= fed


@given(payload=st.binary(min_size=1, max_size=5000), trailers=trailers)
def test_what_is_written_is_read(payload: bytes, trailers: Fields) -> None:
    assert read(chunk(payload) + last_chunk(trailers)) == (payload, trailers, b"", True)
    assert last_chunk([]) == LAST
