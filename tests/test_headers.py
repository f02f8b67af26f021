"""Header fields: what passes, what stays, what is added."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lb import headers
from lb.headers import HOP_BY_HOP, PROTECTED, Connection

CLIENT = Connection(peer=b"10.0.0.7", port=b"8080")
Pair = tuple[bytes, bytes]

token = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True)
known = st.sampled_from(
    sorted(HOP_BY_HOP | PROTECTED | {b"x-own", b"accept", b"x_forwarded_for", b"content_length"})
)
spelled = known.flatmap(lambda name: st.sampled_from([name, name.title(), name.upper()]))
names = st.one_of(token, spelled)
values = st.from_regex(rb"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
connection = st.tuples(
    st.just(b"Connection"), st.lists(names, min_size=1, max_size=4).map(b", ".join)
)
fields_lists = st.lists(st.one_of(st.tuples(names, values), connection), max_size=12)


def onward(fields: list[Pair], host: bytes | None = b"app") -> list[Pair]:
    return headers.for_backend(fields, CLIENT, identifier=b"id-1", host=host)


def lower(fields: list[Pair]) -> list[bytes]:
    return [name.lower() for name, _ in fields]


@given(fields_lists)
@example([(b"Connection", b"Host, content-length, X-Forwarded-For"), (b"Content-Length", b"3")])
def test_hop_by_hop_fields_never_pass(fields: list[Pair]) -> None:
    out = onward(fields)
    named = set(headers.tokens(fields, b"connection")) - PROTECTED
    passed = [field for field in out if field in fields]
    te_pass = {b"te", b"connection"} if (b"TE", b"trailers") in out else set()
    assert (set(lower(passed)) & (HOP_BY_HOP | named)) <= te_pass
    for back in (headers.for_client(fields), headers.for_client(fields, drop_length=True)):
        assert set(lower(back)).isdisjoint(HOP_BY_HOP | named)


@given(fields_lists)
def test_connection_cannot_take_end_to_end_fields_away(fields: list[Pair]) -> None:
    out = onward(fields)
    kept = PROTECTED - headers._REPLACED - {b"host"}
    expected = [field for field in fields if field[0].lower() in kept]
    assert [field for field in out if field in expected][: len(expected)] == expected
    back = headers.for_client(fields)
    assert [f for f in fields if f[0].lower() in PROTECTED] == [
        f for f in back if f[0].lower() in PROTECTED
    ]


@given(fields_lists)
def test_what_passes_keeps_its_order_and_bytes(fields: list[Pair]) -> None:
    back = headers.for_client(fields)
    position = iter(fields)
    assert all(any(field is given for given in position) for field in back)


@given(fields_lists)
def test_each_forwarded_field_is_there_once_and_ours(fields: list[Pair]) -> None:
    out = onward(fields)
    assert [v for n, v in out if n.lower() == b"x-forwarded-for"] == [b"10.0.0.7"]
    assert [v for n, v in out if n.lower() == b"x-forwarded-proto"] == [b"http"]
    assert [v for n, v in out if n.lower() == b"x-forwarded-port"] == [b"8080"]
    assert [v for n, v in out if n.lower() == b"x-forwarded-host"] == [b"app"]
    assert [v for n, v in out if n.lower() == b"x-request-id"] == [b"id-1"]
    assert [v for n, v in out if n.lower() == b"host"] == [b"app"]
    assert b"forwarded" not in lower(out)


@given(fields_lists)
def test_no_underscored_twin_of_a_field_that_means_something_passes(fields: list[Pair]) -> None:
    twins = {name for name in lower(onward(fields)) if b"_" in name}
    assert all(name.replace(b"_", b"-") not in PROTECTED | HOP_BY_HOP for name in twins)


@pytest.mark.parametrize(
    ("te", "expected"), [(b"trailers", True), (b"gzip, Trailers", True), (b"gzip;q=1", False)]
)
def test_te_passes_as_trailers_or_not_at_all(te: bytes, expected: bool) -> None:
    out = onward([(b"TE", te)])
    assert ((b"TE", b"trailers") in out) is expected
    assert ((b"Connection", b"TE") in out) is expected


def test_via_is_added_to_those_before() -> None:
    out = onward([(b"Via", b"1.0 other")])
    assert [v for n, v in out if n == b"Via"] == [b"1.0 other", b"1.1 lbctl"]


def test_without_a_host_none_is_invented() -> None:
    assert set(lower(onward([], host=None))).isdisjoint({b"host", b"x-forwarded-host"})


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [
        (b"abc-123", b"abc-123"),
        (b"a" * 128, b"a" * 128),
        (b"a" * 129, b"made"),
        (b"", b"made"),
        (b"spaced out", b"made"),
        (b'x"y', b"made"),
        (None, b"made"),
    ],
)
def test_a_request_id_is_kept_where_it_is_harmless(given_id: bytes | None, expected: bytes) -> None:
    fields = [] if given_id is None else [(b"X-Request-ID", given_id)]
    assert headers.request_id(fields, b"made") == expected


def test_a_204_loses_its_length() -> None:
    assert headers.for_client([(b"Content-Length", b"0")], drop_length=True) == []
