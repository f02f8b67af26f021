"""Addresses: what is one, for the configuration and the admin API alike."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from lb.address import cannot_listen, check_address, split_address, split_host


@pytest.mark.parametrize(
    "text", ["127.0.0.1:80", "localhost:65535", "[::1]:1", "[fe80::1%eth0]:80", "db_1.example:5"]
)
def test_what_is_an_address(text: str) -> None:
    assert check_address(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "", ":80", "host", "host:", "host:http", "host:0", "host:65536", "host:٣", "::1:8081",
        "[::1]", "[::1:80", "::1]:80", "[bad]:80", "[127.0.0.1]:80", "a b:80", "http://a:80",
        "u@a:80", "a:80/x", "a:80\n", "a\x00:80",
    ],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address: write host:port, IPv6 in brackets"):
        check_address(text)


def test_0_is_a_port_to_listen_on_only() -> None:
    assert check_address("[::]:0", lowest_port=0) == "[::]:0"
    with pytest.raises(ValueError, match="from 1 to 65535"):
        check_address("[::]:0")


@given(st.text("[]:.a1%/@ -", max_size=12).map(lambda text: f"{text}:80"))
def test_what_passes_can_be_asked(text: str) -> None:
    """The prober builds a URL of it: that must never raise, nor mean another place."""
    try:
        check_address(text)
    except ValueError:
        return
    host, port = split_address(text)
    assert (host, port) == (text.removesuffix(":80").strip("[]"), 80)
    url = URL(f"http://{text}/readyz")
    assert (url.port, url.path, url.user) == (80, "/readyz", None)


def test_hosts_with_and_without_a_port() -> None:
    assert split_host(" Example.org:80") == ("example.org", 80)
    assert split_host("[::1]") == ("::1", None)


@pytest.mark.parametrize("text", ["", ":80", "[bad", "[::1]x", "a:b", "a:b:c", "a:" + "9" * 5000])
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        split_host(text)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EADDRINUSE, "error while attempting to bind on ..."), "address in use"),
        (OSError(errno.EACCES, "x"), "CAP_NET_BIND_SERVICE"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "this machine has no such address"),
        (OSError(errno.EMFILE, "a:1"), "too many open files"),
        (OSError(-2, "Name or service not known"), "name or service not known"),
        (OverflowError("port must be 0-65535"), "port must be 0-65535"),
    ],
)
def test_why_it_cannot_be_listened_on(error: Exception, why: str) -> None:
    text = str(cannot_listen("a:1", error, "admin.listen"))
    assert text.startswith("cannot listen on a:1: ")
    assert why in text
    assert text.endswith("; set admin.listen")
