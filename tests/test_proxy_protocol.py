"""The PROXY protocol's header against its specification, and against whatever may come."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lb.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    SIGNATURE,
    Endpoint,
    MalformedProxyHeader,
    Parsed,
    encode,
    parse,
)

FOUR = (("192.168.0.1", 56324), ("192.168.0.11", 443))
SIX = (("2001:db8::1", 1), ("2001:db8::2", 65535))
NOTHING: tuple[None, None] = (None, None)


def v2(command: int, kind: int, rest: bytes = b"", length: int | None = None) -> bytes:
    size = len(rest) if length is None else length
    return SIGNATURE + bytes((command, kind)) + size.to_bytes(2, "big") + rest


ADDRESSES_4 = bytes((192, 168, 0, 1, 192, 168, 0, 11)) + b"\xdc\x04\x01\xbb"
ADDRESSES_6 = (
    ipaddress.ip_address("2001:db8::1").packed
    + ipaddress.ip_address("2001:db8::2").packed
    + b"\x00\x01\xff\xff"
)
TLV = b"\x01\x00\x02h2" + b"\x04\x00\x03\x00\x00\x00"
LONGEST = b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n"


# ── what a header says ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("header", "ends", "local"),
    [
        (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", FOUR, False),
        (b"PROXY TCP6 2001:db8::1 2001:DB8:0:0::2 1 65535\r\n", SIX, False),
        (
            b"PROXY TCP6 ::ffff:10.0.0.1 ::1 0 0\r\n",
            (("::ffff:10.0.0.1", 0), ("::1", 0)),
            False,
        ),
        (b"PROXY UNKNOWN\r\n", NOTHING, False),
        (b"PROXY UNKNOWN \x00 anything / at all\r\n", NOTHING, False),
        (LONGEST, NOTHING, False),
        (v2(0x21, 0x11, ADDRESSES_4), FOUR, False),
        (v2(0x21, 0x21, ADDRESSES_6), SIX, False),
        (v2(0x21, 0x11, ADDRESSES_4 + TLV), FOUR, False),
        (v2(0x21, 0x21, ADDRESSES_6 + TLV), SIX, False),
        (v2(0x21, 0x12, ADDRESSES_4), NOTHING, False),
        (v2(0x21, 0x22, ADDRESSES_6), NOTHING, False),
        (v2(0x21, 0x31, bytes(216)), NOTHING, False),
        (v2(0x21, 0x32, bytes(216) + TLV), NOTHING, False),
        (v2(0x21, 0x00), NOTHING, False),
        (v2(0x21, 0x00, b"ignored"), NOTHING, False),
        (v2(0x20, 0x00), NOTHING, True),
        (v2(0x20, 0x11, ADDRESSES_4), NOTHING, True),
        (v2(0x20, 0x11, b"short"), NOTHING, True),
        (v2(0x20, 0xFF, b"a family nobody knows"), NOTHING, True),
        (v2(0x21, 0x11, ADDRESSES_4 + bytes(MAX_V2 - 28)), FOUR, False),
    ],
)
def test_a_header_and_every_part_of_it(
    header: bytes, ends: tuple[Endpoint | None, Endpoint | None], local: bool
) -> None:
    said = parse(header)
    assert said is not None
    assert (said.local, said.consumed) == (local, len(header))
    for end, expected in zip((said.source, said.destination), ends, strict=True):
        assert (end is None) == (expected is None)
        if end is not None and expected is not None:
            assert ipaddress.ip_address(end[0]) == ipaddress.ip_address(expected[0])
            assert end[1] == expected[1]
    assert all(parse(header[:size]) is None for size in range(len(header)))
    for rest in (b"\r\n", b"GET / HTTP/1.1\r\n", header, bytes(5000)):
        assert parse(header + rest) == said


# ── what is none ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "line",
    [
        b"proxy TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY  TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY\tTCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b" PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY tcp4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY TCP5 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY UDP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
        b"PROXY TCP4 192.168.0.1  192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 192.168.0.1\t192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN \rx\r\n",
        b"PROXY UNKNOWN \nx\r\n",
        b"PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 192.168.1 192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 192.168.0.1/32 192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 0xc0.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP4 192.168.0.1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY TCP6 2001:db8::1::2 ::1 1 2\r\n",
        b"PROXY TCP6 [::1] ::1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP6 12345::1 ::1 1 2\r\n",
        b"PROXY TCP4 \xd9\xa1.1.1.1 192.168.0.11 1 2\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 056324 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 00 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 99999999999 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 +5 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 -1 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 1_0 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 \xd9\xa1 443\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11  443\r\n",
        LONGEST[:-2] + b"x\r\n",
        b"PROXY UNKNOWN " + b"x" * 93,
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\r\n\r\nGET / HTTP/1.1",
    ],
)
def test_a_line_that_is_not_exactly_one_is_refused(line: bytes) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        if line.endswith(b"\r") and not rest:
            continue  # its LF may be on the way
        with pytest.raises(MalformedProxyHeader):
            parse(line + rest)


@pytest.mark.parametrize(
    "header",
    [
        SIGNATURE + b"\x11",
        SIGNATURE + b"\x31",
        SIGNATURE + b"\x22",
        SIGNATURE + b"\x01",
        *(SIGNATURE + bytes((0x21, kind)) for kind in range(256)
          if kind not in (0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32)),
        v2(0x21, 0x11, ADDRESSES_4[:-1]),
        v2(0x21, 0x21, ADDRESSES_6[:-1]),
        v2(0x21, 0x11, b""),
        v2(0x21, 0x31, bytes(215)),
        v2(0x21, 0x11, length=MAX_V2 - 15),
        v2(0x20, 0x00, length=65535),
        SIGNATURE[:-1] + b"\r\x21\x11\x00\x0c" + ADDRESSES_4,
    ],
)  # fmt: skip
def test_version_2_is_refused_at_the_first_wrong_byte(header: bytes) -> None:
    with pytest.raises(MalformedProxyHeader):
        parse(header)


# ── encoding ─────────────────────────────────────────────────────────────────────────────────────

ports = st.integers(0, 65535)
ips4 = st.ip_addresses(v=4).map(str)
ips6 = st.ip_addresses(v=6).map(str)
same = st.one_of(
    st.tuples(st.tuples(ips4, ports), st.tuples(ips4, ports)),
    st.tuples(st.tuples(ips6, ports), st.tuples(ips6, ports)),
)


@settings(max_examples=100)
@given(version=st.sampled_from([1, 2]), ends=same, rest=st.binary(max_size=50))
def test_what_is_written_is_read(
    version: Literal[1, 2], ends: tuple[Endpoint, Endpoint], rest: bytes
) -> None:
    header = encode(version, *ends)
    assert len(header) <= MAX_V1
    assert parse(header + rest) == Parsed(*ends, local=False, consumed=len(header))


def test_headers_byte_for_byte() -> None:
    assert encode(1, *FOUR) == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    assert encode(1, *SIX) == b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"
    assert encode(2, *FOUR) == v2(0x21, 0x11, ADDRESSES_4)
    assert encode(2, *SIX) == v2(0x21, 0x21, ADDRESSES_6)


@pytest.mark.parametrize("ends", [(None, None), (FOUR[0], None), (None, FOUR[1])])
def test_nobody_behind_it(ends: tuple[Endpoint | None, Endpoint | None]) -> None:
    assert encode(1, *ends) == b"PROXY UNKNOWN\r\n"
    assert encode(2, *ends) == v2(0x20, 0x00)


@pytest.mark.parametrize("version", [1, 2])
def test_of_two_families_the_clients_address_is_not_lost(version: Literal[1, 2]) -> None:
    said = parse(encode(version, FOUR[0], SIX[1]))
    assert said is not None
    assert said.source is not None
    assert ipaddress.IPv6Address(said.source[0]).ipv4_mapped == ipaddress.ip_address("192.168.0.1")
    assert said.source[1] == 56324
    assert said.destination == SIX[1]
    back = parse(encode(version, SIX[0], FOUR[1]))
    assert back is not None
    assert back.source == SIX[0]


def test_a_scope_stays_at_home() -> None:
    assert encode(1, ("fe80::1%eth0", 1), ("::1", 2)) == b"PROXY TCP6 fe80::1 ::1 1 2\r\n"


def test_a_name_is_no_address() -> None:
    with pytest.raises(ValueError, match="localhost"):
        encode(2, ("localhost", 1), ("127.0.0.1", 2))


# ── whatever may come ────────────────────────────────────────────────────────────────────────────

words = st.sampled_from(
    [b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"80", b"0", b"", b"\r", b"\n", b"\x00"]
)
lines = st.lists(words | st.binary(max_size=4), max_size=8).map(
    lambda found: b"PROXY " + b" ".join(found) + b"\r\n"
)
frames = st.builds(
    v2, st.sampled_from([0x20, 0x21]) | st.integers(0, 255),
    st.sampled_from([0, 0x11, 0x21, 0x31]) | st.integers(0, 255),
    st.binary(max_size=240), st.none() | st.integers(0, 65535),
)  # fmt: skip


@settings(max_examples=300)
@given(
    data=st.one_of(st.binary(max_size=300), lines, frames, st.tuples(frames, lines).map(b"".join))
)
@example(b"")
@example(b"PROXY UNKNOWN\r")
def test_nothing_but_an_answer_or_a_refusal_and_nothing_beyond_is_read(data: bytes) -> None:
    try:
        said = parse(data)
    except MalformedProxyHeader:
        return
    if said is None:
        assert len(data) < MAX_V2
        return
    assert 0 < said.consumed <= len(data)
    assert parse(data[: said.consumed]) == said
    assert parse(data[: said.consumed] + b"\xff" * 20) == said
    assert parse(data[: said.consumed - 1]) is None
    if said.source is not None and said.destination is not None:
        assert parse(encode(2, said.source, said.destination)) is not None


@settings(max_examples=100)
@given(data=st.binary(min_size=108, max_size=200))
def test_version_1_never_waits_beyond_its_longest_line(data: bytes) -> None:
    with contextlib.suppress(MalformedProxyHeader):
        assert parse(b"PROXY " + data) is not None
