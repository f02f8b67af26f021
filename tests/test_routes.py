"""Which request goes where, what it looks like when it arrives, and what no trick can do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.config import ConfigError, parse_config
from lb.config_service import RouteConfig
from lb.errors import AmbiguousPathError
from lb.routes import KNOWN_HOSTS, Route, Routes, plain_path


def routes(*tables: dict[str, Any]) -> Routes:
    """Each leads to a service named for its place, unless it says where."""
    return Routes([RouteConfig.model_validate(_with_end(table)) for table in tables])


def _with_end(table: dict[str, Any]) -> dict[str, Any]:
    if "service" in table or "redirect" in table:
        return table
    name = f"{table.get('host', '*')}{table.get('path', '/')}"
    return {
        "service": "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-") or "x",
        **table,
    }


def one(**table: Any) -> Route:
    found = routes(table).match(b"any", table.get("path", "/").encode())
    assert found is not None
    return found


def goes(found: Routes, host: str | None, path: str) -> str | None:
    route = found.match(None if host is None else host.encode(), path.encode())
    return None if route is None else route.service


# ── which ────────────────────────────────────────────────────────────────────────────────────────


def test_one_service_and_no_route_gets_everything() -> None:
    found = Routes(default="web")
    for host, path in [(b"a", b"/"), (None, b"*"), (b"???", b"//..%2f")]:
        route = found.match(host, path)
        assert route is not None
        assert route.service == "web"
        assert route.onward_target(path) == path
    assert Routes().match(b"a", b"/") is None


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("app.example.org", "exact"),
        ("APP.example.ORG", "exact"),
        ("app.example.org.", "exact"),
        ("app.example.org:8080", "exact"),
        ("app.example.org.:443", "exact"),
        ("x.app.example.org", "any"),
        ("a.example.org", "any"),
        ("b.wild.example.org", "wild"),
        ("c.b.wild.example.org", "wild"),
        ("a.deep.wild.example.org", "deep"),
        ("wild.example.org", "any"),
        ("[::1]", "six"),
        ("[::1]:8080", "six"),
        ("[::2]", "any"),
        (None, "any"),
        ("", "any"),
        (f"{'a.' * 4000}deep.wild.example.org", "any"),
        ("not a host", "any"),
    ],
)
def test_the_most_exact_host_wins(host: str | None, service: str) -> None:
    found = routes(
        {"host": "*", "service": "any"},
        {"host": "*.wild.example.org", "service": "wild"},
        {"host": "*.deep.wild.example.org", "service": "deep"},
        {"host": "app.example.org", "service": "exact"},
        {"host": "[::1]", "service": "six"},
    )
    assert goes(found, host, "/") == service


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/", "root"),
        ("/apix", "root"),
        ("/ap", "root"),
        ("/API", "root"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api?q=/api/v2", "api"),
        ("/api/x", "api"),
        ("/api/v2x", "api"),
        ("/api/v2", "v2"),
        ("/api/v2/", "v2"),
        ("/api/v2/x/y/z", "v2"),
        ("/caf%C3%A9", "coffee"),
        ("/caf%c3%a9/x", "coffee"),
        ("*", "root"),
    ],
)
def test_the_longest_path_wins_on_segment_borders(path: str, service: str) -> None:
    found = routes(
        {"path": "/", "service": "root"},
        {"path": "/api/", "service": "api"},
        {"path": "/api/v2", "service": "v2"},
        {"path": "/caf%C3%A9", "service": "coffee"},
    )
    assert goes(found, "a", path) == service


def test_a_host_without_a_route_for_the_path_leaves_it_to_the_less_exact_ones() -> None:
    found = routes(
        {"host": "app.example.org", "path": "/api", "service": "api"},
        {"host": "*.example.org", "path": "/docs", "service": "docs"},
        {"host": "*", "path": "/docs/old", "service": "old"},
        {"host": "*", "path": "/help", "service": "help"},
    )
    for host in ("app.example.org", "other.example.org", "elsewhere", None):
        assert goes(found, host, "/help") == "help"
    assert goes(found, "app.example.org", "/api") == "api"
    assert goes(found, "app.example.org", "/docs/old") == "docs"
    assert goes(found, "other.example.org", "/api") is None
    assert goes(found, "example.org", "/docs/old") == "old"
    assert goes(found, "app.example.org", "/nothing") is None


def test_hosts_that_clients_invent_cost_no_memory() -> None:
    found = routes({"host": "app.example", "service": "app"}, {"service": "any"})
    for number in range(3 * KNOWN_HOSTS):
        assert goes(found, f"h{number}.example", "/") == "any"
        assert goes(found, "app.example", "/") == "app"
    assert len(found._known) <= KNOWN_HOSTS


# ── tricks ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "/%61dmin", "/%61%64%6D%69%6E/x", "//admin", "/./admin", "/x/../admin", "/x/%2e%2E/admin",
        "/admin/../x", "/admin/..;/x", "/x/..;a=b/admin", "/admin;v=1", "/%2fadmin", "/admin%2Fx",
        "/\\admin", "/x\\..\\admin", "/%5Cadmin", "/admin/..", "/../admin", "/%3B/admin",
    ],
)  # fmt: skip
def test_a_path_that_servers_read_differently_is_no_way_around_a_route(path: str) -> None:
    found = routes({"path": "/", "service": "public"}, {"path": "/admin", "service": "admin"})
    with pytest.raises(AmbiguousPathError) as caught:
        found.match(b"a", path.encode())
    assert (caught.value.status, caught.value.reason) == (400, "ambiguous_path")


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/admin//x", "admin"),
        ("/admin/a/../b", "admin"),
        ("/admin/%61;b=c", "admin"),
        ("/x%20y//z;a/.hidden", "public"),
        ("/proxy/http://example.org/", "public"),
        ("/x?../admin//", "public"),
        ("/%2561dmin", "public"),
    ],
)
def test_an_odd_path_that_everybody_reads_alike_passes(path: str, service: str) -> None:
    found = routes({"path": "/", "service": "public"}, {"path": "/admin", "service": "admin"})
    assert goes(found, "a", path) == service
    assert goes(routes({"service": "all"}), "a", "/x/../%61//") == "all"


def test_how_an_obliging_server_reads_a_path() -> None:
    assert plain_path(b"/a/./b//c/../d/") == b"/a/b/d"
    assert plain_path(b"/../..") == b""
    assert plain_path(b"/%2561") == b"/%61"
    assert plain_path(b"*") == b"/*"


SEGMENT = st.sampled_from(["a", "b", "ab", "..", ".", "", "%61", "a;x", "..;", "%2e%2e", "a%2fb"])
PATH = st.lists(SEGMENT, max_size=6).map(lambda parts: "/" + "/".join(parts))
PREFIX = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda p: "/" + "/".join(p))


@settings(max_examples=300)
@given(st.lists(PREFIX, min_size=1, max_size=6, unique=True), PATH)
def test_what_is_found_is_what_both_readings_give(prefixes: list[str], path: str) -> None:
    found = Routes([RouteConfig(path=prefix, service="s") for prefix in prefixes])

    def longest(text: bytes) -> bytes | None:
        above = [p.rstrip("/").encode() for p in prefixes]
        fit = [p for p in above if text == p or text.startswith(p + b"/") or not p]
        return max(fit, key=len, default=None)

    sent, plain = longest(path.encode()), longest(plain_path(path.encode()))
    try:
        route = found.match(b"a", path.encode())
    except AmbiguousPathError:
        assert sent != plain
    else:
        assert sent == plain == (None if route is None else route.path)


# ── on its way ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "onward"),
    [
        ("/api", "/"),
        ("/api/", "/"),
        ("/api?q=1", "/?q=1"),
        ("/api/x?q=/api", "/x?q=/api"),
        ("/api//evil.example", "/evil.example"),
        ("/api///?", "/?"),
        ("/api/\\evil.example", "/evil.example"),
        ("/api/x//y", "/x//y"),
    ],
)
def test_a_stripped_target_begins_with_one_slash(target: str, onward: str) -> None:
    assert one(path="/api", strip_path=True).onward_target(target.encode()) == onward.encode()
    assert one(path="/api").onward_target(target.encode()) == target.encode()


def test_nothing_is_stripped_off_the_root() -> None:
    route = one(strip_path=True)
    assert route.onward_target(b"*") == b"*"
    assert route.onward_target(b"/x?y") == b"/x?y"


@pytest.mark.parametrize(
    ("redirect", "host", "target", "location"),
    [
        ("https://new.example.org{target}", "a", "/x?y=1", "https://new.example.org/x?y=1"),
        ("https://new.example.org{path}", "a", "/x?y=1", "https://new.example.org/x"),
        ("https://new.example.org/{query}", "a", "/x", "https://new.example.org/"),
        ("https://new.example.org/{query}", "a", "/x?y", "https://new.example.org/?y"),
        ("https://{host}{target}", "A.example:8080", "/x", "https://a.example/x"),
        ("https://{host}{target}", "[::1]:80", "*", "https://[::1]/"),
        ("{scheme}://www.{host}/", "a.example", "/x", "http://www.a.example/"),
        ("{target}", "a", "//evil.example/x", "/evil.example/x"),
        ("{path}", "a", "/\\evil.example", "/%5Cevil.example"),
        ("/new{path}", "a", "/{host}?{query}", "/new/%7Bhost%7D"),
        ("/x", "a", "/y", "/x"),
        ("https://b{target}", "a", '/"<>|^`[]{}?"<>#', "https://b/%22%3C%3E%7C%5E%60%5B%5D%7B%7D?"
         "%22%3C%3E%23"),
    ],
)  # fmt: skip
def test_where_a_redirect_leads(redirect: str, host: str, target: str, location: str) -> None:
    route = one(redirect=redirect)
    assert route.service is None
    assert route.location(b"http", host.encode(), target.encode()) == location.encode()


def test_a_redirect_may_strip_and_has_a_status() -> None:
    route = one(path="/old", redirect="/new{target}", strip_path=True, redirect_status=302)
    assert (route.status, route.location(b"http", b"a", b"/old/x?y")) == (302, b"/new/x?y")


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_no_field_can_be_smuggled_into_a_location(host: bytes, target: bytes) -> None:
    found = one(redirect="https://{host}{target}").location(b"http", host, b"/" + target)
    assert found.startswith(b"https://")
    assert all(0x21 <= byte <= 0x7E for byte in found)


def test_fields_are_removed_set_and_added() -> None:
    route = one(
        request={"remove": ["Cookie"], "set": {"X-Team": "a", "Host": "inner:80"}},
        response={"add": {"Vary": "Accept"}},
    )
    fields = [(b"HOST", b"a"), (b"cookie", b"1"), (b"x-team", b"z"), (b"X-Team", b"y"), (b"B", b"")]
    assert route.edit_request(fields) == [(b"B", b""), (b"X-Team", b"a"), (b"Host", b"inner:80")]
    assert route.edit_response([(b"Vary", b"Cookie")]) == [
        (b"Vary", b"Cookie"),
        (b"Vary", b"Accept"),
    ]
    plain = one()
    assert plain.edit_request(fields) is fields
    assert plain.edit_response(fields) is fields


# ── what may stand in the file ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"path": "/a//b"}, "without"),
        ({"path": "/a/../b"}, "without"),
        ({"path": "/a/."}, "without"),
        ({"path": "/a?b"}, "without"),
        ({"path": "/a;b"}, "without"),
        ({"path": "/a\\b"}, "without"),
        ({"path": "/%61"}, "%XX in capitals only where it must be"),
        ({"path": "/%2F"}, "%XX"),
        ({"path": "/%c3%a9"}, "%XX"),
        ({"path": "/100%"}, "%XX"),
        ({"path": "api"}, "path"),
        ({"redirect": "//{host}/"}, "a URL or a path"),
        ({"redirect": "{host}/x"}, "a URL or a path"),
        ({"redirect": "/{port}"}, "a URL or a path"),
        ({"redirect": "/a b"}, "a URL or a path"),
        ({"redirect": "/\\evil"}, "a URL or a path"),
        ({"redirect": "javascript:x"}, "a URL or a path"),
        ({"request": {"remove": ["Host"]}}, "one Host"),
        ({"request": {"add": {"host": "b"}}}, "one Host"),
        ({"request": {"set": {"Host": "a b"}}}, "a Host 'a b'"),
        ({"request": {"set": {"Host": "a", "host": "b"}}}, "write one name"),
    ],
)
def test_what_a_route_cannot_be(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"service": {"x": {}}, "route": [{"host": "a", **_with_end(table)}]})
    assert complaint in str(caught.value)


@pytest.mark.parametrize("side", ["request", "response"])
@pytest.mark.parametrize("verb", ["remove", "set", "add"])
@pytest.mark.parametrize(
    "name", ["Content-Length", "transfer-encoding", "Connection", "TE", "Trailer", "Upgrade"]
)
def test_what_frames_a_message_cannot_be_edited(side: str, verb: str, name: str) -> None:
    edit: Any = [name] if verb == "remove" else {name: "x"}
    with pytest.raises(ConfigError, match=f"the field {name} frames a message"):
        parse_config({"service": {"x": {}}, "route": [{"service": "x", side: {verb: edit}}]})
