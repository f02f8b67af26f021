"""Which addresses are trusted, and which spellings are one address."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.trust import Trust, canonical


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (b"10.0.0.7", b"10.0.0.7"),
        ("10.0.0.7", b"10.0.0.7"),
        (b"::ffff:10.0.0.7", b"10.0.0.7"),
        (b"::FFFF:0a00:0007", b"10.0.0.7"),
        (b"2001:0DB8:0:0::1", b"2001:db8::1"),
        (b"fe80::1%eth0", b"fe80::1"),
        (b"unix:", None),
        (b"", None),
        (b"10.0.0", None),
        (b"010.0.0.7", None),
        (b"10.0.0.7:80", None),
        (b"[::1]", None),
        (b" 10.0.0.7", None),
        ("١٠.0.0.7", None),
        (b"1" * 10_000, None),
    ],
)
def test_an_address_has_one_spelling(address: bytes | str, expected: bytes | None) -> None:
    assert canonical(address) == expected


@pytest.mark.parametrize(
    ("networks", "address", "trusted"),
    [
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], b"10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["::ffff:10.0.0.0/104"], "10.0.0.1", True),
        (["::ffff:10.0.0.0/104"], "11.0.0.1", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        (["fd00::/8", "10.0.0.0/8"], "fd00::7", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["::/0"], "10.0.0.1", False),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["0.0.0.0/0", "::/0"], "unix:", False),
        (["0.0.0.0/0", "::/0"], b"unix:", False),
        (["0.0.0.0/0", "::/0"], "", False),
        (["0.0.0.0/0", "::/0"], "1" * 10_000, False),
        ([], "127.0.0.1", False),
    ],
)
def test_who_is_trusted(networks: list[str], address: bytes | str, trusted: bool) -> None:
    trust = Trust(networks)
    assert (address in trust) is trusted
    assert (address in trust) is trusted, "remembered as it was judged"


def test_what_is_no_address_at_all_is_not_trusted() -> None:
    assert None not in Trust(["0.0.0.0/0"])


def test_it_says_whether_anybody_is_trusted() -> None:
    assert Trust(["10.0.0.0/8"])
    assert not Trust()


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        Trust(["10.0.0.1/8"])


addresses = st.ip_addresses()


@given(addresses, st.lists(st.ip_addresses(), max_size=3), st.integers(0, 32))
def test_it_agrees_with_ipaddress(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    bases: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
    length: int,
) -> None:
    networks = [ipaddress.ip_network(f"{base}/{length}", strict=False) for base in bases]
    trust = Trust([str(network) for network in networks])
    plain = getattr(address, "ipv4_mapped", None) or address
    assert (str(address) in trust) == any(plain in network for network in networks)


@given(addresses)
def test_its_spelling_is_stable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    first = canonical(address.exploded)
    assert first is not None
    assert canonical(first) == first == canonical(str(address))
