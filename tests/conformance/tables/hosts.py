"""Cases of Host: who is asked for is said once, well formed, and in one voice."""

from __future__ import annotations

from typing import Any

from tests.conformance.case import Arrival, Case, End, Reply, head, passed, refused


def _host(name: str, value: str, **rest: Any) -> Case:
    return passed(
        f"Host: {name}", "9110 §7.2", head("GET / HTTP/1.1", f"Host: {value}"),
        backend=(Arrival(has={"Host": value}, ours={"X-Forwarded-Host": value}),), **rest,
    )  # fmt: skip


def _bad(name: str, *lines: str, **rest: Any) -> Case:
    return refused(f"Host: {name}", "9112 §3.2", head("GET / HTTP/1.1", *lines), **rest)


CASES = (
    _host("passes with its port", "a.example:8080"),
    _host("passes in its spelling", "A.eXample"),
    _host("an IPv4 address", "127.0.0.1"),
    _host("an IPv6 address", "[::1]:8080"),
    _host("a name of one word", "localhost"),
    _host("a name that ends with a dot", "a.example."),
    _host("a name with _", "my_app.example"),
    _host("a name in punycode", "xn--bcher-kva.example"),
    _host("a comma may stand in a name", "a.example,b.example"),
    passed("Host: HTTP/1.0 needs none", "9112 §3.2", head("GET / HTTP/1.0"), end=End.CLOSED),
    passed("Host: HTTP/1.0 may have one", "9112 §3.2",
           head("GET / HTTP/1.0", "Host: a.example"), end=End.CLOSED,
           backend=(Arrival(has={"Host": "a.example"}),)),
    passed("Host: its place among the fields does not count", "9110 §5.3",
           head("GET / HTTP/1.1", "X-A: 1", "host: a.example"),
           backend=(Arrival(has={"Host": "a.example", "X-A": "1"}),)),
    _bad("missing"),
    _bad("missing, a twin with _ instead", "Host_: a.example"),
    _bad("twice, different", "Host: a.example", "Host: b.example"),
    _bad("twice, the same", "Host: a.example", "Host: a.example"),
    _bad("twice, the second empty", "Host: a.example", "Host:"),
    _bad("twice, in another case", "Host: a.example", "HOST: b.example"),
    _bad("empty", "Host:"),
    _bad("spaces alone", "Host:   "),
    _bad("a list", "Host: a.example, b.example"),
    _bad("a space in it", "Host: a example"),
    _bad("a path", "Host: a.example/x"),
    _bad("a query", "Host: a.example?x"),
    _bad("a fragment", "Host: a.example#x"),
    _bad("a user", "Host: u@a.example"),
    _bad("a URL", "Host: http://a.example"),
    _bad("a port that is no number", "Host: a.example:http"),
    _bad("a negative port", "Host: a.example:-1"),
    _bad("two ports", "Host: a.example:80:81"),
    _bad("a port alone", "Host: :80"),
    _bad("a backslash", "Host: a.example\\x"),
    _bad("markup", "Host: <a.example>"),
    _bad("quotes", 'Host: "a.example"'),
    _bad("IPv6 without brackets", "Host: ::1"),
    _bad("a bracket that stays open", "Host: [::1"),
    _bad("bytes after the bracket", "Host: [::1]x"),
    _bad("nothing within the brackets", "Host: []"),
    _bad("a name within brackets", "Host: [a.example]"),
    _bad("bytes that are not ASCII", "Host: caf\xe9.example"),
    _bad("a tab in it", "Host: a\texample"),
    _bad("NUL", "Host: a\x00.example"),
    refused("Host: HTTP/1.0 with two", "9112 §3.2",
            head("GET / HTTP/1.0", "Host: a.example", "Host: b.example")),
    refused("Host: HTTP/1.0 with a bad one", "9112 §3.2",
            head("GET / HTTP/1.0", "Host: a.example/x")),
    refused("Host: missing in the second request of a connection", "9112 §3.2",
            head("GET /1 HTTP/1.1", "Host: a.example") + head("GET /2 HTTP/1.1"),
            after=(Reply(200, b"ok"),), backend=(Arrival(target="/1"),)),
)  # fmt: skip
