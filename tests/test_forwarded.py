"""What trusted proxies tell of a request: X-Forwarded-* and Forwarded, read from the right."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb import forwarded
from lb.forwarded import HOPS, Told
from lb.trust import Trust

PEER = b"10.0.0.1"
TRUST = Trust(["10.0.0.0/8", "fd00::/8"])
Pair = tuple[bytes, bytes]


def told(*fields: Pair, trust: Trust = TRUST) -> Told:
    return forwarded.told(fields, PEER, b"http", trust)


def of_addresses(*values: bytes) -> Told:
    return told(*((b"X-Forwarded-For", value) for value in values))


def of_elements(*values: bytes) -> Told:
    return told(*((b"Forwarded", value) for value in values))


# --- the client's address ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([b"203.0.113.9"], b"203.0.113.9"),
        ([b"203.0.113.9, 10.0.0.2"], b"203.0.113.9"),
        ([b"203.0.113.9", b"10.0.0.2,10.0.0.3"], b"203.0.113.9"),
        # whoever is left of somebody untrusted was named by that one
        ([b"6.6.6.6, 203.0.113.9, 10.0.0.2"], b"203.0.113.9"),
        ([b"10.6.6.6, 203.0.113.9"], b"203.0.113.9"),
        # all trusted: a proxy asks for itself
        ([b"10.0.0.5, 10.0.0.2"], b"10.0.0.5"),
        ([b"fd00::5"], b"fd00::5"),
        # a malformed entry ends the chain; the last that was told counts
        ([b"203.0.113.9, garbage, 10.0.0.2"], b"10.0.0.2"),
        ([b"203.0.113.9, garbage"], PEER),
        ([b"203.0.113.9, unknown"], PEER),
        ([b"203.0.113.9; 10.0.0.2"], PEER),
        ([b"300.1.2.3"], PEER),
        ([b"[203.0.113.9]"], PEER),
        ([b"203.0.113.9:port"], PEER),
        ([b"203.0.113.9\x00"], PEER),
        ([b""], PEER),
        ([], PEER),
        # empty members of a list do not count
        ([b", 203.0.113.9 ,\t,10.0.0.2,"], b"203.0.113.9"),
        # with ports, and in every spelling of IPv6
        ([b"203.0.113.9:4711"], b"203.0.113.9"),
        ([b"2001:DB8:0::9"], b"2001:db8::9"),
        ([b"[2001:db8::9]"], b"2001:db8::9"),
        ([b"[2001:db8::9]:4711, 10.0.0.2"], b"2001:db8::9"),
        ([b"::ffff:203.0.113.9"], b"203.0.113.9"),
        ([b"203.0.113.9, ::ffff:10.0.0.2"], b"203.0.113.9"),
    ],
)
def test_the_client_is_the_right_most_who_is_not_trusted(
    values: list[bytes], client: bytes
) -> None:
    assert of_addresses(*values).client == client


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([b"for=203.0.113.9"], b"203.0.113.9"),
        ([b"For=203.0.113.9;Proto=https;By=10.0.0.1"], b"203.0.113.9"),
        ([b'for="203.0.113.9:4711"'], b"203.0.113.9"),
        ([b'for="203.0.113.9:_port"'], b"203.0.113.9"),
        ([b'for="[2001:db8::9]"'], b"2001:db8::9"),
        ([b'for="[2001:DB8::9]:4711"'], b"2001:db8::9"),
        ([b'for="\\2\\03.0.113.9"'], b"203.0.113.9"),
        ([b'for=203.0.113.9, for=10.0.0.2;host="a, for=6.6.6.6"'], b"203.0.113.9"),
        ([b"for=203.0.113.9", b"for=10.0.0.2"], b"203.0.113.9"),
        ([b"for=6.6.6.6,for=203.0.113.9,for=10.0.0.2"], b"203.0.113.9"),
        ([b", for=203.0.113.9,, for=10.0.0.2 ,"], b"203.0.113.9"),
        ([b";for=203.0.113.9;;proto=http;"], b"203.0.113.9"),
        # nobody's address: the chain ends there
        ([b"for=unknown"], PEER),
        ([b"for=203.0.113.9, for=Unknown, for=10.0.0.2"], b"10.0.0.2"),
        ([b"for=203.0.113.9, for=_hidden"], PEER),
        ([b"for=203.0.113.9, proto=https"], PEER),
        # malformed
        ([b"for=203.0.113.9:80"], PEER),
        ([b"for=[2001:db8::9]"], PEER),
        ([b'for="2001:db8::9"'], PEER),
        ([b'for="[203.0.113.9]"'], PEER),
        ([b"for=300.1.2.3"], PEER),
        ([b"for=hidden"], PEER),
        ([b"for=203.0.113.9;for=203.0.113.9"], PEER),
        ([b"for=203.0.113.9;FOR=6.6.6.6"], PEER),
        ([b"for = 203.0.113.9"], PEER),
        ([b"for=203.0.113.9; proto=http"], PEER),
        ([b"for="], PEER),
        ([b"203.0.113.9"], PEER),
        ([b'for="203.0.113.9'], PEER),
        ([b'for="203.0.113.9\\"'], PEER),
        ([b'for="203.0.113.9"x'], PEER),
        ([b'for="203.0.113.9\x00"'], PEER),
        ([b"for=203.0.113.9, x, for=10.0.0.2"], b"10.0.0.2"),
    ],
)
def test_the_same_by_forwarded(values: list[bytes], client: bytes) -> None:
    assert of_elements(*values).client == client


@pytest.mark.parametrize(
    "made_up", [b'"', b'for="', b'for=6.6.6.6;host="a', b"x", b'for="\\', b'for="6.6.6.6", for="']
)
@pytest.mark.parametrize(
    "appended", [b"for=203.0.113.9", b'for="[2001:db8::9]:80";host="a:80"', b'for="203.0.113.9:1"']
)
def test_an_open_quote_does_not_hide_what_a_trusted_proxy_appended(
    made_up: bytes, appended: bytes
) -> None:
    seen = of_elements(made_up + b", " + appended)
    assert seen.client in (b"203.0.113.9", b"2001:db8::9")
    assert seen.elements == appended


def test_where_both_say_the_same_each_is_kept() -> None:
    seen = told(
        (b"Forwarded", b'for=_x;a=1, for="203.0.113.9:80";proto=https, for=10.0.0.2'),
        (b"X-Forwarded-For", b"6.6.6.6, 203.0.113.9, 10.0.0.2"),
    )
    assert seen.client == b"203.0.113.9"
    assert seen.addresses == b"6.6.6.6, 203.0.113.9, 10.0.0.2"
    assert seen.elements == b'for=_x;a=1, for="203.0.113.9:80";proto=https, for=10.0.0.2'


@pytest.mark.parametrize(
    "elements",
    [
        b"for=6.6.6.6;proto=https",
        b"for=203.0.113.9",
        b"for=6.6.6.6, for=10.0.0.2",
        b"for=_x, for=10.0.0.2",
        b"for=10.0.0.2",
        b"garbage",
        b"",
    ],
)
def test_x_forwarded_for_decides_where_they_differ(elements: bytes) -> None:
    seen = told((b"Forwarded", elements), (b"X-Forwarded-For", b"203.0.113.9, 10.0.0.2"))
    assert seen.client == b"203.0.113.9"
    assert seen.addresses == b"203.0.113.9, 10.0.0.2"
    assert seen.elements == b"for=203.0.113.9, for=10.0.0.2"
    assert seen.proto is None


def test_a_proxy_that_stands_in_the_chain_twice_is_two_hops() -> None:
    seen = told((b"Forwarded", b"for=10.0.0.2"), (b"X-Forwarded-For", b"10.0.0.2, 10.0.0.2"))
    assert seen.elements == b"for=10.0.0.2, for=10.0.0.2"


@pytest.mark.parametrize("addresses", [b"", b"garbage", b"unknown"])
def test_an_x_forwarded_for_that_says_nothing_does_not_make_forwarded_decide(
    addresses: bytes,
) -> None:
    seen = told((b"Forwarded", b"for=198.51.100.1"), (b"X-Forwarded-For", addresses))
    assert (seen.client, seen.addresses, seen.elements) == (PEER, b"", b"")


# --- what goes on --------------------------------------------------------------------------------


def test_lines_become_one_chain_with_the_bytes_of_each_entry() -> None:
    assert of_addresses(b"2001:DB8::9", b"10.0.0.2:80,10.0.0.3").addresses == (
        b"2001:DB8::9, 10.0.0.2:80, 10.0.0.3"
    )
    assert of_elements(b"For=_a;x=1", b'for="10.0.0.2"').elements == b'For=_a;x=1, for="10.0.0.2"'


def test_what_is_malformed_and_what_stands_left_of_it_goes_on_nowhere() -> None:
    assert of_addresses(b"6.6.6.6, ${jndi:x}, 203.0.113.9, 10.0.0.2").addresses == (
        b"203.0.113.9, 10.0.0.2"
    )
    assert of_elements(b"for=6.6.6.6, for, for=203.0.113.9").elements == b"for=203.0.113.9"
    assert of_elements(b"for=6.6.6.6, for=hidden, for=10.0.0.2").elements == b"for=10.0.0.2"


def test_a_chain_that_is_missing_is_made_from_the_other() -> None:
    seen = told(
        (b"X-Forwarded-For", b"6.6.6.6, 2001:db8::9, 10.0.0.2"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"app.example:8443"),
    )
    assert seen.elements == (
        b'for=6.6.6.6, for="[2001:db8::9]";host="app.example:8443";proto=https, for=10.0.0.2'
    )
    seen = of_elements(
        b"for=_x", b'for="[2001:DB8::9]:80";host=app.example;proto=https, for=10.0.0.2'
    )
    assert seen.addresses == b"2001:db8::9, 10.0.0.2"
    assert (seen.proto, seen.host, seen.port) == (b"https", b"app.example", b"443")


def test_only_so_many_hops_are_read() -> None:
    many = b", ".join([b"203.0.113.9"] + [b"10.0.0.2"] * HOPS)
    assert of_addresses(many).client == b"10.0.0.2"
    assert of_addresses(many).addresses.count(b",") == HOPS - 1
    many = b", ".join([b"for=203.0.113.9"] + [b"for=10.0.0.2"] * HOPS)
    assert of_elements(many).client == b"10.0.0.2"


def test_a_line_of_enormous_length_is_read_from_its_end_alone() -> None:
    long = b", for=203.0.113.9;x=" + b"y" * 10_000
    assert of_elements(b"for=6.6.6.6" + long).client == b"203.0.113.9"
    assert of_elements(b'for=6.6.6.6;x=","' + long).elements == long[2:]


# --- scheme, host, port --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "proto", "scheme"),
    [
        (b"https", b"https", b"https"),
        (b"HTTPS", b"HTTPS", b"https"),
        (b"wss", b"wss", b"https"),
        (b"https, http", b"https, http", b"https"),
        (b"gopher", None, b"http"),
        (b"https;x", None, b"http"),
        (b"https,", None, b"http"),
        (b"", None, b"http"),
    ],
)
def test_the_scheme_is_kept_where_it_is_one(
    value: bytes, proto: bytes | None, scheme: bytes
) -> None:
    seen = told((b"X-Forwarded-Proto", value))
    assert (seen.proto, seen.scheme) == (proto, scheme)


def test_the_scheme_is_the_peers_where_none_is_told() -> None:
    assert forwarded.told([], PEER, b"https", TRUST).scheme == b"https"
    assert told((b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Proto", b"http")).proto is None


@pytest.mark.parametrize(
    ("value", "host"),
    [
        (b"app.example", b"app.example"),
        (b"my_app:80", b"my_app:80"),
        (b"[2001:db8::9]:80", b"[2001:db8::9]:80"),
        (b"a.example, b.example", b"a.example, b.example"),
        (b"a b", None),
        (b'a"b', None),
        (b"a/b", None),
        (b"user@a", None),
        (b"a:http", None),
        (b"", None),
    ],
)
def test_the_host_is_kept_where_it_is_one(value: bytes, host: bytes | None) -> None:
    assert told((b"X-Forwarded-Host", value)).host == host


@pytest.mark.parametrize(
    ("fields", "port"),
    [
        ([(b"X-Forwarded-Port", b"8443"), (b"X-Forwarded-Proto", b"https")], b"8443"),
        ([(b"X-Forwarded-Port", b"x"), (b"X-Forwarded-Proto", b"https")], b"443"),
        ([(b"X-Forwarded-Host", b"a:8443"), (b"X-Forwarded-Proto", b"https")], b"8443"),
        ([(b"X-Forwarded-Proto", b"wss")], b"443"),
        ([(b"X-Forwarded-Proto", b"http")], b"80"),
        ([(b"X-Forwarded-Host", b"a")], None),
        ([], None),
    ],
)
def test_a_port_that_is_not_told_is_the_one_implied(fields: list[Pair], port: bytes | None) -> None:
    assert told(*fields).port == port


# --- always --------------------------------------------------------------------------------------

addresses = st.ip_addresses().map(str)
lines = st.lists(
    st.one_of(
        addresses.map(str.encode),
        addresses.map(lambda text: forwarded.node(text.encode())).map(lambda n: b"for=" + n),
        st.binary(max_size=12),
        st.sampled_from([b"for=unknown", b'for="', b'"', b'host="a\\"b"', b"", b"10.0.0.9"]),
    ),
    max_size=6,
).map(b", ".join)
field = st.tuples(
    st.sampled_from([b"X-Forwarded-For", b"forwarded", b"X-Forwarded-Host", b"x-forwarded-proto"]),
    lines,
)


@given(st.lists(field, max_size=4))
def test_what_is_passed_on_can_be_read_again_and_says_the_same(fields: list[Pair]) -> None:
    seen = told(*fields)
    ipaddress.ip_address(seen.client.decode())
    again = [
        (name, text)
        for name, text in (
            (b"X-Forwarded-For", seen.addresses),
            (b"Forwarded", seen.elements),
            (b"X-Forwarded-Proto", seen.proto),
            (b"X-Forwarded-Host", seen.host),
        )
        if text
    ]
    reread = told(*again)
    assert (reread.addresses, reread.elements) == (seen.addresses, seen.elements)
    if seen.addresses:
        assert reread.client == seen.client


@given(lines, addresses, st.lists(st.sampled_from([b"10.1.1.1", b"fd00::1"]), max_size=3))
def test_nothing_that_a_client_sends_changes_what_proxies_say_of_it(
    made_up: bytes, address: str, proxies: list[bytes]
) -> None:
    client = ipaddress.ip_address(address)
    plain = str(getattr(client, "ipv4_mapped", None) or client).encode()
    if plain in TRUST:
        return
    chain = b", ".join([plain, *proxies])
    assert of_addresses(made_up + b", " + chain).client == plain
    chain = b", ".join(b"for=" + forwarded.node(hop) for hop in [plain, *proxies])
    assert of_elements(made_up, chain).client == plain
    assert of_elements(made_up + b", " + chain).client == plain


@given(st.binary(max_size=30))
def test_a_quoted_value_is_read_as_it_was(value: bytes) -> None:
    if any((byte < 32 and byte != 9) or byte == 127 for byte in value):
        return
    seen = of_elements(b"for=203.0.113.9;x=" + forwarded.quoted(value))
    assert seen.client == b"203.0.113.9"
