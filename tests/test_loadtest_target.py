"""URLs, request bytes and settings: refused before anything is sent."""

from __future__ import annotations

import pytest

from loadtest.errors import InputError
from loadtest.plan import Plan
from loadtest.request import Target, build_request
from loadtest.target import Settings

PLAN = Plan.constant(10, 1)


def test_a_url_taken_apart() -> None:
    assert Target.parse("http://a.test") == Target("http", "a.test", 80, "/")
    assert Target.parse("https://[::1]:8443/x y?q=ü#frag").path == "/x%20y?q=%C3%BC"
    assert Target.parse("https://[::1]:8443/").authority == "[::1]:8443"
    assert Target.parse("http://a.test:80/").authority == "a.test"


@pytest.mark.parametrize(
    "url", ["a.test", "ftp://a.test/", "http:///x", "http://a:b/", "http://u:p@a/", "http://[::1/"]
)
def test_a_bad_url_is_named(url: str) -> None:
    with pytest.raises(InputError, match="URL"):
        Target.parse(url)


def test_request_bytes() -> None:
    target = Target.parse("http://a.test:81/x?y=1")
    assert build_request(target, "GET", (("accept", "text/html"), ("X-A", "1")), b"") == (
        b"GET /x?y=1 HTTP/1.1\r\nHost: a.test:81\r\nUser-Agent: loadtest\r\n"
        b"accept: text/html\r\nX-A: 1\r\n\r\n"
    )
    assert build_request(target, "POST", (), b"hi").endswith(b"Content-Length: 2\r\n\r\nhi")


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "nowhere"},
        {"method": "GE T"},
        {"headers": (("X A", "1"),)},
        {"headers": (("X", "1\r\nY: 2"),)},
        {"headers": (("X", "\N{SNOWMAN}"),)},
        {"headers": (("Content-Length", "3"),)},
        {"max_in_flight": 0},
        {"timeout": 0},
        {"max_seconds": 0},
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Settings(**{"url": "http://127.0.0.1/", "plan": PLAN, **wrong})  # type: ignore[arg-type]
