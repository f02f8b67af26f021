"""Which answers are compressed, what becomes of their fields, and that the bytes come back."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.compression import Gzip, edit, eligible, streamed, takes_gzip, vary
from lb.config_service import CompressionConfig

Fields = list[tuple[bytes, bytes]]

ON = CompressionConfig(enabled=True)
ASKS: Fields = [(b"Host", b"example.org"), (b"Accept-Encoding", b"gzip, deflate, br")]
PAGE: Fields = [(b"Content-Type", b"text/html; charset=utf-8"), (b"Content-Length", b"5000")]


def wanted(
    method: str, asks: Fields, status: int, answer: Fields, config: CompressionConfig
) -> bool:
    """As `relay` asks."""
    return eligible(method, asks, status, answer, config) and takes_gzip(asks)


def without(fields: Fields, *names: bytes) -> Fields:
    return [field for field in fields if field[0] not in names]


# ── which answers ────────────────────────────────────────────────────────────────────────────────


def test_a_page_for_who_takes_gzip() -> None:
    assert wanted("GET", ASKS, 200, PAGE, ON)
    assert not wanted("GET", ASKS, 200, PAGE, CompressionConfig())
    assert not wanted("GET", without(ASKS, b"Accept-Encoding"), 200, PAGE, ON)


@pytest.mark.parametrize("status", [200, 201, 203, 400, 404, 410, 500, 503])
def test_any_status_with_a_body(status: int) -> None:
    assert wanted("POST", ASKS, status, PAGE, ON)


@pytest.mark.parametrize("status", [100, 101, 103, 204, 205, 206, 304])
def test_no_status_without_one_and_no_part_of_one(status: int) -> None:
    assert not wanted("GET", ASKS, status, PAGE, ON)


def test_a_head_has_nothing_to_compress() -> None:
    assert not wanted("HEAD", ASKS, 200, PAGE, ON)


@pytest.mark.parametrize(
    "field",
    [
        (b"Content-Encoding", b"br"),
        (b"content-encoding", b"identity"),
        (b"Content-Range", b"bytes 0-4999/9000"),
        (b"Cache-Control", b"public, No-Transform"),
        (b"cache-control", b"no-transform"),
    ],
)
def test_what_must_stay_as_it_is(field: tuple[bytes, bytes]) -> None:
    assert not wanted("GET", ASKS, 200, [*PAGE, field], ON)


def test_a_client_may_forbid_it_too() -> None:
    asks = [*ASKS, (b"Cache-Control", b"max-age=0, no-transform")]
    assert not wanted("GET", asks, 200, PAGE, ON)


@pytest.mark.parametrize(
    ("media_type", "compressed"),
    [
        (b"text/plain", True),
        (b"TEXT/HTML;charset=utf-8", True),
        (b"text/event-stream", True),
        (b"application/json", True),
        (b"application/json ; q=1", True),
        (b"image/svg+xml", True),
        (b"image/png", False),
        (b"application/json-seq", False),
        (b"application/octet-stream", False),
        (b"texty/plain", False),
        (b"x/text/plain", False),
        (b"", False),
        (b"\xff", False),
    ],
)
def test_types_are_those_of_the_configuration(media_type: bytes, compressed: bool) -> None:
    fields = [(b"Content-Type", media_type), (b"Content-Length", b"5000")]
    assert wanted("GET", ASKS, 200, fields, ON) is compressed


def test_other_types_and_globs() -> None:
    config = CompressionConfig(enabled=True, types=("application/*+json", "Image/SVG+xml"))
    for media_type, compressed in (
        (b"application/ld+json", True), (b"application/json", False), (b"image/svg+xml", True),
        (b"text/html", False),
    ):  # fmt: skip
        assert wanted("GET", ASKS, 200, [(b"content-type", media_type)], config) is compressed


def test_no_type_is_none_of_them() -> None:
    assert not wanted("GET", ASKS, 200, without(PAGE, b"Content-Type"), ON)


@pytest.mark.parametrize(
    ("length", "compressed"),
    [(b"1023", False), (b"1024", True), (b"0", False), (b"x", False), (b"-5000", False)],
)
def test_small_ones_are_left_alone(length: bytes, compressed: bool) -> None:
    fields = [PAGE[0], (b"content-length", length)]
    assert wanted("GET", ASKS, 200, fields, ON) is compressed


def test_nothing_is_never_compressed_and_the_unknown_may_be_large() -> None:
    every = CompressionConfig(enabled=True, min_bytes=0)
    assert not wanted("GET", ASKS, 200, [PAGE[0], (b"Content-Length", b"0")], every)
    assert wanted("GET", ASKS, 200, [PAGE[0], (b"Content-Length", b"1")], every)
    assert wanted("GET", ASKS, 200, PAGE[:1], ON)


@pytest.mark.parametrize(
    ("accepts", "taken"),
    [
        (["gzip"], True),
        (["GZip"], True),
        (["x-gzip"], True),
        (["br;q=1.0, gzip;q=0.8, *;q=0.1"], True),
        (["br", "gzip"], True),
        (["br", "deflate"], False),
        (["*"], True),
        (["*;q=0"], False),
        (["gzip;q=0"], False),
        (["gzip;q=0.0"], False),
        (["gzip;q=0.000"], False),
        (["gzip;q=0.001"], True),
        (["*, gzip;q=0"], False),
        (["gzip, *;q=0"], True),
        (["identity"], False),
        (["identity, gzip;q=0.5"], False),
        (["identity;q=0.5, gzip"], True),
        (["identity;q=0.5, gzip;q=0.5"], True),
        (["identity;q=0, gzip;q=0.1"], True),
        (["identity;q=0.5, *;q=0.1"], False),
        ([""], False),
        ([", ,gzip"], True),
        (["gzip ; q=1"], True),
        (["gzip;Q=0"], False),
        (["gzip;q=2"], False),
        (["gzip;q=1.5"], False),
        (["gzip;q=0.1234"], False),
        (["gzip;q="], False),
        (["gzip;level=9"], False),
        (["gzipped"], False),
        (["\xff"], False),
        ([], False),
    ],
)
def test_who_takes_gzip(accepts: list[str], taken: bool) -> None:
    fields = [(b"accept-ENCODING", value.encode("latin-1")) for value in accepts]
    assert takes_gzip(fields) is taken


@settings(max_examples=200)
@given(value=st.binary(max_size=40) | st.text("gzip;q=0.1,* ", max_size=30).map(str.encode))
def test_any_bytes_are_an_answer(value: bytes) -> None:
    takes_gzip([(b"Accept-Encoding", value)])
    wanted("GET", ASKS, 200, [(b"Content-Type", value), (b"Content-Length", value)], ON)


def test_a_cache_is_told_also_where_this_client_gets_it_plain() -> None:
    assert eligible("GET", [], 200, PAGE, ON)
    assert vary(PAGE) == [*PAGE, (b"Vary", b"Accept-Encoding")]


def test_what_comes_about_as_it_is_sent() -> None:
    assert not streamed(PAGE)
    assert streamed(without(PAGE, b"Content-Length"))


# ── its fields ───────────────────────────────────────────────────────────────────────────────────


def test_fields_of_a_compressed_answer() -> None:
    assert edit(
        [
            (b"Content-Type", b"text/html"),
            (b"content-length", b"5000"),
            (b"Accept-Ranges", b"bytes"),
            (b"Digest", b"sha-256=x"),
            (b"Content-Digest", b"sha-256=:x:"),
            (b"Repr-Digest", b"sha-256=:x:"),
            (b"Content-MD5", b"x"),
            (b"ETag", b'"abc"'),
            (b"Vary", b"Origin"),
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b=2"),
        ]
    ) == [
        (b"Content-Type", b"text/html"),
        (b"ETag", b'W/"abc"'),
        (b"Vary", b"Origin, Accept-Encoding"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Content-Encoding", b"gzip"),
    ]


def test_a_weak_etag_stays() -> None:
    assert (b"etag", b'W/"abc"') in edit([(b"etag", b'W/"abc"')])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [b"Accept-Encoding"]),
        ([b""], [b"", b"Accept-Encoding"]),
        ([b"*"], [b"*"]),
        ([b"accept-encoding"], [b"accept-encoding"]),
        ([b"Origin,ACCEPT-Encoding"], [b"Origin,ACCEPT-Encoding"]),
        ([b"Origin", b"Cookie"], [b"Origin, Accept-Encoding", b"Cookie"]),
        ([b"Origin", b"Accept-Encoding"], [b"Origin", b"Accept-Encoding"]),
        ([b"X-Accept-Encoding"], [b"X-Accept-Encoding, Accept-Encoding"]),
    ],
)
def test_vary_is_merged(before: list[bytes], after: list[bytes]) -> None:
    fields = [(b"Vary", value) for value in before]
    assert [value for _, value in vary(fields)] == after
    assert vary(vary(fields)) == vary(fields)
    assert fields == [(b"Vary", value) for value in before], "the given ones are left alone"


names = st.sampled_from([b"ETag", b"Vary", b"Content-Length", b"Accept-Ranges", b"X-Other"])
some = st.lists(st.tuples(names, st.sampled_from([b"*", b'"x"', b"Origin", b"5", b""])), max_size=8)


@settings(max_examples=100)
@given(fields=some)
def test_what_has_no_part_in_it_passes_in_order(fields: Fields) -> None:
    out = edit(fields)
    assert [f for f in out if f[0] == b"X-Other"] == [f for f in fields if f[0] == b"X-Other"]
    assert not {b"Content-Length", b"Accept-Ranges"} & {name for name, _ in out}
    assert out[-1] == (b"Content-Encoding", b"gzip")
    assert not wanted("GET", ASKS, 200, out, ON), "it is not compressed twice"


# ── its bytes ────────────────────────────────────────────────────────────────────────────────────

pieces = st.lists(
    st.binary(max_size=300)
    | st.builds(lambda a, n: a * n, st.binary(max_size=5), st.integers(0, 9999)),
    max_size=8,
)
lengths = st.none() | st.sampled_from([0, 1, 500, 5000, 10**6])


@settings(max_examples=100)
@given(given=pieces, level=st.integers(1, 9), length=lengths, now=st.booleans())
def test_what_goes_in_comes_out(
    given: list[bytes], level: int, length: int | None, now: bool
) -> None:
    """Also where the length was a wrong guess."""
    stream = Gzip(level, length)
    feed = stream.feed_now if now else stream.feed
    assert gzip.decompress(b"".join(map(feed, given)) + stream.finish()) == b"".join(given)


@settings(max_examples=100)
@given(given=pieces, length=lengths)
def test_a_piece_that_is_sent_now_can_be_read_now(given: list[bytes], length: int | None) -> None:
    stream, reader = Gzip(4, length), zlib.decompressobj(31)
    for piece in given:
        assert reader.decompress(stream.feed_now(piece)) == piece
    assert reader.decompress(stream.finish()) == b""
    assert reader.eof


def test_pages_get_smaller_and_held_back_ones_most() -> None:
    line = b"<tr><td>some table</td><td>%d</td></tr>\n"
    page = [line % number for number in range(2000)]
    sizes = {}
    for held in (True, False):
        stream = Gzip(4)
        feed: Any = stream.feed if held else stream.feed_now
        sizes[held] = len(b"".join(map(feed, page)) + stream.finish())
    assert sizes[True] < sizes[False] < len(b"".join(page))
    assert sizes[True] < len(b"".join(page)) / 5
