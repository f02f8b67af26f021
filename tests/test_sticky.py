"""Sticky sessions: the cookie brings a client back, and nobody else can write or read it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from http.cookies import SimpleCookie
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config_service import StickyConfig
from lb.sticky import Sticky

SECRET = bytes(range(32))
NAMES = st.text(min_size=1, max_size=60).filter(lambda name: name.isprintable())


def sticky(secret: bytes = SECRET, **settings: Any) -> Sticky:
    return Sticky(secret, StickyConfig(**settings))


def pair(backend: str = "10.0.0.11:8080", one: Sticky | None = None) -> bytes:
    """What a browser sends back of our Set-Cookie."""
    return (one or sticky()).cookie(backend, https=False).partition(b";")[0]


def read(value: bytes, one: Sticky | None = None) -> str | None:
    return (one or sticky()).backend([(b"Host", b"x"), (b"Cookie", value)])


@given(NAMES)
def test_the_cookie_brings_a_client_back(name: str) -> None:
    assert read(pair(name)) == name
    assert read(b"theme=dark; " + pair(name) + b"; x=1") == name


@given(NAMES, st.data())
def test_a_changed_cookie_names_nobody(name: str, data: st.DataObject) -> None:
    value = bytearray(pair(name))
    at = data.draw(st.integers(len(b"lbctl="), len(value) - 1))
    new = data.draw(st.sampled_from(b"ABCDwxyz0189-_!~;, ="))
    changed = value[at] != new
    value[at] = new
    found = read(bytes(value))
    # The last character of base64 may carry bits that mean nothing.
    assert found is None or not changed or (found == name and at == len(value) - 1)


@given(st.binary(max_size=80))
def test_whatever_a_client_writes_there_is_nobody(value: bytes) -> None:
    assert read(b"lbctl=" + value) is None
    assert read(b"lbctl=" + urlsafe_b64encode(value)) is None


@pytest.mark.parametrize("value", [b"", b"lbctl", b"lbctl=", b"LBCTL=x", b"lbctl=" + b"A" * 5000])
def test_none_or_a_malformed_one_is_nobody(value: bytes) -> None:
    assert read(value) is None
    assert sticky().backend([]) is None


def test_another_secret_and_another_cookies_value_are_foreign() -> None:
    assert read(pair(one=sticky(bytes(32)))) is None
    value = pair(one=sticky(cookie="other")).partition(b"=")[2]
    assert read(b"lbctl=" + value) is None
    assert read(b"other=" + value, sticky(cookie="other")) == "10.0.0.11:8080"


def test_one_set_for_another_path_or_domain_does_not_hide_ours() -> None:
    assert read(b"lbctl=foreign; " + pair()) == "10.0.0.11:8080"
    assert read(b"lbctl=x; " * 4 + pair()) is None, "so many are looked at, and no more"


@given(NAMES)
def test_the_cookie_does_not_tell_the_backend(name: str) -> None:
    value = pair(name).partition(b"=")[2]
    assert re.fullmatch(rb"[A-Za-z0-9_-]+", value)
    plain = urlsafe_b64encode(name.encode()).rstrip(b"=")
    assert len(name) < 3 or plain not in value


def test_the_same_backend_has_the_same_cookie() -> None:
    assert pair() == pair()
    assert pair() != pair("10.0.0.12:8080")


@pytest.mark.parametrize(
    ("settings", "https", "attributes"),
    [
        ({}, False, {"path": "/", "httponly": True, "samesite": "Lax"}),
        ({}, True, {"path": "/", "httponly": True, "samesite": "Lax", "secure": True}),
        (
            {"max_age": 3600.0, "same_site": "strict"}, False,
            {"path": "/", "httponly": True, "samesite": "Strict", "max-age": "3600"},
        ),
        (
            {"same_site": "none", "max_age": 0.2}, True,
            {
                "path": "/", "httponly": True, "samesite": "None", "secure": True,
                "max-age": "1",
            },
        ),
    ],
)  # fmt: skip
def test_what_the_browser_is_told(
    settings: dict[str, Any], https: bool, attributes: dict[str, object]
) -> None:
    jar = SimpleCookie(sticky(**settings).cookie("web-1", https=https).decode())
    assert {key: value for key, value in jar["lbctl"].items() if value} == attributes


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="can be guessed"):
        sticky(b"short")
