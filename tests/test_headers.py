"""Header fields: what passes, what stays, what is added."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lb import headers
from lb.field_names import FORWARDED, HOP_BY_HOP, NEVER_TRAILING, PROTECTED, folded
from lb.headers import Connection, Underscores
from lb.trace import make, valid
from lb.trust import Trust

CLIENT = Connection(peer=b"10.0.0.7", port=b"8080")
PROXY = Connection(peer=b"10.0.0.7", port=b"8080", trusted=True)
TRUST = Trust(["10.0.0.0/8"])
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Pair = tuple[bytes, bytes]

# What the balancer writes anew, so that none of the client's passes.
REPLACED = FORWARDED | {b"host", b"x-request-id"}

token = st.from_regex(rb"[A-Za-z][A-Za-z0-9_.-]{0,12}", fullmatch=True)
known = st.sampled_from(
    sorted(HOP_BY_HOP | PROTECTED | {b"x-own", b"trailer", b"x-forwarded-prefix", b"proxy"})
)
spelled = known.flatmap(
    lambda name: st.sampled_from(
        [name, name.title(), name.upper(), name.replace(b"-", b"_"), name.replace(b"-", b".")]
    )
)
names = st.one_of(token, spelled)
values = st.from_regex(rb"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
connection = st.tuples(
    st.sampled_from([b"Connection", b"connection"]),
    st.lists(names, min_size=1, max_size=4).map(b", ".join),
)
fields_lists = st.lists(st.one_of(st.tuples(names, values), connection), max_size=12)
policies: st.SearchStrategy[Underscores] = st.sampled_from(["drop", "drop_confusable", "pass"])
dropping: st.SearchStrategy[Underscores] = st.sampled_from(["drop", "drop_confusable"])


def onward(
    fields: list[Pair], peer: Connection = CLIENT, host: bytes | None = b"app", **options: Any
) -> list[Pair]:
    if peer.trusted:
        options.setdefault("told", headers.told(fields, peer, TRUST))
    return headers.for_backend(fields, peer, identifier=b"id-1", host=host, **options)


def lower(fields: list[Pair]) -> list[bytes]:
    return [name.lower() for name, _ in fields]


def every(fields: list[Pair], name: bytes) -> list[bytes]:
    return [value for field, value in fields if field.lower() == name]


# --- hop by hop ----------------------------------------------------------------------------------


@given(fields_lists, policies)
@example(
    [(b"Connection", b"Host, content-length, X-Forwarded-For"), (b"Content-Length", b"3")], "drop"
)
def test_hop_by_hop_fields_never_pass(fields: list[Pair], underscores: Underscores) -> None:
    named = {
        name
        for name in set(headers.tokens(fields, b"connection")) - PROTECTED
        if not name.startswith(b"x-forwarded-")
    }
    for peer in (CLIENT, PROXY):
        out = onward(fields, peer, underscores=underscores)
        passed = [field for field in out if field in fields]
        te_pass = {b"te", b"connection"} if (b"TE", b"trailers") in out else set()
        assert (set(lower(passed)) & (HOP_BY_HOP | named)) <= te_pass
        assert b"proxy" not in lower(out)
    for back in (headers.for_client(fields), headers.for_client(fields, drop_length=True)):
        assert set(lower(back)).isdisjoint(HOP_BY_HOP | named - {b"via"})


@given(fields_lists)
def test_connection_cannot_take_end_to_end_fields_away(fields: list[Pair]) -> None:
    kept = PROTECTED - REPLACED - {b"trailer", b"traceparent", b"tracestate"}
    expected = [field for field in fields if field[0].lower() in kept]
    assert [field for field in onward(fields) if field in expected][: len(expected)] == expected
    expected = [f for f in fields if f[0].lower() in PROTECTED]
    back = headers.for_client(fields, trailers=True)
    assert [f for f in back[:-1] if f[0].lower() in PROTECTED] == expected


def test_connection_cannot_take_away_what_a_trusted_proxy_says() -> None:
    told = [(b"X-Forwarded-Prefix", b"/app"), (b"X-Real-IP", b"203.0.113.9")]
    out = onward([(b"Connection", b"close, X-Forwarded-Prefix, x-real-ip"), *told], PROXY)
    assert [field for field in told if field in out] == told


def same(one: Pair, other: Pair) -> bool:
    return one[0] is other[0] and one[1] is other[1]


@given(fields_lists)
def test_what_passes_keeps_its_order_and_bytes(fields: list[Pair]) -> None:
    position = iter(fields)
    *back, ours = headers.for_client(fields)
    assert all(any(same(field, given) for given in position) for field in back)
    assert ours == (b"Via", b"1.1 lbctl")
    position = iter(fields)
    out = [field for field in onward(fields) if any(same(field, given) for given in fields)]
    assert all(any(same(field, given) for given in position) for field in out)


@given(st.lists(st.tuples(names, st.binary(max_size=12)), max_size=8), st.booleans())
def test_no_line_end_comes_out_that_did_not_come_in(fields: list[Pair], trusted: bool) -> None:
    given_values = b"".join(name + value for name, value in fields)
    peer = PROXY if trusted else CLIENT
    for out in (onward(fields, peer), headers.for_client(fields), headers.trailer_fields(fields)):
        made = b"".join(name + value for name, value in out)
        for byte in b"\r\n\x00":
            assert made.count(byte) <= given_values.count(byte) * 2, "Forwarded repeats X-*"
            assert byte in given_values or byte not in made


@pytest.mark.parametrize(
    ("te", "expected"),
    [
        (b"trailers", True),
        (b"gzip, Trailers", True),
        (b"gzip;q=1", False),
        (b"trailers;q=0", False),
    ],
)
def test_te_passes_as_trailers_or_not_at_all(te: bytes, expected: bool) -> None:
    out = onward([(b"TE", te), (b"Connection", b"TE")])
    assert every(out, b"te") == ([b"trailers"] if expected else [])
    assert every(out, b"connection") == ([b"TE"] if expected else [])


def test_te_means_nothing_in_http_1_0() -> None:
    assert every(onward([(b"TE", b"trailers")], version=b"1.0"), b"te") == []


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_via_is_added_to_those_before(version: bytes) -> None:
    fields = [(b"Via", b"1.0 other"), (b"Connection", b"via")]
    expected = [b"1.0 other", version + b" lbctl"]
    assert every(onward(fields, version=version), b"via") == expected
    assert every(headers.for_client(fields, version=version), b"via") == expected


def test_expect_passes_from_those_who_may_use_it() -> None:
    expect = (b"Expect", b"100-continue")
    assert expect in onward([expect])
    assert expect not in onward([expect], version=b"1.0")


def test_trailer_passes_where_trailers_follow() -> None:
    trailer = (b"Trailer", b"Digest")
    assert trailer in onward([trailer], chunked=True)
    assert trailer not in onward([trailer])
    assert trailer in headers.for_client([trailer], trailers=True)
    assert trailer not in headers.for_client([trailer])


# --- who asks ------------------------------------------------------------------------------------


@given(fields_lists, dropping)
@example([(b"x_forwarded-FOR", b"6.6.6.6"), (b"X-FORWARDED-PROTO", b"https")], "drop")
@example([(b"X.Forwarded.Host", b"6.6.6.6"), (b"Client_Cert", b":AA==:")], "drop_confusable")
def test_whatever_a_client_says_of_itself_is_replaced(
    fields: list[Pair], underscores: Underscores
) -> None:
    out = onward(fields, underscores=underscores)
    said = [
        (name, value)
        for name, value in out
        if folded(name) in FORWARDED or folded(name).startswith(b"x-forwarded-")
    ]
    assert sorted(said) == [
        (b"Forwarded", b"for=10.0.0.7;host=app;proto=http"),
        (b"X-Forwarded-For", b"10.0.0.7"),
        (b"X-Forwarded-Host", b"app"),
        (b"X-Forwarded-Port", b"8080"),
        (b"X-Forwarded-Proto", b"http"),
    ]
    assert every(out, b"x-request-id") == [b"id-1"]
    assert every(out, b"host") == [b"app"]


def test_without_a_host_none_is_invented() -> None:
    out = onward([], host=None)
    assert set(lower(out)).isdisjoint({b"host", b"x-forwarded-host"})
    assert every(out, b"forwarded") == [b"for=10.0.0.7;proto=http"]


@pytest.mark.parametrize(
    ("peer", "address", "node"),
    [
        (b"2001:DB8::7", b"2001:db8::7", b'"[2001:db8::7]"'),
        (b"fe80::7%eth0", b"fe80::7", b'"[fe80::7]"'),
        (b"::ffff:10.0.0.7", b"10.0.0.7", b"10.0.0.7"),
        (b"unix:", b"unknown", b"unknown"),
        (b"", b"unknown", b"unknown"),
    ],
)
def test_how_an_address_is_written(peer: bytes, address: bytes, node: bytes) -> None:
    connection = Connection(peer=peer, port=b"443", scheme=b"https")
    out = onward([], connection, host=b'a"b\\:80')
    assert connection.peer == address
    assert headers.told([], connection, TRUST).client == address
    assert headers.told([], connection, TRUST).scheme == b"https"
    assert every(out, b"x-forwarded-for") == [address]
    assert every(out, b"forwarded") == [b"for=" + node + b';host="a\\"b\\\\:80";proto=https']


def test_a_trusted_proxys_chain_is_appended_to() -> None:
    fields = [
        (b"X-Forwarded-For", b"203.0.113.9"),
        (b"x-forwarded-for", b"10.0.0.3"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example"),
        (b"X-Forwarded-Port", b"8443"),
        (b"Forwarded", b'for=203.0.113.9, for="10.0.0.3:80"'),
        (b"X-Forwarded-Prefix", b"/shop"),
        (b"X-Real-IP", b"203.0.113.9"),
    ]
    told = headers.told(fields, PROXY, TRUST)
    assert (told.client, told.scheme) == (b"203.0.113.9", b"https")
    out = onward(fields, PROXY)
    assert every(out, b"x-forwarded-for") == [b"203.0.113.9, 10.0.0.3, 10.0.0.7"]
    assert every(out, b"x-forwarded-proto") == [b"https"]
    assert every(out, b"x-forwarded-host") == [b"shop.example"]
    assert every(out, b"x-forwarded-port") == [b"8443"]
    assert every(out, b"forwarded") == [
        b'for=203.0.113.9, for="10.0.0.3:80", for=10.0.0.7;host=app;proto=http'
    ]
    assert every(out, b"x-forwarded-prefix") == [b"/shop"]
    assert every(out, b"x-real-ip") == [b"203.0.113.9"]
    assert every(out, b"host") == [b"app"]


def test_a_trusted_proxy_that_says_nothing_is_the_client() -> None:
    assert onward([], PROXY) == onward([], CLIENT)


def test_nobody_elses_word_is_taken() -> None:
    fields = [(b"X-Forwarded-For", b"203.0.113.9"), (b"X-Real-IP", b"203.0.113.9")]
    believed = headers.told(fields, PROXY, TRUST)
    assert onward(fields, CLIENT, told=believed) == onward([], CLIENT)
    assert headers.told(fields, CLIENT, TRUST).client == b"10.0.0.7"
    assert onward(fields, PROXY, told=None) == onward([], CLIENT), "nobody read it"


@pytest.mark.parametrize("underscores", ["drop", "drop_confusable"])
def test_what_a_trusted_proxys_own_client_spelled_oddly_is_dropped(
    underscores: Underscores,
) -> None:
    fields = [(b"X_Forwarded_For", b"6.6.6.6"), (b"X-Forwarded_Prefix", b"/admin")]
    assert onward(fields, PROXY, underscores=underscores) == onward([], PROXY)


def test_a_clients_certificate_goes_on_and_cannot_be_claimed() -> None:
    claimed = [(b"Client-Cert", b":AAAA:"), (b"Client-Cert-Chain", b":BBBB:")]
    assert set(lower(onward(claimed))).isdisjoint({b"client-cert", b"client-cert-chain"})
    assert [field for field in onward(claimed, PROXY) if field in claimed] == claimed
    for trusted in (True, False):
        proved = Connection(peer=b"10.0.0.7", port=b"443", trusted=trusted, client_cert=b"DER")
        assert every(onward(claimed, proved), b"client-cert") == [b":REVS:"]
        assert every(onward(claimed, proved), b"client-cert-chain") == []


# --- underscores ---------------------------------------------------------------------------------


@given(fields_lists)
def test_no_odd_spelling_of_a_field_that_means_something_passes(fields: list[Pair]) -> None:
    for name in lower(onward(fields)):
        assert folded(name) == name or folded(name) not in PROTECTED | HOP_BY_HOP


def test_two_fields_that_an_application_might_take_for_one() -> None:
    fields = [
        (b"X-User", b"alice"),
        (b"x_user", b"root"),
        (b"X_Other", b"1"),
        (b"Content_Type", b"x"),
    ]
    passing = {
        policy: [name for name, _ in onward(fields, underscores=policy) if (name, _) in fields]
        for policy in ("drop", "drop_confusable", "pass")
    }
    assert passing == {
        "drop": [b"X-User"],
        "drop_confusable": [b"X-User", b"X_Other"],
        "pass": [b"X-User", b"x_user", b"X_Other", b"Content_Type"],
    }


# --- ids and traces ------------------------------------------------------------------------------


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


def a_trace() -> bytes:
    return make(lambda size: b"\x11" * size, 1)[0]


def test_a_valid_trace_passes_unchanged_and_in_its_place() -> None:
    fields = [
        (b"TraceParent", PARENT),
        (b"X-Own", b"1"),
        (b"tracestate", b"a=1"),
        (b"tracestate", b""),
    ]
    assert onward(fields, trace=a_trace)[1:5] == fields


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"tracestate", b"a=1")],
        [(b"traceparent", b"garbage"), (b"tracestate", b"a=1")],
        [(b"traceparent", PARENT), (b"Tracestate", b"a=1"), (b"TRACEPARENT", PARENT)],
    ],
)
def test_another_trace_begins_where_there_is_none_to_go_on_with(fields: list[Pair]) -> None:
    out = onward([*fields, (b"X-Own", b"1")], trace=a_trace)
    assert every(out, b"traceparent") == [a_trace()]
    assert valid(every(out, b"traceparent"))
    assert every(out, b"tracestate") == []
    assert every(out, b"x-own") == [b"1"]
    assert set(lower(onward(fields))).isdisjoint({b"traceparent", b"tracestate"}), (
        "nobody makes one"
    )


# --- Max-Forwards --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"0"], 0),
        ([b"007"], 7),
        ([b"9" * 19], 10**19 - 1),
        ([b"9" * 5000], None),
        ([b"-1"], None),
        ([b"+1"], None),
        ([b"1.0"], None),
        ([b"1, 1"], None),
        (["١".encode()], None),
        ([b""], None),
        ([b"1", b"1"], None),
        ([], None),
    ],
)
def test_max_forwards_is_a_number_or_nothing(values: list[bytes], expected: int | None) -> None:
    fields = [(b"MAX-Forwards", value) for value in values]
    assert headers.max_forwards([(b"Accept", b"1"), *fields]) == expected


def test_max_forwards_is_set_where_it_counts() -> None:
    fields = [(b"MAX-Forwards", b"10"), (b"X-Own", b"10")]
    assert onward(fields)[1:3] == fields
    assert onward(fields, max_forwards=9)[1:3] == [(b"MAX-Forwards", b"9"), (b"X-Own", b"10")]


# --- back ----------------------------------------------------------------------------------------


def test_a_204_loses_its_length() -> None:
    answer = [(b"Content-Length", b"0"), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    assert headers.for_client(answer)[:-1] == answer
    assert headers.for_client(answer, drop_length=True)[:-1] == answer[1:]


@given(
    st.lists(st.tuples(st.one_of(names, st.sampled_from(sorted(NEVER_TRAILING))), values)), policies
)
def test_trailers_carry_nothing_that_belongs_into_a_head(
    fields: list[Pair], underscores: Underscores
) -> None:
    out = headers.trailer_fields(fields, underscores)
    for name in lower(out):
        meant = name if underscores == "pass" else folded(name)
        assert meant not in NEVER_TRAILING
        assert not meant.startswith(b"x-forwarded-")
        assert underscores != "drop" or b"_" not in name
    assert out == [field for field in fields if field in out]


def test_nobody_says_in_a_trailer_who_the_client_is() -> None:
    said = [(b"X-Forwarded-Prefix", b"/"), (b"x_forwarded_for", b"6.6.6.6"), (b"Forwarded", b"")]
    assert headers.trailer_fields(said) == []
    assert headers.trailer_fields(said, "pass") == [said[1]]


def test_digests_and_signatures_may_trail() -> None:
    trailers = [
        (b"Content-Digest", b"sha-256=:x:"),
        (b"Server-Timing", b"db;dur=1"),
        (b"grpc-status", b"0"),
        (b"ETag", b'"x"'),
    ]
    assert headers.trailer_fields(trailers) == trailers
